"""Eight numbers side by side in compiled functions: what numba lacks to write vector instructions down.

A `Vector` has the arithmetic of numbers, lane by lane, and with a number all lanes. Rows of a matrix are read and
written eight columns at a time: past the last column zeros are read, and nothing is written. LLVM turns this into
whatever the processor has. Import this where kernels are made, not before: it loads numba.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numba.extending import lower_builtin, models, register_model, type_callable
from numba.np.arrayobj import populate_array

from holonomy.geometry.compiled import compiled

LANES = 8
FUSED = ("contract",)
"""A product and a sum may be one instruction."""
I32, I64 = ir.IntType(32), ir.IntType(64)


def _instruction(function: Callable[..., Any]) -> Any:
    """What compiled functions call by the arguments after the first."""
    return extending.intrinsic(function)


class Vector(types.Type):
    """Eight numbers of one type."""

    def __init__(self, element: Any) -> None:
        self.element = element
        super().__init__(f"Vector({element})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, ir.VectorType(manager.lookup(kind.element).get_value_type(), LANES))


WIDE, WHOLE = Vector(types.float64), Vector(types.int64)


def _lanes(kind: Any, values: list[Any]) -> Any:
    return ir.Constant(ir.VectorType(kind, len(values)), [ir.Constant(kind, v) for v in values])


def _spread(builder: Any, scalar: Any) -> Any:
    """The vector with this number in all lanes."""
    first = builder.insert_element(ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined), scalar, I32(0))
    return builder.shuffle_vector(first, first, _lanes(I32, [0] * LANES))


def _as_vector(context: Any, builder: Any, value: Any, kind: Any, wanted: Vector) -> Any:
    """The value of a number or a vector as a vector."""
    if isinstance(kind, Vector):
        return value
    return _spread(builder, context.cast(builder, value, kind, wanted.element))


def _operator(symbol: Callable[..., Any], of_floats: str | None, of_integers: str | None) -> None:
    """Gives vectors an operator, by the instructions of LLVM for the two kinds of numbers."""

    @type_callable(symbol)
    def kind(_: Any) -> Any:
        def result(a: Any, b: Any) -> Any:
            vectors = {t for t in (a, b) if isinstance(t, Vector)}
            numbers = all(isinstance(t, Vector | types.Number) for t in (a, b))
            return vectors.pop() if numbers and len(vectors) == 1 else None

        return result

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = (_as_vector(context, builder, v, t, sig.return_type) for v, t in zip(args, sig.args, strict=True))
        if isinstance(sig.return_type.element, types.Float):
            return getattr(builder, str(of_floats))(a, b, flags=FUSED)
        return getattr(builder, str(of_integers))(a, b)

    for pair in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(symbol, *pair)(lower)


_operator(operator.add, "fadd", "add")
_operator(operator.sub, "fsub", "sub")
_operator(operator.mul, "fmul", "mul")
_operator(operator.truediv, "fdiv", None)
_operator(operator.and_, None, "and_")
_operator(operator.or_, None, "or_")
_operator(operator.lshift, None, "shl")
_operator(operator.rshift, None, "ashr")


def _call(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    """Calls a function of LLVM itself."""
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _cast(context: Any, builder: Any, value: Any, kind: Any, wanted: Any) -> Any:
    """Eight numbers in another floating type."""
    target = ir.VectorType(context.get_value_type(wanted), LANES)
    if kind == wanted:
        return value
    return builder.fpext(value, target) if wanted == types.float64 else builder.fptrunc(value, target)


class _Place:
    """Where eight numbers of an array stand: in a row of a matrix, or in a vector."""

    def __init__(self, context: Any, builder: Any, kind: Any, array: Any, index: list[Any], *, whole: bool) -> None:
        made = context.make_array(kind)(context, builder, value=array)
        self.element = context.get_value_type(kind.dtype)
        self.size = context.get_abi_sizeof(self.element)
        self.vector = ir.VectorType(self.element, LANES)
        self.left = builder.sub(builder.extract_value(made.shape, kind.ndim - 1), index[-1], flags=("nsw",))
        offset = builder.mul(index[-1], I64(self.size), flags=("nsw",))
        if kind.ndim == 2:
            row = builder.mul(index[0], builder.extract_value(made.strides, 0), flags=("nsw",))
            offset = builder.add(row, offset, flags=("nsw",))
        start = builder.bitcast(made.data, ir.IntType(8).as_pointer())
        self.pointer = builder.bitcast(builder.gep(start, [offset]), self.vector.as_pointer())
        self.builder, self.code, self.whole = builder, "f64" if self.size == 8 else "f32", whole

    def fits(self) -> Any:
        return self.builder.icmp_signed(">=", self.left, I64(LANES))

    def mask(self) -> Any:
        return self.builder.icmp_signed("<", _lanes(I64, list(range(LANES))), _spread(self.builder, self.left))

    def load(self) -> Any:
        builder = self.builder
        if self.whole:
            return builder.load(self.pointer, align=self.size)
        with builder.if_else(self.fits(), likely=True) as (then, otherwise):
            with then:
                whole, first = builder.load(self.pointer, align=self.size), builder.block
            with otherwise:
                zeros = _lanes(self.element, [0.0] * LANES)
                args = [self.pointer, I32(self.size), self.mask(), zeros]
                part = _call(builder, f"llvm.masked.load.v{LANES}{self.code}.p0", self.vector, args)
                second = builder.block
        value = builder.phi(self.vector)
        value.add_incoming(whole, first)
        value.add_incoming(part, second)
        return value

    def store(self, value: Any) -> None:
        builder = self.builder
        if self.whole:
            builder.store(value, self.pointer, align=self.size)
            return
        with builder.if_else(self.fits(), likely=True) as (then, otherwise):
            with then:
                builder.store(value, self.pointer, align=self.size)
            with otherwise:
                args = [value, self.pointer, I32(self.size), self.mask()]
                _call(builder, f"llvm.masked.store.v{LANES}{self.code}.p0", ir.VoidType(), args)


def _reader(wanted: Any, *, whole: bool, hides_first: bool = False) -> Callable[..., Any]:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind, found = sig.args[0], sig.args[0].dtype
        value = _Place(context, builder, kind, args[0], list(args[1:]), whole=whole).load()
        if hides_first:
            hidden = builder.insert_element(value, ir.Constant(value.type.element, 0.0), I32(0))
            value = builder.select(builder.icmp_signed("==", args[-1], I64(0)), hidden, value)
        return _cast(context, builder, value, found, wanted or found)

    return generate


def _writer(*, whole: bool) -> Callable[..., Any]:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        array, *index, value = args
        place = _Place(context, builder, sig.args[0], array, index, whole=whole)
        place.store(_cast(context, builder, value, sig.args[-1].element, sig.args[0].dtype))
        return context.get_dummy_value()

    return generate


class RowAccess(NamedTuple):
    """How rows of matrices are read and written, eight columns from the given one on."""

    wide: Any
    """Reads (matrix, row, column) as float64."""
    own: Any
    """Reads (matrix, row, column) in the type of the matrix."""
    put: Any
    """Writes (matrix, row, column, value)."""
    begin: int
    """The first column."""
    columns: Any
    """The number of columns of a matrix."""


def _access(*, whole: bool, begin: int = 0, fixed: int = 0, hides_first: bool = False) -> RowAccess:
    @_instruction
    def wide(_: Any, matrix: Any, row: Any, column: Any) -> Any:
        """Eight columns of a row, as float64."""
        generate = _reader(types.float64, whole=whole, hides_first=hides_first)
        return WIDE(matrix, types.int64, types.int64), generate

    @_instruction
    def own(_: Any, matrix: Any, row: Any, column: Any) -> Any:
        """The same in the type of the matrix."""
        generate = _reader(None, whole=whole, hides_first=hides_first)
        return Vector(matrix.dtype)(matrix, types.int64, types.int64), generate

    @_instruction
    def put(_: Any, matrix: Any, row: Any, column: Any, value: Any) -> Any:
        """Writes eight columns of a row."""
        return types.void(matrix, types.int64, types.int64, value), _writer(whole=whole)

    def columns(matrix):
        return fixed or matrix.shape[1]

    return RowAccess(wide, own, put, begin, compiled(columns, exact=True, inlined=True))


ANY = _access(whole=False)
"""Access to matrices of any width."""
EIGHTS = _access(whole=True)
"""Faster, to matrices whose rows are made of eights."""
UNROLLED = 64
"""Widest rows made of eights that get loops of known length, which are several times as fast: a compilation a width."""

_shared_access = lru_cache(maxsize=32)(_access)


def row_access(width: int, *, timed: bool = False) -> RowAccess:
    """The fastest access to rows of this width.

    Args:
        width: number of columns.
        timed: whether the first column, a time coordinate, is to be read as zero or not at all.
    """
    begin = int(timed and width % LANES > 0)
    whole = (width - begin) % LANES == 0
    fixed = width if whole and width - begin <= UNROLLED else 0
    return _shared_access(whole=whole, begin=begin, fixed=fixed, hides_first=timed and begin == 0)


@_instruction
def matrix_at(_: Any, address: Any, height: Any, width: Any, element: Any) -> Any:
    """The matrix of numbers of a type that stands at an address, row by row; making an array of numpy takes longer."""
    kind = types.Array(element.dtype, 2, "C")

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        made = context.make_array(kind)(context, builder)
        size = I64(context.get_abi_sizeof(context.get_value_type(kind.dtype)))
        pointer = builder.inttoptr(args[0], context.get_value_type(kind.dtype).as_pointer())
        strides = [builder.mul(args[2], size), size]
        populate_array(made, data=pointer, shape=list(args[1:3]), strides=strides, itemsize=size, meminfo=None)
        return made._getvalue()

    return kind(types.int64, types.int64, types.int64, element), generate


@_instruction
def put_each(_: Any, matrix: Any, column: Any, values: Any) -> Any:
    """Writes each vector of a tuple to eight columns of a row of its own."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for i in range(sig.args[2].count):
            place = _Place(context, builder, sig.args[0], args[0], [I64(i), args[1]], whole=True)
            value = builder.extract_value(args[2], i)
            place.store(_cast(context, builder, value, sig.args[2].dtype.element, sig.args[0].dtype))
        return context.get_dummy_value()

    return types.void(matrix, types.int64, values), generate


