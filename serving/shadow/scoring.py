"""A day's worth: each schedule, idle and perfect foresight replayed the same way on the twin, and their scores.

J and score are serving.evaluation's (account, score): net of wear, stored energy valued at the day's mean price, 0 is idle, 1 is
perfect foresight on the same twin. Pure: the same day gives the same numbers. Not here: reading the day
(serving.shadow.day_inputs), what follows from a score (serving.shadow.judge).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.decisions import Decision, Reason, SetPoint
from core.errors import InputError
from policies.base import Observation
from serving.evaluation.account import Account, account
from serving.evaluation.baselines import Idle
from serving.evaluation.config import Faults
from serving.evaluation.foresight import Foresight, fitted, pack_model
from serving.evaluation.plant import PlantPack
from serving.evaluation.replay import Trace, replay
from serving.evaluation.score import frame_of, performance_score, ratio
from serving.shadow.day import Day, Schedule
from serving.shadow.twin_pack import TwinPack

FloatArray = NDArray[np.float64]
ROUNDS = 3
"""Runs of perfect foresight; each learns from the one before, the best counts."""
NO_PREDICTIONS = Faults(stale_twin_hours=(0, 24))
"""Schedules ask for none, and making them is most of a replay's time."""
LEAST_ROOM_EUR = 0.01
"""A day in which perfect foresight earns less has no score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One schedule's day; EUR."""

    schedule: Schedule
    score: float | None
    """None where there was nothing to earn."""
    raw: float | None
    """The same, not clipped."""
    account: Account
    end_soc_pct: dict[str, float]

    def details(self) -> dict[str, Any]:
        """JSON-ready: what stands beside the score."""
        found = self.account
        return {
            "raw_score": self.raw, "cash_eur": found.cash_eur, "wear_eur": found.wear_eur, "energy_eur": found.energy_eur,
            "throughput_kwh": found.throughput_kwh, "full_cycles": found.full_cycles, "peak_w": found.peak_w,
            "cut_kwh": found.cut_kwh, "end_soc_pct": self.end_soc_pct, "failures": dict(self.schedule.failures),
            "last_failure": self.schedule.last_failure, "made_by": dict(self.schedule.made_by),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DayScores:
    """All schedules of a day."""

    idle_eur: float
    best_eur: float
    scored: tuple[Scored, ...]


class Recorded:
    """A schedule as a policy: what was decided then, whatever is seen now."""

    def __init__(self, schedule: Schedule, day: Day) -> None:
        self.schedule, self.day = schedule, day
        self.name = schedule.policy

    def decide(self, observation: Observation) -> Decision:
        """See Policy.decide."""
        k = round((observation.starts_at - self.day.world.start) / timedelta(seconds=self.day.world.dt_s))
        return Decision(
            site_id=observation.site.site_id,
            starts_at=observation.starts_at,
            interval_s=observation.interval_s,
            source=self.name,
            set_points=tuple(
                SetPoint(device_id=d.device_id, power_w=float(self.schedule.power_w[d.device_id][k]), reason=Reason.RULE)
                for d in observation.devices
            ),
        )


def score_schedules(day: Day) -> DayScores:
    """Replay and score. Raises InputError when a number comes out that is none."""
    world = day.world
    idle_eur = account(replay(Idle(), world, packs_of(day), NO_PREDICTIONS), world).j_eur
    best_eur = max(_foresight_eur(day), idle_eur)
    frame = frame_of([("day", day.day.isoformat(), 0)], {_block(day): idle_eur}, {_block(day): best_eur}, 0.9, 100)
    rich = best_eur - idle_eur >= LEAST_ROOM_EUR
    scored = []
    for schedule in day.schedules:
        trace = replay(Recorded(schedule, day), world, packs_of(day), NO_PREDICTIONS)
        found = account(trace, world)
        if not isfinite(found.j_eur):
            raise InputError(source=f"day {day.day}", field=f"J of {schedule.policy}", value=found.j_eur, expected="a number")
        j_eur = np.array([found.j_eur])
        scored.append(
            Scored(
                schedule=schedule,
                score=performance_score(frame, j_eur) if rich else None,
                raw=ratio(frame, j_eur) if rich else None,
                account=found,
                end_soc_pct=_end_soc(trace, day),
            )
        )
    return DayScores(idle_eur=idle_eur, best_eur=best_eur, scored=tuple(scored))


def packs_of(day: Day) -> list[PlantPack]:
    """The twin's packs as they were measured when the day began."""
    air_c = float(day.world.ambient_c[day.world.first])
    found: list[PlantPack] = []
    for device in day.world.devices:
        state = day.states[device.device_id]
        found.append(
            TwinPack(
                device, soc_pct=state.soc_pct, soh_pct=state.soh_pct, temperature_c=state.temperature_c, ambient_c=air_c,
                factors=day.factors[device.device_id],
            )
        )  # fmt: skip
    return found


def _foresight_eur(day: Day) -> float:
    """J of the best of several runs; see serving.evaluation.foresight."""
    world = day.world
    models = [pack_model(world, device) for device in world.devices]
    best_eur = -np.inf
    for _ in range(ROUNDS):
        trace = replay(Foresight(world, models), world, packs_of(day), NO_PREDICTIONS)
        best_eur = max(best_eur, account(trace, world).j_eur)
        models = [fitted(model, world, trace, p) for p, model in enumerate(models)]
    return best_eur


def _end_soc(trace: Trace, day: Day) -> dict[str, float]:
    return {device.device_id: round(float(trace.soc_pct[-1, p]), 3) for p, device in enumerate(day.world.devices)}


def _block(day: Day) -> tuple[str, str, int]:
    return ("day", day.day.isoformat(), 0)
