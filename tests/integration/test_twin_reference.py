"""The twin against another kind of model: telemetry of an electrochemical pack, predicted before and after calibration."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from core.calibration import Calibration
from core.calibration_fit import fit_pack
from core.calibration_series import PackRecord
from core.devices import Chemistry, DeviceConfig, PackState
from core.twin import predict
from envs.reference import ReferencePack

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
SAMPLE_S = 60.0
SOH = 80.0


def config(chemistry) -> DeviceConfig:
    return DeviceConfig(
        device_id="d", site_id="s", name="d", chemistry=chemistry, nominal_capacity_ah=100, nominal_voltage_v=360,
        max_charge_power_w=40_000, max_discharge_power_w=45_000, series_cells=100, parallel_cells=20,
    )  # fmt: skip


def telemetry(chemistry, days, *, reported_soh, seed=2):
    """Minutes of a second-life pack: a plan of quarter hours around half full; (record, power (N,) per quarter)."""
    dice = np.random.default_rng(seed)
    device = config(chemistry)
    plant = ReferencePack(device, "SPMe", soc_pct=50.0, soh_pct=SOH, temperature_c=22.0, ambient_c=20.0)
    full_w = 0.5 * plant.capacity_ah * plant.voltage_v
    rows, quarters = [], []
    for k in range(days * 96):
        towards = (plant.soc_pct - 50.0 - 25.0 * np.sin(k / 12.0)) / 15.0
        power_w = full_w * float(np.clip(towards + 0.4 * dice.normal(), -1.0, 1.0))
        plant.ambient_c = 20.0 + 4.0 * float(np.sin(k / 96 * 2 * np.pi))
        flown = []
        for _ in range(round(900 / SAMPLE_S)):
            made = plant.step(power_w, SAMPLE_S)
            rows.append((made.voltage_v, made.current_a, made.power_w, made.temperature_c, made.soc_pct))
            flown.append(made.power_w)
        quarters.append(float(np.mean(flown)))
    values = np.array(rows)
    n = len(values)
    record = PackRecord(
        time_s=BEGIN.timestamp() + SAMPLE_S * np.arange(1, n + 1),
        voltage_v=values[:, 0] + 0.1 * dice.normal(size=n),
        current_a=values[:, 1],
        power_w=values[:, 2],
        temperature_c=values[:, 3] + 0.1 * dice.normal(size=n),
        soc_pct=np.clip(values[:, 4] + 0.2 * dice.normal(size=n), 0, 100),
        soh_pct=np.full(n, reported_soh),
    )
    return record, np.array(quarters)


def prediction_errors(device, record, quarters, calibration, *, since_day):
    """RMS errors of predictions of six hours over the days that the fit did not see: volts a cell, % SoC, K."""
    gaps = []
    for first in range(since_day * 96, len(quarters) - 24, 24):
        at = first * 15 - 1  # the sample at the first step's start
        state = PackState(
            device_id="d", measured_at=BEGIN + timedelta(seconds=900 * first), soc_pct=float(record.soc_pct[at]),
            soh_pct=float(record.soh_pct[at]), temperature_c=float(record.temperature_c[at]),
            voltage_v=float(record.voltage_v[at]), current_a=float(record.current_a[at]), power_w=float(record.power_w[at]),
            internal_resistance_ohm=0.1,
        )  # fmt: skip
        ambient = 20.0 + 4.0 * np.sin(np.arange(first, first + 24) / 96 * 2 * np.pi)
        made = predict(
            device,
            state,
            quarters[first : first + 24],
            dt_s=900.0,
            start=state.measured_at,
            ambient_c=ambient,
            calibration=calibration,
        )
        ends = first * 15 - 1 + 15 * np.arange(1, 25)
        gaps.append(
            np.stack(
                [
                    (made.voltage_profile_v - record.voltage_v[ends]) / device.series_cells,
                    made.soc_profile_pct - record.soc_pct[ends],
                    made.temperature_profile_c - record.temperature_c[ends],
                ]
            )
        )
    volts, soc, kelvin = np.sqrt(np.mean(np.square(np.concatenate(gaps, axis=1)), axis=1))
    return 1e3 * float(volts), float(soc), float(kelvin)


@pytest.mark.full
@pytest.mark.timeout(280)
@pytest.mark.parametrize("chemistry", [Chemistry.NMC, Chemistry.LFP])
def test_calibration_brings_the_twin_nearer_to_an_electrochemical_pack(chemistry, record_property):
    device = config(chemistry)
    # The device believes in more health than it has: 90 % for 80 %.
    record, quarters = telemetry(chemistry, 4, reported_soh=90.0)
    fitted_on = 3 * 1440
    quarters_c = 20.0 + 4.0 * np.sin(np.arange(len(quarters)) / 96 * 2 * np.pi)
    fit = fit_pack(
        device,
        record.taken(np.arange(fitted_on)),
        ambient_time_s=BEGIN.timestamp() + 900.0 * np.arange(len(quarters)),
        ambient_c=quarters_c,
    )
    assert fit.accepted, fit.reason
    known = Calibration(device_id="d", calibrated_at=BEGIN + timedelta(days=3), score=fit.score, factors=fit.factors)
    before = prediction_errors(device, record, quarters, None, since_day=3)
    after = prediction_errors(device, record, quarters, known, since_day=3)
    for name, numbers in (("before", before), ("after", after)):
        record_property(f"{chemistry.value} {name}: mV per cell, % SoC, K", numbers)
    assert fit.factors.capacity == pytest.approx(SOH / 90.0, rel=0.02)
    assert after[0] < before[0]
    assert after[1] < before[1] / 2
    assert after[1] < 1.0
    assert fit.score > 0.8