@_instruction
def take(_: Any, array: Any, start: Any) -> Any:
    """Numbers `start` to `start + 7` of a one-dimensional array, as float64; zeros past its end."""
    return WIDE(array, types.int64), _reader(types.float64, whole=False)


@_instruction
def keep(_: Any, array: Any, start: Any, value: Any) -> Any:
    """Writes numbers `start` to `start + 7` of a one-dimensional array, and nothing past its end."""
    return types.void(array, types.int64, value), _writer(whole=False)


@_instruction
def none(_: Any) -> Any:
    """Zeros in float64."""
    return WIDE(), lambda *_: _lanes(ir.DoubleType(), [0.0] * LANES)


def horner(coefficients: Any) -> Any:
    """The polynomial of a vector with these coefficients, the lowest first."""
    highest, *others = (float(a) for a in coefficients[::-1])
    rest = tuple(others)

    def polynomial(u):
        value = none() + highest
        for a in rest:
            value = value * u + a
        return value

    return compiled(polynomial, exact=True, inlined=True)


@_instruction
def none_of(_: Any, matrix: Any) -> Any:
    """Zeros in the type of a matrix."""
    return Vector(matrix.dtype)(matrix), lambda c, b, sig, args: _lanes(c.get_value_type(matrix.dtype), [0.0] * LANES)


