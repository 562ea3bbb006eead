"""A journal that is open for long forgets ids after a week, without a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.device_client import Journal, journal


def test_old_ids_go_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FORGET_EVERY", 3)
    now = [1_000_000.0]
    monkeypatch.setattr(journal.time, "time", lambda: now[0])
    kept = Journal(tmp_path / "journal.sqlite")
    kept.begin("old", {})
    now[0] += journal.KEEP_S + 1
    kept.begin("new", {})
    assert kept.seen("old") is not None, "not looked for at each command"
    kept.begin("newer", {})
    assert kept.seen("old") is None
    assert kept.seen("new") is not None
    assert kept.seen("newer") is not None
    kept.close()
