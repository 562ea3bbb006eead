"""Counters of eight lanes: the same as in NumPy, and nothing beside them is touched."""

import numpy as np
import pytest
from numba import njit

from core.lane_counts import count8


@njit(error_model="numpy", _nrt=False)
def _counted(clocks, first, none):
    return count8(clocks, first, clocks, clocks.shape[1] + first, none, first)


@pytest.mark.parametrize("least", [1, 2])
def test_eight_counters(least):
    clocks = np.stack([np.arange(20), np.array([least, 5, 7, 2**40, 3, 2, 9, 4, 1, 1] * 2)])
    none, before = np.ones(20, bool), clocks.copy()
    assert _counted(clocks, 10, none) == (least == 1)
    expected = before + np.array([[1], [-1]]) * ((np.arange(20) >= 10) & (np.arange(20) < 18))
    np.testing.assert_array_equal(clocks, expected)
    np.testing.assert_array_equal(none[10:18], expected[1, 10:18] <= 0)
    assert none[:10].all()
    assert none[18:].all()
