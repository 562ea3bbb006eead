"""Site files: what is wrong is said on one line, with file, line, field, value and expectation."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.devices import Chemistry
from core.errors import InputError
from core.site import SiteConfig, Tariff
from core.yamlconfig import parse_model

DEMO = (Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml").read_text(encoding="utf-8")


def _parse(text):
    return parse_model(text, "site.yaml", SiteConfig)


def test_the_demo_site_is_as_promised():
    site = _parse(DEMO)
    assert {pack.chemistry for pack in site.packs} == set(Chemistry)
    assert all(50 <= pack.soh_pct <= 95 for pack in site.packs)
    assert sum(len(pack.constraints) == 2 for pack in site.packs) == 1
    charge_w = sum(pack.max_charge_power_w for pack in site.packs)
    assert charge_w + 71_000 > site.grid.import_limit_w  # the peak of the load profile: the limit binds sometimes
    assert SiteConfig.model_validate(site.model_dump(mode="json")) == site


@pytest.mark.parametrize(
    ("old", "new", "line_of", "message"),
    [
        ("soh_pct: 92", "soh_pct: 0.92", "soh_pct: 0.92", "packs.0.soh_pct: got 0.92, expected percent.*mean 92"),
        ("initial_soc_pct: 55", "initial_soc_pct: 0.5", "initial_soc_pct: 0.5", "initial_soc_pct: got 0.5.*percent"),
        ("soh_pct: 92", "soh_pct: 120", "soh_pct: 120", "soh_pct: got 120"),
        ("Europe/Amsterdam", "Europe/Amstrdam", "Amstrdam", "timezone: .*IANA"),
        ("timezone:", "timezon:", "timezon:", "timezon: .*did you mean 'timezone'"),
        ("reserve_share:", "reserve_shar:", "reserve_shar:", "grid.reserve_shar: .*did you mean 'reserve_share'"),
        ("max_c_rate: 0.6}", "max_crate: 0.6}", "max_crate", "packs.0.constraints.0.max_crate.*'max_c_rate'"),
        ("profile: G0", "profile: G9", "profile: G9", "load.profile: got 'G9'"),
        ("kwp: 110", "kwp: .nan", "kwp: .nan", "pv.kwp: got nan, expected a finite"),
        ("kwp: 110", "kwp: .inf", "kwp: .inf", "pv.kwp: got inf, expected a finite"),
        ("kwp: 110", "kwp: yes", "kwp: yes", "pv.kwp: got True, expected a number"),
        ("kwp: 110", "kwp: 1e2", "kwp: 1e2", "pv.kwp: got '1e2', expected a number"),
        ("series_cells: 120", "series_cells: 120.5", "120.5", "series_cells: got 120.5, expected a whole number"),
        ("nominal_voltage_v: 384", "nominal_voltage_v: 444", "device_id: pack-lfp", "from 3 to 3.4 V for LFP"),
        ("chemistry: LCO", "chemistry: LTO", "chemistry: LTO", "chemistry: got 'LTO', expected 'LFP'"),
        ("device_id: pack-nmc", "device_id: pack-lfp", "packs:", "each device_id once .'pack-lfp'"),
        ("device_id: pack-nmc", "device_id: 'a:b'", "a:b", "device_id: got 'a:b'"),
        ("min_soc: 20,", "min_soc: 86,", None, "min_soc .86.0. below max_soc .85.0."),
        ("name: Demo site", "name: A\nname: B", "name: B", "key repeated .first on line"),
        ("import_limit_w: 110000 ", "import_limit_w: -1 ", "import_limit_w", "grid.import_limit_w: got -1"),
        ("status: active", "status: on", "status: on", "policies.0.status"),
        ("import_limit_w: 110000", "other_limit_w: 110000", "other_limit_w", "grid.other_limit_w.*1 more fault"),
    ],
)
def test_a_fault_is_named_with_its_line(old, new, line_of, message):
    assert old in DEMO
    text = DEMO.replace(old, new, 1)
    with pytest.raises(InputError, match=message) as caught:
        _parse(text)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith("site.yaml:")
    if line_of is not None:
        line = next(k for k, content in enumerate(text.splitlines(), 1) if line_of in content)
        assert caught.value.source == f"site.yaml:{line}"


def test_a_missing_key_is_named():
    with pytest.raises(InputError, match=r"packs\.1\.name: got None, expected a value"):
        _parse(DEMO.replace("    name: NMC pack, ex car\n", ""))


def test_a_pack_without_limits_is_refused():
    start = DEMO.index("    constraints:\n")
    end = DEMO.index("  - device_id: pack-nmc")
    with pytest.raises(InputError, match=r"packs\.0\.constraints"):
        _parse(DEMO[:start] + "    constraints: []\n" + DEMO[end:])


@pytest.mark.parametrize("text", ["", "[1, 2]", "just text", "a: [", "a: *b", "? [x]\n: 1", "a: !!python/object:x {}", "\x00"])
def test_text_that_is_no_site_is_an_input_error(text):
    with pytest.raises(InputError, match=r"site\.yaml"):
        _parse(text)


def test_deep_nesting_is_an_input_error():
    with pytest.raises(InputError, match=r"site\.yaml"):
        _parse("a: " + "[" * 5000)


@given(st.text(max_size=60))
def test_any_text_gives_a_site_or_an_input_error(text):
    with pytest.raises(InputError):
        _parse(text)


@given(st.integers(0, len(DEMO) - 1), st.sampled_from(["", "x", ":", "\t", "-", "[", "\n", "0", "'", "&", "*"]))
def test_one_changed_character_gives_a_site_or_an_input_error(position, character):
    try:
        site = _parse(DEMO[:position] + character + DEMO[position + 1 :])
    except InputError:
        return
    assert site.packs


@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=10),
    st.floats(0, 0.3),
    st.floats(0, 0.3),
    st.floats(0, 0.25),
)
def test_buying_to_sell_at_once_never_pays(prices, fee, margin, vat):
    tariff = Tariff(network_fee_eur_per_kwh=fee, export_margin_eur_per_kwh=margin, vat_share=vat)
    buy, sell = tariff.buy_sell(np.array(prices))
    assert (buy >= sell).all()


def test_tariff_by_hand():
    tariff = Tariff(network_fee_eur_per_kwh=0.02, tax_eur_per_kwh=0.03, export_margin_eur_per_kwh=0.01, vat_share=0.2)
    buy, sell = tariff.buy_sell(np.array([0.1, -0.1]))
    assert buy == pytest.approx([0.18, -0.05])
    assert sell == pytest.approx([0.09, -0.11])
