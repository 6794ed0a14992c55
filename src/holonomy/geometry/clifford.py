"""Clifford algebras Cl(p, q, r): p basis vectors square to +1, q to -1, r to 0, in this order.

Blades are numbered by bit masks: blade 0b101 is e_0 e_2; coefficients stand in that order on the last axis, so the
scalar comes first and the pseudoscalar last. Sources: Dorst, Fontijne & Mann (2007), chapters 2, 3 and 7, for the
products (their contraction is ours); Lounesto (2001), chapter 17, for the involutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from holonomy.core.errors import ConfigError
from holonomy.core.numerics import safe_sqrt, sinc, sinhc
from holonomy.geometry.products import Signs, algebra_kernels, compiled_product, suits_products

MAX_DIMENSION = 6
MOST_LOST = 1e-2
"""An inverse that rounding may change by more of itself is none."""


@dataclass(frozen=True)
class Algebra:
    """A Clifford algebra as a value: `Algebra(3, 1)` is the algebra of space-time, signature (+++-).

    Args:
        p, q, r: how many basis vectors square to +1, -1 and 0; at most 6 in all.

    Raises:
        ConfigError: a count is negative, or there are more than 6.
    """

    p: int
    q: int = 0
    r: int = 0

    def __post_init__(self) -> None:
        if min(self.p, self.q, self.r) < 0 or not 1 <= self.dim <= MAX_DIMENSION:
            raise ConfigError(
                f"`Algebra({self.p}, {self.q}, {self.r})` has {self.dim} basis vectors; wanted 1 to "
                f"{MAX_DIMENSION}, none of the counts negative"
            )

    def __str__(self) -> str:
        return f"Cl({self.p},{self.q},{self.r})" if self.r else f"Cl({self.p},{self.q})"

    @property
    def dim(self) -> int:
        """Number of basis vectors."""
        return self.p + self.q + self.r

    @property
    def size(self) -> int:
        """Number of blades, 2^dim."""
        return 1 << self.dim

    @cached_property
    def squares(self) -> tuple[int, ...]:
        """Square of each basis vector."""
        return (1,) * self.p + (-1,) * self.q + (0,) * self.r

    @cached_property
    def grades(self) -> tuple[int, ...]:
        """Grade of each blade."""
        return tuple(blade.bit_count() for blade in range(self.size))

    def name(self, blade: int) -> str:
        """How a blade is written: 1, e0, e02."""
        return "e" + "".join(str(i) for i in range(self.dim) if blade >> i & 1) if blade else "1"

    def sign(self, a: int, b: int) -> int:
        """The sign s in a b = s (a xor b) for blades a and b; 0 where a null vector meets itself."""
        swaps = sum((a >> i & 1) * (b & ((1 << i) - 1)).bit_count() for i in range(self.dim))
        sign = -1 if swaps % 2 else 1
        for i in range(self.dim):
            if a & b & 1 << i:
                sign *= self.squares[i]
        return sign

    def vector(self, coordinates: Float[Tensor, "... n"]) -> Float[Tensor, "... size"]:
        """The multivector of grade 1 with these coordinates.

        Raises:
            ConfigError: their number is not the dimension.
        """
        if coordinates.shape[-1] != self.dim:
            raise ConfigError(f"`coordinates` has {coordinates.shape[-1]} of them, {self} wants {self.dim}")
        blades = [1 << i for i in range(self.dim)]
        whole = coordinates.new_zeros(*coordinates.shape[:-1], self.size)
        return whole.index_copy(-1, torch.tensor(blades, device=whole.device), coordinates)

    def scalar(self, value: Float[Tensor, ...]) -> Float[Tensor, "... size"]:
        """The multivector of grade 0 with this value."""
        return torch.nn.functional.pad(value.unsqueeze(-1), (0, self.size - 1))


PRODUCTS = {
    "geometric": lambda a, b, c: True,
    "wedge": lambda a, b, c: c == a + b,
    "left": lambda a, b, c: c == b - a,
    "right": lambda a, b, c: c == a - b,
    "inner": lambda a, b, c: c == abs(a - b) and a * b > 0,
}
"""Which grades (of a, of b, of the blade of the product) a product keeps."""


@lru_cache(maxsize=256)
def _signs(algebra: Algebra, kind: str) -> Signs:
    """Sign of the product of each pair of blades, 0 where the product drops it."""
    keep, grades = PRODUCTS[kind], algebra.grades
    return tuple(
        tuple(algebra.sign(x, y) if keep(grades[x], grades[y], grades[x ^ y]) else 0 for y in range(algebra.size))
        for x in range(algebra.size)
    )


@lru_cache(maxsize=256)
def _table(algebra: Algebra, kind: str, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each left blade x and each blade c of the result: the right blade x ^ c, and the sign of their product."""
    blades = torch.arange(algebra.size)
    partner = blades[:, None] ^ blades
    signs = torch.tensor(_signs(algebra, kind), dtype=dtype).gather(1, partner)
    return partner.to(device), signs.to(device)


