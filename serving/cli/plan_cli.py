"""`pulsebms plan`: solve once, print the plan as a table with a reason per slot, write a plot."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from core.errors import InputError
from policies.mpc import MpcPolicy
from serving.clock_config import clock_from_env
from serving.dispatch.inputs import Freshness, gather
from serving.dispatch.tick import next_boundary
from serving.plots import plot_plan
from stores.connections import open_stores
from stores.postgres.policies import ranked_policies
from stores.settings import StoreSettings

console = Console()


def plan(
    site: str = typer.Option(..., "--site", help="Site id."),
    device: str | None = typer.Option(None, "--device", help="Print only this device (the site is solved whole)."),
    plot: Path = typer.Option(Path("plan.png"), "--plot", help="Where the plot goes."),
    at: str | None = typer.Option(None, "--at", help="ISO time to plan for; default is now."),
    max_age_s: float = typer.Option(3600.0, "--max-age", help="How old telemetry and predictions may be, seconds."),
) -> None:
    """Solve the site's MPC once for the next interval, print every slot with its reason, and write a plot.

    Commands nothing. Uses the best active MPC policy of the site.
    """
    from datetime import datetime

    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        record = next((r for r in ranked_policies(stores.pg, site) if r.policy_type == "MPC"), None)
        if record is None:
            raise InputError(source="optimization_policies", field="site_id", value=site, expected="an active MPC policy")
        policy = MpcPolicy(record)
        interval_s = record.update_interval_seconds or 0
        moment = clock_from_env().now() if at is None else datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise InputError(source="command line", field="--at", value=at, expected="a time with its UTC offset")
        start = next_boundary(moment, interval_s) - timedelta(seconds=interval_s if at else 0)
        gathered = gather(
            stores,
            site,
            start,
            interval_s,
            horizon_s=(record.horizon_hours or 0) * 3600,
            fresh=Freshness(telemetry_s=max_age_s, prediction_s=max_age_s),
        )
        for name, why in gathered.left_out.items():
            console.print(f"[yellow]left out:[/] {name}: {why}")
        observation = gathered.observation
        result = policy.plan(observation)
        known = [part.device_id for part in result.devices]
        if device is not None and device not in known:
            raise InputError(source="command line", field="--device", value=device, expected=f"one of {known}")
        buy, _ = observation.site.tariff.buy_sell(
            observation.price_eur_per_kwh.window(start, len(result.grid_import_w), result.dt_s)
        )
        for part in result.devices:
            if device not in (None, part.device_id):
                continue
            table = Table("time (UTC)", "EUR/kWh", "power W", "SoC %", "temp °C", "reason", title=part.device_id)
            for k, power_w in enumerate(part.power_w):
                table.add_row(
                    f"{start + timedelta(seconds=k * result.dt_s):%m-%d %H:%M}",
                    f"{buy[k]:.4f}",
                    f"{power_w:.0f}",
                    f"{part.soc_pct[k]:.1f}",
                    f"{part.temperature_c[k]:.1f}",
                    part.reasons[k].value,
                )
            console.print(table)
        for name, what in observation.inputs.items():
            console.print(f"input {name}: {what}")
        console.print(
            f"objective {result.objective_eur:.4f} EUR over {len(buy)} slots, solver {result.solver} "
            f"({result.status}), {result.solve_s * 1e3:.1f} ms"
        )
        plot_plan(plot, start, result, buy, observation.site.grid.import_limit_w, observation.site.grid.export_limit_w)
        console.print(f"plot: {plot.resolve()}")
