"""Rows of tables and of batches for the lanes of core.lanes: every lane reads from a row of its own.

    between3(table, row, share), between5(...)    the leading 3 (5) columns at `row`, `share` (0-1) of the way to the next row
    pair(table, row, column)                      a column at `row` and at the row after it
    larger4(table, one, other)                    the larger of two rows' values, 4 columns
    leading(x), octave(x)                         the power of two at or below x >= 1, and its exponent
    take(array, first), put(array, first, x)      eight neighbours of an array's memory from element `first` on; take: float32 too
    columns8(table, rows, first)                  8 columns, lane l from the row that element first + l of rows names
    row8(table, row)                              the same, rows named by a vector of whole numbers held as floats
    four(list, first)                             4 neighbours of a list (n,) of numbers, lane l's from element first[l] on
    own(array, row)                               lane l from an array (rows, 8) at its own row and lane
    place8(out, first, step, (x0, ..., x7))       float32: lane l writes x0 ... x7 to out's elements first + l step + (0 ... 7)
    copy16(out, first, table, at)                 float32: 16 elements of table from `at` on, to out's from `first` on
    held(m, lane)                                 a mask's bool in one lane
    on_stack(rows, columns)                       an array of float64 that lives as long as the call; sizes are literals
    fetch(array, first)                           ask for the cache line of an array's element `first`, which is read later
    lined_up(array)                               (not compiled) a copy whose rows of 64 bytes are a cache line each

A `row` is a whole number held as a float. Tables are C-contiguous float64 (rows, columns); for lanes they have 4 columns
(between3, larger4) or 8 (between5, columns8), so that a row is one load. Rows are transposed in registers: gathers of single
numbers are slower. The first four lines work on one lane too (floats). Not here: arithmetic (core.lanes). Indices are not
checked.
"""
# ruff: noqa: ANN401 - numba's types and LLVM's values have no static types.

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

from core.lanes import DOUBLE, FAST, INT, LANES, LANES_TYPE, VECTOR, LanesType, MaskType

FLOAT, WORD = ir.FloatType(), ir.IntType(64)
EXPONENT_BITS, EXPONENT_BIAS = 52, 1023
LINE_BYTES = 64


def lined_up(array: NDArray[Any]) -> NDArray[Any]:
    """A C-contiguous copy that begins at a cache line: a row of eight float64 is then one line, and no load takes two."""
    room = np.zeros(array.nbytes + LINE_BYTES, dtype=np.uint8)
    first = -room.ctypes.data % LINE_BYTES
    made = room[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    made[...] = array
    return made


def _is_table(array: Any, ndim: int | None = 2) -> bool:
    alike = isinstance(array, types.Array) and array.layout == "C" and array.dtype == types.float64
    return alike and ndim in (None, array.ndim)


def _pick(builder: Any, first: Any, second: Any, places: list[int]) -> Any:
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(INT, len(places)), places))


