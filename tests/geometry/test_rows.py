"""The compiled kernels against their plain twins, first and second derivatives included."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp, mpf, workdps
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.geometry import gyro, lorentz, normal, poincare, radial, rows
from holonomy.geometry.compiled import compiled, elementary
from holonomy.geometry.pairwise import pairwise
from holonomy.geometry.poincare import Poincare

COUNT = 5000
TOLERANCE = {torch.float32: 3e-7, torch.float64: 1e-14}


def points(seed: int, dtype: torch.dtype) -> Tensor:
    x = torch.randn(COUNT, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    radius = torch.linspace(0, 1 - 1e-4, COUNT, dtype=torch.float64)[:, None]
    return (x / x.norm(dim=-1, keepdim=True) * radius).to(dtype)


def pair(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Far pairs, near pairs, equal pairs."""
    x, y = points(1, dtype), points(2, dtype).flip(0)
    y[1000:2000] = x[1000:2000] * (1 - 1e-5)
    y[2000:2100] = x[2000:2100]
    return x, y


def curvature(dtype: torch.dtype) -> Tensor:
    return torch.tensor(-0.7, dtype=dtype, requires_grad=True)


OPERATIONS = ["dist", "dist0", "exp0", "log0", "mobius_add"]


def arguments(name: str, dtype: torch.dtype) -> list[Tensor]:
    """Points for an operation; for the exponential map tangents as long as float32 can tell their ends apart."""
    if name in ("dist", "mobius_add"):
        return list(pair(dtype))
    return [points(1, dtype) * (9 if name == "exp0" else 1)]


@pytest.mark.parametrize("name", OPERATIONS)
def test_values_and_derivatives_equal_the_plain_twin(name: str, dtype: torch.dtype) -> None:
    """The twin runs in float64 for both dtypes: the kernels must be as good as rounding of the result allows."""
    exact = [a.double().requires_grad_() for a in arguments(name, dtype)]
    mine = [a.detach().to(dtype).requires_grad_() for a in exact]
    found = []
    for inputs, prefix in ((mine, ""), (exact, "plain_")):
        k = curvature(inputs[0].dtype)
        assert rows.suits(k, *inputs)
        value = getattr(poincare, prefix + name)(*inputs, k.to(dtype).to(inputs[0].dtype))
        weight = torch.linspace(-1, 1, value.numel(), dtype=dtype).view(value.shape)
        (value * weight).sum().backward()
        found.append([value.detach(), *(a.grad for a in inputs), k.grad])
    for got, wanted in zip(*found, strict=True):
        assert torch.isfinite(got).all()
        # Where points meet or leave the origin the plain twin rounds on its own; compare beside the largest slopes.
        scale = wanted.abs().clamp_min(1e-3 * float(wanted.abs().max()))
        assert float(((got - wanted).abs() / scale).max()) <= 200 * TOLERANCE[dtype]
    value, wanted = found[0][0], found[1][0]
    # A coordinate may cancel: vectors are judged by their largest one.
    size = wanted.abs().view(COUNT, -1).amax(-1).clamp_min(1e-6).view(COUNT, *[1] * (value.dim() - 1))
    assert float(((value - wanted).abs() / size).max()) <= TOLERANCE[dtype]


@pytest.mark.parametrize("name", OPERATIONS)
def test_threads_share_the_rows_without_changing_values(name: str) -> None:
    inputs = [a.repeat(5, 1).requires_grad_() for a in arguments(name, torch.float64)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            k = curvature(torch.float64)
            value = getattr(poincare, name)(*inputs, k)
            found.append([value, *torch.autograd.grad(value.square().sum(), (*inputs, k))])
    finally:
        torch.set_num_threads(before)
    (*one, by_k), (*three, by_k_threads) = found
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))
    assert torch.allclose(by_k, by_k_threads, rtol=1e-12)


@pytest.mark.parametrize("name", OPERATIONS)
def test_values_that_are_no_numbers_show(name: str) -> None:
    inputs = arguments(name, torch.float32)
    inputs[0][7, 2] = float("nan")
    value = getattr(poincare, name)(*inputs, curvature(torch.float32))
    broken = value.view(COUNT, -1).isnan()
    assert broken[7].all()
    assert not broken[8:].any() and not broken[:7].any()


