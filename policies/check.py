"""`check_policy`: the contract of a policy as something that runs, in the manner of Stable-Baselines3's env_checker.

A policy passes when, on given observations and on hostile variants of them, it is deterministic, finite and punctual, decides for
every device or says why it cannot, and after the gate's projection breaks no limit; and when saved and loaded it decides the
same. The projection is passed in, since it is serving's. Not here: how good a policy is.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from core.decisions import Decision, check_decision
from core.devices import PackState
from core.errors import InputError, PulseBmsError
from core.limits import power_bounds
from core.pack import condition_from_state
from core.series import Series
from policies.base import Observation, Policy, PolicyUnableError

SAME_W = 1e-6
LIMIT_TOLERANCE_W = 1.0
Project = Callable[[Decision, Observation], Decision]


class PolicyContractError(PulseBmsError):
    """The policy breaks the contract; the message says where and how."""


@dataclass(slots=True)
class Checked:
    """What was tried."""

    decided: int = 0
    unable: dict[str, str] = field(default_factory=dict)
    """Observation -> the reason that the policy gave."""
    longest_s: float = 0.0


def hostile(observation: Observation, seed: int = 0) -> Iterator[tuple[str, Observation]]:
    """Named variants: packs full, empty, hot, cold, tired; prices negative, tall, flat, noisy; no load; PV all day."""
    generator = np.random.default_rng(seed)
    change: Callable[[PackState], PackState]
    for name, change in (
        ("full", lambda state: replace(state, soc_pct=100.0)),
        ("empty", lambda state: replace(state, soc_pct=0.0)),
        ("hot", lambda state: replace(state, temperature_c=59.5, cell_temperatures_c=())),
        ("cold", lambda state: replace(state, temperature_c=-9.5, cell_temperatures_c=())),
        ("tired", lambda state: replace(state, soh_pct=55.0)),
    ):
        yield name, replace(observation, states={key: change(state) for key, state in observation.states.items()})
    price = observation.price_eur_per_kwh
    count = len(price)
    for name, values in (
        ("negative prices", np.full(count, -0.5)),
        ("tall prices", np.where(np.arange(count) % 7 == 3, 4.0, 0.05)),
        ("flat prices", np.full(count, 0.1)),
        ("noise", generator.normal(0.1, 0.5, count)),
    ):
        yield name, replace(observation, price_eur_per_kwh=_with(price, values))
    load, pv = observation.load_w, observation.pv_w
    yield "no load", replace(observation, load_w=_with(load, np.zeros(len(load))), pv_w=_with(pv, np.zeros(len(pv))))
    limit_w = observation.site.grid.import_limit_w
    yield "load at the limit", replace(observation, load_w=_with(load, np.full(len(load), limit_w)))
    # as much as the meter takes: what is beyond is the inverter's to curtail and no policy's to answer for
    most_w = min(1000.0 * observation.site.pv.kwp, observation.site.grid.export_limit_w)
    yield "all PV", replace(observation, pv_w=_with(pv, np.full(len(pv), most_w)))


def _with(series: Series, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Series:
    return Series(series.name, series.start, series.dt_s, values)


def check_policy(
    make: Callable[[], Policy],
    observations: Sequence[Observation],
    *,
    project: Project,
    deadline_s: float,
    reload: Callable[[Policy], Policy] | None = None,
    must_decide: bool = True,
    seed: int = 0,
) -> Checked:
    """Raise PolicyContractError with the first breach; else what was tried.

    `make` builds the policy anew; `project` is the gate; `reload` saves the policy and loads it. `must_decide`: on the
    observations as given (not their hostile variants) it may not say that it is unable.
    """
    checked = Checked()
    first, second = make(), make()
    again = None if reload is None else reload(make())
    if not first.name or first.name != second.name:
        raise PolicyContractError(f"name: got {first.name!r} and {second.name!r}, expected the same, not empty")
    for number, given in enumerate(observations):
        for what, observation in [("as given", given), *hostile(given, seed)]:
            where = f"{first.name}, observation {number} {what}"
            before = copy.deepcopy(observation)
            begun = time.monotonic()
            decision = _decide(first, observation, where)
            checked.longest_s = max(checked.longest_s, time.monotonic() - begun)
            if checked.longest_s > deadline_s:
                raise PolicyContractError(f"{where}: took {checked.longest_s:.3f} s, expected at most {deadline_s:g} s")
            _unchanged(before, observation, where)
            others = [("built anew", second)] if again is None else [("built anew", second), ("saved and loaded", again)]
            for how, other in others:
                _same(decision, _decide(other, observation, where), f"{where}, {how}")
            if isinstance(decision, str):
                if what == "as given" and must_decide:
                    raise PolicyContractError(f"{where}: unable: {decision}")
                checked.unable[f"{number} {what}"] = decision
                continue
            _complete(decision, observation, where)
            _within(project(decision, observation), observation, where)
            checked.decided += 1
    return checked


def _decide(policy: Policy, observation: Observation, where: str) -> Decision | str:
    try:
        return policy.decide(observation)
    except PolicyUnableError as error:
        if not str(error):
            raise PolicyContractError(f"{where}: unable without a reason") from None
        return str(error)
    except Exception as error:
        raise PolicyContractError(f"{where}: raised {type(error).__name__}: {error}") from error


def _same(one: Decision | str, other: Decision | str, where: str) -> None:
    if isinstance(one, str) or isinstance(other, str):
        if one != other:
            raise PolicyContractError(f"{where}: {one!r} and {other!r}: not the same answer")
        return
    theirs = {point.device_id: point.power_w for point in other.set_points}
    for point in one.set_points:
        if not abs(theirs.get(point.device_id, np.inf) - point.power_w) <= SAME_W:
            raise PolicyContractError(f"{where}: {point.device_id}: {point.power_w} and {theirs.get(point.device_id)} W")


def _complete(decision: Decision, observation: Observation, where: str) -> None:
    try:
        check_decision(
            decision, site_id=observation.site.site_id, starts_at=observation.starts_at, interval_s=observation.interval_s
        )
    except InputError as error:
        raise PolicyContractError(f"{where}: {error}") from None
    got = sorted(point.device_id for point in decision.set_points)
    expected = sorted(device.device_id for device in observation.devices)
    if got != expected:
        raise PolicyContractError(f"{where}: set points for {got}, expected one for each of {expected}")


def _within(decision: Decision, observation: Observation, where: str) -> None:
    ambient_c = float(observation.ambient_c.window(observation.starts_at, 1, observation.interval_s)[0])
    devices = {device.device_id: device for device in observation.devices}
    for point in decision.set_points:
        key = point.device_id
        condition = condition_from_state(devices[key], observation.states[key], observation.interval_s, ambient_c=ambient_c)
        bounds = power_bounds(observation.limits[key], condition, observation.interval_s)
        low, high = -float(bounds.charge_w[0]), float(bounds.discharge_w[0])
        if not low - LIMIT_TOLERANCE_W <= point.power_w <= high + LIMIT_TOLERANCE_W:
            raise PolicyContractError(f"{where}: {key}: {point.power_w:.1f} W after the gate, bounds {low:.1f} to {high:.1f} W")


def _unchanged(before: Observation, after: Observation, where: str) -> None:
    """A policy may not write into what it was shown."""
    for name in ("price_eur_per_kwh", "load_w", "pv_w", "ambient_c"):
        if not np.array_equal(getattr(before, name).values, getattr(after, name).values):
            raise PolicyContractError(f"{where}: {name} was changed")
    if before.states != after.states:
        raise PolicyContractError(f"{where}: states were changed")
