"""Compiled code is kept on disk by what it comes from (core.compiled); what a warm start brings along."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from core.compiled import DigestCache
from optimizer.problem import SoftCosts
from optimizer.site_fleet import SiteFleetSolver, bound, cold, directions, layout, reasons, repair, sweep, warm
from optimizer.site_fleet import replay as replay_module
from optimizer.site_fleet.bound import fleet_bound
from optimizer.site_fleet.scenarios import scenario


def test_all_code_on_disk_is_kept_by_digest():
    found = 0
    for module in (bound, cold, directions, layout, reasons, repair, replay_module, sweep, warm):
        for value in vars(module).values():
            cache = getattr(value, "_cache", None)
            if cache is not None and getattr(value, "__module__", "") == module.__name__ and cache.cache_path is not None:
                assert isinstance(cache, DigestCache)
                found += 1
    assert found >= 12


def test_a_shifted_start_leaves_the_present_state_free():
    """Tapers of the first stage are bounds on power: a slack from a stage where one binds would cut every step to nothing."""
    site = scenario(24, 48, kind="grid", seed=5, extra_steps=2)
    solver = SiteFleetSolver()
    grid, fleet = site.window()
    plan = solver.solve(grid, fleet, 900.0)
    site.advance(plan.energy_wh[:, 0], plan.temperature_c[:, 0], float(plan.import_w[0] - plan.export_w[0]))
    fleet = site.window(1)[1]
    memory = solver._memory
    iterate = sweep.Iterate(layout.pack(fleet, 900.0, SoftCosts()))
    assert warm.carry(iterate, fleet.device_ids, memory, 1, 1e-5) == 0
    slack = iterate.state[:, : layout.STATE_ROWS : 2].transpose(0, 2, 1).reshape(-1, layout.INEQUALITIES)
    assert (slack[:, layout.C_TAPER] == layout.FAR).all()
    assert (slack[:, layout.D_TAPER] == layout.FAR).all()
    product = iterate.state[:, ::2] * iterate.state[:, 1::2]
    assert product.min() >= 1e-5 * (1 - 1e-9)
    np.testing.assert_allclose(iterate.report[:, sweep.STEP], 1.0)


def test_a_warm_start_needs_fewer_sweeps_and_no_restarts_by_the_dozen():
    site = scenario(64, 96, kind="grid", seed=1, extra_steps=3)
    solver, sweeps = SiteFleetSolver(), []
    for k in range(3):
        grid, fleet = site.window(k)
        plan = solver.solve(grid, fleet, 900.0)
        assert plan.source == ("warm" if k else "cold")
        assert plan.relative_gap < 2e-4
        sweeps.append(plan.sweeps)
        site.advance(plan.energy_wh[:, 0], plan.temperature_c[:, 0], float(plan.import_w[0] - plan.export_w[0]))
    assert max(sweeps[1:]) < sweeps[0]


def test_multipliers_left_out_never_loosen_the_bound(monkeypatch):
    """Each device takes the best of several bounds; the meter's cost at the optimum stays above their sum."""
    grid, fleet = scenario(16, 24, kind="peak", seed=3).window()
    solver = SiteFleetSolver()
    plan = solver.solve(grid, fleet, 900.0)
    iterate = solver._memory.iterate
    with ThreadPoolExecutor(2) as pool:
        full = fleet_bound(iterate, fleet, plan.meter_price_eur_per_kwh, 0.25, pool, 2)[0]
        bare = np.zeros((iterate.blocks.blocks, layout.LANES))
        worths = np.empty((iterate.blocks.blocks, 25, layout.LANES))
        energies = np.zeros((25, layout.LANES))
        prices = np.append(plan.meter_price_eur_per_kwh * 0.25 / layout.PRICE_UNIT, 0.0)
        blocks = iterate.blocks
        for b in range(blocks.blocks):
            args = (blocks.data[b], blocks.constants[b], iterate.state[b], iterate.border[b], iterate.flows[b])
            bare[b] = bound_without_choice(*args, energies, prices, worths[b])
    kept = bound._constant(fleet, 0.25) + float((bare * blocks.weights_kw() * layout.PRICE_UNIT).ravel()[:16].sum())
    assert full >= kept - 1e-9 * abs(kept)
    assert plan.dual_bound_eur <= plan.objective_eur


def bound_without_choice(*args):
    """The bound with all multipliers, eight devices."""
    result = np.zeros((1, layout.LANES))
    _store_bound(*args, result)
    return result[0]


from numba import njit  # noqa: E402 - below what it is used for

from core.lanes import store  # noqa: E402


@njit(error_model="numpy")
def _store_bound(data, constants, state, border, flows, energies, prices, worths, result):
    store(result, 0, bound._block(data, constants, state, border, flows, energies, prices, worths, 0.0))