def sheet_pairs(dtype: torch.dtype) -> list[Tensor]:
    """Points of the hyperboloid to radius 6: far, near, equal and opposite pairs, and the origin twice."""
    k = curvature(torch.float64).detach()
    u, v = (6 * points(s, torch.float64) for s in (1, 2))
    v[1000:2000], v[2000:2010], v[2010:2020] = u[1000:2000] * (1 - 1e-5), u[2000:2010], -u[2010:2020]
    u[2020], v[2020] = 0, 0
    return [lorentz.from_normal(a, k).to(dtype) for a in (u, v)]


def test_sheet_distance_and_derivatives_equal_the_plain_twin(dtype: torch.dtype) -> None:
    found = []
    for distance, wide in ((lorentz.dist, dtype), (lorentz.plain_sheet_dist, torch.float64)):
        inputs = [a.to(wide).requires_grad_() for a in sheet_pairs(dtype)]
        k = curvature(dtype).detach().to(wide).requires_grad_()
        assert rows.suits(k, *inputs)
        value = distance(*inputs, k)
        weight = torch.linspace(-1, 1, COUNT, dtype=dtype).to(wide)
        found.append([value.detach(), *torch.autograd.grad((value * weight).sum(), (*inputs, k))])
    (value, *slopes), (wanted, *plain) = found
    assert float(((value - wanted).abs() / wanted.clamp_min(1e-9)).max()) <= TOLERANCE[dtype]
    for mine, expected in zip(slopes, plain, strict=True):
        assert torch.isfinite(mine).all()
        assert float((mine - expected).abs().max()) <= 10 * TOLERANCE[dtype] * float(expected.abs().max())
    assert not slopes[0][:, 0].any() and not slopes[1][:, 0].any()


def test_sheet_distance_against_fifty_digits(dtype: torch.dtype) -> None:
    x, y = sheet_pairs(dtype)
    found = lorentz.dist(x, y, torch.tensor(-1.0, dtype=dtype))
    bound = {torch.float32: 1.2e-7, torch.float64: 1e-15}[dtype]
    with workdps(50):
        for i in range(0, COUNT, 97):
            a, b = ([mpf(c) for c in p[i, 1:].tolist()] for p in (x, y))
            times = [mp.sqrt(1 + sum(c * c for c in p)) for p in (a, b)]
            wanted = mp.acosh(times[0] * times[1] - sum(c * d for c, d in zip(a, b, strict=True)))
            assert abs(mpf(float(found[i])) - wanted) <= bound * wanted


def test_all_pairs_equal_the_plain_twin(dtype: torch.dtype) -> None:
    """Near pairs, equal points and far pairs among them, on one thread and on three."""
    x, y = points(1, dtype)[::25].clone(), points(2, dtype)[::37].clone()
    y[:50], y[50:60] = x[:50] * (1 - 1e-5), x[50:60]
    before, found = torch.get_num_threads(), []
    try:
        for threads, function in ((1, "pairwise_dist"), (3, "pairwise_dist"), (1, "plain_pairwise_dist")):
            torch.set_num_threads(threads)
            wide = torch.float64 if function.startswith("plain") else dtype
            a, b, k = (t.detach().to(dtype).to(wide).requires_grad_() for t in (x, y, curvature(dtype)))
            value = getattr(poincare, function)(a, b, k)
            weight = torch.linspace(-1, 1, value.numel(), dtype=torch.float64).view(value.shape).to(dtype)
            slopes = torch.autograd.grad((value * weight).sum(), (a, b, k))
            found.append([value.detach(), *slopes])
    finally:
        torch.set_num_threads(before)
    one, three, wanted = found
    assert torch.equal(one[0], three[0])
    assert float(((one[0] - wanted[0]).abs() / wanted[0].clamp_min(1e-6)).max()) <= TOLERANCE[dtype]
    for mine in (one, three):
        for got, expected in zip(mine[1:], wanted[1:], strict=True):
            assert float((got - expected).abs().max()) <= 200 * TOLERANCE[dtype] * float(expected.abs().max())


def by_vectors(name: str, *arguments: Tensor) -> list[float]:
    """An elementary function of all arguments, which are made of eights."""
    function = getattr(elementary(), name)
    from holonomy.geometry.vectors import keep, take

    def one(out, z):
        for i in range(0, len(z), 8):
            keep(out, i, function(take(z, i)))

    def two(out, z, w):
        for i in range(0, len(z), 8):
            keep(out, i, function(take(z, i), take(w, i)))

    out = torch.empty_like(arguments[0])
    compiled(one if len(arguments) == 1 else two, exact=True)(out.numpy(), *(a.numpy() for a in arguments))
    return out.tolist()


