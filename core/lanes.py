"""Eight devices in one register: a vector of 8 float64 for numba, lowered to an LLVM vector (AVX-512, 2 x AVX2 or 4 x NEON).

The same kernel source compiles for eight devices or for one. Which of the two is decided by the type of the array that it
works on: rows of a C-contiguous float64 array (fields, 8) load as vectors, elements of an array (fields,) as plain floats.

    load(a, i)       row i of a          store(a, i, x)    row i of a becomes x (a float fills all lanes)
    + - * / and -x   lane by lane; floats and vectors mix
    least(x, y), most(x, y)              lane by lane
    inverse(x)       1 / x (estimates with Newton steps in place of the division were measured: not faster)
    root(x), magnitude(x), whole(x)      square root, absolute value, next lower whole number
    less(x, y)       a mask; both(m, n), opposite(m), anywhere(m) (a bool), where(m, x, y) (x where m holds, else y)

Arithmetic may be fused and reassociated, but NaN and infinity keep their meaning, so that a failed lane is seen as failed and
never spoils its neighbours. Not here: anything about batteries; tables (core.lane_tables). Indices are not checked.
"""
# ruff: noqa: ANN401 - numba's types and LLVM's values have no static types.

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeVar, cast

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable
from numba.np.arrayobj import make_array

F = TypeVar("F", bound=Callable[..., Any])
LANES = 8
FAST = ("contract", "reassoc", "nsz", "arcp")
DOUBLE, INT = ir.DoubleType(), ir.IntType(32)
VECTOR = ir.VectorType(DOUBLE, LANES)
MASK = ir.VectorType(ir.IntType(1), LANES)


class LanesType(types.Type):  # type: ignore[misc]
    """Type of a vector value."""

    def __init__(self) -> None:
        super().__init__(name="Lanes8")


class MaskType(types.Type):  # type: ignore[misc]
    """Type of a vector of truth values."""

    def __init__(self) -> None:
        super().__init__(name="Mask8")


LANES_TYPE, MASK_TYPE = LanesType(), MaskType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, VECTOR)


@register_model(MaskType)
class _MaskModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, MASK)


def stage(function: F) -> F:
    """Compile a part of a pass; LLVM inlines it into the pass, so that values stay in registers."""
    return cast(F, njit(error_model="numpy", boundscheck=False, forceinline=True)(function))


def whole_pass(function: F) -> F:
    """Compile a pass as a function of its own."""
    return cast(F, njit(error_model="numpy", boundscheck=False)(function))


def _result(*arguments: Any) -> Any:
    """Type of an operation on vectors and floats; None where it is neither."""
    if not all(isinstance(a, LanesType | types.Float) for a in arguments):
        return None
    return LANES_TYPE if any(isinstance(a, LanesType) for a in arguments) else types.float64


def _spread(builder: Any, value: Any) -> Any:
    """A float in all lanes; a vector as it is."""
    if value.type == VECTOR:
        return value
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), value, ir.Constant(INT, 0))
    return builder.shuffle_vector(one, ir.Constant(VECTOR, ir.Undefined), ir.Constant(ir.VectorType(INT, LANES), [0] * LANES))


def _alike(builder: Any, signature: Any, values: Any) -> tuple[Any, ...]:
    return tuple(_spread(builder, v) for v in values) if signature.return_type is LANES_TYPE else tuple(values)


def _operator(symbol: Any, instruction: str) -> None:
    @type_callable(symbol)  # type: ignore[untyped-decorator]
    def _type(context: Any) -> Any:
        def typer(a: Any, b: Any) -> Any:
            return LANES_TYPE if _result(a, b) is LANES_TYPE else None

        return typer

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        x, y = _alike(builder, signature, values)
        return getattr(builder, instruction)(x, y, flags=FAST)

    for pair in ((LanesType, LanesType), (LanesType, types.Float), (types.Float, LanesType)):
        lower_builtin(symbol, *pair)(lower)


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operator(_symbol, _instruction)


@type_callable(operator.neg)  # type: ignore[untyped-decorator]
def _type_negative(context: Any) -> Any:
    def typer(a: Any) -> Any:
        return LANES_TYPE if isinstance(a, LanesType) else None

    return typer


