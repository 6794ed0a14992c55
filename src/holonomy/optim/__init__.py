"""Optimisers on flat buffers and learning-rate schedules."""
