"""Layers of biquaternions and octonions against products of single numbers."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.geometry.hypercomplex import biquaternion_product, octonion_product
from holonomy.nn.algebraic import Associator, BiquaternionBank


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def bank(groups: int = 2) -> BiquaternionBank:
    found = BiquaternionBank(8 * groups, generator=generator()).double()
    for p in found.parameters():
        p.data.add_(0.3 * drawn(*p.shape, seed=4))
    return found


def test_the_recurrence_by_products_of_numbers() -> None:
    layer, x = bank(), drawn(16, 3, 11)
    size = layer.transition.view(2, 2, 4).norm(dim=-1).sum(-1, keepdim=True)
    turn, a, alpha = layer.transition / size, torch.sigmoid(layer.keep), torch.sigmoid(layer.direct)
    with torch.no_grad():
        found = layer.free(x, None).view(2, 8, 3, 11)
        for group, batch in itertools.product(range(2), range(3)):
            h = torch.zeros(8, dtype=torch.float64)
            for t in range(11):
                q = x.view(2, 8, 3, 11)[group, :, batch, t]
                driven = layer.gain[group] * biquaternion_product(layer.inward[group], q)
                h = a[group] * biquaternion_product(turn[group], h) + driven
                read = biquaternion_product(layer.outward[group], h)
                expected = alpha[group] * q + (1 - alpha[group]) * read
                assert torch.allclose(found[group, :, batch, t], expected, rtol=1e-12, atol=1e-12)


def test_no_number_makes_the_recurrence_grow() -> None:
    layer = BiquaternionBank(8 * 500, generator=generator()).double()
    layer.transition.data.copy_(drawn(500, 8) * 10.0 ** drawn(500, 1, seed=1))
    turn, _, _ = layer._matrices()
    assert (torch.linalg.matrix_norm(turn, ord=2) <= torch.sigmoid(layer.keep) * (1 + 1e-12)).all()
    layer.keep.data.fill_(30.0)
    layer.gain.data.zero_()
    layer.project()
    assert torch.sigmoid(layer.keep).max() < 1 and layer.gain.min() > 0


def test_associators_of_basis_vectors() -> None:
    """Zero within each quaternion algebra, +-2 of the remaining unit outside; read from the products alone."""
    eye, layer = torch.eye(8, dtype=torch.float64), Associator()
    other = 0
    for a, b, c in itertools.product(range(8), repeat=3):
        x = torch.cat([eye[a], eye[b], eye[c]]).view(24, 1, 1)
        left = octonion_product(octonion_product(eye[a], eye[b]), eye[c])
        right = octonion_product(eye[a], octonion_product(eye[b], eye[c]))
        found = layer.free(x, None).flatten()
        assert torch.equal(found, left - right)
        assert found[0] == 0
        other += bool(found.any())
    assert other == 7 * 6 * 4


@pytest.mark.parametrize("channels", [12, 7])
def test_numbers_have_eight_channels(channels: int) -> None:
    with pytest.raises(ConfigError, match="multiple of 8"):
        BiquaternionBank(channels, generator=generator())
    with pytest.raises(ConfigError, match="multiple of 8"):
        Associator().free(torch.zeros(3 * channels, 1, 1), None)
