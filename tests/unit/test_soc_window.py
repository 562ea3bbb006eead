"""The moving window of the SoC against a brute force, and a clock that is set back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError
from core.soc_window import SocWindow

START = datetime(2026, 3, 29, tzinfo=UTC)


@given(st.lists(st.tuples(st.integers(0, 6 * 3600), st.floats(0, 100)), min_size=1, max_size=80), st.integers(1, 30))
def test_extremes_are_those_of_a_brute_force(steps: list[tuple[int, float]], hours: int) -> None:
    window, seen, at = SocWindow(timedelta(hours=hours)), [], START
    assert window.extremes() is None
    for step_s, soc in steps:
        at += timedelta(seconds=step_s)
        seen.append((at, soc))
        window.add(at, soc)
        within = [value for stamp, value in seen if at - stamp <= timedelta(hours=hours)]
        assert window.extremes() == (min(within), max(within))


def test_a_clock_set_back_forgets_nothing() -> None:
    window = SocWindow(timedelta(hours=24))
    window.add(START, 90.0)
    window.add(START - timedelta(hours=30), 20.0)
    assert window.extremes() == (20.0, 90.0)
    window.add(START + timedelta(hours=25), 50.0)
    assert window.extremes() == (50.0, 50.0)


def test_a_soc_that_is_none_is_refused() -> None:
    for soc in (float("nan"), -5.0, 800.0):
        with pytest.raises(InputError, match="soc_pct"):
            SocWindow().add(START, soc)
