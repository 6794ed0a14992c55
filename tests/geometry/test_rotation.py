"""Rotations by quaternions against matrices."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from holonomy.core.errors import ConfigError
from holonomy.geometry import rotation
from holonomy.geometry.hypercomplex import conjugate_quaternion, quaternion_product

TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-13}


def test_pairs_are_rotations_of_four_dimensions(dtype: torch.dtype) -> None:
    left, right = rotation.haar_pairs(50, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    m = rotation.pair_matrix(left, right)
    expected = quaternion_product(quaternion_product(left, x), conjugate_quaternion(right))
    assert ((m @ x.unsqueeze(-1)).squeeze(-1) - expected).abs().max() < TOLERANCE[dtype]
    assert (m @ m.mT - torch.eye(4, dtype=dtype)).abs().max() < TOLERANCE[dtype]
    assert (torch.linalg.det(m) - 1).abs().max() < 10 * TOLERANCE[dtype]
    again = rotation.pair_matrix(*rotation.pair_of(m))
    assert (again - m).abs().max() < 10 * TOLERANCE[dtype]


def test_any_rotation_has_a_pair() -> None:
    for seed in range(20):
        q, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
        q[:, 0] *= torch.linalg.det(q).sign()
        assert (rotation.pair_matrix(*rotation.pair_of(q)) - q).abs().max() < 1e-12
    for wrong in (torch.diag(torch.tensor([1.0, 1, 1, -1])), 2 * torch.eye(4)):
        with pytest.raises(ConfigError, match="not a rotation"):
            rotation.pair_of(wrong)


def test_vectors_turn_as_by_the_matrix_exponential(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    axis, v = (torch.randn(30, 3, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    generator_matrix = torch.stack([torch.stack(r, -1) for r in rows], -2)
    expected = (torch.linalg.matrix_exp(generator_matrix) @ v.unsqueeze(-1)).squeeze(-1)
    assert (rotation.rotate_vector(rotation.exp_rotation(axis), v) - expected).abs().max() < 4 * TOLERANCE[dtype]
    small = torch.full((3,), 1e-20, dtype=dtype, requires_grad=True)
    rotation.exp_rotation(small).sum().backward()
    assert small.grad is not None
    assert torch.isfinite(small.grad).all()


def test_haar_rotations_are_uniform() -> None:
    """Entries of a uniform rotation are coordinates of uniform points of the sphere; the trace has variance 1."""
    m = rotation.pair_matrix(*rotation.haar_pairs(20_000, generator=torch.Generator().manual_seed(3)))
    expected = stats.beta(1.5, 1.5, loc=-1, scale=2)
    for i, j in ((0, 0), (1, 3), (2, 2)):
        assert stats.kstest(m[:, i, j].numpy(), expected.cdf).pvalue > 1e-3
    trace = m.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert abs(float(trace.mean())) < 4 / math.sqrt(20_000)
    assert abs(float(trace.var()) - 1) < 0.05


def splitmix_in_integers(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


@given(st.integers(-(2**63), 2**63 - 1))
def test_the_hash_equals_whole_numbers(x: int) -> None:
    assert int(rotation.splitmix(torch.tensor(x))) % 2**64 == splitmix_in_integers(x % 2**64)


def test_rotations_by_counter_follow_their_recipe() -> None:
    seed, tag, index = 7, 2, 123_456
    stream = splitmix_in_integers((seed * 1000003 + tag) % 2**64)
    u = [((splitmix_in_integers((index * 64 + j) ^ stream) >> 11) + 0.5) / 2**53 for j in range(16)]
    g = [math.sqrt(-2 * math.log(u[j])) * math.cos(2 * math.pi * u[8 + j]) for j in range(8)]
    q, p = (torch.tensor(x, dtype=torch.float64) / math.hypot(*x) for x in (g[:4], g[4:]))
    found = rotation.counter_haar(seed, tag, torch.tensor([5, index]))[1]
    x = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(found @ x, quaternion_product(quaternion_product(q, x), p), atol=1e-14)


def test_rotations_by_counter_are_uniform_and_repeat() -> None:
    m = rotation.counter_haar(3, 1, torch.arange(100_000))
    assert (m @ m.mT - torch.eye(4)).abs().max() < 1e-12 and (torch.linalg.det(m) - 1).abs().max() < 1e-12
    assert m[:2000].mean(0).norm() < 0.08
    cosine = (m[:50_000] * m[50_000:]).sum((-1, -2)) / 4
    assert cosine.mean().abs() < 0.005 and abs(float(cosine.var()) * 16 - 1) < 0.03
    assert torch.allclose(m[777], rotation.counter_haar(3, 1, torch.tensor(777)), atol=1e-15)
    assert not torch.allclose(m[0], rotation.counter_haar(4, 1, torch.tensor(0)))


def test_thousands_of_float32_rotations_stay_one() -> None:
    m = rotation.counter_haar(5, 1, torch.arange(4096)).float()
    product = torch.eye(4)
    for step in m:
        product = product @ step
    assert (product @ product.mT - torch.eye(4)).abs().max() < 1e-4


@pytest.mark.parametrize(("superposed", "least"), [(1, 1.0), (5, 0.95)])
def test_attributes_bound_to_objects_come_back(superposed: int, least: float) -> None:
    """Sixteen rotations stand for a name; pairs of attribute and one of 5,000 objects are bound and added up."""
    objects, cases = 5000, 100
    words = rotation.counter_haar(1, 1, torch.arange(objects * 16)).float().view(objects, 16, 4, 4)
    names = rotation.counter_haar(1, 2, torch.arange(superposed * 16)).float().view(superposed, 16, 4, 4)
    truth = torch.randint(objects, (cases, superposed), generator=torch.Generator().manual_seed(0))
    bound = (names @ words[truth]).sum(1)
    for i in range(superposed):
        scores = (names[i].mT @ bound).flatten(1) @ words.flatten(1).T
        assert (scores.argmax(1) == truth[:, i]).double().mean() >= least