@lower_builtin(operator.neg, LanesType)  # type: ignore[untyped-decorator]
def _lower_negative(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    return builder.fneg(values[0], flags=FAST)


def _select(name: str, relation: str) -> Any:
    def chosen(typing_context: Any, a: Any, b: Any) -> Any:
        result = _result(a, b)
        if result is None:
            return None

        def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            x, y = _alike(builder, signature, values)
            return builder.select(builder.fcmp_ordered(relation, x, y), x, y)

        return result(a, b), lower

    chosen.__name__ = name
    return intrinsic(chosen)


most = _select("most", ">")
least = _select("least", "<")


@intrinsic  # type: ignore[untyped-decorator]
def inverse(typing_context: Any, a: Any) -> Any:
    """1 / a; see the module's docstring."""
    result = _result(a)
    if result is None:
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        (x,) = values
        one = ir.Constant(VECTOR, [1.0] * LANES) if signature.return_type is LANES_TYPE else ir.Constant(DOUBLE, 1.0)
        return builder.fdiv(one, x, flags=FAST)

    return result(a), lower


def _of_one(name: str) -> Any:
    """An LLVM intrinsic of one vector or float as a function of the same."""

    def applied(typing_context: Any, a: Any) -> Any:
        result = _result(a)
        if result is None:
            return None

        def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            (x,) = values
            suffix = f"v{LANES}f64" if x.type == VECTOR else "f64"
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(x.type, [x.type]), f"llvm.{name}.{suffix}")
            return builder.call(function, [x])

        return result(a), lower

    applied.__name__ = name
    return intrinsic(applied)


root, magnitude, whole = _of_one("sqrt"), _of_one("fabs"), _of_one("floor")


def _truth(*arguments: Any) -> Any:
    """Type of an operation on masks and bools; None where it is neither."""
    if not all(isinstance(a, MaskType | types.Boolean) for a in arguments):
        return None
    return MASK_TYPE if any(isinstance(a, MaskType) for a in arguments) else types.boolean


@intrinsic  # type: ignore[untyped-decorator]
def less(typing_context: Any, a: Any, b: Any) -> Any:
    """a < b, lane by lane; false where one is no number."""
    result = _result(a, b)
    if result is None:
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        wide = signature.return_type is MASK_TYPE
        x, y = (_spread(builder, v) for v in values) if wide else values
        return builder.fcmp_ordered("<", x, y)

    return (MASK_TYPE if result is LANES_TYPE else types.boolean)(a, b), lower


def _logic(name: str, instruction: str) -> Any:
    def joined(typing_context: Any, m: Any, n: Any) -> Any:
        result = _truth(m, n)
        if result is None or not isinstance(m, type(n)):
            return None

        def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return getattr(builder, instruction)(*values)

        return result(m, n), lower

    joined.__name__ = name
    return intrinsic(joined)


both, either = _logic("both", "and_"), _logic("either", "or_")


@intrinsic  # type: ignore[untyped-decorator]
def opposite(typing_context: Any, m: Any) -> Any:
    """Where m does not hold."""
    result = _truth(m)
    if result is None:
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.not_(values[0])

    return result(m), lower


@intrinsic  # type: ignore[untyped-decorator]
def anywhere(typing_context: Any, m: Any) -> Any:
    """Whether m holds in any lane."""
    if _truth(m) is None:
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        (x,) = values
        if x.type != MASK:
            return x
        bits = builder.bitcast(x, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(m), lower


@intrinsic  # type: ignore[untyped-decorator]
def where(typing_context: Any, m: Any, a: Any, b: Any) -> Any:
    """a where m holds, else b; of floats in one lane, a bool decides."""
    result = _result(a, b)
    if result is None or _truth(m) is None:
        return None
    if isinstance(m, MaskType):
        result = LANES_TYPE

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        condition, *sides = values
        x, y = (_spread(builder, v) for v in sides) if signature.return_type is LANES_TYPE else sides
        return builder.select(condition, x, y)

    return result(m, a, b), lower


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Pointer to row (or element) `index`, typed as what is stored there."""
    data = make_array(array_type)(context, builder, array).data
    if array_type.ndim == 1:
        return builder.gep(data, [index])
    start = builder.gep(data, [builder.mul(index, ir.Constant(index.type, LANES))])
    return builder.bitcast(start, VECTOR.as_pointer())


def _row_type(array: Any) -> Any:
    if not isinstance(array, types.Array) or array.layout != "C" or array.dtype != types.float64 or array.ndim > 2:
        return None
    return LANES_TYPE if array.ndim == 2 else types.float64


@intrinsic  # type: ignore[untyped-decorator]
def load(typing_context: Any, array: Any, index: Any) -> Any:
    """Row `index` of an array (fields, 8), or element `index` of an array (fields,)."""
    row = _row_type(array)
    if row is None or not isinstance(index, types.Integer):
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *values), align=8)

    return row(array, index), lower


@intrinsic  # type: ignore[untyped-decorator]
def store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Write row (or element) `index`."""
    row = _row_type(array)
    if row is None or not isinstance(index, types.Integer) or _result(value) is None:
        return None
    if row is types.float64 and isinstance(value, LanesType):
        return None

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        where = _address(context, builder, signature.args[0], values[0], values[1])
        builder.store(_spread(builder, values[2]) if row is LANES_TYPE else values[2], where, align=8)
        return context.get_dummy_value()

    return types.void(array, index, value), lower
