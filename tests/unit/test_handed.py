"""Arrays that compiled code takes from a table are those that were listed."""

import numpy as np
import pytest
from numba import njit

from core.handed import KINDS, doubles2, doubles4, longs1, singles3, table_of, truths1, words1


@njit(error_model="numpy", _nrt=False)
def _changed(table):
    """Writes into each, through the table alone; the last element of the one with four dimensions."""
    a, b, c, d, e, f = (doubles2(table, 0), longs1(table, 1), singles3(table, 2), truths1(table, 3), words1(table, 4),
                        doubles4(table, 5))  # fmt: skip
    a[1, 2] += 1.0
    b[-1] = a.shape[1] * 100 + c.shape[2]
    c[1, 0, 3] = 2.5
    d[2] = not d[2]
    e[0] += np.uint64(1)
    return f[f.shape[0] - 1, -1, -1, -1]


def test_listed_arrays_are_read_and_written():
    a, b, c = np.zeros((2, 3)), np.zeros(4, np.int64), np.zeros((2, 1, 5), np.float32)
    d, e, f = np.zeros(3, bool), np.array([2**63], np.uint64), np.arange(24.0).reshape(2, 3, 2, 2)
    table = table_of([("doubles2", a), ("longs1", b), ("singles3", c), ("truths1", d), ("words1", e), ("doubles4", f)])
    assert _changed(table) == 23.0
    assert (a[1, 2], a.sum()) == (1.0, 1.0)
    assert b.tolist() == [0, 0, 0, 305]
    assert (c[1, 0, 3], c.sum()) == (2.5, 2.5)
    assert d.tolist() == [False, False, True]
    assert e[0] == 2**63 + 1


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("doubles2", np.zeros((2, 3), np.float32)),
        ("doubles2", np.zeros(3)),
        ("doubles2", np.zeros((3, 2)).T),
        ("longs1", np.zeros(6, np.int64)[::2]),
    ],
)
def test_an_array_of_another_kind_is_refused(kind, array):
    assert kind in KINDS
    with pytest.raises(ValueError, match=f"{kind} expected"):
        table_of([(kind, array)])
