"""Rotors against dense products and matrix exponentials; frames against the covariance they come from."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.geometry import frames

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def dense_product(n: int, planes: Tensor, theta: Tensor) -> Tensor:
    """Each rotation is exp of its generator: matrices multiplied in full, later layers on the left, float64."""
    q = torch.eye(n, dtype=torch.float64)
    for plane, angles in zip(planes.tolist(), theta.double(), strict=True):
        generator = torch.zeros(n, n, dtype=torch.float64)
        for (i, j), angle in zip(plane, angles, strict=True):
            generator[j, i], generator[i, j] = angle, -angle
        q = torch.linalg.matrix_exp(generator) @ q
    return q


@pytest.mark.parametrize(
    ("n", "planes"), [(6, frames.brickwork(6)), (8, frames.butterfly(8)), (2, frames.brickwork(2))]
)
def test_rotor_is_the_product_of_exponentials(n: int, planes: Tensor, dtype: torch.dtype) -> None:
    theta = random(3, *planes.shape[:2], dtype=dtype)
    rotor = frames.Rotor(n, planes, theta)
    q = rotor.matrix()
    for head in range(3):
        assert (q[head] - dense_product(n, planes, theta[head])).abs().max() < TOLERANCE[dtype]
    assert (q.mT @ q - torch.eye(n, dtype=dtype)).abs().max() < TOLERANCE[dtype]
    v = random(3, 5, n, dtype=dtype, seed=1)
    assert (rotor.apply(v) - torch.einsum("hab,hmb->hma", q, v)).abs().max() < 10 * TOLERANCE[dtype]
    assert (rotor.apply(rotor.apply(v), inverse=True) - v).abs().max() < 10 * TOLERANCE[dtype]


def test_layouts() -> None:
    assert frames.brickwork(4, 2).tolist() == [[[0, 1], [2, 3]], [[1, 2], [3, 0]]]
    assert frames.butterfly(4).tolist() == [[[0, 1], [2, 3]], [[0, 2], [1, 3]]]
    for planes in (frames.brickwork(10), frames.butterfly(16)):
        for layer in planes:
            assert sorted(layer.flatten().tolist()) == list(range(2 * len(layer)))


def test_brickwork_has_enough_angles_for_every_rotation() -> None:
    theta = random(6, 3).requires_grad_()
    planes = frames.brickwork(6)
    jacobian = torch.autograd.functional.jacobian(lambda t: frames.Rotor(6, planes, t).matrix(), theta)
    assert int(torch.linalg.matrix_rank(jacobian.reshape(36, -1))) == 15
    shallow = torch.autograd.functional.jacobian(
        lambda t: frames.Rotor(6, planes[:3], t).matrix(), theta[:3].detach().requires_grad_()
    )
    assert int(torch.linalg.matrix_rank(shallow.reshape(36, -1))) < 15


@pytest.mark.parametrize("layout", ["brickwork", "butterfly"])
def test_sweep_is_the_derivative(layout: str) -> None:
    planes = getattr(frames, layout)(4)
    theta = random(2, *planes.shape[:2]).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: frames.Rotor(4, planes, t).matrix(), theta)
    weights = random(2, 4, 4, seed=2)
    (wanted,) = torch.autograd.grad((weights * frames.Rotor(4, planes, theta).matrix()).sum(), theta)
    assert (frames.Rotor(4, planes, theta.detach()).stat(weights) - wanted).abs().max() < 1e-13


@given(st.floats(-100, 100, width=32))
def test_wrapped_angles_are_the_same_angles(angle: float) -> None:
    for dtype in (torch.float32, torch.float64):
        theta = torch.tensor(angle, dtype=dtype)
        wrapped = frames.wrap_angles(theta)
        assert -math.pi <= float(wrapped.double()) + 1e-6 and float(wrapped) < math.pi + 1e-6
        assert abs(math.remainder(float(wrapped) - angle, 2 * math.pi)) < 60 * torch.finfo(dtype).eps * (1 + abs(angle))
        assert torch.equal(frames.wrap_angles(wrapped), wrapped)
        if abs(angle) < 3:
            assert torch.equal(wrapped, theta)
    assert float(frames.wrap_angles(torch.tensor(math.pi))) == -float(torch.tensor(math.pi))


@pytest.mark.parametrize("determinant", [1, -1])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_every_frame_is_a_product_of_rotations(n: int, determinant: int, dtype: torch.dtype) -> None:
    q, _ = torch.linalg.qr(random(4, n, n, dtype=dtype))
    q[..., 0] *= determinant * torch.linalg.det(q).sign()[:, None]
    rotor = frames.Rotor(n, *frames.givens_angles(q))
    assert rotor.theta.shape == (4, n * (n - 1) // 2, 1)
    found = rotor.matrix()
    assert (found[..., :-1] - q[..., :-1]).abs().max() < TOLERANCE[dtype] * 10
    assert (found[..., -1] - determinant * q[..., -1]).abs().max() < TOLERANCE[dtype] * 10


def test_derived_frame_diagonalises_the_covariance(dtype: torch.dtype) -> None:
    mix = random(3, 6, 6, dtype=dtype)
    z = random(3, 500, 6, dtype=dtype, seed=1) @ mix + 5
    c = frames.covariance_step(torch.zeros(3, 6, 6, dtype=dtype), z, decay=0.0)
    for head in range(3):
        assert (c[head] - torch.cov(z[head].T, correction=0)).abs().max() < 1e3 * TOLERANCE[dtype]
    q = frames.derived_frame(c)
    turned = q.mT @ c @ q
    variances = turned.diagonal(dim1=-2, dim2=-1)
    off = turned - torch.diag_embed(variances)
    assert off.abs().max() / variances.abs().max() < 1e-6
    assert bool((variances.diff(dim=-1) <= 0).all())
    assert bool((q.gather(-2, q.abs().argmax(-2, keepdim=True)) > 0).all())


def test_derived_frame_does_not_jump() -> None:
    q, _ = torch.linalg.qr(random(5, 5))
    lam = torch.tensor([3.0, 2.9, 1.0, 0.5, 0.1], dtype=torch.float64)
    swapped = lam[[1, 0, 2, 4, 3]]
    first = frames.derived_frame((q * lam) @ q.T)
    assert (frames.derived_frame((q * swapped) @ q.T, previous=first) - first).abs().max() < 1e-12
    assert (frames.derived_frame((q * swapped) @ q.T) - first).abs().max() > 0.1
    noise = 1e-9 * random(5, 5, seed=3)
    for sign in (1, -1):
        near = frames.derived_frame((q * lam) @ q.T + sign * (noise + noise.T), previous=first)
        assert (near - first).abs().max() < 1e-7
    # Two components of equal size up to rounding: the first decides the sign, whatever the last digit says.
    tie = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    for nudge in (1e-15, -1e-15):
        bent = tie + torch.tensor([[nudge, 0], [0, -nudge]], dtype=torch.float64)
        assert bool((frames.derived_frame(bent)[0] > 0).all())


def test_moving_average_of_the_covariance() -> None:
    z = random(40, 3)
    c = torch.eye(3, dtype=torch.float64)
    found = frames.covariance_step(c, z)
    assert (found - (0.99 * c + 0.01 * torch.cov(z.T, correction=0))).abs().max() < 1e-14


def test_conditioning_keeps_the_form(dtype: torch.dtype) -> None:
    u = random(2, 6, 3, dtype=dtype)
    u[..., 2] = u[..., 1] + 1e-3 * u[..., 2]
    d = random(2, 3, dtype=dtype, seed=1).exp()
    assert bool((frames.condition_number(u) > 1e3).all())
    v, e = frames.orthogonal_columns(u, d, weight=0.25)
    form = (u * d[:, None]) @ u.mT
    assert ((v * e[:, None]) @ v.mT - form).abs().max() < 100 * TOLERANCE[dtype]
    gram = v.mT @ v
    assert (gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))).abs().max() < 100 * TOLERANCE[dtype]
    assert bool((e == 0.25).all())


def test_refusals() -> None:
    for act, words in (
        (lambda: frames.brickwork(5), "even"),
        (lambda: frames.brickwork(4, 0), "`layers` is 0"),
        (lambda: frames.butterfly(6), "power of two"),
        (lambda: frames.Rotor(4, frames.brickwork(4), torch.zeros(4, 3)), r"\(4, 2\)"),
        (lambda: frames.orthogonal_columns(torch.ones(2, 3), torch.ones(3)), "`u` has 3"),
    ):
        with pytest.raises(ConfigError, match=words):
            act()
