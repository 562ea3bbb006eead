"""How a policy is watched: the key `watch` in a row's `config`, which the policy itself does not see. Not here: watching."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import InputError, nearest
from core.policy_record import PolicyRecord

WATCH_KEY = "watch"
FLOOR_OF_SCORE = 0.5
"""The floor where none is set: so much of what the policy's evaluation said ..."""
FLOOR_UNSCORED = 0.2
"""... and this where it was never evaluated."""


class WatchSettings(BaseModel):
    """Every key may be left out; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    floor: float | None = Field(default=None, ge=0.0, le=1.0)
    """Score of the replayed days below which the policy is not to command; None: half of performance_score, 0 never."""
    floor_window_days: int = Field(default=14, ge=2, le=90)
    floor_least_days: int = Field(default=5, ge=2, le=90)
    """Scored days that the floor looks at: at most, at least."""
    drift_confirm_days: int = Field(default=2, ge=1, le=30)
    """Scored days in a row on which predictions must have drifted."""
    demote: bool = True
    """False: an alarm and nothing else."""

    @model_validator(mode="after")
    def _window(self) -> WatchSettings:
        if self.floor_least_days > self.floor_window_days:
            raise ValueError("floor_least_days no more than floor_window_days")
        return self


def watch_settings(record: PolicyRecord) -> WatchSettings:
    """The row's settings. Raises InputError naming row, field, value and what was expected."""
    found = record.config.get(WATCH_KEY, {})
    source = f"optimization_policies {record.name!r} ({record.site_id})"
    try:
        return WatchSettings.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(("config", WATCH_KEY, *(str(part) for part in first["loc"])))
        known = list(WatchSettings.model_fields)
        hint = nearest(str(first["loc"][-1]), known) if first["type"] == "extra_forbidden" else ""
        raise InputError(source=source, field=field, value=first.get("input"), expected=first["msg"] + hint) from None


def floor_of(record: PolicyRecord, settings: WatchSettings) -> float:
    """The floor that holds for the row."""
    if settings.floor is not None:
        return settings.floor
    return FLOOR_UNSCORED if record.performance_score is None else FLOOR_OF_SCORE * record.performance_score


def without_watch(record: PolicyRecord) -> PolicyRecord:
    """The row as its policy sees it. Raises InputError when what is taken away is not valid: no floor is lost by misspelling."""
    if WATCH_KEY not in record.config:
        return record
    watch_settings(record)
    return replace(record, config={key: value for key, value in record.config.items() if key != WATCH_KEY})
