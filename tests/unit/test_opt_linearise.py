"""From limits, state and prediction to problem data: every field, every limit, and how far the model is from the circuit."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from core.battery.cells import CELLS, energy_curve_wh
from core.devices import Chemistry, DeviceConfig
from core.errors import InputError
from core.limits import ConstraintRow, tightest
from core.pack import Pack, ecm_parameters, imbalance_v
from core.twin import predict
from optimizer.assembly import SiteQP
from optimizer.linearise import MAX_HELD_S, SHORT_OF_LIMIT, Economics, device_data, wear_cost
from optimizer.problem import DeviceData, GridData, SiteProblem
from optimizer.replay import project, replay
from optimizer.segments import wear_segments

NOW = datetime(2026, 1, 1, tzinfo=UTC)
N, DT_S = 48, 900.0


def config(chemistry=Chemistry.NMC):
    return DeviceConfig(
        device_id="west-2", site_id="s", name="d", chemistry=chemistry, nominal_capacity_ah=100, nominal_voltage_v=360,
        max_charge_power_w=40_000, max_discharge_power_w=45_000, series_cells=100, parallel_cells=20,
    )  # fmt: skip


def row(**changes):
    currents = {"max_charge_current_a": 500.0, "max_discharge_current_a": 500.0, "max_c_rate_per_h": 9.0}
    return ConstraintRow(row_id=changes.pop("row_id", "r"), device_id="west-2", **{**currents, **changes})


def wave(seed=0, watts=12e3):
    return watts * np.sin(np.arange(N) / 5 + np.random.default_rng(seed).uniform(0, 6))


def made(
    chemistry=Chemistry.NMC,
    *,
    soh=80.0,
    soc=55.0,
    rows=None,
    power=None,
    temperature=25.0,
    economics=Economics(wear_eur_per_kwh=0.01),  # noqa: B008
    steps=N,
    dt_s=DT_S,
    prediction=None,
    ambient_c=20.0,
    cycle=(None, None),
    **more,
):
    pack = Pack(config(chemistry), soc_pct=soc, soh_pct=soh, temperature_c=temperature, ambient_c=ambient_c)
    state = replace(pack.state(NOW), cycle_low_pct=cycle[0], cycle_high_pct=cycle[1])
    profile = wave() if power is None else power
    if prediction is None:
        prediction = predict(config(chemistry), state, profile, dt_s=DT_S, start=NOW, ambient_c=ambient_c)
    limits = tightest(config(chemistry), rows or [row()], NOW)
    start = more.pop("start", NOW)
    return device_data(
        config(chemistry), limits, more.pop("state", state), prediction, start=start, steps=steps, dt_s=dt_s,
        ambient_c=np.full(steps, ambient_c), economics=economics, **more,
    )  # fmt: skip


def site_of(*devices, dt_s=DT_S):
    n = len(devices[0].charge_max_w)
    grid = GridData(
        buy_eur_per_kwh=np.full(n, 0.2),
        sell_eur_per_kwh=np.full(n, 0.1),
        load_w=np.zeros(n),
        pv_w=np.zeros(n),
        import_limit_w=np.full(n, 1e6),
        export_limit_w=np.full(n, 1e6),
    )
    return SiteProblem(dt_s=dt_s, grid=grid, devices=devices)


CHECKED = {
    "device_id", "energy_wh", "capacity_wh", "energy_curve_wh", "energy_min_wh", "energy_max_wh", "cycle_depth_wh",
    "energy_low_wh", "energy_high_wh", "charge_max_w", "discharge_max_w", "charge_taper_w", "charge_taper_w_per_wh",
    "discharge_taper_w", "discharge_taper_w_per_wh", "eta_charge", "eta_discharge", "leak_wh", "temperature_c",
    "temperature_a", "temperature_charge_k_per_w", "temperature_discharge_k_per_w", "temperature_drift_c",
    "temperature_min_c", "temperature_max_c", "voltage_v", "voltage_v_per_wh", "voltage_v_per_w", "voltage_min_v",
    "voltage_max_v", "wear_eur_per_kwh", "wear_segments", "wear_quadratic", "soc_stress_eur_per_h", "soc_stress_centre",
    "terminal_value_eur_per_kwh", "terminal_energy_wh", "reference_w", "move_weight",
}  # fmt: skip


def test_no_field_is_forgotten_here():
    assert {f.name for f in fields(DeviceData)} == CHECKED


@pytest.mark.parametrize("chemistry", list(Chemistry))
def test_energies_follow_the_curve_of_the_cell(chemistry):
    d = made(chemistry, cycle=(40.0, 70.0), rows=[row(min_soc_pct=12, max_soc_pct=88, max_cycle_depth_pct=30)])
    curve = energy_curve_wh(config(chemistry), 80.0)

    def energy(soc):
        return np.interp(soc, np.linspace(0, 100, len(curve)), curve)

    assert d.device_id == "west-2"
    assert d.energy_curve_wh == tuple(curve)
    assert d.capacity_wh == curve[-1]
    assert d.energy_wh == pytest.approx(energy(55))
    assert (d.energy_min_wh, d.energy_max_wh) == (pytest.approx(energy(12)), pytest.approx(energy(88)))
    assert (d.energy_low_wh, d.energy_high_wh) == (pytest.approx(energy(40)), pytest.approx(energy(70)))
    assert d.cycle_depth_wh == pytest.approx(energy(42) - energy(12))
    assert made(chemistry).energy_low_wh == made(chemistry).energy_high_wh == made(chemistry).energy_wh
    np.testing.assert_allclose(d.soc_pct(energy(np.array([0.0, 33.0, 100.0]))), [0, 33, 100], atol=1e-9)


def test_tapers_leave_a_quarter_at_the_limit_and_all_three_percent_before():
    d = made(rows=[row(min_soc_pct=12, max_soc_pct=88)])
    curve = np.array(d.energy_curve_wh)
    soc = np.array([88.0, 85.0, 12.0, 15.0])
    energy = np.interp(soc, np.linspace(0, 100, len(curve)), curve)
    for k in (0, N - 1):
        charge = d.charge_taper_w[k] - d.charge_taper_w_per_wh[k] * energy[:2]
        discharge = d.discharge_taper_w[k] + d.discharge_taper_w_per_wh[k] * energy[2:]
        assert charge == pytest.approx([10_000, 40_000])
        assert discharge == pytest.approx([11_250, 45_000])


def test_power_bounds_are_rated_power_and_the_gates_at_the_first_step():
    d = made()
    assert d.charge_max_w[1:].max() <= 40_000
    assert d.discharge_max_w.max() <= 45_000
    assert d.charge_max_w[0] < 40_000
    full = made(soc=94.9)
    # 0.1 % of 80 Ah within a quarter of an hour, through 99 % or so of coulomb efficiency
    assert full.charge_max_w[0] == pytest.approx(0.08 * 4 * 415, rel=0.1)
    assert full.charge_max_w[0] < made(soc=94.9, dt_s=900.0, rows=[row(max_soc_pct=96)]).charge_max_w[0] * (1 + SHORT_OF_LIMIT)


def test_efficiency_is_the_predictions_and_coulombs_when_charging():
    prediction = predict(config(), Pack(config(), soc_pct=55, soh_pct=80, temperature_c=25, ambient_c=20).state(NOW),
                         wave(), dt_s=DT_S, start=NOW, ambient_c=20.0)  # fmt: skip
    d = made(prediction=prediction)
    coulomb = ecm_parameters(config(), 80.0)[6]
    np.testing.assert_allclose(d.eta_charge, d.eta_discharge * coulomb)
    charging = prediction.power_profile_w < 0
    np.testing.assert_allclose(d.eta_discharge[~charging], prediction.efficiency_profile[~charging])
    np.testing.assert_allclose(d.eta_charge[charging], prediction.efficiency_profile[charging])


def test_rest_cools_to_the_ambient_and_leaks():
    d = made(temperature=35.0, power=np.zeros(N))
    pack = Pack(config(), soc_pct=55, soh_pct=80, temperature_c=35, ambient_c=20)
    t, e = d.temperature_c, d.energy_wh
    assert t == 35.0
    for k in range(N):
        pack.step(0.0, DT_S)
        t = d.temperature_a * t + d.temperature_drift_c[k]
        e -= d.leak_wh
    assert t == pytest.approx(pack.temperature_c, abs=0.05)
    assert e == pytest.approx(pack.energy_wh, abs=5.0)
    assert d.leak_wh > 0


def test_heat_is_that_of_the_predicted_power():
    """Constant 15 kW: the warming of the first step, simulated."""
    for watts in (15e3, -15e3):
        d = made(power=np.full(N, watts / 3) + np.r_[2 * watts / 3, np.zeros(N - 1)], soc=50.0)
        pack = Pack(config(), soc_pct=50, soh_pct=80, temperature_c=25, ambient_c=20)
        pack.step(watts, DT_S)
        gain = d.temperature_discharge_k_per_w[0] if watts > 0 else d.temperature_charge_k_per_w[0]
        heated = pack.temperature_c - d.temperature_a * 25 - d.temperature_drift_c[0]
        assert gain * 15e3 == pytest.approx(heated, rel=0.25)
        assert heated > 0.2


def test_temperature_limits():
    rows = [row(max_cell_temperature_c=45, min_cell_temperature_c=-5, max_temperature_delta_k=6)]
    d = made(rows=rows, temperature=21.0)
    assert d.temperature_min_c == -5
    # 6 K of spread at 0.3 K a kelvin of rise (too little rise to measure it): 20 K over ambient
    np.testing.assert_allclose(d.temperature_max_c, 40.0)
    hot = made(rows=[row(max_cell_temperature_c=45)], temperature=35.0)
    np.testing.assert_allclose(hot.temperature_max_c, 45.0)


def test_voltage_limits_keep_room_for_unbalanced_cells():
    base = Pack(config(), soc_pct=55, soh_pct=80, temperature_c=25, ambient_c=20).state(NOW)
    mean = base.voltage_v / 100
    uneven = replace(base, cell_voltages_v=(mean + 0.05, mean - 0.02, mean - 0.03))
    high, low = imbalance_v(config(), uneven)
    d, even = made(state=uneven), made(state=replace(base, cell_voltages_v=()))
    assert (high, low) == (pytest.approx(5.0), pytest.approx(3.0))
    assert d.voltage_max_v == pytest.approx(even.voltage_max_v - 5.0)
    assert d.voltage_min_v == pytest.approx(even.voltage_min_v + 3.0)
    assert even.voltage_max_v == pytest.approx(420.0)


def test_economics_and_reference_are_taken_over():
    economics = Economics(
        wear_eur_per_kwh=0.03,
        wear_quadratic=1e-3,
        soc_stress_eur_per_h=0.2,
        soc_stress_centre=0.4,
        terminal_value_eur_per_kwh=0.11,
        terminal_energy_wh=12e3,
        move_weight=2e-4,
    )
    d = made(economics=economics, reference_w=wave(3))
    for f in fields(Economics):
        if f.name != "wear_edges":
            assert getattr(d, f.name) == getattr(economics, f.name)
    assert d.wear_segments is None
    np.testing.assert_array_equal(d.reference_w, wave(3))
    assert made().reference_w is None


def test_wear_by_depth_is_cut_into_layers_with_what_is_stored_in_the_cheap_ones():
    d = made(economics=Economics(wear_eur_per_kwh=0.03, wear_edges=(0.25, 0.5)), rows=[row(min_soc_pct=10)])
    layers, deepest = wear_segments(d.capacity_wh, d.energy_wh - d.energy_min_wh, 0.03, (0.25, 0.5))
    assert (d.wear_segments, d.wear_eur_per_kwh) == (layers, deepest)
    assert [part.stored_wh for part in layers] == [
        pytest.approx(0.25 * d.capacity_wh),
        pytest.approx(d.energy_wh - d.energy_min_wh - 0.25 * d.capacity_wh),
    ]


def test_a_tired_pack_wears_dearer():
    assert wear_cost(Chemistry.LFP, 100.0, 180.0) == pytest.approx(180 / 12_000)
    assert wear_cost(Chemistry.LFP, 50.0, 180.0) == pytest.approx(2 * 180 / 12_000)
    assert wear_cost(Chemistry.LCO, 80.0, 180.0) > wear_cost(Chemistry.NCA, 80.0, 180.0) > wear_cost(Chemistry.NMC, 80.0, 180.0)


# column: (tighter value, where the bound is in the QP, direction in which it moves)
MOVES = {
    "max_cell_voltage_v": (4.0, ("voltage_max", "gu"), -1),
    "min_cell_voltage_v": (3.2, ("voltage_min", "gl"), 1),
    "max_pack_voltage_v": (400.0, ("voltage_max", "gu"), -1),
    "min_pack_voltage_v": (320.0, ("voltage_min", "gl"), 1),
    "max_charge_current_a": (20.0, ("c", "xu"), -1),
    "max_discharge_current_a": (20.0, ("d", "xu"), -1),
    "max_cell_temperature_c": (32.0, ("temperature_max", "gu"), -1),
    "min_cell_temperature_c": (10.0, ("temperature_min", "gl"), 1),
    "max_temperature_delta_k": (3.0, ("temperature_max", "gu"), -1),
    "max_soc_pct": (80.0, ("soc_max", "gu"), -1),
    "min_soc_pct": (20.0, ("soc_min", "gl"), 1),
    "max_charge_power_w": (9_000.0, ("c", "xu"), -1),
    "max_discharge_power_w": (9_000.0, ("d", "xu"), -1),
    "max_cycle_depth_pct": (20.0, ("cycle_depth", "gu"), -1),
    "max_c_rate_per_h": (0.2, ("c", "xu"), -1),
}


def test_the_list_of_limits_is_complete():
    bounds = {f.name for f in fields(ConstraintRow)} - {"row_id", "device_id", "active", "effective_from", "effective_until"}
    assert set(MOVES) == bounds


@pytest.mark.parametrize("column", MOVES)
def test_every_limit_moves_a_bound_of_the_problem(column):
    value, (name, side), sign = MOVES[column]
    before, after = (SiteQP(site_of(made(rows=rows))) for rows in ([row()], [row(), row(row_id="tight", **{column: value})]))
    place = before.device(0, name) if name in ("c", "d") else before.rows(0, name)
    old, new = getattr(before, side)[place], getattr(after, side)[place]
    assert (sign * (new - old) > 1e-6).all()


def test_a_short_prediction_is_refused_and_one_that_nearly_covers_is_held():
    pack = Pack(config(), soc_pct=55, soh_pct=80, temperature_c=25, ambient_c=20)
    short = predict(config(), pack.state(NOW), wave()[:32], dt_s=DT_S, start=NOW, ambient_c=20.0)
    held = made(prediction=short, steps=32 + int(MAX_HELD_S / DT_S))
    assert (held.voltage_v[33:] == held.voltage_v[-1]).all()
    with pytest.raises(InputError, match=r"prediction of west-2: horizon_hours: got 8, .*2 h before.*2\.2 h are missing"):
        made(prediction=short, steps=33 + int(MAX_HELD_S / DT_S))


def test_a_prediction_that_begins_too_late_is_refused():
    pack = Pack(config(), soc_pct=55, soh_pct=80, temperature_c=25, ambient_c=20)
    late = predict(config(), pack.state(NOW), wave(), dt_s=DT_S, start=NOW + timedelta(seconds=1801), ambient_c=20.0)
    with pytest.raises(InputError, match="prediction of west-2: prediction_timestamp: got '2026-01-01T00:30:01"):
        made(prediction=late)


def test_series_of_the_wrong_length_and_units_are_refused():
    with pytest.raises(InputError, match="device west-2: reference_w: got '47 values', expected 48 values"):
        made(reference_w=np.zeros(N - 1))
    state = Pack(config(), soc_pct=50, soh_pct=80, temperature_c=25, ambient_c=20).state(NOW)
    with pytest.raises(InputError, match=r"device west-2: soc_pct: got 0\.5.*share of 1"):
        made(state=replace(state, soc_pct=0.5))
    prediction = predict(config(), state, wave(), dt_s=DT_S, start=NOW, ambient_c=20.0)
    with pytest.raises(InputError, match="device west-2: ambient_c: got '5 values', expected 48 values"):
        device_data(
            config(), tightest(config(), [row()], NOW), state, prediction, start=NOW, steps=N, dt_s=DT_S,
            ambient_c=np.zeros(5), economics=Economics(wear_eur_per_kwh=0.0),
        )  # fmt: skip


def test_an_older_prediction_is_shifted_to_the_horizon():
    """Half an hour old: its third step is the horizon's first."""
    pack = Pack(config(), soc_pct=55, soh_pct=80, temperature_c=25, ambient_c=20)
    prediction = predict(config(), pack.state(NOW), wave(), dt_s=DT_S, start=NOW, ambient_c=20.0)
    d = made(prediction=prediction, start=NOW + timedelta(minutes=30), steps=N - 2)
    discharging = prediction.power_profile_w[2:] > 0
    np.testing.assert_allclose(d.eta_discharge[discharging], prediction.efficiency_profile[2:][discharging])


