"""The device kernel against dense linear algebra: Newton step, price sensitivity; and the lower bound's validity."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from optimizer.problem import SoftCosts
from optimizer.site_fleet import layout as rows
from optimizer.site_fleet.bound import fleet_bound
from optimizer.site_fleet.scenarios import scenario
from optimizer.site_fleet.sweep import Iterate, sweep

DT_H = 0.25


def dense_newton(data, constants, state, border, prices, mu):
    """Net power after a Newton step towards l t = mu, and minus its derivative to the price, from the device's KKT matrix.

    Written from the problem, not from the kernel: variables are c, d, e, T and three slacks of each stage, the state after the
    last, highest, lowest, and the slacks of depth and target.
    """
    stages = len(data)
    size = 7 * stages + 6
    end = 7 * stages
    high, low, deep, miss = end + 2, end + 3, end + 4, end + 5
    hessian, gradient = np.zeros((size, size)), np.zeros(size)
    equal, rhs_equal, unequal, rhs = [], [], [], []

    def row(*terms):
        result = np.zeros(size)
        for column, value in terms:
            result[column] += value
        return result

    equal += [row((2, 1.0)), row((3, 1.0))]
    rhs_equal += [0.0, 0.0]
    for k, d in enumerate(data):
        c, q, e, t, z_e, z_t, z_v = 7 * k + np.arange(7)
        for variable, curve in ((c, "CURVE"), (q, "CURVE"), (e, "STRESS"), (z_e, "E_CURVE"), (z_t, "T_CURVE"), (z_v, "V_CURVE")):
            hessian[variable, variable] += constants[getattr(rows, curve)]
        gradient[c] += constants[rows.WEAR] + d[rows.MOVE] + prices[k]
        gradient[q] += constants[rows.WEAR] - d[rows.MOVE] - prices[k]
        gradient[e] += d[rows.VALUE_E]
        for variable, cost in ((z_e, rows.E_COST), (z_t, rows.T_COST), (z_v, rows.V_COST)):
            gradient[variable] += constants[cost]
        after_e, after_t = (e + 7, t + 7) if k < stages - 1 else (end, end + 1)
        equal.append(row((after_e, 1.0), (e, -1.0), (c, -d[rows.GAIN_C]), (q, d[rows.LOSS_D])))
        equal.append(row((after_t, 1.0), (t, -constants[rows.DECAY]), (c, -d[rows.HEAT_C]), (q, -d[rows.HEAT_D])))
        rhs_equal += [0.0, 0.0]
        relief, slope_c, slope_d = constants[rows.RELIEF], d[rows.SLOPE_C], d[rows.SLOPE_D]
        volts = [(e, d[rows.VOLT_E]), (c, d[rows.VOLT_N]), (q, -d[rows.VOLT_N])]
        for terms, limit in (
            ([(c, -1)], 0), ([(c, 1)], d[rows.MAX_C]), ([(q, -1)], 0), ([(q, 1)], d[rows.MAX_D]),
            ([(c, 1), (e, slope_c), (z_e, -relief * slope_c)], d[rows.ROOM_C]),
            ([(q, 1), (e, -slope_d), (z_e, -relief * slope_d)], d[rows.ROOM_D]),
            ([(e, 1), (z_e, -1)], d[rows.ROOM_E_HIGH]), ([(e, -1), (z_e, -1)], d[rows.ROOM_E_LOW]), ([(z_e, -1)], 0),
            ([(t, 1), (z_t, -1)], d[rows.ROOM_T_HIGH]), ([(t, -1), (z_t, -1)], d[rows.ROOM_T_LOW]), ([(z_t, -1)], 0),
            ([*volts, (z_v, -1)], d[rows.ROOM_V_HIGH]), ([(v, -x) for v, x in volts] + [(z_v, -1)], d[rows.ROOM_V_LOW]),
            ([(z_v, -1)], 0), ([(e, 1), (high, -1)], -d[rows.FREE_E]), ([(low, 1), (e, -1)], d[rows.FREE_E]),
        ):  # fmt: skip
            unequal.append(row(*terms))
            rhs.append(limit)
    gradient[deep], gradient[miss] = constants[rows.DEPTH_COST], constants[rows.TARGET_COST]
    for terms, limit in (
        ([(high, -1)], -constants[rows.HIGHEST]), ([(low, 1)], constants[rows.LOWEST]),
        ([(high, 1), (low, -1), (deep, -1)], constants[rows.DEPTH]), ([(deep, -1)], 0),
    ):  # fmt: skip
        unequal.append(row(*terms))
        rhs.append(limit)
    hessian[miss, miss] = 1.0  # no target here: its slack is by itself
    slack, multiplier = np.concatenate([state.reshape(-1, 2), border.reshape(-1, 2)[:4]]).T
    unequal, equal = np.array(unequal), np.array(equal)
    weight = multiplier / slack
    force = multiplier - weight * np.array(rhs) + mu / slack
    kkt = np.block([
        [hessian + unequal.T @ (weight[:, None] * unequal), equal.T], [equal, np.zeros((len(equal), len(equal)))],
    ])  # fmt: skip
    solution = np.linalg.solve(kkt, np.concatenate([-(gradient + unequal.T @ force), rhs_equal]))
    pick = np.zeros((stages - 1, size))
    for k in range(stages - 1):
        pick[k, 7 * k], pick[k, 7 * k + 1] = 1.0, -1.0
    return pick @ solution[:size], pick @ np.linalg.inv(kkt)[:size, :size] @ pick.T


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(2) as executor:
        yield executor


def untargeted(fleet):
    import dataclasses

    return dataclasses.replace(fleet, terminal_energy_wh=np.full(fleet.count, np.nan))


@pytest.mark.parametrize(("steps", "stressed"), [(1, False), (6, False), (24, True)])
def test_step_and_sensitivity_are_those_of_the_kkt_matrix(pool, steps, stressed):
    fleet = untargeted(scenario(8, steps, seed=steps, stressed=stressed).window()[1])
    g = np.random.default_rng(steps)
    price = g.normal(0.1, 0.1, steps)
    for lane in (0, 3, 7):
        one = fleet.take(np.array([lane]))
        blocks = rows.pack(one, 900.0, SoftCosts())
        iterate = Iterate(blocks)
        iterate.start_cold(0.1, pool, 1)
        iterate.state *= np.exp(0.5 * g.normal(size=iterate.state.shape))
        iterate.border *= np.exp(0.5 * g.normal(size=iterate.border.shape))
        answer = sweep(iterate, rows.PRICE_UNIT, price, DT_H, 0.1, 0.01, newton_steps=0, slowest=-1.0, pool=pool, threads=1)
        data = blocks.data[0].reshape(steps + 1, rows.DATA_ROWS, rows.LANES)[:, :, 0]
        scaled = np.append(price * DT_H / rows.PRICE_UNIT, 0.0)
        net, answer_to_price = dense_newton(
            data, blocks.constants[0, :, 0], iterate.state[0, :, 0], iterate.border[0, :, 0], scaled, 0.01
        )
        unit_kw = blocks.constants[0, rows.WEIGHT, 0]
        np.testing.assert_allclose(answer.predicted_kw, unit_kw * net, rtol=1e-8, atol=1e-8 * unit_kw)
        expected = unit_kw * DT_H / rows.PRICE_UNIT * answer_to_price
        np.testing.assert_allclose(answer.sensitivity, expected, rtol=1e-7, atol=1e-9 * np.abs(expected).max())


def test_a_failed_device_does_not_spoil_its_neighbours(pool):
    fleet = scenario(8, 12, seed=5).window()[1]
    blocks = rows.pack(fleet, 900.0, SoftCosts())
    price = np.full(12, 0.15)

    def run(spoil):
        iterate = Iterate(blocks)
        iterate.start_cold(0.1, pool, 1)
        if spoil:
            iterate.state[0, :, 2] = np.nan
        for _ in range(10):
            answer = sweep(iterate, rows.PRICE_UNIT, price, DT_H, 1e-3, 1e-3, newton_steps=3, slowest=0.0, pool=pool, threads=1)
        return iterate, answer

    good, _ = run(False)
    bad, answer = run(True)
    assert np.isfinite(bad.state).all()
    assert np.isfinite(answer.sensitivity).all()
    others = [0, 1, 3, 4, 5, 6, 7]
    np.testing.assert_allclose(bad.flows[0][:, others], good.flows[0][:, others], atol=1e-3)


def test_the_bound_is_valid_for_any_multipliers(pool):
    """A dual bound needs no convergence: it lies below what any plan costs, here that of doing nothing."""
    from optimizer.site_fleet.replay import replay

    grid, fleet = scenario(16, 24, seed=9, stressed=True).window()
    g = np.random.default_rng(1)
    blocks = rows.pack(fleet, 900.0, SoftCosts())
    price = g.normal(0.1, 0.1, 24)
    idle = np.zeros((fleet.count, 24))
    run = replay(grid, fleet, 900.0, SoftCosts(), idle, np.zeros(24), pool, 2)
    for _ in range(5):
        iterate = Iterate(blocks)
        iterate.start_cold(10.0 ** g.uniform(-4, 0), pool, 2)
        iterate.state *= np.exp(2.0 * g.normal(size=iterate.state.shape))
        iterate.border *= np.exp(2.0 * g.normal(size=iterate.border.shape))
        bound, value = fleet_bound(iterate, fleet, price, DT_H, pool, 2)
        assert np.isfinite(bound)
        assert value.shape == (16, 24)
        assert bound <= run.device_eur.sum() + 1e-9
