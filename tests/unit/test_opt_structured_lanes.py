"""Vector values behave lane by lane as floats do; the same source runs on one lane."""

import numpy as np
import pytest
from numba import njit

from core.lanes import LANES, inverse, least, load, most, store


@njit(error_model="numpy")
def _mix(a, out):
    x, y = load(a, 0), load(a, 1)
    store(out, 0, (x + 2.0 * y - 1.0) / (y * y + 0.5))
    store(out, 1, -least(x, y) + most(x, 0.25))
    store(out, 2, inverse(y))
    store(out, 3, 1.5)


@pytest.mark.parametrize("shape", [(4, LANES), (4,)])
def test_lane_by_lane(shape):
    a = np.random.default_rng(1).normal(size=shape)
    out = np.empty(shape)
    _mix(a, out)
    x, y = a[0], a[1]
    np.testing.assert_allclose(out[0], (x + 2 * y - 1) / (y * y + 0.5), rtol=1e-14)
    np.testing.assert_allclose(out[1], -np.minimum(x, y) + np.maximum(x, 0.25), rtol=1e-15)
    np.testing.assert_allclose(out[2], 1 / y, rtol=1e-13)
    np.testing.assert_array_equal(out[3], 1.5)


def test_a_lane_that_is_not_a_number_stays_alone():
    a = np.ones((4, LANES))
    a[0, 3], a[1, 5] = np.nan, np.inf
    out = np.empty_like(a)
    _mix(a, out)
    others = [0, 1, 2, 4, 6, 7]
    assert np.isfinite(out[:, others]).all()
    assert np.isnan(out[0, 3])
    assert np.ptp(out[:, others], axis=1).max() == 0


def test_rows_of_another_kind_are_refused():
    for a in (np.ones((4, LANES), dtype=np.float32), np.ones((LANES, 4)).T):
        with pytest.raises(Exception, match="load"):
            _mix(a, a)
