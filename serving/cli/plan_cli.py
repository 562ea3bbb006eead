"""`pulsebms plan`: solve once, print the plan with its reasons, prices and inputs, write a plot. Layout: serving.plan_view."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import typer
from rich.markup import escape

from core.errors import InputError
from policies.mpc import MpcPolicy
from serving.clock_config import clock_from_env
from serving.dispatch.inputs import Freshness, gather
from serving.dispatch.tick import next_boundary
from serving.plan_view import device_table, inputs_table, plan_console, summary
from serving.plots import plot_plan
from serving.shadow.settings import without_watch
from stores.connections import open_stores
from stores.postgres.policies import ranked_policies
from stores.settings import StoreSettings


def plan(
    site: str = typer.Option(..., "--site", help="Site id."),
    device: str | None = typer.Option(None, "--device", help="Print only this device (the site is solved whole)."),
    plot: Path = typer.Option(Path("plan.png"), "--plot", help="Where the plot goes."),
    at: str | None = typer.Option(None, "--at", help="ISO time to plan for; default is now."),
    max_age_s: float = typer.Option(3600.0, "--max-age", help="How old telemetry and predictions may be, seconds."),
) -> None:
    """Solve the site's MPC once for the next interval: every slot with its reason, what binds and its price; inputs; a plot.

    Commands nothing. Uses the best active MPC policy of the site.
    """
    console = plan_console()
    asked = None if at is None else _moment(at)
    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        record = next((r for r in ranked_policies(stores.pg, site) if r.policy_type == "MPC"), None)
        if record is None:
            raise InputError(source="optimization_policies", field="site_id", value=site, expected="an active MPC policy")
        policy = MpcPolicy(without_watch(record))
        interval_s = record.update_interval_seconds or 0
        moment = clock_from_env().now() if asked is None else asked
        start = next_boundary(moment, interval_s) - timedelta(seconds=interval_s if asked else 0)
        gathered = gather(
            stores,
            site,
            start,
            interval_s,
            horizon_s=(record.horizon_hours or 0) * 3600,
            fresh=Freshness(telemetry_s=max_age_s, prediction_s=max_age_s),
        )
        observation = gathered.observation
        unpredicted = {name: f"prediction: {why}" for name, why in observation.missing_predictions.items()}
        for name, why in {**gathered.left_out, **unpredicted}.items():
            console.print(f"[yellow]left out:[/] {escape(f'{name}: {why}')}")
        result = policy.plan(observation)
        known = [part.device_id for part in result.devices]
        if device is not None and device not in known:
            raise InputError(source="command line", field="--device", value=device, expected=f"one of {known}")
        buy, _ = observation.site.tariff.buy_sell(
            observation.price_eur_per_kwh.window(start, len(result.grid_import_w), result.dt_s)
        )
        for part in result.devices:
            if device in (None, part.device_id):
                console.print(device_table(result, part, start, buy))
        console.print(inputs_table(observation.inputs))
        for line in summary(result):
            console.print(line)
        plot_plan(plot, start, result, buy, observation.site.grid)
        console.print(f"plot: {plot.resolve()}")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InputError(
            source="command line",
            field="--at",
            value=text,
            expected="an ISO 8601 time with its UTC offset, as 2026-01-31T13:15+01:00",
        )
    return moment
