"""The dispatcher's loop on a clock that is stepped under it: ticks neither wait for the clock to catch up nor pile up."""

import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from serving.dispatch.health import SiteHealth
from serving.dispatch.loop import LoopOptions, SiteLoop
from serving.dispatch.metrics import SiteMetrics
from serving.dispatch.tick import SiteDispatcher, TickResult

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
INTERVAL_S = 300  # of a site without policies
ALREADY = timedelta(seconds=10)


class StepClock:
    """Passes by waiting alone, and is stepped by the test."""

    def __init__(self):
        self.at = START + ALREADY
        self.waited_s = 0.0
        self.steps = {}
        """Seconds waited in all -> step."""

    def now(self):
        return self.at

    def wall_seconds_until(self, moment):
        return max(0.0, (moment - self.at).total_seconds())

    def wait(self, seconds):
        self.at += timedelta(seconds=seconds)
        self.waited_s += seconds
        for after_s in [key for key in self.steps if self.waited_s >= key]:
            self.at += timedelta(seconds=self.steps.pop(after_s))


class Waits(threading.Event):
    """The loop's stop: waiting for it moves the clock."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def wait(self, timeout=None):
        self.clock.wait(timeout)
        return self.is_set()


@pytest.fixture
def run(stores, monkeypatch):
    """Run the loop until so many ticks; returns (boundary, seconds waited by then, validity) of each."""
    clock = StepClock()
    stop = Waits(clock)

    def go(count, steps=None):
        ticks = []

        def tick(_self, boundary, options, _lease):
            ticks.append((boundary, clock.waited_s, options.valid_for_s))
            if len(ticks) == count:
                stop.set()
            return TickResult(decision=None, commands=0, responses=0, expired=0, left_out={}, wall_s=0.0)

        monkeypatch.setattr(SiteDispatcher, "tick", tick)
        clock.steps = dict(steps or {})
        options = LoopOptions(site_id="s", dry_run=True)
        loop = SiteLoop(stores, clock, options, stop, metrics=SiteMetrics.unwatched(), health=SiteHealth("s"))
        loop._rounds(INTERVAL_S, 86_400)
        return ticks

    return go


def after(intervals):
    return START + timedelta(seconds=INTERVAL_S * intervals)


def test_without_a_step_each_boundary_once(run):
    assert [boundary for boundary, *_ in run(3)] == [after(1), after(2), after(3)]


def test_set_back_the_site_does_not_wait_for_the_clock_to_catch_up(run):
    """At 299 s of 300 the clock is set back by 300: without care the next tick came 300 s late."""
    ticks = run(2, {289.0: -300.0})
    assert [boundary for boundary, *_ in ticks] == [after(0), after(1)]
    assert ticks[0][1] == pytest.approx(290.0, abs=1.0)


def test_set_back_after_a_tick_the_boundary_comes_again_soon(run):
    ticks = run(3, {300.0: -300.0})
    gaps = [later[1] - earlier[1] for earlier, later in pairwise(ticks)]
    assert max(gaps) <= INTERVAL_S + 1.0


@pytest.mark.parametrize("ahead_s", [300.0, 3000.0])
def test_set_ahead_the_running_interval_is_decided_at_once_and_no_older_one(run, ahead_s):
    ticks = run(2, {100.0: ahead_s})
    running = after((ALREADY.total_seconds() + 100.0 + ahead_s) // INTERVAL_S)
    assert [boundary for boundary, *_ in ticks] == [running, running + timedelta(seconds=INTERVAL_S)]
    assert ticks[0][1] == pytest.approx(100.0, abs=1.0)


@pytest.mark.parametrize("step_s", [-3000.0, -300.0, -1.0, 1.0, 250.0, 300.0, 3000.0])
def test_no_step_makes_a_set_point_valid_for_longer_than_an_interval_and_the_grace(run, step_s):
    for _, _, valid_s in run(3, {289.0: step_s}):
        assert 60.0 < valid_s <= INTERVAL_S + 60.0
