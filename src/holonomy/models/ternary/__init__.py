"""Hyperbolic autoencoders over all operations, arranged by the p-adic tree."""
