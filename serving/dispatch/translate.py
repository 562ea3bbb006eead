"""From set points to commands: which command says what a set point means.

Pure. Not here: writing or pushing them (stores.postgres.outbox, stores.redis.pending).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from core.commands import CommandType
from core.decisions import Decision
from core.devices import PackState
from stores.postgres.outbox import CommandDraft

DEADBAND_W = 50.0
"""Set points below this are idle: no inverter holds them."""
MOVING_W = 10.0
"""A pack that measures less is at rest."""


def drafts_of(
    decision: Decision,
    states: Mapping[str, PackState],
    *,
    valid_for_s: float,
    timeout_s: int,
    issued_by: str,
    last_type: Mapping[str, CommandType],
    decision_id: str | None = None,
) -> list[CommandDraft]:
    """One draft for each device that needs telling.

    A set point renews its validity at each interval, changed or not: the device holds it no longer than
    `valid_for_s` wall seconds. An idle pack that already rests and was last told to stop hears nothing.
    """
    drafts = []
    for point in decision.set_points:
        watt = point.power_w
        parameters: dict[str, object] = {}
        if watt > DEADBAND_W:
            kind = CommandType.START_DISCHARGE
        elif watt < -DEADBAND_W:
            kind = CommandType.START_CHARGE
        else:
            moving_w = states[point.device_id].power_w
            last = last_type.get(point.device_id)
            if abs(moving_w) < MOVING_W and (last is None or not last.is_start):
                continue
            charging = last is CommandType.START_CHARGE if last and last.is_start else moving_w < 0
            kind = CommandType.STOP_CHARGE if charging else CommandType.STOP_DISCHARGE
        if kind.is_start:
            parameters = {"target_power": round(abs(watt), 1), "valid_for_seconds": round(valid_for_s, 3)}
        parameters["reason"] = point.reason.value
        drafts.append(_draft(decision, point.device_id, kind, parameters, timeout_s, issued_by, decision_id))
    return drafts


def stop_drafts(
    site_id: str,
    device_ids: Iterable[str],
    states: Mapping[str, PackState],
    *,
    reason: str,
    timeout_s: int,
    issued_by: str,
    last_type: Mapping[str, CommandType],
) -> list[CommandDraft]:
    """Stops for devices that may not be commanded any more; those last told to stop are left alone."""
    drafts = []
    for device_id in device_ids:
        last = last_type.get(device_id)
        if last is None or not last.is_start:
            continue
        kind = CommandType.STOP_CHARGE if last is CommandType.START_CHARGE else CommandType.STOP_DISCHARGE
        drafts.append(
            CommandDraft(
                device_id=device_id,
                site_id=site_id,
                command_type=kind,
                parameters={"reason": reason[:200]},
                timeout_s=timeout_s,
                issued_by=issued_by,
            )
        )
    return drafts


def _draft(
    decision: Decision,
    device_id: str,
    kind: CommandType,
    parameters: dict[str, object],
    timeout_s: int,
    issued_by: str,
    decision_id: str | None,
) -> CommandDraft:
    return CommandDraft(
        device_id=device_id,
        site_id=decision.site_id,
        command_type=kind,
        parameters=parameters,
        timeout_s=timeout_s,
        issued_by=issued_by,
        decision_id=decision_id,
    )