def spread(largest: float) -> Tensor:
    exponents = torch.linspace(-20, math.log10(largest), 512, dtype=torch.float64)
    return torch.cat([10**exponents, torch.linspace(0, 3, 512, dtype=torch.float64)])


def test_expm1_of_vectors() -> None:
    z = spread(700.0)
    for x, y in zip(z.tolist(), by_vectors("expm1", z), strict=True):
        exact = mp.expm1(mpf(x))
        assert abs(mpf(y) - exact) <= 2 * 2.3e-16 * exact


@pytest.mark.parametrize("scale", [1.0, 0.37, 1e-9])
def test_log1p_ratio_of_vectors(scale: float) -> None:
    t = spread(1e300) * scale
    g = torch.linspace(1, 2, len(t), dtype=torch.float64).flip(0) * scale
    for x, y, z in zip(t.tolist(), g.tolist(), by_vectors("log1p_ratio", t, g), strict=True):
        exact = mp.log1p(mpf(x) / mpf(y))
        assert abs(mpf(z) - exact) <= 2 * 2.3e-16 * exact


def test_log1p_ratio_at_and_past_the_boundary() -> None:
    t, g = torch.full((8,), 0.5, dtype=torch.float64), torch.full((8,), -0.25, dtype=torch.float64)
    g[::2] = 0.0
    assert by_vectors("log1p_ratio", t, g)[::2] == [math.inf] * 4
    assert all(math.isnan(z) for z in by_vectors("log1p_ratio", t, g)[1::2])


def test_second_derivatives_go_through_the_twin() -> None:
    x, y = (points(s, torch.float64).requires_grad_() for s in (1, 2))
    k = curvature(torch.float64)
    found = []
    for distance in (poincare.dist, poincare.plain_dist):
        (slope,) = torch.autograd.grad(distance(x, y, k)[1:].sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), (x, k)))
    for mine, plain in zip(*found, strict=True):
        assert torch.allclose(mine, plain, rtol=1e-9)


def test_only_what_suits_is_taken() -> None:
    k, x = curvature(torch.float32), points(1, torch.float32)
    assert rows.suits(k, x, x)
    assert rows.suits(k, x.view(50, 100, 5))
    assert not rows.suits(k, x[:100])
    assert not rows.suits(k, x, x[:1])
    assert not rows.suits(k, x.half())
    # Its sign is not in memory yet.
    assert not rows.suits(k, torch.complex(x, x).conj().imag)
    assert not rows.suits(torch.full((5000, 1), -1.0), x)
    wide = torch.stack([x, x], 1)[:, 0]
    assert torch.equal(poincare.dist0(wide, k), poincare.dist0(x, k))
    assert poincare.dist(x.view(50, 100, 5), x.view(50, 100, 5).flip(0), k).shape == (50, 100)


def test_integers_are_refused() -> None:
    """Unwrapped: the annotations, which only tests hold to, would be first."""
    k, ints = torch.tensor(-1.0), torch.zeros(COUNT, 3, dtype=torch.int64)
    run = inspect.unwrap(rows.by_rows)
    with pytest.raises(ConfigError, match="`x` has dtype torch.int64.*float"):
        run(gyro.dist_kernel, poincare.plain_dist, k, ints, ints)
    with pytest.raises(ConfigError, match="`v` has dtype torch.int64"):
        run(radial.exp0_kernel, poincare.plain_exp0, k, ints)
    with pytest.raises(ConfigError, match="`u` has dtype torch.int64"):
        inspect.unwrap(normal.dist)(ints, ints, k)


SHAPES = st.lists(st.integers(1, 7), min_size=1, max_size=3)


