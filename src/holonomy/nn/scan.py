"""Chunked scan of linear recurrences: the work inside a chunk is a matrix product, only its borders are sequential.

A channel has J complex poles z_j, each with a state s_j <- z_j s_j + f_t, and puts out q_t = sum_j Re(c_j s_j). The
echo of it is the transposed recurrence, driven by the nudges from the last chunk to the first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional as F


class Propagator(NamedTuple):
    """What a chunk of length C does: built once per update.

    Attributes:
        within: response inside a chunk, [N, C, C], indexed (source, target).
        collect: drive of a chunk to its final states (real, imaginary, pole by pole), [N, C, 2 J]; its last column is
            the zeroth power of the poles.
        emit: states before a chunk to the outputs of the chunk, [N, 2 J, C].
        carry: factor of the states over a chunk, complex [N, 1, J], or [N, 1] for one pole.
    """

    within: Float[Tensor, "N C C"]
    collect: Float[Tensor, "N C parts"]
    emit: Float[Tensor, "N parts C"]
    carry: Complex[Tensor, "N 1 *J"]


def _complex(x: Tensor, prop: Propagator, *shape: int) -> Tensor:
    """[N, ..., 2 J] as complex [*shape, J], or [*shape] for one pole."""
    return torch.view_as_complex(x.reshape(*shape, *prop.carry.shape[2:], 2))


def scan(
    f: Float[Tensor, "N batch time"], prop: Propagator, state: Complex[Tensor, "N batch *J"] | None
) -> tuple[Float[Tensor, "N batch time"], Complex[Tensor, "N batch *J"]]:
    """Response to a drive, chunk by chunk, and the states after the last input; None is rest."""
    channels, batch, length = f.shape
    size = prop.within.shape[1]
    chunks = -(-length // size)
    f = F.pad(f, (0, chunks * size - length)).reshape(channels, batch * chunks, size)
    gathered = _complex(torch.bmm(f, prop.collect), prop, channels, batch, chunks)
    z = torch.zeros_like(gathered[:, :, 0]) if state is None else state
    entering = []
    for c in range(chunks):
        entering.append(z)
        z = torch.addcmul(gathered[:, :, c], prop.carry, z)
    before = torch.view_as_real(torch.stack(entering, 2)).reshape(channels, batch * chunks, -1)
    q = torch.baddbmm(torch.bmm(f, prop.within), before, prop.emit)
    if used := length % size:
        # The last chunk was filled with zeros: its own inputs, and the states before it, shorter by the zeros.
        last = f.view(channels, batch, chunks, size)[:, :, -1, :used]
        z = _complex(torch.bmm(last, prop.collect[:, size - used :]), prop, channels, batch)
        powers = _complex(prop.collect, prop, channels, size)
        # The first of the used ones turns by used - 1 tokens: one more is the pole itself.
        z = torch.addcmul(z, (powers[:, size - used] * powers[:, -2]).unsqueeze(1), entering[-1])
    return q.view(channels, batch, -1)[..., :length], z


def mirror(
    g: Float[Tensor, "N batch time"], prop: Propagator, a: Complex[Tensor, "N batch *J"] | None = None
) -> tuple[Float[Tensor, "N batch time"], Complex[Tensor, "N batch *J"]]:
    """Transpose of `scan`: the response to the nudges reversed in time.

    Args:
        g: nudges on the outputs.
        prop: the propagator of the free phase.
        a: nudge on the states after the last chunk; zero if None.

    Returns:
        The nudge on the drive, and on the states before.
    """
    channels, batch, length = g.shape
    size = prop.within.shape[1]
    chunks = -(-length // size)
    g = F.pad(g, (0, chunks * size - length)).reshape(channels, batch * chunks, size)
    emitted = _complex(torch.bmm(g, prop.emit.mT.contiguous()), prop, channels, batch, chunks)
    a = torch.zeros_like(emitted[:, :, 0]) if a is None else a
    carry = prop.carry.conj().resolve_conj()
    leaving = []
    for c in reversed(range(chunks)):
        leaving.append(a)
        a = torch.addcmul(emitted[:, :, c], carry, a)
    after = torch.view_as_real(torch.stack(leaving[::-1], 2)).reshape(channels, batch * chunks, -1)
    mu = torch.baddbmm(torch.bmm(g, prop.within.mT), after, prop.collect.mT)
    return mu.view(channels, batch, -1)[..., :length], a
