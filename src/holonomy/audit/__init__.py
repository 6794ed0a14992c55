"""Checks of code and models that run as programs."""
