"""Shadow prices: derivatives of the objective, alike in all solvers, found by the names of rows."""

from dataclasses import replace

import numpy as np
import pytest

from optimizer.assembly import DEVICE_ROWS, METER_ROWS, SiteQP
from optimizer.solvers import SOLVERS, solve_piqp


def stationarity(qp, s):
    return qp.p * s.x + qp.q + qp.a.T @ s.equality_duals + qp.g.T @ s.inequality_duals + s.bound_duals


@pytest.mark.parametrize(("solver", "tolerance"), [("piqp", 1e-6), ("cvxpy", 1e-5), ("osqp", 2e-3)])
@pytest.mark.parametrize("seed", range(3))
def test_duals_balance_the_gradient_and_have_the_sign_of_their_side(make_random_site, solver, tolerance, seed):
    qp = SiteQP(make_random_site(seed, 24, 2, negative=seed == 1))
    s = SOLVERS[solver](qp)
    assert np.abs(stationarity(qp, s)).max() < tolerance
    assert (s.inequality_duals[~np.isfinite(qp.gl)] >= -tolerance).all()
    assert (s.inequality_duals[~np.isfinite(qp.gu)] <= tolerance).all()
    without = ~np.isfinite(qp.gl) & ~np.isfinite(qp.gu)
    assert (s.inequality_duals[without] == 0).all()
    assert (s.bound_duals[~np.isfinite(qp.xl) & ~np.isfinite(qp.xu)] == 0).all()
    away = np.minimum(qp.gu - qp.g @ s.x, qp.g @ s.x - qp.gl) > 0.5
    assert np.abs(s.inequality_duals[away & (np.isfinite(qp.gl) != np.isfinite(qp.gu))]).max(initial=0) < 1e-3


def test_a_rows_dual_is_what_its_bound_is_worth(make_site, make_device):
    """Load above a peak that has a price, and a pack too small to hold it down: each bound moved by a little."""
    load = np.r_[np.full(8, 5e3), np.full(8, 40e3)]
    device = make_device(16, energy_max_wh=60e3, energy_wh=40e3, energy_high_wh=40e3, energy_low_wh=40e3)
    site = make_site(np.r_[np.full(8, 0.05), np.full(8, 0.3)], device, load_w=load, peak_price_eur_per_kw=1.0)
    qp = SiteQP(site)
    s = solve_piqp(qp)

    def value(**changes):
        other = SiteQP(replace(site, devices=(replace(device, **changes),)))
        return other.objective(solve_piqp(other).x)

    top = s.inequality_duals[qp.rows(0, "soc_max")].sum()
    assert top == pytest.approx(-(value(energy_max_wh=60.1e3) - value()) / 0.1, rel=1e-3)
    assert top > 0.1
    bottom = s.inequality_duals[qp.rows(0, "soc_min")].sum()
    assert bottom == pytest.approx(-(value(energy_min_wh=10.1e3) - value()) / 0.1, rel=1e-3)
    assert bottom < -0.1
    power = device.discharge_max_w.copy()
    power[:] = 6e3
    tight = replace(site, devices=(replace(device, discharge_max_w=power),))
    qp = SiteQP(tight)
    s = solve_piqp(qp)
    w = s.bound_duals[qp.device(0, "d")]
    more = SiteQP(replace(site, devices=(replace(device, discharge_max_w=power + 100.0),)))
    assert w.sum() == pytest.approx(-(more.objective(solve_piqp(more).x) - qp.objective(s.x)) / 0.1, rel=1e-3)
    assert s.inequality_duals[qp.meter_rows("peak")].sum() == pytest.approx(1.0, abs=1e-6)


def test_a_fixed_columns_dual_is_its_reduced_cost(make_site):
    """PV that may not be curtailed although its export costs 5 ct: curtailing a kWh would save them."""
    price = np.full(4, -0.05)
    site = make_site(price, pv_w=np.full(4, 100e3), sell_eur_per_kwh=price, peak_price_eur_per_kw=0.0)
    qp = SiteQP(site)
    s = solve_piqp(qp)
    assert np.abs(stationarity(qp, s)).max() < 1e-6
    np.testing.assert_allclose(s.bound_duals[qp.grid("u")], 0.25 * 0.05, atol=1e-6)


def test_every_row_has_one_name(make_random_site):
    qp = SiteQP(make_random_site(1, 12, 3))
    named = [qp.rows(i, name) for i in range(3) for name in DEVICE_ROWS] + [qp.meter_rows(name) for name in METER_ROWS]
    np.testing.assert_array_equal(np.sort(np.concatenate(named)), np.arange(len(qp.gl)))
    equal = [qp.equality_rows(i, name) for i in range(3) for name in ("energy", "temperature")]
    equal += [qp.equality_rows(None, name) for name in ("balance", "tracking")]
    np.testing.assert_array_equal(np.concatenate(equal), np.arange(len(qp.b)))
    with pytest.raises(KeyError):
        qp.rows(0, "soc")
