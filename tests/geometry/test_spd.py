"""Positive-definite matrices against scipy, closed forms of 2 x 2 matrices, and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from holonomy.geometry.lorentz import Lorentz
from holonomy.geometry.spd import SPD, divided_exp, divided_log, divided_sqrt, from_matrix, of_eigenvalues, to_matrix
from holonomy.testing import assert_isometry

SPACE = SPD()
N = 4
DIM = N * (N + 1) // 2


def matrices(count: int, seed: int, std: float = 0.5) -> Tensor:
    return SPACE.random(count, dim=DIM, std=std, generator=torch.Generator().manual_seed(seed))


def test_coordinates_keep_the_frobenius_product() -> None:
    a, b = torch.randn(2, 5, DIM, dtype=torch.float64)
    assert torch.equal(to_matrix(a), to_matrix(a).mT)
    assert torch.allclose(from_matrix(to_matrix(a)), a, rtol=1e-15)
    assert torch.allclose((to_matrix(a) * to_matrix(b)).sum((-2, -1)), (a * b).sum(-1), rtol=1e-14)


def test_distance_is_that_of_generalised_eigenvalues() -> None:
    x, y = matrices(20, 1), matrices(20, 2)
    for a, b, found in zip(to_matrix(x).numpy(), to_matrix(y).numpy(), SPACE.dist(x, y), strict=True):
        values = scipy.linalg.eigh(b, a, eigvals_only=True)
        assert abs(float(found) - np.linalg.norm(np.log(values))) < 1e-13


def test_exp_and_log_equal_matrix_functions() -> None:
    x, y = matrices(5, 3), matrices(5, 4)
    for a, b, found in zip(to_matrix(x).numpy(), to_matrix(y).numpy(), to_matrix(SPACE.log(x, y)).numpy(), strict=True):
        root = scipy.linalg.sqrtm(a)
        back = np.linalg.inv(root)
        expected = root @ scipy.linalg.logm(back @ b @ back) @ root
        assert np.abs(found - expected).max() < 1e-12
        again = root @ scipy.linalg.expm(back @ expected @ back) @ root
        assert np.abs(again - b).max() < 1e-12


def test_congruence_and_inversion_are_isometries() -> None:
    x, y = matrices(20, 5), matrices(20, 6)
    a = torch.randn(N, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_isometry(lambda m: from_matrix(a @ to_matrix(m) @ a.T), SPACE, SPACE, x, y, tolerance=1e-11)
    assert_isometry(lambda m: from_matrix(to_matrix(m).inverse()), SPACE, SPACE, x, y, tolerance=1e-11)


def test_matrices_of_determinant_one_are_a_hyperbolic_plane() -> None:
    """[[t + x, y], [y, t - x]] with t^2 - x^2 - y^2 = 1: the hyperboloid, of curvature -1/2 in our metric."""
    sheet = Lorentz(-1.0)
    x, y = (sheet.random(30, dim=2, std=1.0, generator=torch.Generator().manual_seed(s)) for s in (7, 8))

    def matrix(p: Tensor) -> Tensor:
        t, a, b = p.unbind(-1)
        return from_matrix(torch.stack([torch.stack([t + a, b], -1), torch.stack([b, t - a], -1)], -2))

    assert (SPACE.dist(matrix(x), matrix(y)) - 2**0.5 * sheet.dist(x, y)).abs().max() < 1e-12


def test_derivatives_where_eigenvalues_repeat() -> None:
    identity = torch.eye(3, dtype=torch.float64)
    beside = identity + 1e-3 * torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for start in (identity, 2 * identity, (beside + beside.T) / 2, torch.diag(torch.tensor([1.0, 1.0, 3.0]).double())):
        s = start.clone().requires_grad_()
        for function, divided in ((torch.log, divided_log), (torch.exp, divided_exp), (torch.sqrt, divided_sqrt)):
            assert torch.autograd.gradcheck(lambda a, f=function, d=divided: of_eigenvalues((a + a.T) / 2, f, d), (s,))


def test_gradients_of_the_manifold_by_finite_differences() -> None:
    x, y = (matrices(2, s).requires_grad_() for s in (9, 10))
    v = torch.randn(2, DIM, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SPACE.dist, (x, y))
    assert torch.autograd.gradcheck(SPACE.exp, (x, v))
    assert torch.autograd.gradcheck(SPACE.log, (x, y))
    assert torch.autograd.gradcheck(SPACE.transport, (x, y, v))


def test_volume_by_the_jacobian_of_exp() -> None:
    a = torch.randn(DIM, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    start = SPACE.origin(DIM, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda b: SPACE.exp(start, b), a)
    assert isinstance(jacobian, Tensor)
    end = SPACE.exp(start, a)
    basis = torch.eye(DIM, dtype=torch.float64)
    gram = torch.stack([SPACE.inner(end.expand(DIM, -1), basis, b.expand(DIM, -1)) for b in basis])
    volume = jacobian.slogdet()[1] + gram.slogdet()[1] / 2
    assert abs(float(volume - SPACE.log_volume(a))) < 1e-11


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_projection_raises_eigenvalues(size: float, dtype: torch.dtype) -> None:
    x = from_matrix(size * torch.diag(torch.tensor([1.0, -2.0, 0.0], dtype=dtype)))
    found = SPACE.project(x)
    assert float(torch.linalg.eigvalsh(to_matrix(found)).min()) > 0
    assert float((found - x).abs().max()) <= 2.001 * size
    inside = matrices(3, 11).to(dtype)
    assert torch.equal(SPACE.project(inside), inside)


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0])
def test_divided_differences_keep_their_digits(size: float, dtype: torch.dtype) -> None:
    """Against 50 digits: near eigenvalues, also near zero, lose nothing."""
    import mpmath as mp

    for function, divided, centre in (
        ("exp", divided_exp, 0.0),
        ("log", divided_log, 2.0),
        ("sqrt", divided_sqrt, 2.0),
    ):
        a, b = (torch.tensor([[centre + s * size]], dtype=dtype) for s in (0.5, -0.3))
        with mp.workdps(50):
            x, y = mp.mpf(a.item()), mp.mpf(b.item())
            exact = (getattr(mp, function)(x) - getattr(mp, function)(y)) / (x - y)
            error = abs((mp.mpf(divided(a, b).item()) - exact) / exact)
        assert error <= 8 * torch.finfo(dtype).eps
