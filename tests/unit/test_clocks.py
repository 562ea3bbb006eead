"""Clocks: a scaled one agrees with itself, and the environment is read or refused."""

import math
import time
from datetime import UTC, datetime, timedelta

import pytest

from core.clock import ScaledClock, SystemClock
from core.errors import InputError
from serving.clock_config import VARIABLE, clock_from_env, to_text, write_clock
from serving.dispatch.loop import following
from serving.dispatch.tick import next_boundary

ORIGIN = datetime(2026, 3, 1, tzinfo=UTC)


def test_scaled_clock_inverts():
    clock = ScaledClock(ORIGIN, time.monotonic(), 1000.0)
    target = ORIGIN + timedelta(seconds=50_000)
    assert clock.wall_seconds_until(target) == pytest.approx(50.0, abs=1.0)
    assert clock.wall_seconds_until(ORIGIN - timedelta(days=1)) == 0.0


def test_scaled_clock_stands_before_its_origin():
    assert ScaledClock(ORIGIN, time.monotonic() + 100, 10.0).now() == ORIGIN


def test_environment(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert isinstance(clock_from_env(), SystemClock)
    clock = ScaledClock(ORIGIN, 12.5, 60.0)
    monkeypatch.setenv(VARIABLE, to_text(clock))
    assert clock_from_env() == clock


@pytest.mark.parametrize(
    "text", ["x", "2026-01-01T00:00:00+00:00;nan;2", "2026-01-01T00:00:00;1;2", "2026-01-01T00:00:00+00:00;1;0", "a;b;c"]
)
def test_bad_environment_is_named(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(InputError, match=VARIABLE):
        clock_from_env()


def test_a_clock_file_is_awaited_and_readiness_said(monkeypatch, tmp_path):
    file = tmp_path / "clock"
    write_clock(file, ScaledClock(ORIGIN, 1.0, 60.0))
    monkeypatch.setenv(VARIABLE, f"@{file}")
    assert clock_from_env().now() > ORIGIN
    assert list(tmp_path.glob("clock.*.ready"))


def test_a_clock_that_stands_runs_once_its_file_says_so(monkeypatch, tmp_path):
    file = tmp_path / "clock"
    write_clock(file, ScaledClock(ORIGIN, math.inf, 60.0))
    monkeypatch.setenv(VARIABLE, f"@{file}")
    clock = clock_from_env()
    later = ORIGIN + timedelta(seconds=60)
    assert clock.now() == clock.now() == ORIGIN
    assert clock.wall_seconds_until(later) == math.inf
    assert clock.wall_seconds_until(ORIGIN) == 0.0
    write_clock(file, ScaledClock(ORIGIN, time.monotonic() - 100.0, 60.0))
    assert clock.now() >= ORIGIN + timedelta(seconds=6000)
    assert clock.wall_seconds_until(later) == 0.0
    file.unlink()  # it is read no more
    assert clock.now() > ORIGIN
    assert not list(tmp_path.glob("*.new"))


def test_a_standing_clock_survives_its_file(monkeypatch, tmp_path):
    file = tmp_path / "clock"
    write_clock(file, ScaledClock(ORIGIN, math.inf, 60.0))
    monkeypatch.setenv(VARIABLE, f"@{file}")
    clock = clock_from_env()
    file.unlink()
    assert clock.now() == ORIGIN


def test_boundaries_are_aligned_and_missed_ones_skipped():
    assert next_boundary(ORIGIN, 900) == ORIGIN + timedelta(seconds=900)
    assert next_boundary(ORIGIN + timedelta(seconds=1), 900) == ORIGIN + timedelta(seconds=900)
    on_time = following(ORIGIN, ORIGIN + timedelta(seconds=5), 900)
    assert on_time == (ORIGIN + timedelta(seconds=900), 0)
    late = following(ORIGIN, ORIGIN + timedelta(seconds=900 * 5 + 3), 900)
    assert late == (ORIGIN + timedelta(seconds=900 * 5), 4)
