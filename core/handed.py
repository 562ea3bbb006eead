"""Arrays handed to compiled code all at once, by a table of where they lie.

numba takes the arguments of a Python call apart one by one, some 100 ns an array: of a step that needs fifty, more than the work
for a few environments. `table_of` lists such arrays once; in compiled code `doubles2(table, k)` and so on are the k-th of them.
They are C-contiguous, and their references are not counted: whoever makes the table keeps the arrays. Not here: what is handed.
"""
# ruff: noqa: ANN401 - numba's types and LLVM's values have no static types.

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

WORD = ir.IntType(64)
MOST_DIMENSIONS = 4
WORDS = 5 + 2 * MOST_DIMENSIONS
"""Of an array, as numba keeps it: two pointers to counts of references (none), elements, bytes of one, data; shape, strides."""


def _kind(element: types.Type, dimensions: int) -> Any:
    array_type = types.Array(element, dimensions, "C")

    def taken(typing_context: Any, table: Any, k: Any) -> Any:
        if not isinstance(table, types.Array) or table.dtype != types.int64 or not isinstance(k, types.Integer):
            return None

        def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            first = builder.mul(values[1], ir.Constant(values[1].type, WORDS))
            row = builder.gep(make_array(table)(context, builder, values[0]).data, [first])
            return builder.load(builder.bitcast(row, context.get_value_type(array_type).as_pointer()), align=8)

        return array_type(table, k), lower

    return intrinsic(taken)


doubles1, doubles2 = _kind(types.float64, 1), _kind(types.float64, 2)
doubles3, doubles4 = _kind(types.float64, 3), _kind(types.float64, 4)
singles2, singles3 = _kind(types.float32, 2), _kind(types.float32, 3)
longs1, longs2 = _kind(types.int64, 1), _kind(types.int64, 2)
words1, truths1 = _kind(types.uint64, 1), _kind(types.bool_, 1)
KINDS = {
    "doubles1": ("float64", 1), "doubles2": ("float64", 2), "doubles3": ("float64", 3), "doubles4": ("float64", 4),
    "singles2": ("float32", 2), "singles3": ("float32", 3), "longs1": ("int64", 1), "longs2": ("int64", 2),
    "words1": ("uint64", 1), "truths1": ("bool", 1),
}  # fmt: skip
"""Elements and dimensions of each."""


def table_of(arrays: Iterable[tuple[str, NDArray[Any]]]) -> NDArray[np.int64]:
    """Where arrays lie, each with the name of its kind; shape (n, WORDS). ValueError for one that is not of that kind."""
    rows = []
    for kind, array in arrays:
        if (array.dtype.name, array.ndim) != KINDS[kind] or not array.flags.c_contiguous:
            raise ValueError(f"{kind} expected, got {array.dtype}, shape {array.shape}, strides {array.strides}")
        places = [0, 0, array.size, array.itemsize, array.ctypes.data, *array.shape, *array.strides]
        rows.append(places + [0] * (WORDS - len(places)))
    return np.array(rows, dtype=np.int64)
