"""Rows of the interior point, in the four passes of an iteration: shared by every kernel that is built of them.

Each function takes the working array, the first field of its rows, and the values that the pass has there; it is inlined, and
works on eight lanes or on one as the array says. docs/structured_solver.md derives the formulas; names as there:

    i = 1/t, m = l t, x = t'/t with t' = r - c'x the slack after a full step, w = l/t the weight, f the row's gradient
    renew     apply the last step; weight and gradient of the predictor
    predict   x of the predictor; least and largest x bound its step
    correct   gradient of the corrector
    advance   dl/l of the corrected step; least x and dl/l bound it; second-order sums for the gap that follows

Not here: which rows there are (kernel modules), the recursion over steps (riccati).
"""
# ruff: noqa: ANN401 - eight lanes or a float: known to numba alone.

from __future__ import annotations

from typing import Any

from core.lanes import inverse, least, load, most, stage, store
from optimizer.structured.layout import ROW

Value = Any


# --- one row


@stage
def renew(w: Any, at: int, slack: Value, alpha: Value) -> tuple[Value, Value, Value]:
    """(i, l, m) after the step alpha towards `slack`. Both products stay positive because alpha keeps them so."""
    i, m = load(w, at), load(w, at + 1)
    primal = 1.0 + alpha * (slack * i - 1.0)
    i = i * inverse(primal)
    m = m * primal * (1.0 + alpha * load(w, at + 2))
    store(w, at, i)
    store(w, at + 1, m)
    return i, m * i, m


@stage
def predict(w: Any, at: int, slack: Value, low: Value, high: Value) -> tuple[Value, Value]:
    """Store x; (least, largest) x so far."""
    x = slack * load(w, at)
    store(w, at + 2, x)
    return least(low, x), most(high, x)


@stage
def correct(w: Any, at: int, right: Value, sigma_mu: Value) -> Value:
    """Gradient with centring and Mehrotra's second-order term."""
    i, m, x = load(w, at), load(w, at + 1), load(w, at + 2)
    return i * (m * (1.0 + x * (x - 1.0) - i * right) + sigma_mu)


@stage
def correct_0(w: Any, at: int, sigma_mu: Value) -> Value:
    """`correct` for a right-hand side of zero."""
    x = load(w, at + 2)
    return load(w, at) * (load(w, at + 1) * (1.0 + x * (x - 1.0)) + sigma_mu)


@stage
def advance(w: Any, at: int, slack: Value, sigma_mu: Value, sums: tuple[Value, ...]) -> tuple[Value, ...]:
    """Store dl/l; sums = (least x, least dl/l, sum of m x (x - 1), sum of m (x' - 1) dl/l) with this row in."""
    m, x = load(w, at + 1), load(w, at + 2)
    second = x * (x - 1.0)
    x = slack * load(w, at)
    y = sigma_mu * inverse(m) + (second - x)
    store(w, at + 2, y)
    return least(sums[0], x), least(sums[1], y), sums[2] + m * second, sums[3] + m * ((x - 1.0) * y)


# --- box: x >= 0, x <= r


@stage
def renew_box(w: Any, at: int, x: Value, right: Value, alpha: Value) -> tuple[Value, Value, Value]:
    """(Hessian, gradient, sum of m)."""
    i, l_low, m = renew(w, at, x, alpha)
    i_high, l_high, m_high = renew(w, at + ROW, right - x, alpha)
    weight = l_high * i_high
    return l_low * i + weight, l_high - weight * right - l_low, m + m_high


@stage
def predict_box(w: Any, at: int, x: Value, right: Value, low: Value, high: Value) -> tuple[Value, Value]:
    """Both rows of `predict`."""
    low, high = predict(w, at, x, low, high)
    return predict(w, at + ROW, right - x, low, high)


@stage
def correct_box(w: Any, at: int, right: Value, sigma_mu: Value) -> Value:
    """Gradient."""
    return correct(w, at + ROW, right, sigma_mu) - correct_0(w, at, sigma_mu)


@stage
def advance_box(w: Any, at: int, x: Value, right: Value, sigma_mu: Value, sums: tuple[Value, ...]) -> tuple[Value, ...]:
    """Both rows of `advance`."""
    return advance(w, at + ROW, right - x, sigma_mu, advance(w, at, x, sigma_mu, sums))


# --- soft: x - z <= r, z >= 0, at linear z + square z^2 / 2; z is eliminated


