"""Which modes of a learned geometry go together. Free of torch, so that configurations can be checked at once."""

from __future__ import annotations

COUPLED = 32
"""Oscillators of a head of coupled ones."""
STRONGEST_COUPLED = 1.2
"""Damping of coupled oscillators up to which one range of stiffness fits all of a head's band."""
BUMPS = 16
"""Bumps of a field of curvature."""
LEGAL_ROTORS = {
    "derived": ("off", "derived"),
    "learned_lowrank": ("off", "stateful"),
    "rotor": ("derived", "stateful"),
}
"""What a rotor may be, by the frame it belongs to."""