@_instruction
def roots(_: Any, value: Any) -> Any:
    """Square roots."""

    def generate(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, f"llvm.sqrt.v{LANES}f64", args[0].type, list(args))

    return WIDE(value), generate


@_instruction
def bits(_: Any, value: Any) -> Any:
    """The bits of float64 numbers as integers."""
    return WHOLE(value), lambda c, b, sig, args: b.bitcast(args[0], c.get_value_type(WHOLE))


@_instruction
def from_bits(_: Any, value: Any) -> Any:
    """The float64 numbers with these bits."""
    return WIDE(value), lambda c, b, sig, args: b.bitcast(args[0], c.get_value_type(WIDE))


@_instruction
def where_above(_: Any, value: Any, edge: Any, above: Any, other: Any) -> Any:
    """`above` in the lanes where value > edge, `other` elsewhere."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        v, e, a, o = (_as_vector(context, builder, x, t, WIDE) for x, t in zip(args, sig.args, strict=True))
        return builder.select(builder.fcmp_ordered(">", v, e), a, o)

    return WIDE(value, edge, above, other), generate


@_instruction
def first(_: Any, value: Any, count: Any) -> Any:
    """The first `count` lanes, zeros in the others."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        inside = builder.icmp_signed("<", _lanes(I64, list(range(LANES))), _spread(builder, args[1]))
        return builder.select(inside, args[0], _lanes(ir.DoubleType(), [0.0] * LANES))

    return WIDE(value, types.int64), generate


@_instruction
def total(_: Any, value: Any) -> Any:
    """Sum of the lanes."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        found = builder.extract_element(args[0], I32(0))
        for i in range(1, LANES):
            found = builder.fadd(found, builder.extract_element(args[0], I32(i)))
        return found

    return types.float64(value), generate


@_instruction
def extent(_: Any, value: Any) -> Any:
    """The largest lane; NaN is passed over."""

    def generate(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, f"llvm.vector.reduce.fmax.v{LANES}f64", ir.DoubleType(), list(args))

    return types.float64(value), generate


def _joining(width: int) -> Any:
    """Adds two tuples of vectors that hold partial sums of 4 / width rows, into one that holds those of twice as many.

    Of every two neighbours of `width` lanes, the sum is left; rows of the first stand before those of the second.
    """
    low = {
        1: [0, 8, 2, 10, 4, 12, 6, 14],
        2: [0, 1, 8, 9, 4, 5, 12, 13],
        4: [0, 1, 2, 3, 8, 9, 10, 11],
    }[width]

    def generate(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        result = args[0]
        for i in range(sig.return_type.count):
            a, b = (builder.extract_value(x, i) for x in args)
            halves = [builder.shuffle_vector(a, b, _lanes(I32, [x + d for x in low])) for d in (0, width)]
            result = builder.insert_value(result, builder.fadd(*halves, flags=FUSED), i)
        return result

    @_instruction
    def join(_: Any, a: Any, b: Any) -> Any:
        """Partial sums of twice as many rows."""
        return a(a, b), generate

    return join


join_rows, join_pairs, join_fours = _joining(1), _joining(2), _joining(4)
