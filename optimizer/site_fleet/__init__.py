"""Sites of up to ten thousand devices behind one meter: a Schur-complement interior point, checked and repaired."""

from optimizer.site_fleet.coordinate import Settings
from optimizer.site_fleet.plan import SiteFleetPlan, as_plan
from optimizer.site_fleet.solver import SiteFleetSolver

__all__ = ["Settings", "SiteFleetPlan", "SiteFleetSolver", "as_plan"]
