"""The structured solver in the terms of SiteQP: the same x, duals and errors as the other solvers of the chain."""

from dataclasses import replace

import numpy as np
import pytest

from core.errors import SolverError
from optimizer.assembly import SiteQP
from optimizer.exclusivity import enforce
from optimizer.shadow import device_prices, meter_prices
from optimizer.solvers import solve_piqp
from optimizer.structured.single import solve_structured


def test_x_is_feasible_and_optimal(make_random_site):
    for seed in range(10):
        qp = SiteQP(make_random_site(seed, 24, 1, negative=seed % 2 == 1))
        x = solve_structured(qp).x
        best = qp.objective(solve_piqp(qp).x)
        assert qp.objective(x) == pytest.approx(best, rel=1e-4, abs=1e-4)
        assert np.abs(qp.a @ x - qp.b).max() < 1e-9
        assert max((qp.g @ x - qp.gu).max(), (qp.gl - qp.g @ x).max()) < 1e-6
        assert max((x - qp.xu).max(), (qp.xl - x).max()) < 1e-9


def test_shadow_prices_are_those_of_the_general_solver(make_random_site):
    for seed in range(6):
        qp = SiteQP(make_random_site(seed, 24, 1))
        own, general = solve_structured(qp), solve_piqp(qp)
        for ours, theirs in (
            (device_prices(qp, own, 0), device_prices(qp, general, 0)),
            (meter_prices(qp, own), meter_prices(qp, general)),
        ):
            for name, price in ours.items():
                np.testing.assert_allclose(price, theirs[name], atol=0.02, err_msg=f"{seed} {name}")


def test_directions_that_are_fixed_stay_fixed(make_random_site):
    for seed in (1, 3, 5, 7):
        qp = SiteQP(make_random_site(seed, 24, 1, negative=True))
        relaxed = solve_structured(qp)
        own, general = enforce(qp, solve_structured, relaxed), enforce(qp, solve_piqp, solve_piqp(qp))
        c, d = own.solution.x[qp.device(0, "c")], own.solution.x[qp.device(0, "d")]
        assert np.minimum(c, d).max() <= 1e-3
        best = qp.objective(general.solution.x)
        assert qp.objective(own.solution.x) == pytest.approx(best, rel=2e-4, abs=2e-4)


def test_what_it_does_not_take_is_an_error(make_random_site):
    with pytest.raises(SolverError, match="2 devices"):
        solve_structured(SiteQP(make_random_site(1, 6, 2)))
    problem = make_random_site(1, 6, 1)
    grid = replace(problem.grid, sell_eur_per_kwh=problem.grid.buy_eur_per_kwh + 0.1)
    with pytest.raises(SolverError, match="general solver"):
        solve_structured(SiteQP(replace(problem, grid=grid)))
    qp = SiteQP(problem)
    qp.xl[qp.device(0, "c")[0]] = 1.0
    with pytest.raises(SolverError, match="fixed"):
        solve_structured(qp)
