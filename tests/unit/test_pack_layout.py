"""A live pack is shown what the environment would have shown it: the same numbers from the same world."""

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from learned_cases import CHEMISTRIES, NOW, mlp, observation, record

from core.artefact import ArtefactError
from core.series import Series
from envs import kernel
from envs import variants as at
from envs.config import EnvConfig
from envs.data import Exogenous, whole
from envs.engine import Engine
from policies.base import PolicyUnableError
from policies.learned.actor import ActorPolicy
from policies.learned.bounds import bounds_of
from serving.dispatch.pack_layout import LAYOUT, layout_of
from serving.dispatch.policy_factory import policy_of
from training.artefacts import make_artefact

DT_S = 3600.0
DAYS = 12
CONFIG = {
    "packs": [{"chemistry": ["NMC"], "soh_pct": [88.0, 88.0]}],
    "load_forecast_hours": 6,
    "variants": 1,
    "episode_steps": 24,
    "ambient_offset_k": [0.0, 0.0],
    "grid": {"peak_price_eur_per_kw": 2.0},
}


def actor(outputs=1, **changes):
    size = layout_size()
    said = {
        "kind": "actor",
        "layout": LAYOUT,
        "chemistries": CHEMISTRIES,
        "parameters": {"environment": CONFIG, "dt_s": DT_S, "timezone": "UTC"},
    } | changes
    return make_artefact({"actor": mlp(size, outputs, 3)}, **said)


def layout_size():
    config = EnvConfig.of(CONFIG)
    return Engine(whole(world()), config, 1, autoreset=False).layout.size


def world(published_until=None):
    """Twelve days around NOW, which is at the beginning of the tenth."""
    g = np.random.default_rng(4)
    n = DAYS * 24
    start = NOW - timedelta(days=9)
    day = np.arange(n) / 24 * 2 * np.pi
    load_forecast, pv_forecast = 2e4 + 5e3 * np.sin(day), np.maximum(0.0, 1e4 * np.sin(day))
    return Exogenous(
        start=start,
        dt_s=DT_S,
        price_eur_per_kwh=0.1 + 0.05 * np.sin(day) + g.normal(0, 0.02, n),
        load_w=load_forecast + g.normal(0, 1e3, n),
        pv_w=np.maximum(0.0, pv_forecast + g.normal(0, 500, n)),
        ambient_c=15.0 + 5 * np.sin(day),
        load_forecast_w=load_forecast,
        pv_forecast_w=pv_forecast,
        timezone="UTC",
    )


def live(data, base, device_id, soc_pct, soh_pct, temperature_c):
    """What a dispatcher would have gathered of `data` at NOW, with one pack."""
    row = data.row(NOW)

    def series(name, values, first):
        return Series(name, data.start + timedelta(seconds=first * DT_S), DT_S, values[first:])

    device = next(d for d in base.devices if d.device_id == device_id)
    state = replace(base.states[device_id], soc_pct=soc_pct, soh_pct=soh_pct, temperature_c=temperature_c)
    errors = {
        name: Series(name, data.start, DT_S, (actual - forecast)[:row])
        for name, actual, forecast in (
            ("load_w", data.load_w, data.load_forecast_w),
            ("pv_w", data.pv_w, data.pv_forecast_w),
        )
    }
    # Prices that are not published are those of the day before, as the dispatcher continues them.
    price = data.price_eur_per_kwh.copy()
    for k in range(row + 14, len(price)):  # NOW is 10:00 UTC, and the next day's prices come out at 13:00
        price[k] = price[k - 24]
    return replace(
        base,
        devices=(device,),
        states={device_id: state},
        interval_s=int(DT_S),
        price_eur_per_kwh=series("price", price, 0),
        load_w=series("load_w", data.load_forecast_w, row - 1),
        pv_w=series("pv_w", data.pv_forecast_w, row - 1),
        ambient_c=series("ambient_c", data.ambient_c, row - 1),
        errors=errors,
        peak_incurred_w=3e4,
    )


