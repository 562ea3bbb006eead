"""The demo's account: every number read back from the stores, then printed and drawn.

Money: energy bought and sold at the meter, with the change of stored energy valued at the mean import price, so that a
battery left fuller or emptier than it began neither gains nor loses by it. Not here: anything that decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from core.devices import DeviceConfig
from core.limits import PackLimits, tightest
from core.site import SiteConfig
from core.twin import capacity_wh
from serving.demo.world import FORESIGHT
from serving.dispatch.inputs import LOAD_ACTUAL, PRICE, PV_ACTUAL
from serving.plots import RunPicture, Track, plot_run
from stores.connections import Stores
from stores.mongo.telemetry import telemetry_range
from stores.postgres.constraints import constraint_rows
from stores.postgres.decisions import decisions, last_decision
from stores.postgres.devices import list_devices
from stores.postgres.history import outcome_counts
from stores.postgres.series import read_series

FloatArray = NDArray[np.float64]
DT_S = 900
TOLERANCE = 1e-3
"""A limit counts as violated beyond this share of itself: telemetry is rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What happened, and what would have."""

    cost_without_eur: float
    cost_with_eur: float
    cost_foresight_eur: float
    wear_kwh: float
    commands: Mapping[str, int]
    violations: Mapping[str, int]
    telemetry_documents: int
    decisions_by_source: Mapping[str, int]
    solver_counts: Mapping[str, int]
    twin_error_pct: float | None
    picture: RunPicture


@dataclass(frozen=True, slots=True)
class _Pack:
    config: DeviceConfig
    limits: PackLimits
    documents: list[dict[str, Any]]

    def track(self, name: str) -> Track:
        stamps = [document["timestamp"] for document in self.documents]
        return Track(stamps, np.array([document["measurements"][name] for document in self.documents], dtype=np.float64))


def make_account(stores: Stores, site: SiteConfig, start: datetime, end: datetime, since: datetime) -> Account:
    """Read everything of [start, end) back (commands: issued since `since`, wall time) and compute the account."""
    steps = round((end - start).total_seconds() / DT_S)
    rows = constraint_rows(stores.pg, site.site_id)
    packs = [
        _Pack(d, tightest(d, rows[d.device_id], start), telemetry_range(stores.mongo, d.device_id, start, end))
        for d in list_devices(stores.pg, site.site_id)
    ]
    price = read_series(stores.pg, site.site_id, PRICE, start, end, known_at=end).window(start, steps, DT_S)
    load_w = read_series(stores.pg, site.site_id, LOAD_ACTUAL, start, end, known_at=end).window(start, steps, DT_S)
    pv_w = read_series(stores.pg, site.site_id, PV_ACTUAL, start, end, known_at=end).window(start, steps, DT_S)
    buy, sell = site.tariff.buy_sell(price)
    measured_w = sum((_per_step(pack, start, steps) for pack in packs), np.zeros(steps))
    foresight = last_decision(stores.pg, site.site_id + FORESIGHT)
    plan = foresight.plan if foresight is not None else {"devices": []}
    planned_w = sum((np.asarray(part["power_w"], dtype=np.float64) for part in plan["devices"]), np.zeros(steps))
    mean_buy = float(np.mean(buy))
    stored_kwh = sum(_stored_kwh(pack) for pack in packs)
    planned_stored_kwh = sum(_planned_stored_kwh(part, packs) for part in plan["devices"])
    peak_price = site.grid.peak_price_eur_per_kw

    def cost(packs_w: FloatArray, stored: float) -> float:
        net_w = load_w - pv_w - packs_w
        energy = np.where(net_w > 0, buy * net_w, sell * net_w).sum() * DT_S / 3600 / 1000
        return float(energy - mean_buy * stored + peak_price * max(0.0, net_w.max()) / 1000)

    made = decisions(stores.pg, site.site_id, since=start, until=end)
    stamps = [start + timedelta(seconds=k * DT_S) for k in range(steps)]
    violations = _violations(packs)
    net_w = load_w - pv_w - measured_w
    violations["grid import"] = int((net_w > site.grid.import_limit_w * (1 + TOLERANCE)).sum())
    violations["grid export"] = int((-net_w > site.grid.export_limit_w * (1 + TOLERANCE)).sum())
    picture = RunPicture(
        title=f"{site.name}, {start:%d %b} to {end:%d %b %Y}: {len(packs)} packs under the dispatcher",
        price_eur_per_kwh=Track(stamps, buy),
        power_w={pack.config.device_id: pack.track("power") for pack in packs},
        soc_pct={pack.config.device_id: pack.track("soc") for pack in packs},
        temperature_c={pack.config.device_id: pack.track("temperature") for pack in packs},
        temperature_limit_c=min(pack.limits.temperature_max_c for pack in packs),
        grid_import_w=Track(stamps, net_w),
        grid_without_w=Track(stamps, load_w - pv_w),
        import_limit_w=site.grid.import_limit_w,
        export_limit_w=site.grid.export_limit_w,
    )
    return Account(
        cost_without_eur=cost(np.zeros(steps), 0.0),
        cost_with_eur=cost(measured_w, stored_kwh),
        cost_foresight_eur=cost(planned_w, planned_stored_kwh),
        wear_kwh=float(np.abs(measured_w).sum() * DT_S / 3.6e6),
        commands=outcome_counts(stores.pg, site.site_id, since),
        violations=violations,
        telemetry_documents=sum(len(pack.documents) for pack in packs),
        decisions_by_source=_count(decision.source for decision in made),
        solver_counts=_count(decision.solver or "none" for decision in made),
        twin_error_pct=_twin_error(stores, packs, start, end),
        picture=picture,
    )


def _count(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def _per_step(pack: _Pack, start: datetime, steps: int) -> FloatArray:
    total, number = np.zeros(steps), np.zeros(steps)
    for document in pack.documents:
        k = int((document["timestamp"] - start).total_seconds() // DT_S)
        if 0 <= k < steps:
            total[k] += document["measurements"]["power"]
            number[k] += 1
    mean: FloatArray = total / np.maximum(number, 1)
    return mean


def _stored_kwh(pack: _Pack) -> float:
    soc = pack.track("soc").values
    if len(soc) < 2:
        return 0.0
    soh = float(pack.documents[0]["measurements"]["soh"])
    return float(soc[-1] - soc[0]) / 100 * capacity_wh(pack.config, soh) / 1000


def _planned_stored_kwh(part: Mapping[str, Any], packs: list[_Pack]) -> float:
    pack = next(p for p in packs if p.config.device_id == part["device_id"])
    soh = float(pack.documents[0]["measurements"]["soh"])
    first = float(pack.documents[0]["measurements"]["soc"])
    return (float(part["soc_pct"][-1]) - first) / 100 * capacity_wh(pack.config, soh) / 1000


def _violations(packs: list[_Pack]) -> dict[str, int]:
    """Telemetry documents outside each limit of their pack."""
    counts = dict.fromkeys(("voltage", "cell voltage", "current", "power", "temperature", "cell spread", "SoC"), 0)
    for pack in packs:
        limits = pack.limits
        for document in pack.documents:
            m, cells = document["measurements"], document.get("cell_data", {})
            volts, temps = cells.get("voltages", []), cells.get("temperatures", [])
            checks = {
                "voltage": _outside(m["voltage"], limits.voltage_min_v, limits.voltage_max_v),
                "cell voltage": any(_outside(v, limits.cell_voltage_min_v, limits.cell_voltage_max_v) for v in volts),
                "current": _outside(m["current"], -limits.charge_current_a, limits.discharge_current_a),
                "power": _outside(m["power"], -limits.charge_power_w, limits.discharge_power_w),
                "temperature": _outside(m["temperature"], limits.temperature_min_c, limits.temperature_max_c),
                "cell spread": bool(temps) and max(temps) - min(temps) > limits.temperature_delta_k,
                "SoC": _outside(m["soc"], limits.soc_min_pct, limits.soc_max_pct),
            }
            for name, violated in checks.items():
                counts[name] += violated
    return counts


def _outside(value: float, low: float, high: float) -> bool:
    slack = TOLERANCE * max(abs(low), abs(high))
    return not low - slack <= value <= high + slack


def _twin_error(stores: Stores, packs: list[_Pack], start: datetime, end: datetime) -> float | None:
    """RMS difference of predicted and measured SoC one step ahead, percent; None without a comparable pair."""
    errors: list[float] = []
    for pack in packs:
        soc = pack.track("soc")
        if len(soc.values) < 2:
            continue
        seconds = np.array([(stamp - start).total_seconds() for stamp in soc.stamps])
        query = {"device_id": pack.config.device_id, "prediction_timestamp": {"$gte": start, "$lt": end}}
        for document in stores.mongo["digital_twin_predictions"].find(query):
            profile = document["predictions"]["soc_profile"]
            dt_s = document["horizon_hours"] * 3600 / len(profile)
            at_s = (document["prediction_timestamp"] - start).total_seconds() + dt_s
            if at_s <= seconds[-1]:
                errors.append(profile[0] - float(np.interp(at_s, seconds, soc.values)))
    return float(np.sqrt(np.mean(np.square(errors)))) if errors else None


def print_account(account: Account, console: Console, plot: Path) -> None:
    """Tables on the terminal, the picture as PNG."""
    plot_run(plot, account.picture)
    money = Table("", "EUR", title="cost of the days (stored energy valued, wear not included)")
    money.add_row("without batteries", f"{account.cost_without_eur:.2f}")
    money.add_row("with the dispatcher", f"{account.cost_with_eur:.2f}")
    money.add_row("with perfect foresight", f"{account.cost_foresight_eur:.2f}")
    saved, best = (
        account.cost_without_eur - account.cost_with_eur,
        account.cost_without_eur - account.cost_foresight_eur,
    )
    money.add_row("saved", f"{saved:.2f} of {best:.2f}" + (f" ({100 * saved / best:.0f} %)" if best > 0 else ""))
    console.print(money)
    commands = Table("commands", "count")
    for name, count in account.commands.items():
        commands.add_row(name, str(count))
    console.print(commands)
    broken = {name: count for name, count in account.violations.items() if count}
    console.print(f"limits violated: {sum(account.violations.values())}" + (f" {broken}" if broken else ""))
    console.print(f"decisions by source: {dict(account.decisions_by_source)}; by solver: {dict(account.solver_counts)}")
    console.print(f"telemetry documents: {account.telemetry_documents}; energy moved: {account.wear_kwh:.0f} kWh")
    if account.twin_error_pct is not None:
        console.print(f"twin's SoC error one step ahead: {account.twin_error_pct:.2f} % RMS")
