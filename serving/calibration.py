"""`pulsebms twin calibrate`: telemetry in, calibrations out.

Here: what is read, what is written, a site's devices one after the other. Not here: the fit (core.calibration_fit), the table
(stores.postgres.calibrations).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

import numpy as np
import structlog
from numpy.typing import NDArray

from core.calibration import NOMINAL, Factors
from core.calibration_fit import Fit, Needed, fit_pack
from core.calibration_series import PackRecord
from core.devices import DeviceConfig
from core.errors import InputError, nearest
from serving.dispatch.inputs import AMBIENT
from stores.connections import Stores
from stores.mongo.records import measured_columns
from stores.postgres.calibrations import CalibrationRow, calibrations_in_force, record_calibration
from stores.postgres.devices import list_devices
from stores.postgres.series_rows import series_rows

FloatArray = NDArray[np.float64]
log = structlog.get_logger()
MEASURED = ("voltage", "current", "power", "temperature", "soc", "soh")
AMBIENT_GAP_S = 2 * 3600.0
"""An ambient series with a longer hole is not known: thermal factors are not fitted from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateOptions:
    """What `pulsebms twin calibrate` may be told."""

    site_id: str
    device_id: str | None = None
    days: float = 7.0
    needed: Needed = field(default_factory=Needed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one device."""

    device_id: str
    present: Factors
    """What the twin used before."""
    fit: Fit


def calibrate_site(
    stores: Stores, options: CalibrateOptions, now: datetime, on_device: Callable[[int, int], None] | None = None
) -> list[Outcome]:
    """Fit each device of the site (or the one named) to its last days, and record every attempt.

    Raises InputError when the device is not of the site.
    """
    devices = list_devices(stores.pg, options.site_id)
    if options.device_id is not None:
        known = [device.device_id for device in devices]
        devices = [device for device in devices if device.device_id == options.device_id]
        if not devices:
            hint = nearest(options.device_id, known).replace("known keys", "known devices")
            raise InputError(
                source="command line",
                field="--device",
                value=options.device_id,
                expected=f"a device of site {options.site_id}{hint}",
            )
    start = now - timedelta(days=options.days)
    present, unusable = calibrations_in_force(stores.pg, [device.device_id for device in devices], at=now)
    for device_id, why in unusable.items():
        log.error("calibration_unusable", device_id=device_id, why=why)
    ambient = _ambient(stores, options.site_id, start, now)
    outcomes = []
    for k, device in enumerate(devices):
        in_force = present.get(device.device_id)
        factors = NOMINAL if in_force is None else in_force.factors
        fit = _fit(stores, device, factors, ambient, start, now, options.needed)
        record_calibration(stores.pg, _row(options.site_id, device, fit, factors, start, now))
        log.debug("calibration", device_id=device.device_id, accepted=fit.accepted, score=fit.score, reason=fit.reason)
        outcomes.append(Outcome(device_id=device.device_id, present=factors, fit=fit))
        if on_device is not None:
            on_device(k + 1, len(devices))
    return outcomes


def _fit(
    stores: Stores,
    device: DeviceConfig,
    present: Factors,
    ambient: tuple[FloatArray, FloatArray] | None,
    start: datetime,
    end: datetime,
    needed: Needed,
) -> Fit:
    columns = measured_columns(stores.mongo, device.device_id, start, end, MEASURED)
    record = PackRecord(
        time_s=columns["time_s"],
        voltage_v=columns["voltage"],
        current_a=columns["current"],
        power_w=columns["power"],
        temperature_c=columns["temperature"],
        soc_pct=columns["soc"],
        soh_pct=columns["soh"],
    )
    time_s, ambient_c = (None, None) if ambient is None else ambient
    if time_s is not None and len(record.time_s) and time_s[0] > record.time_s[0] + AMBIENT_GAP_S:
        log.warning("ambient_incomplete", device_id=device.device_id, begins_late_s=float(time_s[0] - record.time_s[0]))
        time_s = ambient_c = None
    return fit_pack(device, record, present=present, ambient_time_s=time_s, ambient_c=ambient_c, needed=needed)


def _ambient(stores: Stores, site_id: str, start: datetime, end: datetime) -> tuple[FloatArray, FloatArray] | None:
    """Times and values of the site's ambient temperature; None when it has none, or a hole."""
    rows = series_rows(stores.pg, site_id, AMBIENT, start - timedelta(hours=1), end, known_at=end)
    if not rows:
        return None
    time_s = np.array([row.starts_at.timestamp() for row in rows])
    until_s = np.append(time_s[1:], end.timestamp())
    holes_s = until_s - (time_s + np.array([row.dt_s for row in rows]))
    if holes_s.max() > AMBIENT_GAP_S:
        log.warning("ambient_incomplete", site_id=site_id, largest_hole_s=float(holes_s.max()))
        return None
    return time_s, np.array([row.value for row in rows])


def _row(site_id: str, device: DeviceConfig, fit: Fit, present: Factors, start: datetime, end: datetime) -> CalibrationRow:
    return CalibrationRow(
        device_id=device.device_id,
        site_id=site_id,
        calibrated_at=end,
        data_from=start,
        data_to=end,
        accepted=fit.accepted,
        reason=fit.reason,
        score=fit.score,
        factors=fit.factors,
        details={
            "present": present.as_parameters(),
            "excitation": None if fit.excitation is None else asdict(fit.excitation),
            "held_out_before": None if fit.before is None else asdict(fit.before),
            "held_out_after": None if fit.after is None else asdict(fit.after),
            "relative_errors": dict(fit.relative_errors),
            "kept": list(fit.held),
        },
    )
