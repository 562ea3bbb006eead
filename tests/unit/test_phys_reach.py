"""How far a step can take a pack: the search against its definition, part by part."""

import numpy as np
import pytest

from core.battery.cells import BY_SOC, BY_TEMPERATURE
from core.battery.reach import PARTS, REACH_MARGIN, side
from core.pack import ecm_parameters, power_ratings
from envs.config import EnvConfig
from envs.sample import sample_year
from envs.variants import draw_variants

CASES = 10


def met(part_a, case, way):
    """Slope (V per share), ohms of the step and in all at whole parts of a current, by the definition; shape (3, PARTS)."""
    parameters, soc, coldest_c, anchors, dt_s = case["parameters"], case["soc"], case["coldest_c"], case["anchors"], case["dt_s"]
    table, factors = BY_SOC[int(parameters[3])], BY_TEMPERATURE[int(parameters[3])]
    share = np.linspace(0, 1, 101)
    f0, f1, f2 = (np.interp(coldest_c, np.arange(-40, 81), factors[:, k]) for k in range(3))
    built_1, built_lag = 1 - np.exp(-dt_s / parameters[4]), 1 - np.exp(-dt_s / parameters[5])
    out = []
    for part in range(1, PARTS + 1):
        moved = REACH_MARGIN * part * part_a * dt_s / 3600 / parameters[0]

        def on_the_way(start, distance):
            end = np.clip(start + way * distance, 0, 1)
            inside = share[(share >= min(start, end)) & (share <= max(start, end))]
            return np.concatenate([[start, end], inside])

        r0, r1, lag = (np.interp(on_the_way(soc, moved), share, table[:, k]).max() for k in (2, 3, 4))
        r0, r1 = parameters[2] * f0 * r0, parameters[2] * f1 * r1
        lag = parameters[10] / parameters[0] * f2 * lag
        reach, slope = moved + REACH_MARGIN * part * part_a * lag * built_lag, 0.0
        for anchor in anchors:
            ends = on_the_way(anchor, reach)
            ends = ends[np.abs(ends - anchor) > 1e-11]
            rise = (np.interp(ends, share, table[:, 0]) - np.interp(anchor, share, table[:, 0])) / (ends - anchor)
            slope = max(slope, *rise) if len(rise) else slope
        slope *= parameters[1]
        out.append((slope, r0 + built_1 * r1 + built_lag * lag * slope, r0 + r1 + lag * slope))
    return np.array(out).T


def cases():
    config = EnvConfig.of({"packs": [{"soh_pct": (55.0, 100.0), "power_per_energy": (0.2, 1.5)}], "variants": CASES})
    drawn, rng = draw_variants(config, sample_year(20)), np.random.default_rng(4)
    for v in range(CASES):
        device, soh = drawn.configs[v][0], float(drawn.soh_pct[v, 0])
        soc = float(rng.choice([rng.uniform(0, 0.2), rng.uniform(0, 1)]))
        yield {
            "parameters": ecm_parameters(device, soh).copy(), "ratings": power_ratings(device), "soc": soc,
            "coldest_c": rng.uniform(-5, 35), "anchors": np.clip(soc + rng.normal(0, 0.01, 2), 0, 1),
            "dt_s": float(rng.choice([60.0, 900.0, 3600.0])),
        }  # fmt: skip


@pytest.mark.parametrize("bad", range(6))
def test_what_is_no_number_stays_none_and_ends(bad):
    case, out = next(cases()), np.zeros(3)
    values = [case["ratings"][1], 350.0, 0.4, case["ratings"][2], case["soc"], case["coldest_c"]]
    values[bad] = np.nan
    tables = BY_SOC[0], BY_TEMPERATURE[0]
    side(*values[:4], case["parameters"], *tables, *values[4:], 900.0, 0.5, 0.5, 1.0, case["anchors"], out)
    assert np.isnan(out).all()
    case["parameters"][1] = np.nan
    side(1e4, *values[1:4], case["parameters"], *tables, 0.5, 20.0, 900.0, 0.5, 0.5, 1.0, case["anchors"], out)
    assert np.isnan(out).all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_answer_is_out_of_reach_and_its_neighbour_within(sign):
    firsts = 0
    for case in cases():
        parameters, ratings = case["parameters"], case["ratings"]
        table = BY_SOC[int(parameters[3])]
        behind_v = parameters[1] * np.interp(case["anchors"][0], np.linspace(0, 1, 101), table[:, 0])
        spare_v, window_v, rated_w = 0.4, ratings[2 if sign > 0 else 3], ratings[1 if sign > 0 else 0]
        out = np.empty(3)
        built = 1 - np.exp(-case["dt_s"] / parameters[4:6])
        side(sign * rated_w, behind_v, spare_v, window_v, parameters, table, BY_TEMPERATURE[int(parameters[3])], case["soc"],
             case["coldest_c"], case["dt_s"], *built, 1.0, case["anchors"], out)  # fmt: skip
        free_v, room_v = behind_v - spare_v, sign * (behind_v - window_v) - spare_v
        least_v = max(0.5 * free_v, 1.0)
        part_a = rated_w / least_v / PARTS
        slope, ohm, full = met(part_a, case, -int(sign))
        current = np.arange(1, PARTS + 1) * part_a
        moved_ohm = slope * case["dt_s"] / 3600 / parameters[0]
        last = min(1.0, max(0.0, behind_v / max(behind_v + room_v, 1e-9))) if sign < 0 else 1.0
        lowest_v = np.maximum(free_v - (current * (ohm + moved_ohm) if sign > 0 else 0.0), least_v)
        within = np.minimum(room_v / (last * ohm + moved_ohm), rated_w / lowest_v) >= current * (1 - 1e-12)
        found = np.flatnonzero(np.isclose(100 * out[0], slope, rtol=1e-9) & np.isclose(out[1], ohm, rtol=1e-9))
        at = [k for k in found if (not within[k] or k == PARTS - 1) and (k == 0 or within[k - 1])]
        assert at, case
        assert out[2] == pytest.approx(full[at[0]], rel=1e-9)
        firsts += at[0] == (np.flatnonzero(~within)[0] if not within.all() else PARTS - 1)
    assert firsts >= CASES - 1
