"""EMHASS's model predictive control on the common case. Runs in EMHASS's own interpreter: emhass_case.py CASE.json REPEATS.

Its Optimization class with its default configuration and the battery of the case; no server, no network. Asked twice: with the
relative gap of its default MILP solver at 1 %, and at 0. Prints one line of JSON like its neighbour.
"""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")

import emhass  # noqa: E402
import orjson  # noqa: E402
import pandas as pd  # noqa: E402
import pytz  # noqa: E402
from emhass.optimization import Optimization  # noqa: E402
from emhass.utils import build_config, build_params, build_secrets, get_yaml_parse  # noqa: E402

GAPS = (0.01, 0.0)
LOADS = (
    "nominal_power_of_deferrable_loads", "operating_hours_of_each_deferrable_load", "treat_deferrable_load_as_semi_cont",
    "set_deferrable_load_single_constant", "set_deferrable_startup_penalty", "start_timesteps_of_each_deferrable_load",
    "end_timesteps_of_each_deferrable_load", "minimum_power_of_deferrable_loads",
)  # fmt: skip
log = logging.getLogger("emhass_case")
log.addHandler(logging.NullHandler())
log.setLevel(logging.CRITICAL)


async def configuration(paths: dict[str, Path]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """EMHASS's defaults, as its web server would read them."""
    config = await build_config(paths, log, paths["defaults_path"])
    _, secrets = await build_secrets(paths, log, no_response=True)
    parameters = await build_params(paths, secrets, config, log)
    return get_yaml_parse(orjson.dumps(parameters).decode(), log)


def main() -> None:
    """Solve REPEATS times with each gap."""
    case, repeats = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2])
    root = Path(emhass.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        paths = {
            "data_path": data,
            "root_path": root,
            "defaults_path": root / "data" / "config_defaults.json",
            "associations_path": root / "data" / "associations.csv",
            "config_path": data / "none.json",
        }
        retrieve, optimise, plant = asyncio.run(configuration(paths))
        battery, grid, zone = case["battery"], case["grid"], pytz.timezone(case["tz"])
        retrieve |= {"optimization_time_step": pd.Timedelta(hours=case["dt_h"]), "time_zone": zone}
        optimise |= {name: [] for name in LOADS}
        optimise |= {
            "set_use_battery": True,
            "set_use_pv": True,
            "number_of_deferrable_loads": 0,
            "set_nodischarge_to_grid": False,
            "delta_forecast_daily": pd.Timedelta(days=1),
        }
        if case["demand_charge"] > 0:
            optimise["capacity_cost_per_kw"] = case["demand_charge"]
        plant |= {
            "maximum_power_from_grid": 1e3 * grid["import_kw"],
            "maximum_power_to_grid": 1e3 * grid["export_kw"],
            "battery_discharge_power_max": 1e3 * battery["p_discharge_kw"],
            "battery_charge_power_max": 1e3 * battery["p_charge_kw"],
            "battery_discharge_efficiency": battery["eta_d"],
            "battery_charge_efficiency": battery["eta_c"],
            "battery_nominal_energy_capacity": 1e3 * battery["capacity_kwh"],
            "battery_minimum_state_of_charge": battery["soc_min"],
            "battery_maximum_state_of_charge": battery["soc_max"],
            "battery_target_state_of_charge": battery["soc_final"],
            "compute_curtailment": False,
            "inverter_is_hybrid": False,
        }
        index = pd.date_range(case["start"], periods=case["n"], freq=pd.Timedelta(hours=case["dt_h"])).tz_convert(zone)
        prices = pd.DataFrame({"unit_load_cost": case["buy"], "unit_prod_price": case["sell"]}, index=index)
        pv, load = (1e3 * pd.Series(case[name], index, dtype=float) for name in ("pv", "load"))
        answers = [answer(gap, case, repeats, paths, (retrieve, optimise, plant), (prices, pv, load)) for gap in GAPS]
    print(json.dumps({"answers": answers}))


def answer(
    gap: float,
    case: dict[str, Any],
    repeats: int,
    paths: dict[str, Path],
    settings: tuple[Any, Any, Any],
    series: tuple[Any, ...],
) -> dict[str, Any]:
    """One gap: the same Optimization object solves again and again, as its daemon does."""
    retrieve, optimise, plant = settings
    options = optimise | {"lp_solver_mip_rel_gap": gap, "lp_solver_timeout": 45, "num_threads": 2}
    optimisation = Optimization(
        retrieve, options, plant, "unit_load_cost", "unit_prod_price", "profit", paths, log, opt_time_delta=24
    )
    cpu, wall = [], []
    battery, nothing = case["battery"], []
    for _ in range(repeats):
        began, used = time.perf_counter(), time.process_time()
        result = optimisation.perform_naive_mpc_optim(
            *series, case["n"], soc_init=battery["soc_init"], soc_final=battery["soc_final"], def_total_hours=nothing,
            def_start_timestep=nothing, def_end_timestep=nothing,
        )  # fmt: skip
        wall.append(1e3 * (time.perf_counter() - began))
        cpu.append(1e3 * (time.process_time() - used))
    power = result["P_batt"].to_numpy() / 1e3 if "P_batt" in result else [float("nan")] * case["n"]
    return {
        "name": f"EMHASS {version('emhass')} (MILP, HiGHS, gap {gap:g})",
        "power_kw": list(map(float, power)),
        "status": str(result["optim_status"].iloc[0]),
        "cpu_ms": statistics.median(cpu[1:] or cpu),
        "wall_ms": statistics.median(wall[1:] or wall),
    }


main()
