"""Layers with two phases: `free` runs forward, `echo` sends the nudge back and collects local statistics.

Activations are channel-first, `[channels, batch, time]`, so that every linear map is one matrix product
and recurrences run along contiguous memory.
"""
