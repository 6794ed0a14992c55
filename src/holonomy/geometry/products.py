"""Compiled Clifford products: every sign and blade written out, one row at a time, nothing in between.

The source of a kernel follows from the product table of its algebra, so that no table is read while multiplying.
`holonomy.geometry.clifford` holds the plain twin that tests compare with; it calls these for many multivectors on the
CPU. Compilation takes about a second an algebra, once a process, when first needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

FROM_ROWS = 4096
"""Fewer products are left to the plain function: they take less than the kernel's compilation."""
LARGEST = 16
"""Largest number of blades that is written out: 256 terms."""

Signs = tuple[tuple[int, ...], ...]
"""signs[x][y] is the sign of the product of blades x and y, which is blade x ^ y; 0 where it vanishes."""


def _terms(pairs: list[tuple[int, str]]) -> str:
    return "".join(f" {'+' if sign > 0 else '-'} {term}" for sign, term in pairs if sign) or " 0.0"


def _source(signs: Signs) -> str:
    """Source of `product(a, b, out)` and of `slope(a, b, g, ga, gb)`, its derivatives against g."""
    size = range(len(signs))
    load = [f"        a{x} = a[i, {x}]; b{x} = b[i, {x}]" for x in size]
    product = [f"        out[i, {c}] ={_terms([(signs[x][x ^ c], f'a{x} * b{x ^ c}') for x in size])}" for c in size]
    by_a = [f"        ga[i, {x}] ={_terms([(signs[x][y], f'g{x ^ y} * b{y}') for y in size])}" for x in size]
    by_b = [f"        gb[i, {y}] ={_terms([(signs[x][y], f'g{x ^ y} * a{x}') for x in size])}" for y in size]
    loop = "    for i in range(a.shape[0]):"
    slopes = [f"        g{x} = g[i, {x}]" for x in size]
    lines = ["def product(a, b, out):", loop, *load, *product]
    lines += ["def slope(a, b, g, ga, gb):", loop, *load, *slopes, *by_a, *by_b]
    return "\n".join(lines)


@lru_cache(maxsize=32)
def _kernels(signs: Signs) -> tuple[Callable[..., None], Callable[..., None]]:
    from numba import njit

    scope: dict[str, Any] = {}
    # The text is made of numbers from the product table alone.
    exec(_source(signs), scope)
    compiled = njit(fastmath={"reassoc", "contract", "nsz"}, nogil=True)
    return compiled(scope["product"]), compiled(scope["slope"])


def suits_products(a: Tensor, b: Tensor) -> bool:
    """Whether the kernels take these multivectors: many of one real dtype and shape on the CPU, not too wide."""
    return (
        a.shape == b.shape
        and a.shape[-1] <= LARGEST
        and a.shape[:-1].numel() >= FROM_ROWS
        and a.dtype in (torch.float32, torch.float64)
        and a.device.type == "cpu"
    )


def _rows(x: Tensor) -> Any:
    # Contiguous also where a view would do: kernels are compiled for one layout.
    return x.detach().contiguous().view(-1, x.shape[-1]).numpy()


class _Product(torch.autograd.Function):
    """Runs the kernels; a second derivative goes through the plain twin."""

    @staticmethod
    def forward(ctx: Any, twin: Callable[[Tensor, Tensor], Tensor], signs: Signs, a: Tensor, b: Tensor) -> Tensor:
        ctx.twin, ctx.signs = twin, signs
        ctx.save_for_backward(a, b)
        out = torch.empty_like(a, memory_format=torch.contiguous_format)
        _kernels(signs)[0](_rows(a), _rows(b), _rows(out))
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        (g,) = slopes
        if torch.is_grad_enabled():
            wanted = [t for t in (a, b) if t.requires_grad]
            found = iter(torch.autograd.grad(ctx.twin(a, b), wanted, g, create_graph=True))
            return None, None, *(next(found) if t.requires_grad else None for t in (a, b))
        ga, gb = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (a, b))
        _kernels(ctx.signs)[1](_rows(a), _rows(b), _rows(g), _rows(ga), _rows(gb))
        return None, None, ga, gb


def compiled_product(
    twin: Callable[[Tensor, Tensor], Tensor], signs: Signs, a: Float[Tensor, "... size"], b: Float[Tensor, "... size"]
) -> Float[Tensor, "... size"]:
    """The product of two arrays of multivectors that `suits_products` accepts.

    Args:
        twin: the plain function of (a, b) with the same values, for second derivatives.
        signs: the product table.
        a, b: coefficients in the order of the blades.
    """
    result = _Product.apply(twin, signs, a, b)
    assert isinstance(result, Tensor)
    return result
