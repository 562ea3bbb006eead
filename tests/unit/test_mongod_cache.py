"""The embedded mongod's cache: a usual size, an own one, and what is none."""

from __future__ import annotations

import pytest

from core.errors import StoreError
from stores.embedded.servers import CACHE_VARIABLE, mongod_cache_gb


def test_the_usual_cache_leaves_a_small_machine_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    assert 0.25 <= mongod_cache_gb() <= 1.0
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**30 // 4096}[name])
    assert mongod_cache_gb() == 0.25


def test_an_own_size_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "2.5")
    assert mongod_cache_gb() == 2.5


@pytest.mark.parametrize("given", ["", "much", "0.1", "-1", "nan", "inf"])
def test_what_is_none_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, given)
    with pytest.raises(StoreError, match=CACHE_VARIABLE):
        mongod_cache_gb()
