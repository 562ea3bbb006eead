"""Whether a policy may decide now, whatever its score: artefact, chemistry, information, freshness of inputs.

What a policy needs is declared once for its row; what there is comes from the observation. Not here: the ranking by score
(stores.postgres.policies), trying policies in order (serving.dispatch.ranking).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from core.artefact import ArtefactFiles
from core.battery.cells import CELLS
from core.devices import Chemistry
from core.errors import InputError, PulseBmsError
from core.policy_record import PolicyRecord
from policies.base import Observation
from serving.dispatch.inputs import LOAD_FORECAST, PRICE, PV_FORECAST
from serving.dispatch.policy_factory import NO_ARTEFACT

log = structlog.get_logger()
HOUR_S = 3600.0
PRICE_KNOWN_S = 6 * HOUR_S
"""Day-ahead prices are known for 11 hours at least, just before the next day's come out: with less the feed has stopped, and a
plan would rest on yesterday's."""
FORECAST_KNOWN_S = HOUR_S
DEFAULT_HORIZON_S = 24 * HOUR_S
"""Of a row that plans for no horizon of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a policy needs before it may decide."""

    predictions: bool = False
    """A usable twin prediction; a device without one rests, and where none has one the policy is not asked."""
    known_s: Mapping[str, float] = field(default_factory=dict)
    """Series -> seconds from the interval's start for which its values must be known, not continued from the day before."""
    information: frozenset[str] = frozenset()
    """Names of what it was made to see (see `available`)."""
    chemistries: frozenset[Chemistry] = frozenset(Chemistry)


class Artefacts(Protocol):
    """Where learned policies' files are."""

    def needs(self, record: PolicyRecord) -> Needs:
        """What the row's policy needs; PulseBmsError when its artefact is missing, damaged or does not fit the row."""
        ...

    def files(self, record: PolicyRecord) -> ArtefactFiles:
        """The artefact that `needs` has verified; PulseBmsError likewise."""
        ...


class NoArtefacts:
    """A controller that was given none."""

    def needs(self, record: PolicyRecord) -> Needs:
        """Raises InputError, always."""
        raise InputError(
            source=f"optimization_policies {record.name!r}",
            field="policy_type",
            value=record.policy_type,
            expected=f"MPC: {NO_ARTEFACT} for learned policies",
        )

    def files(self, record: PolicyRecord) -> ArtefactFiles:
        """Raises InputError, always."""
        self.needs(record)
        raise AssertionError("needs has raised")


MPC_NEEDS = Needs(
    predictions=True,
    known_s={PRICE: PRICE_KNOWN_S, LOAD_FORECAST: FORECAST_KNOWN_S, PV_FORECAST: FORECAST_KNOWN_S},
    chemistries=frozenset(CELLS),
)


def needs_of(record: PolicyRecord, artefacts: Artefacts) -> Needs:
    """What the row's policy needs; raises PulseBmsError when it is learned and its artefact is not there or not the right one."""
    return MPC_NEEDS if record.policy_type == "MPC" else artefacts.needs(record)


def available(observation: Observation) -> frozenset[str]:
    """Names of the information that the observation holds for every device: a policy that was made to see more may not run."""
    found = {"telemetry", "limits", PRICE, LOAD_FORECAST, PV_FORECAST, "ambient_c", "peak_incurred_w"}
    if not observation.missing_predictions:
        found.add("predictions")
    if observation.signal is not None:
        found.add("dispatch_signal_w")
    if all(device.device_id in observation.last_plan for device in observation.devices):
        found.add("last_plan")
    return frozenset(found | {f"errors:{name}" for name in observation.errors})


def why_not(record: PolicyRecord, observation: Observation, artefacts: Artefacts) -> str:
    """Why the policy may not decide on this observation; empty when it may."""
    if not observation.devices:
        return "no device of the site may be commanded"
    try:
        needs = needs_of(record, artefacts)
    except PulseBmsError as error:
        return str(error)
    except Exception as error:
        log.exception("policy_not_built", policy=record.name)
        return f"building it raised {type(error).__name__}: {error}"
    for device in observation.devices:
        if device.chemistry not in needs.chemistries:
            covered = ", ".join(sorted(needs.chemistries))
            return f"{device.device_id} is {device.chemistry.value}; the policy covers {covered}"
    lacking = sorted(needs.information - available(observation))
    if lacking:
        return f"made to know {', '.join(lacking)}, which is not there"
    if needs.predictions and len(observation.missing_predictions) >= len(observation.devices):
        device_id, why = next(iter(observation.missing_predictions.items()))
        return f"prediction of {device_id}: {why}"
    horizon_s = DEFAULT_HORIZON_S if record.horizon_hours is None else record.horizon_hours * HOUR_S
    for name, known_s in needs.known_s.items():
        until = _known_until(observation, name)
        wanted = observation.starts_at + timedelta(seconds=min(known_s, horizon_s))
        if until is not None and until < wanted:
            return f"{name} is known until {until.isoformat()}; needed until {wanted.isoformat()}"
    return ""


def _known_until(observation: Observation, name: str) -> datetime | None:
    """Where real values of a series end, as gathering has noted; None when it has not."""
    note = observation.inputs.get(name)
    until = note.get("known_until") if isinstance(note, Mapping) else None
    return None if until is None else datetime.fromisoformat(str(until))