def _transposed(builder: Any, rows: list[Any], wanted: int) -> list[Any]:
    """Columns 0 to wanted - 1 of eight row vectors of 4 or 8, each as a vector of eight."""
    width = rows[0].type.count
    # Rows l and l + 4 side by side, then 2 x 2 exchanges at distances 2 and 1.
    if width == 4:
        high = [_pick(builder, rows[k], rows[k + 4], list(range(8))) for k in range(4)]
        groups = [high]
    else:
        low = [_pick(builder, rows[k], rows[k + 4], [0, 1, 2, 3, 8, 9, 10, 11]) for k in range(4)]
        high = [_pick(builder, rows[k], rows[k + 4], [4, 5, 6, 7, 12, 13, 14, 15]) for k in range(4)]
        groups = [low, high]
    out = []
    for group in groups[: (wanted + 3) // 4]:
        # In each half of four: group[r] holds (column 0 ... 3) of row r; the same within both halves.
        a = [_pick(builder, group[k], group[k + 1], [0, 8, 2, 10, 4, 12, 6, 14]) for k in (0, 2)]
        b = [_pick(builder, group[k], group[k + 1], [1, 9, 3, 11, 5, 13, 7, 15]) for k in (0, 2)]
        for pair_of_rows, places in ((a, [0, 1, 8, 9, 4, 5, 12, 13]), (b, [0, 1, 8, 9, 4, 5, 12, 13])):
            out.append(_pick(builder, pair_of_rows[0], pair_of_rows[1], places))
        for pair_of_rows, places in ((a, [2, 3, 10, 11, 6, 7, 14, 15]), (b, [2, 3, 10, 11, 6, 7, 14, 15])):
            out.append(_pick(builder, pair_of_rows[0], pair_of_rows[1], places))
    return out[:wanted]


def _element(builder: Any, vector: Any, lane: int) -> Any:
    return builder.extract_element(vector, ir.Constant(INT, lane))


def _numbers(builder: Any, rows: Any) -> Any:
    """Whole numbers held as floats, as integers."""
    if rows.type == VECTOR:
        return builder.fptosi(rows, ir.VectorType(INT, LANES))
    return builder.fptosi(rows, WORD)


def _start(context: Any, builder: Any, array_type: Any, array: Any, row: Any) -> Any:
    """Pointer to a row's first element."""
    made = make_array(array_type)(context, builder, array)
    if row.type != WORD:
        row = builder.sext(row, WORD)
    columns = builder.extract_value(made.shape, 1)
    return builder.gep(made.data, [builder.mul(row, columns)])


def _starts(context: Any, builder: Any, array_type: Any, array: Any, rows: Any) -> list[Any]:
    """Pointers to the first elements of the rows of a vector of integers: multiplied at once, and never negative."""
    made = make_array(array_type)(context, builder, array)
    if array_type.ndim == 1:
        places = rows
    else:
        columns = builder.trunc(builder.extract_value(made.shape, 1), INT)
        places = builder.mul(rows, _alike(builder, columns))
    return [builder.gep(made.data, [builder.zext(_element(builder, places, lane), WORD)]) for lane in range(LANES)]


def _alike(builder: Any, number: Any) -> Any:
    """An integer in all lanes."""
    kind = ir.VectorType(INT, LANES)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(INT, 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(kind, [0] * LANES))


def _row(builder: Any, start: Any, width: int) -> Any:
    return builder.load(builder.bitcast(start, ir.VectorType(DOUBLE, width).as_pointer()), align=8)


def _same_kind(*values: Any) -> Any:
    if all(isinstance(v, LanesType) for v in values):
        return LANES_TYPE
    return types.float64 if all(isinstance(v, types.Float) for v in values) else None


def _tuple(context: Any, builder: Any, signature: Any, values: list[Any]) -> Any:
    return context.make_tuple(builder, signature.return_type, values)


def _mix(builder: Any, low: Any, high: Any, share: Any) -> Any:
    return builder.fadd(low, builder.fmul(share, builder.fsub(high, low, flags=FAST), flags=FAST), flags=FAST)


def _between(name: str, wanted: int, width: int) -> Any:
    def made(typing_context: Any, table: Any, row: Any, share: Any) -> Any:
        kind = _same_kind(row, share)
        if kind is None or not _is_table(table):
            return None

        def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            array, row_value, share_value = values
            numbers = _numbers(builder, row_value)
            columns = builder.extract_value(make_array(table)(context, builder, array).shape, 1)
            if kind is types.float64:
                low = _start(context, builder, table, array, numbers)
                high = builder.gep(low, [columns])
                at = [[builder.load(builder.gep(p, [ir.Constant(INT, k)])) for p in (low, high)] for k in range(wanted)]
                return _tuple(context, builder, signature, [_mix(builder, a, b, share_value) for a, b in at])
            rows = []
            for lane, low in enumerate(_starts(context, builder, table, array, numbers)):
                both = [_row(builder, p, width) for p in (low, builder.gep(low, [columns]))]
                part = _pick(builder, share_value, share_value, [lane] * width)
                rows.append(_mix(builder, both[0], both[1], part))
            return _tuple(context, builder, signature, _transposed(builder, rows, wanted))

        return types.UniTuple(kind, wanted)(table, row, share), lower

    made.__name__ = name
    return intrinsic(made)


between3, between5 = _between("between3", 3, 4), _between("between5", 5, 8)


@intrinsic  # type: ignore[untyped-decorator]
def pair(typing_context: Any, table: Any, row: Any, column: Any) -> Any:
    """See the module's docstring."""
    kind = _same_kind(row)
    if kind is None or not _is_table(table) or not isinstance(column, types.Integer):
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array, row_value, column_value = values
        numbers = _numbers(builder, row_value)
        columns = builder.extract_value(make_array(table)(context, builder, array).shape, 1)

        def two(start: Any) -> list[Any]:
            low = builder.gep(start, [column_value])
            return [builder.load(p) for p in (low, builder.gep(low, [columns]))]

        if kind is types.float64:
            return _tuple(context, builder, signature, two(_start(context, builder, table, array, numbers)))
        found = [ir.Constant(VECTOR, ir.Undefined)] * 2
        for lane, start in enumerate(_starts(context, builder, table, array, numbers)):
            read = two(start)
            found = [builder.insert_element(f, v, ir.Constant(INT, lane)) for f, v in zip(found, read, strict=True)]
        return _tuple(context, builder, signature, found)

    return types.UniTuple(kind, 2)(table, row, column), lower


@intrinsic  # type: ignore[untyped-decorator]
def larger4(typing_context: Any, table: Any, one: Any, other: Any) -> Any:
    """See the module's docstring."""
    kind = _same_kind(one, other)
    if kind is None or not _is_table(table):
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array, *chosen = values
        numbers = [_numbers(builder, v) for v in chosen]

        def larger(starts: Any) -> Any:
            x, y = (_row(builder, start, 4) for start in starts)
            return builder.select(builder.fcmp_ordered(">", x, y), x, y)

        if kind is types.float64:
            row = larger(_start(context, builder, table, array, n) for n in numbers)
            return _tuple(context, builder, signature, [_element(builder, row, k) for k in range(4)])
        starts = [_starts(context, builder, table, array, n) for n in numbers]
        rows = [larger(two) for two in zip(*starts, strict=True)]
        return _tuple(context, builder, signature, _transposed(builder, rows, 4))

    return types.UniTuple(kind, 4)(table, one, other), lower


def _of_bits(name: str, exponent: bool) -> Any:
    def made(typing_context: Any, a: Any) -> Any:
        kind = _same_kind(a)
        if kind is None:
            return None

        def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            (x,) = values
            words = ir.VectorType(WORD, LANES) if x.type == VECTOR else WORD

            def constant(value: int) -> Any:
                return ir.Constant(words, [value] * LANES if x.type == VECTOR else value)

            bits = builder.bitcast(x, words)
            if not exponent:
                return builder.bitcast(builder.and_(bits, constant(~((1 << EXPONENT_BITS) - 1))), x.type)
            raw = builder.sub(builder.lshr(bits, constant(EXPONENT_BITS)), constant(EXPONENT_BIAS))
            small = builder.trunc(raw, ir.VectorType(INT, LANES) if x.type == VECTOR else INT)
            return builder.sitofp(small, x.type)

        return kind(a), lower

    made.__name__ = name
    return intrinsic(made)


leading, octave = _of_bits("leading", False), _of_bits("octave", True)


def _eight(context: Any, builder: Any, array_type: Any, array: Any, first: Any) -> Any:
    data = make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [first]), VECTOR.as_pointer())