@given(st.sampled_from(OPERATIONS), SHAPES, st.integers(1, 21), st.integers(0, 99))
def test_any_shape_gives_the_values_of_the_twin(name: str, shape: list[int], dim: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = 2 if name in ("dist", "mobius_add") else 1
    k = -torch.rand((), generator=generator, dtype=torch.float64) - 1e-3
    made = [torch.randn(*shape, dim, generator=generator, dtype=torch.float64) for _ in range(count)]
    inputs = [poincare.exp0(a, k).requires_grad_() for a in made]
    home = gyro if count == 2 else radial
    kernel = getattr(home, {"mobius_add": "mobius"}.get(name, name) + "_kernel")
    twin = getattr(poincare, f"plain_{name}")
    value, wanted = rows.by_rows(kernel, twin, k, *inputs), twin(*inputs, k)
    assert value.shape == wanted.shape
    slopes = [torch.autograd.grad(v.square().sum(), inputs) for v in (value, wanted)]
    for mine, plain in zip((value, *slopes[0]), (wanted, *slopes[1]), strict=True):
        assert torch.allclose(mine, plain, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("width", [16, pytest.param(136, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_rows_made_of_eights_of_float32(name: str, width: int) -> None:
    """Loops of known length and of any; blocks near the origin, blocks far out, one that is not full."""
    generator = torch.Generator().manual_seed(width)
    radius = torch.linspace(0, 0.98, COUNT, dtype=torch.float64)[:, None]
    made = [torch.randn(COUNT, width, generator=generator, dtype=torch.float64) for _ in range(2)]
    x, y = (a / a.norm(dim=-1, keepdim=True) * radius for a in made)
    k, found = torch.tensor(-1.0), []
    for function, wide in ((name, torch.float32), (f"plain_{name}", torch.float64)):
        inputs = [a.float().to(wide).requires_grad_() for a in ((x, y) if name in ("dist", "mobius_add") else (x,))]
        value = getattr(poincare, function)(*inputs, k.to(wide))
        found.append([value.detach(), *torch.autograd.grad(value.sum(), inputs)])
    for mine, wanted in zip(*found, strict=True):
        size = wanted.abs().view(COUNT, -1).amax(-1).clamp_min(1e-3).view(COUNT, *[1] * (wanted.dim() - 1))
        assert float(((mine - wanted).abs() / size).max()) <= (1.2e-7 if mine is found[0][0] else 6e-7)


@pytest.mark.parametrize("width", [9, 16])
def test_sheet_distance_of_rows_made_of_eights(width: int) -> None:
    """With the time coordinate beside the eights, and as the first of eight."""
    k, found = torch.tensor(-1.3), []
    generator = torch.Generator().manual_seed(width)
    u, v = (2 * torch.randn(COUNT, width - 1, generator=generator) for _ in range(2))
    v[1000:1500] = u[1000:1500] * (1 + 1e-4)
    x, y = (lorentz.from_normal(a / 2, k) for a in (u, v))
    for distance, wide in ((lorentz.dist, torch.float32), (lorentz.plain_sheet_dist, torch.float64)):
        inputs = [a.to(wide).requires_grad_() for a in (x, y, k)]
        value = distance(*inputs)
        found.append([value.detach(), *torch.autograd.grad(value.sum(), inputs)])
    (value, *slopes), (wanted, *plain) = found
    assert float(((value - wanted).abs() / wanted).max()) <= 1.2e-7
    for mine, expected in zip(slopes, plain, strict=True):
        assert float((mine - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


def test_a_logarithm_without_quotient() -> None:
    t = spread(1e30)
    for x, y in zip(t.tolist(), by_vectors("log1p_brief", t), strict=True):
        exact = mp.log1p(mpf(x))
        assert abs(mpf(y) - exact) <= 1e-11 * exact


@pytest.mark.parametrize("name", ["tanh", "atanh"])
def test_series_of_radial_factors(name: str) -> None:
    """Value and derivative against 50 digits, over the interval that they are used on."""
    series = {"tanh": radial._tanh_series, "atanh": radial._artanh_series}[name]()
    from holonomy.geometry.vectors import keep, take

    def run(out, u, function):
        for i in range(0, len(u), 8):
            keep(out, i, function(take(u, i)))

    u = torch.linspace(1e-9, series.edge, 256, dtype=torch.float64)
    rise, bend = torch.empty_like(u), torch.empty_like(u)
    for out, function in ((rise, series.rise), (bend, series.bend)):
        compiled(run, exact=True)(out.numpy(), u.numpy(), function)
    with workdps(50):

        def factor(s: mpf) -> mpf:
            return getattr(mp, name)(mp.sqrt(s)) / mp.sqrt(s)

        for s, found, slope in zip(u.tolist(), rise.tolist(), bend.tolist(), strict=True):
            assert abs(found + 1 - factor(mpf(s))) <= 1e-10
            assert abs(slope / 2 - mp.diff(factor, mpf(s), h=mpf(10) ** -18)) <= 2e-9


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # dual numbers load it
@pytest.mark.parametrize("name", OPERATIONS)
def test_function_transforms_take_the_plain_road(name: str) -> None:
    """Reverse and forward derivatives and vectorisation by `torch.func`, and dual numbers, against autograd."""
    inputs = [a.double() for a in arguments(name, torch.float64)]
    k = torch.tensor(-0.7, dtype=torch.float64)
    function = getattr(poincare, name)
    leaves = [a.clone().requires_grad_() for a in inputs]
    value = function(*leaves, k)
    (wanted,) = torch.autograd.grad(value.square().sum(), leaves[0])

    def energy(x: Tensor) -> Tensor:
        return function(x, *inputs[1:], k).square().sum()

    along = torch.ones_like(inputs[0])
    both = torch.stack([inputs[0], inputs[0] / 2])
    as_one = torch.func.vmap(lambda x: function(x, *inputs[1:], k))(both)
    with torch.autograd.forward_ad.dual_level():
        dual = energy(torch.autograd.forward_ad.make_dual(inputs[0], along))
        forward = torch.autograd.forward_ad.unpack_dual(dual).tangent
    pushed = torch.func.jvp(energy, (inputs[0],), (along,))[1]
    keep = wanted.isfinite()
    assert torch.allclose(as_one[0], value.detach(), rtol=1e-10, atol=1e-12)
    for found in (torch.func.grad(energy)(inputs[0]), torch.func.jacrev(energy)(inputs[0])):
        assert keep.all() and torch.allclose(found, wanted, rtol=1e-6, atol=1e-6 * float(wanted.abs().max()))
    assert torch.allclose(pushed, wanted.sum(), rtol=1e-6) and torch.allclose(pushed, forward, rtol=1e-9)


@pytest.mark.parametrize("rows", [4, 5000])
def test_points_outside_the_ball_have_no_distance(rows: int, dtype: torch.dtype) -> None:
    inside, outside = torch.full((rows, 3), 0.1, dtype=dtype), torch.full((rows, 3), 1.1, dtype=dtype)
    outside[:, 0] += torch.arange(rows, dtype=dtype) / rows
    k = torch.tensor(-1.0, dtype=dtype)
    for x, y in ((inside, outside), (outside, inside), (outside, outside.flip(0) + 0.5)):
        assert poincare.dist(x, y, k).isnan().all()
        assert poincare.pairwise_dist(x[:70], y[:70], k).isnan().all()
    assert poincare.dist0(outside, k).isnan().all()
    assert poincare.log0(outside, k).isnan().all()


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 11), st.integers(0, 99))
def test_all_pairs_of_any_shape(n: int, m: int, dim: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    k = torch.tensor(-0.8, dtype=torch.float64)
    x, y = (poincare.exp0(torch.randn(c, dim, generator=generator, dtype=torch.float64), k) for c in (n, m))
    found = pairwise(poincare.plain_pairwise_dist, k, x, y)
    assert torch.allclose(found, poincare.plain_pairwise_dist(x, y, k), rtol=1e-10, atol=1e-12)
    # Shapes that broadcast go through plain operations, with the same values.
    assert torch.allclose(poincare.dist(x[:, None], y[None], k), found, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rows", [3, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_long_tangents_end_inside_the_ball(dtype: torch.dtype, rows: int) -> None:
    """As far out as coordinates can tell, with finite derivatives of everything, and still in their direction."""
    v = torch.nn.functional.normalize(torch.randn(rows, 7, generator=torch.Generator().manual_seed(3), dtype=dtype))
    v = (v * torch.logspace(-1, 4, rows, dtype=dtype)[:, None]).requires_grad_()
    k = torch.tensor(-1.3, dtype=dtype, requires_grad=True)
    for x in (poincare.exp0(v, k), poincare.exp(poincare.exp0(v.flip(0) / 100, k), v, k)):
        assert Poincare(-1.3).check_point(x.detach()) is None
        reach = poincare.dist0(x, k) + poincare.dist(x, x.flip(0), k)
        slopes = torch.autograd.grad(reach.sum(), [v, k], retain_graph=True)
        assert all(bool(a.isfinite().all()) for a in (reach, *slopes))
    ends = poincare.exp0(v, k).detach()
    assert torch.allclose(ends.norm(dim=-1)[-1] * 1.3**0.5, torch.ones((), dtype=dtype), atol=1e-6)
    assert torch.nn.functional.cosine_similarity(ends, v.detach()).min() > 0.999999
