"""Inference: the language-model protocol, sampling, and sessions."""
