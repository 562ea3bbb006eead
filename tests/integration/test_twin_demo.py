"""What the demo says of its own quality: the twin's error one step ahead, and energy by metrics against telemetry."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from core.devices import Chemistry, DeviceConfig
from core.pack import Pack
from core.twin import predict
from serving.demo.quality import energy_kwh, pack_energies, twin_errors
from serving.metrics_service import MetricsServiceOptions, run_round
from stores.mongo.metrics import MetricsOptions
from stores.mongo.predictions import write_predictions
from stores.mongo.telemetry import insert_telemetry, pack_document

ZONE = ZoneInfo("UTC")
START = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
DEVICE = DeviceConfig(
    device_id="d", site_id="s", name="d", chemistry=Chemistry.NMC, nominal_capacity_ah=100, nominal_voltage_v=360,
    max_charge_power_w=40_000, max_discharge_power_w=45_000, series_cells=100, parallel_cells=20,
)  # fmt: skip


@pytest.fixture
def powers(stores):
    """26 h of telemetry each minute, quarter hours of changing power; a prediction for each."""
    power_w = 6e3 * np.sin(np.arange(104) / 5) * (np.arange(104) % 3 > 0)
    pack = Pack(DEVICE, soc_pct=50, soh_pct=80, temperature_c=22, ambient_c=20)
    documents, predictions = [], []
    state = pack.state(START)
    for k, watts in enumerate(power_w):
        begin = START + timedelta(seconds=900 * k)
        told = watts if k % 2 else watts + 5e3  # every second prediction knows of another power
        predictions.append(predict(DEVICE, state, np.full(4, told), dt_s=900.0, start=begin, ambient_c=20.0))
        for i in range(15):
            pack.step(float(watts), 60.0)
            state = pack.state(begin + timedelta(seconds=60 * (i + 1)))
            documents.append(pack_document(state, site_id="s", firmware="1"))
    insert_telemetry(stores.mongo, documents)
    write_predictions(stores.mongo, predictions)
    return power_w


def test_the_twins_error_apart_from_changed_plans_is_small(stores, powers):
    end = START + timedelta(hours=26)
    every, as_planned = twin_errors(stores, [DEVICE], START, end)
    assert every.predictions == 104
    # Even ones were told 5 kW more, odd ones the truth.
    assert as_planned.predictions == 52
    expected_soc = 5e3 * 0.25 / (80.0 * 370.0) * 100 * np.sqrt(0.5)
    assert every.soc_pct == pytest.approx(expected_soc, rel=0.15)
    # The same circuit: what is left is polarisation that telemetry does not show.
    assert as_planned.soc_pct < 0.05
    assert as_planned.voltage_pct < every.voltage_pct
    assert as_planned.temperature_k < 0.2


def test_without_telemetry_or_predictions_there_is_no_error(stores):
    assert twin_errors(stores, [DEVICE], START, START + timedelta(hours=1)) == (None, None)


def test_energy_by_metrics_is_that_of_telemetry(stores, powers):
    end = START + timedelta(hours=26)
    assert pack_energies(stores, [DEVICE], ZONE, START, end) == []
    run_round(stores, MetricsServiceOptions(metrics=MetricsOptions(include_open=True)), end + timedelta(minutes=5))
    (found,) = pack_energies(stores, [DEVICE], ZONE, START, end)
    assert found.hours == 26
    assert found.hourly == pytest.approx(found.telemetry, rel=1e-6)
    assert found.daily == pytest.approx(found.telemetry_of_days, rel=1e-6)
    assert sum(found.daily) < sum(found.hourly)
    sums = (-powers[powers < 0].sum() / 4000, powers[powers > 0].sum() / 4000)
    assert found.telemetry == pytest.approx(sums, rel=0.01)


def test_energy_is_cut_at_the_ends_split_at_zero_and_not_joined_over_gaps(stores):
    state = Pack(DEVICE, soc_pct=50, soh_pct=80, temperature_c=22, ambient_c=20).state(START)
    for minutes, watts in ((0, 6000.0), (2, 6000.0), (4, -6000.0), (30, -6000.0), (34, -6000.0)):
        moment = replace(state, measured_at=START + timedelta(minutes=minutes), power_w=watts)
        insert_telemetry(stores.mongo, [pack_document(moment, site_id="s", firmware="1")])
    charged, discharged = energy_kwh(stores, "d", START + timedelta(minutes=1), START + timedelta(minutes=33))
    assert discharged == pytest.approx(6.0 * (1 + 0.5) / 60)
    assert charged == pytest.approx(6.0 * (0.5 + 3) / 60)
    assert energy_kwh(stores, "d", START, START) == (0.0, 0.0)
