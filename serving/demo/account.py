"""The demo's account: every number read back from the stores, then printed and drawn.

Money: energy bought and sold at the meter, with the change of stored energy valued at the mean import price, so that a
battery left fuller or emptier than it began neither gains nor loses by it. Not here: anything that decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from core.devices import CYCLE_HOURS, DeviceConfig
from core.limits import PackLimits, tightest
from core.site import SiteConfig
from core.twin import capacity_wh
from serving.demo.quality import PackEnergy, TwinError, pack_energies, twin_errors
from serving.demo.world import FORESIGHT
from serving.dispatch.inputs import LOAD_ACTUAL, PRICE, PV_ACTUAL
from serving.plots import RunPicture, Track, plot_run
from stores.connections import Stores
from stores.mongo.telemetry import telemetry_range
from stores.postgres.calibrations import CalibrationRow, calibration_history
from stores.postgres.constraints import constraint_rows
from stores.postgres.decisions import decisions, last_decision
from stores.postgres.devices import list_devices
from stores.postgres.history import outcome_counts
from stores.postgres.series import read_series
from stores.redis.status import read_site_metrics, read_statuses

FloatArray = NDArray[np.float64]
DT_S = 900
TOLERANCE = 1e-3
"""A limit counts as violated beyond this share of itself: telemetry is rounded."""
LIMITS = (
    "voltage", "cell voltage", "current", "C-rate", "power", "temperature", "cell spread", "SoC", "cycle depth", "no telemetry",
)  # fmt: skip


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
    mpc_decisions: int
    """Of those, by policies of type MPC."""
    solver_counts: Mapping[str, int]
    twin_error: TwinError | None
    """Of all predictions, one step ahead."""
    twin_error_as_planned: TwinError | None
    """Of those whose power went as predicted."""
    energies: list[PackEnergy]
    calibrations: list[CalibrationRow]
    """The newest attempt for each pack."""
    site_metrics: Mapping[str, Any]
    online: int
    """Devices with a device:status that says online."""
    picture: RunPicture


@dataclass(frozen=True, slots=True)
class MeasuredPack:
    """A pack, its limits, and the telemetry documents of the run, oldest first."""

    config: DeviceConfig
    limits: PackLimits
    documents: list[dict[str, Any]]

    def track(self, name: str) -> Track:
        """One measurement of every document."""
        stamps = [document["timestamp"] for document in self.documents]
        return Track(stamps, np.array([document["measurements"][name] for document in self.documents], dtype=np.float64))


def make_account(stores: Stores, site: SiteConfig, start: datetime, end: datetime, since: datetime) -> Account:
    """Read everything of [start, end) back (commands: issued since `since`, wall time) and compute the account."""
    steps = round((end - start).total_seconds() / DT_S)
    rows = constraint_rows(stores.pg, site.site_id)
    packs = [
        MeasuredPack(d, tightest(d, rows[d.device_id], start), telemetry_range(stores.mongo, d.device_id, start, end))
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
    mpc = {policy.name for policy in site.policies if policy.policy_type == "MPC"}
    stamps = [start + timedelta(seconds=k * DT_S) for k in range(steps)]
    violations = limit_violations(packs)
    net_w = load_w - pv_w - measured_w
    violations["grid import"] = int((net_w > site.grid.import_limit_w * (1 + TOLERANCE)).sum())
    violations["grid export"] = int((-net_w > site.grid.export_limit_w * (1 + TOLERANCE)).sum())
    devices, ids = [pack.config for pack in packs], [pack.config.device_id for pack in packs]
    every, as_planned = twin_errors(stores, devices, start, end)
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
        mpc_decisions=sum(decision.source in mpc for decision in made),
        solver_counts=_count(decision.solver or "none" for decision in made),
        twin_error=every,
        twin_error_as_planned=as_planned,
        energies=pack_energies(stores, devices, ZoneInfo(site.timezone), start, end),
        calibrations=[attempts[0] for name in ids if (attempts := calibration_history(stores.pg, name))],
        site_metrics=read_site_metrics(stores.redis, site.site_id, "daily"),
        online=sum(status.get("online") is True for status in read_statuses(stores.redis, ids).values()),
        picture=picture,
    )


def _count(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def _per_step(pack: MeasuredPack, start: datetime, steps: int) -> FloatArray:
    total, number = np.zeros(steps), np.zeros(steps)
    for document in pack.documents:
        k = int((document["timestamp"] - start).total_seconds() // DT_S)
        if 0 <= k < steps:
            total[k] += document["measurements"]["power"]
            number[k] += 1
    mean: FloatArray = total / np.maximum(number, 1)
    return mean


def _stored_kwh(pack: MeasuredPack) -> float:
    soc = pack.track("soc").values
    if len(soc) < 2:
        return 0.0
    soh = float(pack.documents[0]["measurements"]["soh"])
    return float(soc[-1] - soc[0]) / 100 * capacity_wh(pack.config, soh) / 1000


def _planned_stored_kwh(part: Mapping[str, Any], packs: list[MeasuredPack]) -> float:
    pack = next(p for p in packs if p.config.device_id == part["device_id"])
    if not pack.documents:
        return 0.0
    soh = float(pack.documents[0]["measurements"]["soh"])
    first = float(pack.documents[0]["measurements"]["soc"])
    return (float(part["soc_pct"][-1]) - first) / 100 * capacity_wh(pack.config, soh) / 1000


def limit_violations(packs: Sequence[MeasuredPack]) -> dict[str, int]:
    """Telemetry documents outside each limit of their pack; packs, for the cycle's depth (of SoC, over the whole run).

    A pack without telemetry has kept to nothing that anyone could know: it counts as one, under a name of its own.
    """
    counts = dict.fromkeys(LIMITS, 0)
    for pack in packs:
        limits = pack.limits
        if not pack.documents:
            counts["no telemetry"] += 1
            continue
        for document in pack.documents:
            m, cells = document["measurements"], document.get("cell_data", {})
            volts, temps = cells.get("voltages", []), cells.get("temperatures", [])
            rate_a = limits.c_rate_per_h * pack.config.nominal_capacity_ah * m["soh"] / 100
            checks = {
                "voltage": _outside(m["voltage"], limits.voltage_min_v, limits.voltage_max_v),
                "cell voltage": any(_outside(v, limits.cell_voltage_min_v, limits.cell_voltage_max_v) for v in volts),
                "current": _outside(m["current"], -limits.charge_current_a, limits.discharge_current_a),
                "C-rate": _outside(m["current"], -rate_a, rate_a),
                "power": _outside(m["power"], -limits.charge_power_w, limits.discharge_power_w),
                "temperature": _outside(m["temperature"], limits.temperature_min_c, limits.temperature_max_c),
                "cell spread": bool(temps) and max(temps) - min(temps) > limits.temperature_delta_k,
                "SoC": _outside(m["soc"], limits.soc_min_pct, limits.soc_max_pct),
            }
            for name, violated in checks.items():
                counts[name] += violated
        swing_pct = _widest_swing(pack.track("soc"), timedelta(hours=CYCLE_HOURS))
        counts["cycle depth"] += _outside(swing_pct, 0.0, limits.cycle_depth_pct)
    return counts


def _widest_swing(track: Track, window: timedelta) -> float:
    """Largest difference between two values of a track that lie at most `window` apart."""
    widest, first = 0.0, 0
    for last, stamp in enumerate(track.stamps):
        while stamp - track.stamps[first] > window:
            first += 1
        within = track.values[first : last + 1]
        widest = max(widest, float(within.max()) - float(within.min()))
    return widest


def _outside(value: float, low: float, high: float) -> bool:
    slack = TOLERANCE * max((abs(bound) for bound in (low, high) if np.isfinite(bound)), default=0.0)
    return not low - slack <= value <= high + slack


def failures(account: Account) -> list[str]:
    """What a demo must not end with, in words; empty when it has shown what it is there to show."""
    found = []
    if broken := {name: count for name, count in account.violations.items() if count}:
        found.append(f"limits violated: {broken}")
    if not account.telemetry_documents:
        found.append("no telemetry was stored")
    if not account.mpc_decisions:
        found.append("no interval was decided by an MPC policy")
    if still_open := account.commands.get("open", 0):
        found.append(f"{still_open} commands are still open")
    return found


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
    for text, error in (("", account.twin_error), (" where power went as predicted", account.twin_error_as_planned)):
        if error is not None:
            console.print(
                f"twin's error one step ahead{text}: {error.soc_pct:.2f} % SoC, {error.voltage_pct:.2f} % of voltage, "
                f"{error.temperature_k:.2f} K (RMS of {error.predictions} predictions)"
            )
    if account.energies:
        console.print(_energy_table(account.energies))
    for row in account.calibrations:
        score = "" if row.score is None else f"score {row.score:.3f}, "
        console.print(f"calibration of {row.device_id}: {score}{row.reason}")
    if account.site_metrics:
        console.print(
            f"status in Redis: {account.online} of {account.site_metrics['device_count']:.0f} devices online, capacity "
            f"{account.site_metrics['total_capacity']:.0f} kWh"
        )


def _energy_table(energies: list[PackEnergy]) -> Table:
    table = Table(
        "pack", "by telemetry", "by metrics_hourly", "by metrics_daily", title="kWh charged / discharged, whole hours (days)"
    )
    for pack in energies:
        daily = _kwh(pack.daily)
        days = "" if pack.telemetry_of_days in (None, pack.telemetry) else f" ({_kwh(pack.telemetry_of_days)})"
        table.add_row(pack.device_id, _kwh(pack.telemetry) + days, _kwh(pack.hourly), daily)
    return table


def _kwh(pair: tuple[float, float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.2f} / {pair[1]:.2f}"
