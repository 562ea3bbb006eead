"""The reference device holds the depth of a cycle by itself: a command that comes late moves no energy beyond it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from core.device_logic import DeviceController
from core.devices import Chemistry, DeviceConfig
from core.limits import ConstraintRow, tightest
from core.pack import Pack
from serving.device.agent import DeviceAgent
from serving.device_client import Journal
from stores.connections import Stores

START = datetime(2026, 3, 29, tzinfo=UTC)
REST_PCT = 0.05
"""What self-discharge takes of a pack that rests at its limit."""
CONFIG = DeviceConfig(
    device_id="pack-1",
    site_id="s",
    name="pack-1",
    chemistry=Chemistry.LFP,
    nominal_capacity_ah=100,
    nominal_voltage_v=320,
    max_charge_power_w=20_000,
    max_discharge_power_w=20_000,
    series_cells=100,
    parallel_cells=1,
)


class HandClock:
    """Moved by the test."""

    def __init__(self) -> None:
        self.at = START

    def now(self) -> datetime:
        return self.at

    def wall_seconds_until(self, moment: datetime) -> float:
        return 0.0


@pytest.fixture
def agent(tmp_path: Path) -> DeviceAgent:
    row = ConstraintRow(row_id="r", device_id="pack-1", max_cycle_depth_pct=30.0)
    return DeviceAgent(
        stores=cast(Stores, None),  # advancing needs none
        controller=DeviceController(device_id="pack-1", limits=tightest(CONFIG, [row], START)),
        pack=Pack(CONFIG, soc_pct=50, soh_pct=90, temperature_c=25, ambient_c=20),
        journal=Journal(tmp_path / "journal.sqlite"),
        clock=HandClock(),
        sink=lambda batch: None,
    )


def run(agent: DeviceAgent, power_w: float, hours: float) -> list[float]:
    agent.controller.power_w, agent.controller.valid_until_s = power_w, time.monotonic() + 3600
    clock, passed = cast(HandClock, agent.clock), []
    for _ in range(round(hours * 4)):
        clock.at += timedelta(minutes=15)
        agent.advance()
        passed.append(agent.pack.soc_pct)
    return passed


def test_the_swing_of_a_day_stays_within_the_depth(agent: DeviceAgent) -> None:
    down, up = run(agent, 15_000.0, 6), run(agent, -15_000.0, 6)
    assert min(down) == pytest.approx(20.0, abs=0.5), "it went as far as it may"
    assert max(up) == pytest.approx(50.0, abs=0.5)
    assert max(down + up) - min(down + up) <= 30.0 + REST_PCT


def test_a_day_later_a_new_cycle_begins(agent: DeviceAgent) -> None:
    up = run(agent, -15_000.0, 6)
    assert max(up) == pytest.approx(80.0, abs=0.5)
    run(agent, 0.0, 25)
    assert max(run(agent, -15_000.0, 6)) > 90.0


def test_a_restart_begins_no_new_cycle(agent: DeviceAgent) -> None:
    agent.cycle.add(START - timedelta(hours=2), 60.0)
    assert min(run(agent, 15_000.0, 6)) == pytest.approx(30.0, abs=REST_PCT)
