"""HYBRID for a site that pays for its month's peak: a plan over the chain of load states to the month's end, the MPC its floor.

The packs are planned as one store and share its power (chain_store). The gate is the share of the chain's plan in the set points,
chosen on validation (training.chain_fit); with 0, and wherever the chain lacks what it needs, the MPC decides and the decision
says why. A step's load is not known when its power is chosen: the plan reckons with that in every step. Not here: the chain
(load_chain), the plan (chain_plan), training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from core.artefact import ArtefactError
from core.decisions import Decision, Reason, SetPoint
from core.devices import DeviceConfig
from core.errors import InputError
from core.policy_record import PolicyRecord
from optimizer.peak_plan import PeakStore
from policies.base import Observation, PolicyUnableError
from policies.learned.artefact import Artefact
from policies.learned.bounds import bounds_of
from policies.learned.chain_plan import MONTH_S, WEEK_S, Steps, best_power, rest_of_month, tail_steps, to_published_end
from policies.learned.chain_store import shared, store_of
from policies.learned.hybrid import ARTEFACT_KEY
from policies.learned.load_chain import Chain, chain_of, local_clock
from policies.learned.value import check_chemistries
from policies.mpc import MpcPolicy

FloatArray = NDArray[np.float64]
LONGEST_LAG_S = 3 * 3600.0
"""A load measured longer ago says nothing of now."""
AHEAD_S = 2 * 86_400.0
MOST_STATES = 32
DT_S = (900.0, 3600.0)
"""Shortest and longest step: a month in shorter ones takes seconds to plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A plan to a published end, and all that it was made from."""

    until: datetime
    store: PeakStore
    begin: datetime
    steps: Steps
    week_buy: FloatArray
    week_sell: FloatArray
    tables: FloatArray


class LoadChainPolicy:
    """Raises InputError when the row's config is no MPC's, ArtefactError when the artefact does not fit."""

    def __init__(self, record: PolicyRecord, artefact: Artefact) -> None:
        self.record = record
        self.artefact = artefact
        where = f"artefact {artefact.sha256[:12]}"
        expected = record.config.get(ARTEFACT_KEY)
        if expected != artefact.sha256:
            raise ArtefactError(f"optimization_policies {record.name!r}: sha256: got {artefact.sha256}, expected {expected}")
        self._mpc = MpcPolicy(replace(record, config={k: v for k, v in record.config.items() if k != ARTEFACT_KEY}))
        said = artefact.metadata.parameters
        share, dt_s, net = said.get("share"), said.get("dt_s"), said.get("net_of_pv")
        if not isinstance(share, int | float) or not 0.0 <= share <= 1.0:
            raise ArtefactError(f"{where}: parameters.share: got {share!r}, expected 0 to 1")
        if not isinstance(dt_s, int | float) or not DT_S[0] <= dt_s <= DT_S[1] or 3600.0 % dt_s:
            raise ArtefactError(f"{where}: parameters.dt_s: got {dt_s!r}, expected {DT_S[0]:g} to {DT_S[1]:g}, a part of an hour")
        if not isinstance(net, bool):
            raise ArtefactError(f"{where}: parameters.net_of_pv: got {net!r}, expected true or false")
        self.share, self.dt_s, self._net_of_pv = float(share), float(dt_s), net
        self.chain = chain_of(artefact)
        if self.chain.states > MOST_STATES:
            raise ArtefactError(f"{where}: edges_w: {self.chain.states} states, expected at most {MOST_STATES}")
        self._kept: _Kept | None = None
        if self.share > 0:
            _warm(self.chain, self.dt_s)

    @property
    def name(self) -> str:
        """Name of the row."""
        return self.record.name

    def decide(self, observation: Observation) -> Decision:
        """See Policy.decide; unable only where the MPC is."""
        try:
            power_w, bounds_w, said, about = self._planned(observation)
        except (PolicyUnableError, InputError) as error:
            return self._noted(self._mpc.decide(observation), "MPC", {"why": str(error)})
        decision = self._decision(observation, power_w, bounds_w, said, about)
        if self.share == 1.0:
            return self._noted(decision, "load chain", about)
        return self._noted(self._mixed(decision, self._mpc.decide(observation)), "load chain and MPC", about)

    def _planned(self, observation: Observation) -> tuple[float, FloatArray, str, dict[str, Any]]:
        """(power of all packs in W, discharge positive; each one's bounds; what is said of it, in words and for the record)."""
        self._check(observation)
        load_kw, lag_steps = self._measured(observation)
        packs = self._packs(observation)
        config = self._mpc.config
        store, soc = store_of(
            observation, packs, dt_s=self.dt_s, highest_kw=self.chain.highest_kw, wear_weight=config.wear_weight * config.wear
        )
        until, steps, chance, state = self._ahead(observation, load_kw, lag_steps)
        plant = store.plant()
        after = self._after_step(observation, store, until, steps)
        bounds_w = bounds_of(observation, packs)
        charge_w, discharge_w = bounds_w.sum(axis=0)
        peak_kw = observation.peak_incurred_w / 1000.0
        power_kw, gain_eur = best_power(
            plant, self.chain, steps, after, chance, soc, peak_kw, charge_w / 1000.0, discharge_w / 1000.0
        )
        if not np.isfinite([power_kw, gain_eur]).all():
            raise PolicyUnableError("the chain's plan is not finite")
        expected_kw = float(self.chain.loads(steps.kind[:1], steps.hour[:1])[0] @ chance)
        about = {
            "load_kw": round(load_kw, 3), "load_lag_steps": lag_steps, "state": state, "expected_load_kw": round(expected_kw, 3),
            "peak_kw": round(peak_kw, 3), "gain_eur": round(gain_eur, 4), "prices_until": until.isoformat(),
            "store": {"capacity_kwh": store.capacity_kwh, "level": round(soc, 4)},
        }  # fmt: skip
        where = f"load {load_kw:.1f} kW (state {state} of {self.chain.states}), peak so far {peak_kw:.1f} kW"
        return -1000.0 * power_kw, bounds_w, f"{where}, {gain_eur:.2f} EUR better than rest", about

    def _check(self, observation: Observation) -> None:
        """Raise PolicyUnableError with the first reason for which the MPC decides."""
        site = observation.site
        if self.share == 0.0:
            raise PolicyUnableError("the gate is 0: no gain on validation")
        if site.grid.peak_price_eur_per_kw <= 0:
            raise PolicyUnableError("the month's peak has no price")
        if observation.interval_s != self.dt_s:
            raise PolicyUnableError(f"the chain moves in steps of {self.dt_s:g} s; the interval has {observation.interval_s} s")
        if (60 * observation.starts_at.minute + observation.starts_at.second) % self.dt_s or observation.starts_at.microsecond:
            raise PolicyUnableError(f"the interval does not begin on a step of {self.dt_s:g} s")
        if observation.signal is not None and self._mpc.config.tracking_weight > 0:
            raise PolicyUnableError("the site is asked for a dispatch signal, which the chain's plan does not follow")
        check_chemistries(self.artefact, observation)
        if self._net_of_pv != (site.pv.kwp > 0):
            counted, has = ("load less PV", "no PV") if self._net_of_pv else ("load alone", "PV")
            raise PolicyUnableError(f"the chain was counted on {counted}; the site has {has}")

    def _measured(self, observation: Observation) -> tuple[float, int]:
        """(latest measured load, less PV, in kW; steps that lie between it and the interval)."""
        step = timedelta(seconds=self.dt_s)
        names = ("load_w", "pv_w") if self._net_of_pv else ("load_w",)
        lag = 0
        for name in names:
            errors = observation.errors.get(name)
            if errors is None or not len(errors):
                raise PolicyUnableError(f"no {name} is on record")
            behind_s = (observation.starts_at - errors.end).total_seconds()
            if behind_s > LONGEST_LAG_S:
                raise PolicyUnableError(f"the latest {name} on record is {behind_s:.0f} s old (allowed {LONGEST_LAG_S:.0f} s)")
            lag = max(lag, int(np.ceil(max(0.0, behind_s) / self.dt_s - 1e-9)))
        at, net_w = observation.starts_at - (lag + 1) * step, 0.0
        for name in names:
            forecast = observation.load_w if name == "load_w" else observation.pv_w
            try:
                value = forecast.window(at, 1, self.dt_s)[0] + observation.errors[name].window(at, 1, self.dt_s)[0]
            except InputError as error:
                raise PolicyUnableError(f"{name} of the latest step: {error}") from None
            net_w += float(value) if name == "load_w" else -float(value)
        loads = self.chain.usual_kw[:, :, None] + self.chain.above_kw
        low, high = float(loads.min()), float(loads.max())
        if not 2 * low - high <= net_w / 1000.0 <= 2 * high - low:
            raise PolicyUnableError(
                f"a load of {net_w / 1000.0:.1f} kW is far from what was counted ({low:.1f} to {high:.1f} kW)"
            )
        return net_w / 1000.0, lag

    def _packs(self, observation: Observation) -> list[DeviceConfig]:
        """Packs that may be planned: those without a prediction rest, as in the MPC's plan."""
        packs = [device for device in observation.devices if device.device_id not in observation.missing_predictions]
        if not packs:
            raise PolicyUnableError("no pack has a prediction")
        return packs

    def _ahead(self, observation: Observation, load_kw: float, lag_steps: int) -> tuple[datetime, Steps, FloatArray, int]:
        """(published end, steps to it, chances of the states of the first one, state of the latest load)."""
        start = observation.starts_at
        until = _published_end(observation, self.dt_s)
        count = round((until - start).total_seconds() / self.dt_s)
        if count < 1:
            raise PolicyUnableError("no price is known for the interval")
        begin = start - timedelta(seconds=(lag_steps + 1) * self.dt_s)
        kind, hour, ends = local_clock(begin, count + lag_steps + 1, self.dt_s, ZoneInfo(observation.site.timezone))
        state = int(self.chain.state(np.array([load_kw]), kind[:1], hour[:1])[0])
        chance = np.eye(self.chain.states)[state]
        for k in range(1, lag_steps + 2):
            chance = chance @ self.chain.moves[kind[k], hour[k]]
        buy, sell = self._prices(observation, start, count)
        cut = lag_steps + 1
        steps = Steps(buy_eur_per_kwh=buy, sell_eur_per_kwh=sell, kind=kind[cut:], hour=hour[cut:], month_ends=ends[cut:])
        return until, steps, chance, state

    def _prices(self, observation: Observation, start: datetime, count: int) -> tuple[FloatArray, FloatArray]:
        try:
            buy, sell = observation.site.tariff.buy_sell(observation.price_eur_per_kwh.window(start, count, self.dt_s))
        except InputError as error:
            raise PolicyUnableError(
                f"the chain's plan needs prices of the week before and to where they are published: {error}"
            ) from None
        return buy, np.minimum(sell, buy)

    def _after_step(self, observation: Observation, store: PeakStore, until: datetime, steps: Steps) -> FloatArray:
        """Cost to go after the interval, (B, socs, peaks), as the plan from now on has it.

        A plan is made backwards from the published end: one that began earlier, to the same end on the same prices and packs, has
        the same numbers, and is kept.
        """
        week = round(WEEK_S / self.dt_s)
        buy, sell = self._prices(observation, until - timedelta(seconds=WEEK_S), week)
        start, kept = observation.starts_at, self._kept
        if kept is not None and (kept.until, kept.store, kept.begin <= start) == (until, store, True):
            done = round((start - kept.begin).total_seconds() / self.dt_s)
            pairs = (
                (kept.steps.buy_eur_per_kwh[done:], steps.buy_eur_per_kwh), (kept.week_buy, buy),
                (kept.steps.sell_eur_per_kwh[done:], steps.sell_eur_per_kwh), (kept.week_sell, sell),
            )  # fmt: skip
            if all(np.array_equal(a, b) for a, b in pairs):
                return np.asarray(kept.tables[done + 1])
        kind, hour, ends = local_clock(until, round(MONTH_S / self.dt_s), self.dt_s, ZoneInfo(observation.site.timezone))
        count = tail_steps(ends, self.dt_s)
        beyond = Steps(
            buy_eur_per_kwh=np.resize(buy, count), sell_eur_per_kwh=np.resize(sell, count), kind=kind[:count],
            hour=hour[:count], month_ends=ends[:count],
        )  # fmt: skip
        tables = to_published_end(store.plant(), self.chain, steps, rest_of_month(store, self.chain, beyond))
        self._kept = _Kept(until=until, store=store, begin=start, steps=steps, week_buy=buy, week_sell=sell, tables=tables)
        return np.asarray(tables[1])

    def _decision(
        self, observation: Observation, power_w: float, bounds_w: FloatArray, said: str, about: dict[str, Any]
    ) -> Decision:
        packs = self._packs(observation)
        powers = shared(observation, packs, power_w, bounds_w)
        reason = Reason.IDLE
        if power_w < 0:
            reason = Reason.PRICE_LOW
        elif power_w > 0:
            reason = Reason.PEAK_SHAVING if about["expected_load_kw"] > about["peak_kw"] else Reason.PRICE_HIGH
        points = [
            SetPoint(device_id=device.device_id, power_w=float(value), reason=reason if value else Reason.IDLE, detail=said)
            for device, value in zip(packs, powers.tolist(), strict=True)
        ] + [
            SetPoint(device_id=key, power_w=0.0, reason=Reason.STOP, detail=f"prediction: {why}")
            for key, why in observation.missing_predictions.items()
        ]
        return Decision(
            site_id=observation.site.site_id, starts_at=observation.starts_at, interval_s=observation.interval_s,
            source=self.name, policy_id=self.record.policy_id, set_points=tuple(points), inputs=dict(observation.inputs),
        )  # fmt: skip

    def _mixed(self, ours: Decision, mpc: Decision) -> Decision:
        """The MPC's decision, its powers moved towards the chain's by the gate."""
        learned = {point.device_id: point.power_w for point in ours.set_points}
        points = tuple(
            replace(
                point,
                power_w=self.share * learned[point.device_id] + (1.0 - self.share) * point.power_w,
                detail=f"{point.detail}; load chain {learned[point.device_id]:.0f} W",
            )
            for point in mpc.set_points
        )
        return replace(mpc, set_points=points)

    def _noted(self, decision: Decision, how: str, about: dict[str, Any]) -> Decision:
        said: dict[str, Any] = {"decided_by": how, "share": self.share, "artefact": self.artefact.sha256, **about}
        return replace(decision, source=self.name, policy_id=self.record.policy_id, inputs={**decision.inputs, "hybrid": said})


def _published_end(observation: Observation, dt_s: float) -> datetime:
    """Where prices end that are known; AHEAD_S on at most. Whole steps."""
    end, start = observation.price_eur_per_kwh.end, observation.starts_at
    known = observation.price_known_until
    if known is None or known > start + timedelta(seconds=AHEAD_S):
        # Not AHEAD_S itself: that would be another end at each tick, and nothing could be kept.
        day = (start + timedelta(seconds=AHEAD_S)).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        known = day
    until = min(end, known)
    return start + timedelta(seconds=dt_s * ((until - start).total_seconds() // dt_s))


def _warm(chain: Chain, dt_s: float) -> None:
    """Compile, or load from disk, what the first decision would otherwise wait for."""
    store = PeakStore(
        charge_kw=1.0, discharge_kw=1.0, capacity_kwh=1.0, eta_charge=0.95, eta_discharge=0.95, wear_eur_per_kwh=0.0,
        peak_eur_per_kw=1.0, top_kw=2.0, dt_h=dt_s / 3600.0, socs=3, peaks=3, levels=1,
    )  # fmt: skip
    kind, hour, ends = local_clock(datetime(2026, 1, 1, tzinfo=UTC), 2, dt_s, ZoneInfo("UTC"))
    steps = Steps(buy_eur_per_kwh=np.ones(2), sell_eur_per_kwh=np.ones(2), kind=kind, hour=hour, month_ends=ends)
    tables = to_published_end(store.plant(), chain, steps, rest_of_month(store, chain, steps))
    chance = np.full(chain.states, 1.0 / chain.states)
    best_power(store.plant(), chain, steps, tables[1], chance, 0.5, 1.0, 1.0, 1.0)
