"""Sites with states outside their limits, blocked directions and large penalties: always solved, never called infeasible."""

import pytest

from optimizer import oracle
from optimizer.assembly import SiteQP
from optimizer.problem import SiteProblem
from optimizer.site_fleet.scenarios import scenario
from optimizer.solvers import solve_piqp


def stressed(count, seed, kind):
    made = scenario(count, kind=kind, seed=seed, stressed=True)
    return SiteProblem(dt_s=made.dt_s, grid=made.grid, devices=tuple(made.fleet.device(i) for i in range(count)))


@pytest.mark.parametrize(("count", "seed", "kind"), [(10, 1, "peak"), (3, 6, "grid"), (5, 4, "both"), (4, 8, "track")])
def test_a_stressed_site_is_solved(count, seed, kind):
    qp = SiteQP(stressed(count, seed, kind))
    solved = solve_piqp(qp)
    assert max((qp.g @ solved.x - qp.gu).max(), (qp.gl - qp.g @ solved.x).max()) < 1e-5


def test_a_large_penalty_is_no_certificate_of_infeasibility():
    """A site that PIQP once called primal infeasible, at its default tolerance of certificates."""
    problem = stressed(10, 1, "peak")
    qp = SiteQP(problem)
    assert qp.objective(solve_piqp(qp).x) == pytest.approx(oracle.solve(problem).objective_eur, rel=1e-6)
