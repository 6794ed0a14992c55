"""Compiled Clifford products: every sign and blade written out, 64 rows side by side.

The source of a kernel follows from the product table of its algebra, so that no table is read while multiplying; a
block of rows is turned into one array per blade first, so that the terms become vector instructions.
`holonomy.geometry.clifford` holds the plain twin that tests compare with; it calls these for many multivectors on the
CPU. Compilation takes a second or two an algebra, once a process, when first needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.geometry.compiled import FROM_ROWS, compiled, over_rows, plain_only, rows, slopes_of_twin

LARGEST = 16
"""Largest number of blades that is written out: 256 terms."""

BLOCK = 64
"""Rows side by side: the arrays of an algebra of 16 blades fit the nearest cache."""

Signs = tuple[tuple[int, ...], ...]
"""signs[x][y] is the sign of the product of blades x and y, which is blade x ^ y; 0 where it vanishes."""
Kernels = tuple[Callable[..., None], Callable[..., None]]
"""A product and its derivatives."""


def _terms(pairs: list[tuple[int, str]]) -> str:
    return "".join(f" {'+' if sign > 0 else '-'} {term}" for sign, term in pairs if sign) or " 0.0"


def _kernel(name: str, size: int, inputs: str, outputs: dict[str, list[str]]) -> str:
    """Source of `name(*inputs, *outputs)`: blocks turned to one array per blade, the formulas, the results turned back.

    Args:
        name: of the function.
        size: number of blades.
        inputs: one letter an argument; the formulas call the coefficients of blade 3 of `a` `a3`.
        outputs: argument to the formulas of its blades.
    """
    blades = range(size)
    lines = [f"def {name}({', '.join([*inputs, *outputs])}):"]
    for array in [*inputs, *outputs]:
        lines += [f"    {array}_s = empty(({size}, {BLOCK}), a.dtype)"]
        lines += [f"    {array}_{x} = {array}_s[{x}]" for x in blades]
    lines += [f"    for start in range(0, a.shape[0], {BLOCK}):", f"        n = min({BLOCK}, a.shape[0] - start)"]
    lines += [f"        take({array}, start, n, {array}_s)" for array in inputs]
    lines += ["        for i in range(n):"]
    lines += [f"            {array}{x} = {array}_{x}[i]" for array in inputs for x in blades]
    lines += [f"            {array}_{x}[i] ={formulas[x]}" for array, formulas in outputs.items() for x in blades]
    lines += [f"        give({array}, start, n, {array}_s)" for array in outputs]
    return "\n".join(lines)


def _compile(size: int, product: list[str], by_a: list[str], by_b: list[str]) -> Kernels:
    """Compiles `product(a, b, out)` and `slope(a, b, g, ga, gb)`, its derivatives against g, from their formulas."""
    import numpy as np

    @compiled
    def take(rows, start, n, turned):
        for i in range(n):
            for x in range(size):
                turned[x, i] = rows[start + i, x]

    @compiled
    def give(rows, start, n, turned):
        for i in range(n):
            for x in range(size):
                rows[start + i, x] = turned[x, i]

    scope: dict[str, Any] = {"empty": np.empty, "take": take, "give": give}
    sources = (
        _kernel("product", size, "ab", {"out": product}),
        _kernel("slope", size, "abg", {"ga": by_a, "gb": by_b}),
    )
    # The text is made of numbers from the product table alone.
    exec("\n".join(sources), scope)
    return compiled(scope["product"]), compiled(scope["slope"])


@lru_cache(maxsize=32)
def algebra_kernels(signs: Signs) -> Kernels:
    """Kernels of the product of an algebra with this table."""
    size = range(len(signs))
    product = [_terms([(signs[x][x ^ c], f"a{x} * b{x ^ c}") for x in size]) for c in size]
    by_a = [_terms([(signs[x][y], f"g{x ^ y} * b{y}") for y in size]) for x in size]
    by_b = [_terms([(signs[x][y], f"g{x ^ y} * a{x}") for x in size]) for y in size]
    return _compile(len(signs), product, by_a, by_b)


@lru_cache(maxsize=4)
def matrix_kernels(n: int) -> Kernels:
    """Kernels of the product of n x n matrices whose entries stand row by row."""
    each = [(r, c) for r in range(n) for c in range(n)]
    product = [_terms([(1, f"a{n * r + k} * b{n * k + c}") for k in range(n)]) for r, c in each]
    by_a = [_terms([(1, f"g{n * r + c} * b{n * k + c}") for c in range(n)]) for r, k in each]
    by_b = [_terms([(1, f"a{n * r + k} * g{n * r + c}") for r in range(n)]) for k, c in each]
    return _compile(n * n, product, by_a, by_b)


def suits_products(a: Tensor, b: Tensor) -> bool:
    """Whether the kernels take these multivectors: many of one real dtype and shape on the CPU, not too wide."""
    return (
        a.shape == b.shape
        and a.shape[-1] <= LARGEST
        and a.shape[:-1].numel() >= FROM_ROWS
        and a.dtype in (torch.float32, torch.float64)
        and a.device.type == "cpu"
        and not plain_only()
    )


class _Product(torch.autograd.Function):
    """Runs the kernels; a second derivative goes through the plain twin."""

    @staticmethod
    def forward(ctx: Any, twin: Callable[[Tensor, Tensor], Tensor], kernels: Kernels, a: Tensor, b: Tensor) -> Tensor:
        ctx.twin, ctx.kernels = twin, kernels
        ctx.save_for_backward(a, b)
        out = torch.empty_like(a, memory_format=torch.contiguous_format)
        over_rows(kernels[0], rows(a), rows(b), rows(out))
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        (g,) = slopes
        if torch.is_grad_enabled():
            return None, None, *slopes_of_twin(ctx.twin, (a, b), g)
        ga, gb = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (a, b))
        over_rows(ctx.kernels[1], *map(rows, (a, b, g, ga, gb)))
        return None, None, ga, gb


def compiled_product(
    twin: Callable[[Tensor, Tensor], Tensor],
    kernels: Kernels,
    a: Float[Tensor, "... size"],
    b: Float[Tensor, "... size"],
) -> Float[Tensor, "... size"]:
    """The product of two arrays of multivectors or matrices that `suits_products` accepts.

    Args:
        twin: the plain function of (a, b) with the same values, for second derivatives.
        kernels: the compiled ones.
        a, b: coefficients in the order of the blades, or entries row by row.
    """
    result = _Product.apply(twin, kernels, a, b)
    assert isinstance(result, Tensor)
    return result
