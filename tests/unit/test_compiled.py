"""Compiled code on disk belongs to all that it comes from: a change in a callee, a constant or an option is noticed."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from core.battery import ecm
from core.compiled import digest_of
from core.limits import bound_of_side
from envs import block, projection

INNER = "from numba import njit\n\nSTEP = {step}\n\n\n@njit\ndef add(x):\n    return x + {shift} + STEP\n"
MIDDLE = (
    "from numba import njit\nimport inner_of_test as inner\nfrom core.lanes import least\n\nTABLE = (1.0, {last})\n\n\n"
    "@njit\ndef step(x):\n    return inner.add(x) + TABLE[1] + least(0.0, x)\n"
)
OUTER = (
    "from core.compiled import kept_on_disk\nfrom middle_of_test import step\n\n\n"
    "@kept_on_disk(error_model='numpy')\ndef twice(x):\n    return step(step(x))\n"
)
NAMES = ("inner_of_test", "middle_of_test", "outer_of_test")


def load(folder, name):
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def twice_with(tmp_path):
    """Write the inner modules anew, load all as a new process would, and call the outer function, whose file stays the same."""
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    (tmp_path / "outer_of_test.py").write_text(OUTER)

    def run(shift=1.0, step=0.0, last=0.0):
        (tmp_path / "inner_of_test.py").write_text(INNER.format(shift=shift, step=step))
        (tmp_path / "middle_of_test.py").write_text(MIDDLE.format(last=last))
        outer = [load(tmp_path, name) for name in NAMES][-1]
        return outer.twice(1.0), sum(outer.twice.stats.cache_hits.values())

    yield run
    sys.dont_write_bytecode = before
    for name in NAMES:
        sys.modules.pop(name, None)


def test_code_on_disk_is_used_only_while_nothing_behind_it_changed(twice_with):
    assert twice_with() == (3.0, 0)
    assert twice_with() == (3.0, 1)
    assert twice_with(shift=25.0) == (51.0, 0)
    assert twice_with(step=2.0) == (7.0, 0), "a constant of a callee's module"
    assert twice_with(last=4.0) == (11.0, 0), "a number within a constant of a module between"
    assert twice_with() == (3.0, 1)


def test_all_that_the_step_calls_counts(monkeypatch):
    before = {name: digest_of(function) for name, function in (("step", block.step_blocks), ("circuit", ecm.advance))}
    assert digest_of(block.step_blocks) == before["step"]
    monkeypatch.setitem(ecm.advance.py_func.__globals__, "CHORD_MISS_V", 4e-4)
    assert digest_of(block.step_blocks) != before["step"]
    assert digest_of(ecm.advance) != before["circuit"]
    monkeypatch.undo()
    monkeypatch.setattr(projection, "SEARCH_SLACK", 0.5)
    assert digest_of(block.step_blocks) != before["step"]
    assert digest_of(ecm.advance) == before["circuit"]
    monkeypatch.undo()
    monkeypatch.setitem(bound_of_side.targetoptions, "error_model", "python")
    assert digest_of(block.step_blocks) != before["step"]
    monkeypatch.undo()
    assert digest_of(block.step_blocks) == before["step"]


def test_the_file_of_an_intrinsic_counts(monkeypatch, tmp_path):
    lanes = sys.modules["core.lanes"]
    before = digest_of(ecm.advance)
    changed = tmp_path / "lanes.py"
    with open(lanes.__file__) as source:
        changed.write_text(source.read() + "# changed\n")
    monkeypatch.setattr(lanes, "__file__", str(changed))
    assert digest_of(ecm.advance) != before


def test_arrays_count_by_value():
    table = np.arange(4.0)

    def made(values):
        def function():
            return values[1]

        return function

    assert digest_of(made(table)) == digest_of(made(table.copy()))
    assert digest_of(made(table)) != digest_of(made(table + 1.0))
    assert digest_of(made(table)) != digest_of(made(table.astype(np.float32)))


def test_a_digest_is_the_same_in_another_process():
    code = "from core.compiled import digest_of; from envs import block; print(digest_of(block.step_blocks))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest_of(block.step_blocks)