def test_a_live_pack_sees_what_the_environment_shows():
    data, base = world(), observation()
    device = base.devices[0]
    seen = live(data, base, device.device_id, 63.0, 88.0, 27.0)
    layout = layout_of(actor())
    found = layout.vectors(seen)[0]
    config = EnvConfig.of(CONFIG).model_copy(update={"tariff": seen.site.tariff, "episode_steps": None})
    engine = Engine(whole(data), config, 1, autoreset=False)
    engine.seed([0])
    rated = max(device.max_charge_power_w, device.max_discharge_power_w)
    site = engine.variants.site[0]
    site[at.RATED], site[at.LOAD_FACTOR], site[at.PV_FACTOR] = rated, 1.0, 1.0
    site[at.IMPORT_LIMIT], site[at.EXPORT_LIMIT] = seen.site.grid.import_limit_w, seen.site.grid.export_limit_w
    site[at.PEAK_PRICE] = seen.site.grid.peak_price_eur_per_kw
    expected = engine.reset(
        options={"row": data.row(NOW), "soc_pct": 63.0, "temperature_c": 27.0, "peak_w": 3e4, "ambient_offset_k": 0.0}
    )[0]
    assert engine.clocks[0, kernel.ROW] == data.row(NOW)
    own = [name for name in layout_names() if not name.startswith("pack0_")]
    own += ["pack0_soc", "pack0_temperature", "pack0_ambient", "pack0_soh"]
    index = engine.layout.index
    for name in own:
        assert found[index[name]] == pytest.approx(float(expected[index[name]]), abs=2e-5), name


def layout_names():
    return Engine(whole(world()), EnvConfig.of(CONFIG), 1, autoreset=False).layout.names


def test_the_pack_itself_is_told_apart():
    data, base = world(), observation()
    names = layout_names()
    for device in base.devices:
        state = base.states[device.device_id]
        seen = live(data, base, device.device_id, 40.0, state.soh_pct, 25.0)
        values = dict(zip(names, layout_of(actor()).vectors(seen)[0], strict=True))
        assert values[f"pack0_is_{device.chemistry.value.lower()}"] == 1.0
        assert values["pack0_soh"] == pytest.approx((state.soh_pct - 80) / 20, abs=1e-6)
        assert values["pack0_share_of_site"] == pytest.approx(1.0, abs=1e-6)
        assert values["pack0_wear"] > 0.0


def site_case():
    """Two packs as the environment made them, in an environment and at a live site: its engine, what the dispatcher sees."""
    data, base = world(), observation()
    own = {}
    for device, soh_pct in zip(base.devices[:2], (88.0, 71.0), strict=True):
        own[device.device_id] = {
            "chemistry": [device.chemistry.value], "soh_pct": [soh_pct, soh_pct], "power_per_energy": [0.3, 0.5],
            "replacement_eur_per_kwh": base.site.pack(device.device_id).replacement_eur_per_kwh,
        }  # fmt: skip
    environment = CONFIG | {"packs": list(own.values())}
    config = EnvConfig.of(environment).model_copy(update={"tariff": base.site.tariff, "episode_steps": None})
    engine = Engine(whole(data), config, 1, autoreset=False)
    engine.seed([0])
    devices = tuple(replace(made, device_id=name) for made, name in zip(engine.variants.configs[0], own, strict=True))
    states = {
        name: replace(base.states[name], soc_pct=soc_pct, soh_pct=soh_pct, temperature_c=temperature_c)
        for name, soc_pct, soh_pct, temperature_c in zip(own, (63.0, 41.0), (88.0, 71.0), (27.0, 19.0), strict=True)
    }
    seen = replace(live(data, base, devices[0].device_id, 50.0, 88.0, 25.0), devices=devices, states=states)
    made = make_artefact(
        {"actor": mlp(engine.layout.size, 2, 3)}, kind="actor", layout=LAYOUT, chemistries=CHEMISTRIES,
        parameters={"environment": environment, "dt_s": DT_S, "timezone": "UTC"},
    )  # fmt: skip
    return engine, data, seen, made


