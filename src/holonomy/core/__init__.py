"""Foundations shared by every layer: errors, configuration, learner protocol, flat buffers."""
