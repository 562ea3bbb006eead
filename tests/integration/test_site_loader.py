"""A site file into a real PostgreSQL and back."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.errors import InputError
from core.limits import tightest
from serving.site_loader import load_site, site_config
from stores.postgres.constraints import constraint_rows
from stores.postgres.devices import get_device, list_devices
from stores.postgres.policies import ranked_policies
from stores.postgres.sites import list_sites

DEMO = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"


@pytest.fixture
def text():
    return DEMO.read_text(encoding="utf-8")


def _row_ids(pg):
    return {key: [row.row_id for row in rows] for key, rows in constraint_rows(pg, "demo").items()}


def test_the_demo_site_comes_back_as_it_was_loaded(pg):
    loaded = load_site(pg, DEMO)
    assert site_config(pg, "demo") == loaded
    assert [d.device_id for d in list_devices(pg, "demo")] == sorted(p.device_id for p in loaded.packs)
    for pack in loaded.packs:
        assert get_device(pg, pack.device_id) == pack.device_config("demo")
    (policy,) = ranked_policies(pg, "demo")
    assert (policy.name, policy.horizon_hours, policy.update_interval_seconds) == ("mpc-24h", 24, 900)


def test_the_tightest_of_two_rows_holds(pg):
    site = load_site(pg, DEMO)
    rows = constraint_rows(pg, "demo")["pack-nmc"]
    assert len(rows) == 2
    limits = tightest(site.pack("pack-nmc").device_config("demo"), rows, datetime.now(UTC))
    assert (limits.soc_min_pct, limits.soc_max_pct, limits.cycle_depth_pct) == (15, 85, 65)
    assert (limits.charge_power_w, limits.charge_current_a, limits.cell_voltage_max_v) == (24_000, 80, 4.15)


def test_loading_again_changes_nothing(pg):
    load_site(pg, DEMO)
    before = _row_ids(pg)
    load_site(pg, DEMO)
    assert _row_ids(pg) == before
    assert len(ranked_policies(pg, "demo")) == 1


def test_only_the_changed_packs_rows_are_replaced(pg, text):
    load_site(pg, text)
    before = _row_ids(pg)
    load_site(pg, text.replace("max_c_rate: 0.6}", "max_c_rate: 0.55}", 1))
    after = _row_ids(pg)
    assert after["pack-lfp"] != before["pack-lfp"]
    assert {k: v for k, v in after.items() if k != "pack-lfp"} == {k: v for k, v in before.items() if k != "pack-lfp"}
    (row,) = constraint_rows(pg, "demo")["pack-lfp"]
    assert row.max_c_rate_per_h == 0.55
    total = pg.execute("SELECT count(*) FROM safety_constraints WHERE device_id = 'pack-lfp'").fetchone()
    assert total == (2,)  # the old row stays on record, inactive


def test_a_pack_that_left_the_file_has_no_limits_and_so_takes_no_commands(pg, text):
    load_site(pg, text)
    start, end = text.index("  - device_id: pack-lco"), text.index("policies:")
    load_site(pg, text[:start] + "\n" + text[end:])
    rows = constraint_rows(pg, "demo")
    assert "pack-lco" not in rows
    device = get_device(pg, "pack-lco")
    assert device is not None
    with pytest.raises(InputError, match="none in force"):
        tightest(device, rows.get("pack-lco", []), datetime.now(UTC))


def test_a_policy_that_left_the_file_becomes_inactive(pg, text):
    load_site(pg, text)
    load_site(pg, text.replace("name: mpc-24h", "name: other"))
    assert [p.name for p in ranked_policies(pg, "demo")] == ["other"]
    assert [p.name for p in ranked_policies(pg, "demo", "inactive")] == ["mpc-24h"]


def test_all_or_nothing_when_a_pack_belongs_to_another_site(pg, text):
    load_site(pg, text)
    other = text.replace("site_id: demo", "site_id: second").replace("pack-lfp", "first-pack")
    with pytest.raises(InputError, match="belongs to site demo"):
        load_site(pg, other)
    assert [site.site_id for site in list_sites(pg)] == ["demo"]
    assert list_devices(pg, "second") == []
    assert get_device(pg, "first-pack") is None


def test_a_faulty_file_writes_nothing(pg, text):
    with pytest.raises(InputError, match=r"soh_pct: got 0\.54"):
        load_site(pg, text.replace("soh_pct: 54", "soh_pct: 0.54"))
    assert list_sites(pg) == []


def test_an_unknown_site_is_named(pg):
    with pytest.raises(InputError, match=r"site_id: got 'nowhere'.*pulsebms site load"):
        site_config(pg, "nowhere")


def test_a_missing_file_is_named(pg, tmp_path):
    with pytest.raises(InputError, match=r"absent\.yaml.*readable file"):
        load_site(pg, tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(InputError, match="UTF-8"):
        load_site(pg, tmp_path / "latin.yaml")
