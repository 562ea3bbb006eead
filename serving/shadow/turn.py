"""One shadow's turn: its virtual packs brought to the interval, its decision, the gate, the packs moved by what is left of it.

Here: `take_turn`, pure but for the policy that it asks, and `rested`, the turn of a shadow that gave no answer. It runs in the
shadows' process (serving.shadow.worker). Nothing here can command: no store, no queue is within reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import structlog

from core.artefact import ArtefactFiles
from core.errors import PulseBmsError
from core.policy_record import PolicyRecord
from policies.base import Observation, Policy, PolicyUnableError
from serving.dispatch.gate import gate
from serving.dispatch.meter import Meter
from serving.dispatch.ranking import cut_too_far
from serving.dispatch.runner import PolicyFailedError, Why, checked
from serving.shadow.virtual import VirtualSite, ambient_now_c, as_seen, brought_to, keep_plan, kept_site
from stores.postgres.shadow import DECIDED

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a shadow is asked with."""

    record: PolicyRecord
    files: ArtefactFiles | None
    observation: Observation
    """The live one."""
    meter: Meter | None
    day: date
    """Local day of the interval."""
    kept: Mapping[str, Any] | None
    """Its virtual site after the turn before."""
    earlier: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """See serving.shadow.virtual.as_seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What came of it. Power after the gate, W, discharge positive; SoC at the interval's end, percent."""

    outcome: str
    """`decided`, or the class of reasons why not."""
    detail: str
    power_w: Mapping[str, float]
    soc_pct: Mapping[str, float]
    cut_w: float
    state: Mapping[str, Any]


def take_turn(task: Task, policy: Callable[[PolicyRecord, ArtefactFiles | None], Policy]) -> Turn:
    """The turn; a policy that cannot decide, or raises, rests and is marked with the reason."""
    site, observation = _site(task), task.observation
    seen = as_seen(site, observation, task.earlier)
    try:
        decision = checked(policy(task.record, task.files).decide(seen), seen)
        gated = gate(decision, seen, task.meter)
    except PolicyUnableError as error:
        return _moved(task, site, Why.UNABLE, str(error))
    except PolicyFailedError as error:
        return _moved(task, site, error.why, str(error))
    except PulseBmsError as error:
        return _moved(task, site, Why.REFUSED, f"refused: {error}")
    except Exception as error:
        log.exception("shadow_raised", policy=task.record.name)
        return _moved(task, site, Why.RAISED, f"raised {type(error).__name__}: {error}")
    too_far = cut_too_far(gated)
    if too_far:
        return _moved(task, site, Why.CUT, too_far)
    keep_plan(site, gated.decision)
    power_w = {point.device_id: point.power_w for point in gated.decision.set_points}
    return _moved(task, site, DECIDED, "; ".join(gated.changes.values()), power_w, gated.projected_w)


def rested(task: Task, outcome: str, detail: str) -> Turn:
    """The turn of a shadow that was not asked or did not answer: its packs rest."""
    return _moved(task, _site(task), outcome, detail)


def _site(task: Task) -> VirtualSite:
    devices = {device.device_id: device for device in task.observation.devices}
    configs = {pack.device_id: pack.device_config(task.observation.site.site_id) for pack in task.observation.site.packs}
    return brought_to(kept_site(task.kept, configs | devices), task.day, task.observation)


def _moved(
    task: Task, site: VirtualSite, outcome: str, detail: str, power_w: Mapping[str, float] | None = None, cut_w: float = 0.0
) -> Turn:
    power_w = power_w or {}
    site.move(power_w, task.observation.interval_s, ambient_now_c(task.observation))
    return Turn(
        outcome=str(outcome),
        detail=detail[:1000],
        power_w={key: round(value, 3) for key, value in power_w.items()},
        soc_pct={key: round(pack.soc_pct, 3) for key, pack in site.packs.items()},
        cut_w=cut_w,
        state=site.as_json(),
    )
