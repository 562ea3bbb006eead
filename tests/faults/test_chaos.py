"""The fault gate: real dispatchers and devices under kills, lost answers, stepped clocks, full disks; the record is judged."""

import pytest
from chaos.gate import Gate


def gate(tmp_path, *, seed, count, a_round):
    run = Gate(tmp_path, seed=seed, count=count, a_round=a_round)
    try:
        findings = run.run()
        print(run.summary())  # noqa: T201 - shown with -s, and when it fails
    finally:
        run.world.close()
    assert sum(entry["what"] == "act" for entry in run.record.entries) > count / 2, "too little was executed to show anything"
    assert {kind: found for kind, found in findings.items() if found} == {}


@pytest.mark.timeout(900)
def test_a_few_dozen_faults(tmp_path):
    gate(tmp_path, seed=7, count=48, a_round=24)


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_a_thousand_faults(tmp_path):
    gate(tmp_path, seed=2026, count=1000, a_round=40)
