"""`config.watch`: read, refused when wrong, and never seen by the policy."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from dispatch_cases import record

from core.errors import InputError
from serving.dispatch.policy_factory import policy_of
from serving.shadow.settings import FLOOR_UNSCORED, floor_of, watch_settings, without_watch


def test_the_policy_does_not_see_it_and_builds():
    row = record(solver="piqp", watch={"floor": 0.3})
    assert without_watch(row).config == {"solver": "piqp"}
    assert policy_of(row).config.solver == "piqp"
    assert without_watch(record(solver="piqp")).config == {"solver": "piqp"}


@pytest.mark.parametrize(
    ("watch", "said"),
    [
        ({"flor": 0.3}, "did you mean 'floor'"),
        ({"floor": 1.3}, "config.watch.floor"),
        ({"floor": float("nan")}, "config.watch.floor"),
        ({"floor_least_days": 20}, "no more than floor_window_days"),
        ("high", "config.watch"),
    ],
)
def test_what_is_wrong_is_named(watch, said):
    with pytest.raises(InputError, match=said):
        watch_settings(record(watch=watch))
    with pytest.raises(InputError):
        policy_of(record(watch=watch))


def test_the_floor_that_holds():
    row = record()
    assert floor_of(row, watch_settings(row)) == FLOOR_UNSCORED
    scored = replace(row, performance_score=0.9)
    assert floor_of(scored, watch_settings(scored)) == pytest.approx(0.45)
    own = replace(record(watch={"floor": 0.0}), performance_score=0.9)
    assert floor_of(own, watch_settings(own)) == 0.0