@stage
def renew_soft(
    w: Any, at: int, keep: int, x: Value, z: Value, right: Value, linear: Value, square: Value, alpha: Value
) -> tuple[Value, Value, Value]:
    """(Hessian, gradient, sum of m) in x; keeps gain, offset, inverse at `keep`."""
    i, l_row, m = renew(w, at, right - x + z, alpha)
    i_z, l_z, m_z = renew(w, at + ROW, z, alpha)
    weight, weight_z = l_row * i, l_z * i_z
    force = l_row - weight * right
    return _eliminate(w, keep, weight, square + weight_z, force, linear - force - l_z, m + m_z)


@stage
def _eliminate(
    w: Any, keep: int, weight: Value, own: Value, force: Value, gradient_z: Value, m: Value
) -> tuple[Value, Value, Value]:
    inv = inverse(weight + own)
    gain = weight * inv
    store(w, keep, gain)
    store(w, keep + 1, gradient_z * inv)
    store(w, keep + 2, inv)
    return gain * own, force + gain * gradient_z, m


@stage
def slack_of(w: Any, keep: int, x: Value) -> Value:
    """z that belongs to x."""
    return load(w, keep) * x - load(w, keep + 1)


@stage
def predict_soft(w: Any, at: int, x: Value, z: Value, right: Value, low: Value, high: Value) -> tuple[Value, Value]:
    """Both rows of `predict`."""
    low, high = predict(w, at, right - x + z, low, high)
    return predict(w, at + ROW, z, low, high)


@stage
def correct_soft(w: Any, at: int, keep: int, right: Value, linear: Value, sigma_mu: Value) -> Value:
    """Gradient in x; keeps the offset."""
    force = correct(w, at, right, sigma_mu)
    gradient_z = linear - force - correct_0(w, at + ROW, sigma_mu)
    store(w, keep + 1, gradient_z * load(w, keep + 2))
    return force + load(w, keep) * gradient_z


@stage
def advance_soft(
    w: Any, at: int, x: Value, z: Value, right: Value, sigma_mu: Value, sums: tuple[Value, ...]
) -> tuple[Value, ...]:
    """Both rows of `advance`."""
    return advance(w, at + ROW, z, sigma_mu, advance(w, at, right - x + z, sigma_mu, sums))


# --- soft2: x - z <= above, -x - z <= below, z >= 0


@stage
def renew_soft2(
    w: Any, at: int, keep: int, x: Value, z: Value, above: Value, below: Value, linear: Value, square: Value, alpha: Value
) -> tuple[Value, Value, Value]:
    """(Hessian, gradient, sum of m) in x; keeps gain, offset, inverse. The Hessian is written without cancellation."""
    i_a, l_a, m_a = renew(w, at, above - x + z, alpha)
    i_b, l_b, m_b = renew(w, at + ROW, below + x + z, alpha)
    i_z, l_z, m_z = renew(w, at + 2 * ROW, z, alpha)
    weight_a, weight_b, own = l_a * i_a, l_b * i_b, square + l_z * i_z
    force_a, force_b = l_a - weight_a * above, l_b - weight_b * below
    gradient_z = linear - force_a - force_b - l_z
    both = weight_a + weight_b
    inv = inverse(both + own)
    gain = (weight_a - weight_b) * inv
    store(w, keep, gain)
    store(w, keep + 1, gradient_z * inv)
    store(w, keep + 2, inv)
    hessian = (both * own + 4.0 * (weight_a * weight_b)) * inv
    return hessian, force_a - force_b + gain * gradient_z, m_a + m_b + m_z


@stage
def predict_soft2(
    w: Any, at: int, x: Value, z: Value, above: Value, below: Value, low: Value, high: Value
) -> tuple[Value, Value]:
    """Three rows of `predict`."""
    low, high = predict(w, at, above - x + z, low, high)
    low, high = predict(w, at + ROW, below + x + z, low, high)
    return predict(w, at + 2 * ROW, z, low, high)


@stage
def correct_soft2(w: Any, at: int, keep: int, above: Value, below: Value, linear: Value, sigma_mu: Value) -> Value:
    """Gradient in x; keeps the offset."""
    force_a, force_b = correct(w, at, above, sigma_mu), correct(w, at + ROW, below, sigma_mu)
    gradient_z = linear - force_a - force_b - correct_0(w, at + 2 * ROW, sigma_mu)
    store(w, keep + 1, gradient_z * load(w, keep + 2))
    return force_a - force_b + load(w, keep) * gradient_z


@stage
def advance_soft2(
    w: Any, at: int, x: Value, z: Value, above: Value, below: Value, sigma_mu: Value, sums: tuple[Value, ...]
) -> tuple[Value, ...]:
    """Three rows of `advance`."""
    sums = advance(w, at, above - x + z, sigma_mu, sums)
    sums = advance(w, at + ROW, below + x + z, sigma_mu, sums)
    return advance(w, at + 2 * ROW, z, sigma_mu, sums)