@intrinsic  # type: ignore[untyped-decorator]
def take(typing_context: Any, array: Any, first: Any) -> Any:
    """See the module's docstring."""
    single = isinstance(array, types.Array) and array.layout == "C" and array.dtype == types.float32
    if not (single or _is_table(array, None)) or not isinstance(first, types.Integer):
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if not single:
            return builder.load(_eight(context, builder, array, *values), align=8)
        line = builder.gep(make_array(array)(context, builder, values[0]).data, [values[1]])
        narrow = builder.load(builder.bitcast(line, ir.VectorType(FLOAT, LANES).as_pointer()), align=4)
        return builder.fpext(narrow, VECTOR)

    return LANES_TYPE(array, first), lower


@intrinsic  # type: ignore[untyped-decorator]
def put(typing_context: Any, array: Any, first: Any, value: Any) -> Any:
    """See the module's docstring."""
    if not _is_table(array, None) or not isinstance(first, types.Integer) or not isinstance(value, LanesType):
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], _eight(context, builder, array, values[0], values[1]), align=8)
        return context.get_dummy_value()

    return types.void(array, first, value), lower


@intrinsic  # type: ignore[untyped-decorator]
def columns8(typing_context: Any, table: Any, rows: Any, first: Any) -> Any:
    """See the module's docstring; rows an array of int64."""
    if not _is_table(table) or not isinstance(rows, types.Array) or rows.dtype != types.int64 or rows.layout != "C":
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array, given, begin = values
        at = builder.gep(make_array(rows)(context, builder, given).data, [begin])
        read = []
        for lane in range(LANES):
            number = builder.load(builder.gep(at, [ir.Constant(INT, lane)]))
            read.append(_row(builder, _start(context, builder, table, array, number), 8))
        return _tuple(context, builder, signature, _transposed(builder, read, 8))

    return types.UniTuple(LANES_TYPE, 8)(table, rows, first), lower


@intrinsic  # type: ignore[untyped-decorator]
def row8(typing_context: Any, table: Any, row: Any) -> Any:
    """See the module's docstring."""
    if not _is_table(table) or not isinstance(row, LanesType):
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array, numbers = values[0], _numbers(builder, values[1])
        read = [
            _row(builder, _start(context, builder, table, array, _element(builder, numbers, lane)), 8) for lane in range(LANES)
        ]
        return _tuple(context, builder, signature, _transposed(builder, read, 8))

    return types.UniTuple(LANES_TYPE, 8)(table, row), lower


