"""Geometry as pure functions on tensors, with thin classes that bind parameters.

Curvature k is negative for hyperbolic spaces and positive for spheres; c = -k > 0 appears only inside hyperbolic
modules. Points x, y and tangents u, v have their coordinates on the last axis. Distances and norms are those of the
metric: d(0, exp0(v)) = |v|_g at the origin.
"""