def test_an_actor_of_several_packs_sees_the_site_that_the_environment_shows():
    engine, data, seen, made = site_case()
    grid = seen.site.grid
    engine.variants.site[0][[at.IMPORT_LIMIT, at.EXPORT_LIMIT]] = grid.import_limit_w, grid.export_limit_w
    engine.variants.site[0][at.PEAK_PRICE] = grid.peak_price_eur_per_kw
    expected = engine.reset(
        options={
            "row": data.row(NOW), "soc_pct": [[63.0, 41.0]], "temperature_c": [[27.0, 19.0]], "peak_w": 3e4,
            "ambient_offset_k": 0.0,
        }
    )  # fmt: skip
    found = layout_of(made).vectors(seen)
    assert found.shape == expected.shape
    for name, ours, theirs in zip(engine.layout.names, found[0], expected[0], strict=True):
        assert ours == pytest.approx(float(theirs), abs=2e-5), name


def test_it_decides_for_each_pack_in_order_and_for_no_other_site():
    _, _, seen, made = site_case()
    policy = policy_of(replace(record(made), policy_type="RL"), made.files)
    points = policy.decide(seen).set_points
    actions = np.clip(made.network("actor")(layout_of(made).vectors(seen))[0], -1.0, 1.0)
    assert [point.device_id for point in points] == [device.device_id for device in seen.devices]
    for point, action, device, (charge_w, discharge_w) in zip(
        points, actions, seen.devices, bounds_of(seen, seen.devices), strict=True
    ):
        wished_w = float(action) * device.max_discharge_power_w
        assert point.power_w == pytest.approx(np.clip(wished_w, -charge_w, discharge_w), rel=1e-6)
    first, second = seen.devices
    assert first.chemistry is not second.chemistry
    for others in ((second, first), (first,), (first, second, second)):
        with pytest.raises(PolicyUnableError, match="in this order"):
            policy.decide(replace(seen, devices=others))


def test_the_factory_makes_an_actor_that_decides():
    data, base = world(), observation()
    seen = live(data, base, base.devices[0].device_id, 50.0, 88.0, 25.0)
    made = actor()
    policy = policy_of(replace(record(made), policy_type="RL"), made.files)
    assert isinstance(policy, ActorPolicy)
    points = policy.decide(seen).set_points
    assert len(points) == 1
    assert abs(points[0].power_w) <= base.devices[0].max_charge_power_w


def test_what_it_lacks_is_told():
    data, base = world(), observation()
    seen = live(data, base, base.devices[0].device_id, 50.0, 88.0, 25.0)
    layout = layout_of(actor())
    with pytest.raises(PolicyUnableError, match="steps of 3600 s"):
        layout.vectors(replace(seen, interval_s=900))
    short = Series("price", NOW - timedelta(days=2), DT_S, np.full(96, 0.1))
    with pytest.raises(PolicyUnableError, match="8 days before"):
        layout.vectors(replace(seen, price_eur_per_kwh=short))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "environment/0"}, "layout: got 'environment/0'"),
        ({"layout": "energy-value-unforecast/1"}, "expected 'environment/1'"),
        ({"parameters": {"dt_s": 900.0}}, "parameters.environment"),
        ({"parameters": {"environment": CONFIG}}, "parameters.dt_s"),
        ({"parameters": {"environment": {"pakcs": []}, "dt_s": 900.0}}, "did you mean 'packs'"),
        ({"parameters": {"environment": CONFIG | {"packs": [{}, {}]}, "dt_s": 900.0}}, r"expected \(\d+, 2\)"),
        ({"parameters": {"environment": CONFIG, "dt_s": 900.0, "price_forecast": True}}, "no price forecasts"),
        ({"parameters": {"environment": CONFIG | {"forecast_hours": 12}, "dt_s": 900.0}}, "shape of actor"),
        ({"parameters": {"environment": CONFIG, "dt_s": 900.0, "squash": "round"}}, "squash"),
    ],
)
def test_an_artefact_that_does_not_fit_is_refused_by_name(changes, message):
    made = actor(**changes)
    with pytest.raises(ArtefactError, match=message):
        policy_of(replace(record(made), policy_type="RL"), made.files)
