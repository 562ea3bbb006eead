"""Masks of lanes and tables read by lanes: the same as in NumPy, lane by lane, and on one lane where that is offered."""

import numpy as np
import pytest
from numba import njit

from core.lane_tables import (
    between3,
    between5,
    columns8,
    copy16,
    fetch,
    four,
    held,
    larger4,
    leading,
    lined_up,
    octave,
    on_stack,
    own,
    pair,
    place8,
    put,
    row8,
    take,
)
from core.lanes import LANES, anywhere, both, either, less, load, magnitude, most, opposite, root, store, where, whole

RNG = np.random.default_rng(3)


@njit(error_model="numpy")
def _masks(a, out):
    x, y = load(a, 0), load(a, 1)
    small, negative = less(magnitude(x), 1.0), less(x, 0.0)
    store(out, 0, where(both(small, negative), x, y))
    store(out, 1, where(either(small, opposite(negative)), 1.0, 0.0))
    store(out, 2, root(magnitude(y)) + whole(x))
    return anywhere(less(x, -100.0)), anywhere(less(-100.0, x))


@pytest.mark.parametrize("shape", [(2, LANES), (2,)])
def test_masks(shape):
    a, out = RNG.normal(size=shape) * 2, np.empty((3, *shape[1:]))
    assert _masks(a, out) == (False, True)
    x, y = a
    np.testing.assert_array_equal(out[0], np.where((np.abs(x) < 1) & (x < 0), x, y))
    np.testing.assert_array_equal(out[1], (np.abs(x) < 1) | (x >= 0))
    np.testing.assert_allclose(out[2], np.sqrt(np.abs(y)) + np.floor(x), rtol=1e-14)


@njit(error_model="numpy")
def _rows(narrow, wide, at, out):
    row, share, other = load(at, 0), load(at, 1), load(at, 2)
    a, b, c = between3(narrow, row, share)
    d, e, f, g, h = between5(wide, row, share)
    i, j, k, m = larger4(narrow, row, other)
    n, o = pair(wide, row, 2)
    store(out, 0, a)
    store(out, 1, b)
    store(out, 2, c)
    store(out, 3, d)
    store(out, 4, e)
    store(out, 5, f)
    store(out, 6, g)
    store(out, 7, h)
    store(out, 8, i)
    store(out, 9, j)
    store(out, 10, k)
    store(out, 11, m)
    store(out, 12, n)
    store(out, 13, o)
    store(out, 14, leading(other + 1.0))
    store(out, 15, octave(other + 1.0))


@pytest.mark.parametrize("lanes", [True, False])
def test_tables(lanes):
    narrow, wide = RNG.normal(size=(40, 4)), RNG.normal(size=(40, 8))
    for _ in range(20):
        at = np.stack([RNG.integers(0, 39, LANES), RNG.uniform(0, 1, LANES), RNG.integers(0, 40, LANES)]).astype(float)
        at, out = (at, np.empty((16, LANES))) if lanes else (at[:, 0].copy(), np.empty(16))
        _rows(narrow, wide, at, out)
        row, other = at[0].astype(int), at[2].astype(int)
        between = [t[row].T + at[1] * (t[row + 1] - t[row]).T for t in (narrow, wide)]
        np.testing.assert_allclose(out[0:3], between[0][:3], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(out[3:8], between[1][:5], rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(out[8:12], np.maximum(narrow[row], narrow[other]).T)
        np.testing.assert_array_equal(out[12:14], np.stack([wide[row, 2], wide[row + 1, 2]]))
        np.testing.assert_array_equal(out[14], 2.0 ** np.floor(np.log2(other + 1)))
        np.testing.assert_array_equal(out[15], np.floor(np.log2(other + 1)))


@njit(error_model="numpy")
def _batches(table, rows, memory, floats, source):
    columns = columns8(table, rows, 4)
    place8(floats, 5, 20, columns)
    put(memory, 3, take(memory, 10) + most(columns[0], 0.0))
    copy16(floats, 200, source, 7)
    put(memory, 16, take(source, 5))
    stack = on_stack(5, 2)
    for k in range(5):
        stack[k, 0], stack[k, 1] = k, 10.0 * k
    inside = less(columns[1], 0.0)
    return stack.sum(), held(inside, 0), held(inside, 7)


def test_batches():
    table, rows = RNG.normal(size=(30, 8)), RNG.integers(0, 30, LANES + 5)
    memory, floats, source = RNG.normal(size=24), np.zeros(300, np.float32), RNG.normal(size=40).astype(np.float32)
    before = memory.copy()
    total, first, last = _batches(table, rows, memory, floats, source)
    rows = rows[4 : 4 + LANES]
    for lane in range(LANES):
        np.testing.assert_array_equal(floats[5 + 20 * lane : 13 + 20 * lane], table[rows[lane]].astype(np.float32))
    np.testing.assert_array_equal(floats[200:216], source[7:23])
    np.testing.assert_array_equal(memory[16:24], source[5:13].astype(float))
    np.testing.assert_allclose(memory[3:11], before[10:18] + np.maximum(table[rows, 0], 0.0))
    assert total == 110.0
    assert (first, last) == (table[rows[0], 1] < 0, table[rows[7], 1] < 0)


@njit(error_model="numpy")
def _each_its_own(at, wide, numbers, out):
    row = load(at, 0)
    fetch(wide, 10**6)
    for k, column in enumerate(row8(wide, row)):
        store(out, k, column)
    for k, number in enumerate(four(numbers, row)):
        store(out, 8 + k, number)
    store(out, 12, own(wide, row))


def test_each_lane_reads_at_its_own_place():
    wide, numbers, at = RNG.normal(size=(30, 8)), RNG.normal(size=33), RNG.integers(0, 30, (1, LANES))
    out = np.empty((13, LANES))
    _each_its_own(at.astype(float), wide, numbers, out)
    np.testing.assert_array_equal(out[:8], wide[at[0]].T)
    np.testing.assert_array_equal(out[8:12], numbers[at[0] + np.arange(4)[:, None]])
    np.testing.assert_array_equal(out[12], wide[at[0], np.arange(LANES)])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_lined_up_is_a_copy_at_a_cache_line(dtype):
    given = RNG.normal(size=(7, 5)).astype(dtype)
    made = lined_up(given.T)
    np.testing.assert_array_equal(made, given.T)
    assert made.dtype == dtype
    assert made.ctypes.data % 64 == 0
    assert made.flags.c_contiguous
