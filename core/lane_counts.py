"""Whole numbers of eight neighbours at a time: counters of the lanes of core.lanes.

    count8(up, i, down, j, none, k)      eight of `up` from element i on rise by one, eight of `down` from j on fall by one, and
                                         eight of `none` from k on say whether nothing is left; whether that holds of any

up and down are C-contiguous arrays of int64, none is one of bool. Not here: numbers that are floats (core.lanes). Indices are not
checked.
"""
# ruff: noqa: ANN401 - numba's types and LLVM's values have no static types.

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from core.lanes import LANES

EIGHT = ir.VectorType(ir.IntType(64), LANES)
TRUTHS = ir.VectorType(ir.IntType(8), LANES)


def _is_of(array: Any, element: types.Type) -> bool:
    return isinstance(array, types.Array) and array.layout == "C" and array.dtype == element


@intrinsic  # type: ignore[untyped-decorator]
def count8(typing_context: Any, up: Any, i: Any, down: Any, j: Any, none: Any, k: Any) -> Any:
    """See the module's docstring."""
    if not _is_of(up, types.int64) or not _is_of(down, types.int64) or not _is_of(none, types.bool_):
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def place(kind: Any, at: int, vector: Any) -> Any:
            line = builder.gep(make_array(kind)(context, builder, values[at]).data, [values[at + 1]])
            return builder.bitcast(line, vector.as_pointer())

        one, nothing = ir.Constant(EIGHT, [1] * LANES), ir.Constant(EIGHT, [0] * LANES)
        counted = place(up, 0, EIGHT)
        builder.store(builder.add(builder.load(counted, align=8), one), counted, align=8)
        left = place(down, 2, EIGHT)
        fewer = builder.sub(builder.load(left, align=8), one)
        builder.store(fewer, left, align=8)
        over = builder.icmp_signed("<=", fewer, nothing)
        builder.store(builder.zext(over, TRUTHS), place(none, 4, TRUTHS), align=1)
        bits = builder.bitcast(over, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(up, i, down, j, none, k), lower