def check_multivectors(algebra: Algebra, **multivectors: Tensor) -> None:
    """Refuses tensors that do not hold multivectors of an algebra, or mix dtypes or devices.

    Raises:
        ConfigError: names the argument, what came and what was wanted.
    """
    first = next(iter(multivectors.values()))
    for name, a in multivectors.items():
        if a.shape[-1] != algebra.size:
            raise ConfigError(f"`{name}` has {a.shape[-1]} coefficients, {algebra} wants {algebra.size}")
        if a.dtype != first.dtype or a.device != first.device:
            raise ConfigError(f"`{name}` is {a.dtype} on {a.device}, others are {first.dtype} on {first.device}")


def left_matrix(
    algebra: Algebra, a: Float[Tensor, "... size"], kind: str = "geometric"
) -> Float[Tensor, "... size size"]:
    """The matrix M(a) with M(a) b = a b."""
    partner, signs = _table(algebra, kind, a.dtype, a.device)
    # M[c, y] = sign(c ^ y, y) a[c ^ y]; row x of the table holds sign(x, x ^ c) in column c.
    return a[..., partner] * signs.T.gather(1, partner)


def plain_product(
    algebra: Algebra, a: Float[Tensor, "... size"], b: Float[Tensor, "... size"], kind: str = "geometric"
) -> Float[Tensor, "... size"]:
    """A product by tensor operations, for any device, shape and derivative: one blade of a at a time."""
    partner, signs = _table(algebra, kind, a.dtype, a.device)
    terms = (a[..., x : x + 1] * (b[..., partner[x]] * signs[x]) for x in range(algebra.size))
    total = next(terms)
    for term in terms:
        total = total + term
    return total


def _product(algebra: Algebra, a: Tensor, b: Tensor, kind: str) -> Tensor:
    check_multivectors(algebra, a=a, b=b)
    if suits_products(a, b):
        kernels = algebra_kernels(_signs(algebra, kind))
        return compiled_product(lambda x, y: plain_product(algebra, x, y, kind), kernels, a, b)
    return plain_product(algebra, a, b, kind)


def geometric(
    algebra: Algebra, a: Float[Tensor, "... size"], b: Float[Tensor, "... size"]
) -> Float[Tensor, "... size"]:
    """The geometric product a b."""
    return _product(algebra, a, b, "geometric")


def wedge(algebra: Algebra, a: Float[Tensor, "... size"], b: Float[Tensor, "... size"]) -> Float[Tensor, "... size"]:
    """The outer product: the part of highest grade of each pair of blades."""
    return _product(algebra, a, b, "wedge")


def inner(algebra: Algebra, a: Float[Tensor, "... size"], b: Float[Tensor, "... size"]) -> Float[Tensor, "... size"]:
    """Hestenes' inner product: the part of lowest grade, zero where one factor is a scalar."""
    return _product(algebra, a, b, "inner")


def left_contraction(
    algebra: Algebra, a: Float[Tensor, "... size"], b: Float[Tensor, "... size"]
) -> Float[Tensor, "... size"]:
    """a contracted onto b: the part of grade (b) - (a)."""
    return _product(algebra, a, b, "left")


def right_contraction(
    algebra: Algebra, a: Float[Tensor, "... size"], b: Float[Tensor, "... size"]
) -> Float[Tensor, "... size"]:
    """b contracted out of a: the part of grade (a) - (b)."""
    return _product(algebra, a, b, "right")


