"""Memory asked for before it is read, in compiled functions: waiting for it is most of what small batches cost."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

SOON = 2
"""Into the second cache: what a block of contexts touches does not fit the first."""


@lru_cache(maxsize=1)
def fetching() -> Any:
    """`fetch(rows, row, column)`: the line of one number of a matrix starts to come; nothing waits for it."""
    from llvmlite import ir
    from numba import extending, types
    from numba.core import cgutils

    def fetch(typing, rows, row, column):
        def code(context, builder, signature, arguments):
            kind = signature.args[0]
            array = context.make_array(kind)(context, builder, arguments[0])
            at = [
                context.cast(builder, number, own, types.intp)
                for number, own in zip(arguments[1:], signature.args[1:], strict=True)
            ]
            pointer = cgutils.get_item_pointer(context, builder, kind, array, at, wraparound=False)
            whole, byte = ir.IntType(32), ir.IntType(8).as_pointer()
            form = ir.FunctionType(ir.VoidType(), [byte, whole, whole, whole])
            asked = builder.module.declare_intrinsic("llvm.prefetch", [byte], form)
            builder.call(asked, [builder.bitcast(pointer, byte), whole(0), whole(SOON), whole(1)])
            return context.get_dummy_value()

        return types.void(rows, row, column), code

    return extending.intrinsic(fetch)
