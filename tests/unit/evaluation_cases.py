"""Small evaluations on the equivalent circuit with made-up prices, and contenders that fail, for the tests of evaluation.

A module of its own because the worker processes import the contenders by name.
"""

import ctypes
import json
import os
import signal
import threading
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np

from core.decisions import Decision, Reason, SetPoint
from policies.base import PolicyUnableError
from serving.evaluation.baselines import Contender
from serving.evaluation.config import EvaluationConfig, SinglePack

WEEK = date(2023, 3, 6)


def price_file(folder, days=30, seed=3):
    """Hourly prices around WEEK with two humps a day, EUR/MWh."""
    g = np.random.default_rng(seed)
    start = datetime(2023, 2, 20, tzinfo=UTC)
    hours = np.arange(24 * days)
    values = 90 + 45 * np.sin(2 * np.pi * (hours - 9) / 24) + 25 * np.sin(4 * np.pi * hours / 24) + g.normal(0, 8, len(hours))
    lines = ["time,price,forecast"]
    lines += [
        f"{(start + timedelta(hours=int(k))).isoformat()},{v:.3f},{v + e:.3f}"
        for k, v, e in zip(hours, values, g.normal(0, 10, len(hours)), strict=True)
    ]
    path = folder / "prices.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def config(folder, **changes):
    """One day of one pack on the circuit, hourly."""
    price_file(folder)
    scenario = {
        "name": "one",
        "market": {"source": "file", "path": "prices.csv", "column": "price"},
        "pack": {"chemistry": "NMC"},
        "soh_pct": 85.0,
        **changes.pop("scenario", {}),
    }
    said = {
        "name": "small",
        "plant": "ECM",
        "weeks": [WEEK],
        "days": 1,
        "interval_s": 3600,
        "mpc_horizon_hours": 12,
        "scenarios": [scenario],
        "resamples": 200,
        "life_years": [1],
        **changes,
    }
    return EvaluationConfig.model_validate(said)


def site_file(folder, **changes):
    """One NMC pack behind a meter with load and PV; `changes` go into grid, pv and tariff: {"grid": {...}}."""
    site = {
        "site_id": "s",
        "name": "s",
        "timezone": "Europe/Amsterdam",
        "grid": {"import_limit_w": 80_000, "export_limit_w": 60_000, **changes.get("grid", {})},
        "tariff": {"network_fee_eur_per_kwh": 0.02, "export_margin_eur_per_kwh": 0.01, **changes.get("tariff", {})},
        "load": {"annual_kwh": 150_000},
        "pv": {"kwp": 50, **changes.get("pv", {})},
        "ambient_c": 18,
        "packs": [SinglePack.model_validate({"chemistry": "NMC"}).site().packs[0].model_dump(mode="json", exclude_none=True)],
    }
    (folder / "site.yaml").write_text(json.dumps(site), encoding="utf-8")
    return "site.yaml"


class Fixed:
    """So many watts, whatever is seen; or a failure."""

    def __init__(self, name, watt, mode):
        self.name, self.watt, self.mode = name, watt, mode
        self.seen = []

    def decide(self, observation):
        self.seen.append(observation)
        if self.mode == "hang" or (self.mode == "hang_later" and len(self.seen) > 1):
            threading.Event().wait()
        if self.mode == "hang_in_c" and len(self.seen) > 1:  # holds the interpreter's lock: no other thread of the process runs
            ctypes.PyDLL(None).pause()
        if self.mode == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.mode == "raise":
            raise ZeroDivisionError("1 / 0")
        if self.mode == "unable":
            raise PolicyUnableError("not today")
        return Decision(
            site_id=observation.site.site_id,
            starts_at=observation.starts_at,
            interval_s=observation.interval_s,
            source=self.name,
            set_points=tuple(SetPoint(device_id=d.device_id, power_w=self.watt, reason=Reason.RULE) for d in observation.devices),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedContender(Contender):
    """Makes a Fixed."""

    watt: float = 0.0
    mode: str = "fine"

    def identity(self):
        return {"name": self.name, "watt": self.watt, "mode": self.mode}

    def policy(self, config, interval_s):
        return Fixed(self.name, self.watt, self.mode)