@intrinsic  # type: ignore[untyped-decorator]
def four(typing_context: Any, numbers: Any, first: Any) -> Any:
    """See the module's docstring."""
    if not _is_table(numbers, 1) or not isinstance(first, LanesType):
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array, at = values
        read = [_row(builder, start, 4) for start in _starts(context, builder, numbers, array, _numbers(builder, at))]
        return _tuple(context, builder, signature, _transposed(builder, read, 4))

    return types.UniTuple(LANES_TYPE, 4)(numbers, first), lower


@intrinsic  # type: ignore[untyped-decorator]
def own(typing_context: Any, array: Any, row: Any) -> Any:
    """See the module's docstring."""
    if not _is_table(array) or not isinstance(row, LanesType):
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = make_array(array)(context, builder, values[0]).data
        first = builder.mul(_numbers(builder, values[1]), ir.Constant(ir.VectorType(INT, LANES), [LANES] * LANES))
        places = builder.add(first, ir.Constant(ir.VectorType(INT, LANES), list(range(LANES))))
        found = ir.Constant(VECTOR, ir.Undefined)
        for lane in range(LANES):
            value = builder.load(builder.gep(data, [builder.zext(_element(builder, places, lane), WORD)]))
            found = builder.insert_element(found, value, ir.Constant(INT, lane))
        return found

    return LANES_TYPE(array, row), lower


@intrinsic  # type: ignore[untyped-decorator]
def place8(typing_context: Any, out: Any, first: Any, step: Any, values8: Any) -> Any:
    """See the module's docstring; values8 a tuple of eight."""
    if not isinstance(out, types.Array) or out.dtype != types.float32 or not isinstance(values8, types.UniTuple):
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array, first_value, step_value, given = values
        data = make_array(out)(context, builder, array).data
        narrow = ir.VectorType(FLOAT, LANES)
        columns = [builder.fptrunc(builder.extract_value(given, k), narrow) for k in range(LANES)]
        where_to = first_value
        for row in _transposed(builder, columns, LANES):
            pointer = builder.bitcast(builder.gep(data, [where_to]), narrow.as_pointer())
            builder.store(row, pointer, align=4)
            where_to = builder.add(where_to, step_value)
        return context.get_dummy_value()

    return types.void(out, first, step, values8), lower


@intrinsic  # type: ignore[untyped-decorator]
def copy16(typing_context: Any, out: Any, first: Any, table: Any, at: Any) -> Any:
    """See the module's docstring."""
    if not all(isinstance(a, types.Array) and a.dtype == types.float32 and a.layout == "C" for a in (out, table)):
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        wide = ir.VectorType(FLOAT, 16).as_pointer()
        target, source = (
            builder.bitcast(builder.gep(make_array(kind)(context, builder, array).data, [index]), wide)
            for kind, array, index in ((out, *values[:2]), (table, *values[2:]))
        )
        builder.store(builder.load(source, align=4), target, align=4)
        return context.get_dummy_value()

    return types.void(out, first, table, at), lower


@intrinsic  # type: ignore[untyped-decorator]
def held(typing_context: Any, m: Any, lane: Any) -> Any:
    """See the module's docstring."""
    if not isinstance(m, MaskType) or not isinstance(lane, types.Integer):
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.extract_element(values[0], builder.trunc(values[1], INT))

    return types.boolean(m, lane), lower


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def on_stack(typing_context: Any, rows: Any, columns: Any) -> Any:
    """See the module's docstring."""
    if not isinstance(rows, types.IntegerLiteral) or not isinstance(columns, types.IntegerLiteral):
        return None
    shape = (rows.literal_value, columns.literal_value)

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = make_array(signature.return_type)(context, builder)
        data = cgutils.alloca_once(builder, DOUBLE, size=shape[0] * shape[1])
        data.align = LINE_BYTES
        sizes = [ir.Constant(WORD, n) for n in shape]
        strides = [ir.Constant(WORD, 8 * shape[1]), ir.Constant(WORD, 8)]
        context.populate_array(array, data=data, shape=sizes, strides=strides, itemsize=ir.Constant(WORD, 8), meminfo=None)
        return array._getvalue()

    return types.Array(types.float64, 2, "C")(rows, columns), lower


@intrinsic  # type: ignore[untyped-decorator]
def fetch(typing_context: Any, array: Any, first: Any) -> Any:
    """See the module's docstring; nothing is read, so that any element may be named."""
    if not isinstance(array, types.Array) or not isinstance(first, types.Integer):
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        line = builder.gep(make_array(array)(context, builder, values[0]).data, [values[1]])
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, INT, INT, INT])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # To be read; to be kept; data.
        builder.call(function, [builder.bitcast(line, pointer), *(ir.Constant(INT, k) for k in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, first), lower