def test_a_coarser_prediction_covers_several_steps():
    pack = Pack(config(), soc_pct=55, soh_pct=80, temperature_c=25, ambient_c=20)
    hourly = predict(config(), pack.state(NOW), np.full(12, 8e3), dt_s=3600.0, start=NOW, ambient_c=20.0)
    d = made(prediction=hourly, steps=48)
    np.testing.assert_allclose(d.eta_discharge, np.repeat(hourly.efficiency_profile, 4))


GENTLE = 0.4
"""Of the test's powers, so that half a day does not end at an empty pack."""
NEAR = {Chemistry.LFP: (4.0, 4.0)}
"""SoC in percent and K beside the prediction, of the cell that loses most at these powers; others 2.5 % and 2.5 K."""


@pytest.mark.parametrize("chemistry", list(Chemistry))
@pytest.mark.parametrize("soh", [95.0, 60.0])
@pytest.mark.parametrize("near", [False, True])
def test_the_linear_model_is_close_to_the_circuit(chemistry, soh, near):
    """Half a day, on the predicted powers and with blocks of them scaled by 0.5 to 1.2 (a plan that leaves the prediction).

    As long as SoC and predicted SoC have stayed within 15 and 90 %: an empty cell's curve is too steep for a line, and what runs
    empty is cut short by the circuit and not by the line. Voltage as a share of the pack's.
    """
    soc_tolerance, kelvin = NEAR.get(chemistry, (2.5, 2.5)) if near else (0.1, 0.8)
    compared = 0
    for seed in range(4):
        planned = GENTLE * wave(seed)
        d = made(chemistry, soh=soh, soc=50.0, power=planned)
        site = site_of(d)
        scale = np.repeat(np.random.default_rng(seed).uniform(0.5, 1.2, N // 4), 4) if near else 1.0
        power, _ = project(site, (planned * scale)[None, :], np.zeros(N))
        run = replay(site, power, np.zeros(N))
        pack = Pack(config(chemistry), soc_pct=50, soh_pct=soh, temperature_c=25, ambient_c=20)
        twin = predict(config(chemistry), pack.state(NOW), planned, dt_s=DT_S, start=NOW, ambient_c=20.0)
        for k in range(N):
            pack.step(float(power[0, k]), DT_S)
            reached = (pack.soc_pct, twin.soc_profile_pct[k])
            if min(reached) < 15 or max(reached) > 90:
                break
            compared += 1
            assert d.soc_pct(run.energy_wh[0])[k] == pytest.approx(pack.soc_pct, abs=soc_tolerance)
            assert run.temperature_c[0, k] == pytest.approx(pack.temperature_c, abs=kelvin)
            if min(reached) > 20:
                assert run.voltage_v[0, k] == pytest.approx(pack.state(NOW).voltage_v, rel=0.05 if near else 0.025)
    assert compared > N, "of four half days"


def test_open_circuit_voltage_is_exact_at_the_predicted_energy():
    d = made(power=np.zeros(N), soc=40.0)
    ocv = 100 * np.interp(0.4, np.linspace(0, 1, len(CELLS[Chemistry.NMC].ocv_table())), CELLS[Chemistry.NMC].ocv_table())
    assert d.voltage_v[0] + d.voltage_v_per_wh[0] * d.energy_wh == pytest.approx(ocv)