@lru_cache(maxsize=256)
def _grade_signs(algebra: Algebra, kind: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    rule = {
        "reverse": lambda g: (-1) ** (g * (g - 1) // 2),
        "involution": lambda g: (-1) ** g,
        "conjugate": lambda g: (-1) ** (g * (g + 1) // 2),
    }[kind]
    return torch.tensor([rule(g) for g in algebra.grades], dtype=dtype, device=device)


def reverse(algebra: Algebra, a: Float[Tensor, "... size"]) -> Float[Tensor, "... size"]:
    """Order of the factors of each blade turned round: sign (-1)^(g (g - 1) / 2)."""
    return a * _grade_signs(algebra, "reverse", a.dtype, a.device)


def involution(algebra: Algebra, a: Float[Tensor, "... size"]) -> Float[Tensor, "... size"]:
    """Grade involution: odd grades change sign."""
    return a * _grade_signs(algebra, "involution", a.dtype, a.device)


def conjugate(algebra: Algebra, a: Float[Tensor, "... size"]) -> Float[Tensor, "... size"]:
    """Clifford conjugation: reverse and involution."""
    return a * _grade_signs(algebra, "conjugate", a.dtype, a.device)


def grade(algebra: Algebra, a: Float[Tensor, "... size"], *grades: int) -> Float[Tensor, "... size"]:
    """The part of the given grades.

    Raises:
        ConfigError: a grade is outside 0 to dim.
    """
    odd = [g for g in grades if not 0 <= g <= algebra.dim]
    if odd:
        raise ConfigError(f"`grades` has {odd[0]}, {algebra} has grades 0 to {algebra.dim}")
    mask = torch.tensor([g in grades for g in algebra.grades], device=a.device)
    return torch.where(mask, a, 0)


def dual(algebra: Algebra, a: Float[Tensor, "... size"]) -> Float[Tensor, "... size"]:
    """a contracted onto the inverse of the pseudoscalar I, so that dual(dual(a)) = I^-2 a up to sign.

    Raises:
        ConfigError: the algebra has null vectors, and I no inverse.
    """
    if algebra.r:
        raise ConfigError(f"{algebra} has no dual by the pseudoscalar: null vectors make it singular")
    top = a.new_zeros(algebra.size)
    top[-1] = algebra.sign(algebra.size - 1, algebra.size - 1)
    return left_contraction(algebra, a, top.expand_as(a))


def scalar_product(algebra: Algebra, a: Float[Tensor, "... size"], b: Float[Tensor, "... size"]) -> Float[Tensor, ...]:
    """The scalar part of reverse(a) b: indefinite where vectors square to -1."""
    _, signs = _table(algebra, "geometric", a.dtype, a.device)
    return (reverse(algebra, a) * b * signs[:, 0]).sum(-1)


def exp_bivector(algebra: Algebra, b: Float[Tensor, "... size"]) -> Float[Tensor, "... size"]:
    """exp of a bivector, by scaling, a series, and squaring; in closed form where b b is a scalar.

    Closed form up to three dimensions: cos, cosh or 1 + b by the sign of b b (Dorst et al., section 7.4.1).
    """
    check_multivectors(algebra, b=b)
    if algebra.dim <= 3:
        square = geometric(algebra, b, b)[..., :1]
        round_, hyper = sinc((-square).clamp_min(0)), sinhc(square.clamp_min(0))
        along = torch.where(square < 0, round_, hyper)
        angle = safe_sqrt(square.abs())
        level = torch.where(square < 0, angle.cos(), angle.cosh())
        return algebra.scalar(level.squeeze(-1)) + along * b
    halvings = 8
    small = b / 2**halvings
    total = term = algebra.scalar(torch.ones_like(b[..., 0]))
    for n in range(1, 12):
        term = geometric(algebra, term, small) / n
        total = total + term
    for _ in range(halvings):
        total = geometric(algebra, total, total)
    return total


def inverse(algebra: Algebra, a: Float[Tensor, "... size"]) -> Float[Tensor, "... size"]:
    """The x with a x = x a = 1, for any multivector that has one.

    Left multiplication by x is the inverse of the matrix of that by a, so both matrices tell how many digits hold.

    Raises:
        ConfigError: a multivector has none, or less than two digits of it hold in this precision.
    """
    check_multivectors(algebra, a=a)
    one = algebra.scalar(torch.ones_like(a[..., 0]))
    found, _ = torch.linalg.solve_ex(matrix := left_matrix(algebra, a), one.unsqueeze(-1))
    found = found.squeeze(-1)
    lost = matrix.norm(dim=(-2, -1)) * left_matrix(algebra, found).norm(dim=(-2, -1)) * torch.finfo(a.dtype).eps
    # Also where it is no number.
    singular = ~(lost < MOST_LOST)
    if singular.any():
        first = singular.nonzero()[0].tolist()
        raise ConfigError(
            f"`a` has no inverse in {algebra} at {first} ({int(singular.sum())} of {singular.numel()}): it is zero, "
            "null, or a divisor of zero, as far as this precision tells; leave it out, or use float64"
        )
    return found


def sandwich(
    algebra: Algebra, versor: Float[Tensor, "... size"], x: Float[Tensor, "... size"]
) -> Float[Tensor, "... size"]:
    """versor x versor^-1, with x involuted under odd versors, so that vectors are reflected, not their mirror.

    A versor is a product of vectors, none of them null: its inverse is its reverse over a number. Of anything else the
    result means nothing; see `inverse`.
    """
    odd = versor[..., [g % 2 == 1 for g in algebra.grades]].square().sum(-1, keepdim=True)
    even = versor[..., [g % 2 == 0 for g in algebra.grades]].square().sum(-1, keepdim=True)
    moved = torch.where(odd > even, involution(algebra, x), x)
    back = reverse(algebra, versor)
    return geometric(algebra, geometric(algebra, versor, moved), back / geometric(algebra, versor, back)[..., :1])
