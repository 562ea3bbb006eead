"""The common case of all peers: 38.02 (A), 45.39 (B), 63.13 (C), executed as net set points.

Scored here by a scorer of its own, which knows nothing of the optimizer.
"""

import pytest

from benchmarks.common_case import read, site
from optimizer.mpc import MpcSolver

EXPECTED = {"A": 38.02, "B": 45.39, "C": 63.13}


def score(case, power_w):
    battery, dt = case["battery"], case["dt_h"]
    energy, cost, peak = battery["capacity_kwh"] * battery["soc_init"], 0.0, 0.0
    for k, p in enumerate(power_w / 1000):
        assert -battery["p_charge_kw"] - 1e-3 <= p <= battery["p_discharge_kw"] + 1e-3
        energy += dt * (-p * battery["eta_c"] if p < 0 else -p / battery["eta_d"])
        share = energy / battery["capacity_kwh"]
        assert battery["soc_min"] - 1e-4 <= share <= battery["soc_max"] + 1e-4
        net = case["load"][k] - case["pv"][k] - p
        assert -case["grid"]["export_kw"] - 1e-3 <= net <= case["grid"]["import_kw"] + 1e-3
        cost += dt * (case["buy"][k] * max(net, 0) - case["sell"][k] * max(-net, 0))
        peak = max(peak, net)
    assert energy == pytest.approx(battery["capacity_kwh"] * battery["soc_final"], abs=0.01)
    return cost + case["demand_charge"] * peak


@pytest.mark.parametrize("solver", ["piqp", "osqp", "cvxpy"])
@pytest.mark.parametrize("variant", ["A", "B", "C"])
def test_common_case(variant, solver):
    case = read(variant)
    problem = site(case)
    mpc = MpcSolver(solver=solver)
    plan = mpc.plan(problem)
    assert plan.solver == solver, plan.status
    assert score(case, plan.devices[0].power_w) == pytest.approx(EXPECTED[variant], abs=0.01)
    assert plan.objective_eur == pytest.approx(EXPECTED[variant], abs=0.02)
    assert (mpc.fallback_counts["exclusivity"] > 0) == (variant == "B")
