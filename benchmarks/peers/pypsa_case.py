"""PyPSA's linear optimisation of the common case. Runs in PyPSA's own interpreter: pypsa_case.py CASE.json REPEATS.

A bus with load and PV as fixed flows, import and export as links, the battery as a storage unit with its final state and limits
as further constraints. Prints one line of JSON: net battery power in kW (discharge positive), status, times of the later solves.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pypsa  # noqa: E402


def network(case: dict[str, Any]) -> pypsa.Network:
    """Time stamps are UTC: PyPSA has no time zones."""
    battery, grid = case["battery"], case["grid"]
    n = pypsa.Network()
    start = pd.Timestamp(case["start"]).tz_convert("UTC").tz_localize(None)
    n.set_snapshots(pd.date_range(start, periods=case["n"], freq=pd.Timedelta(hours=case["dt_h"])))
    n.snapshot_weightings = pd.DataFrame(case["dt_h"], index=n.snapshots, columns=n.snapshot_weightings.columns)
    series = {name: pd.Series(case[name], n.snapshots) for name in ("buy", "sell", "load", "pv")}
    n.add("Bus", ["site", "grid"])
    n.add("Generator", "market", bus="grid", p_nom=1e4, p_min_pu=-1.0)
    n.add("Link", "import", bus0="grid", bus1="site", p_nom=grid["import_kw"], marginal_cost=series["buy"])
    n.add("Link", "export", bus0="site", bus1="grid", p_nom=grid["export_kw"], marginal_cost=-series["sell"])
    n.add("Load", "load", bus="site", p_set=series["load"])
    n.add("Load", "pv", bus="site", p_set=-series["pv"])
    n.add(
        "StorageUnit",
        "battery",
        bus="site",
        p_nom=battery["p_discharge_kw"],
        max_hours=battery["capacity_kwh"] / battery["p_discharge_kw"],
        efficiency_store=battery["eta_c"],
        efficiency_dispatch=battery["eta_d"],
        state_of_charge_initial=battery["soc_init"] * battery["capacity_kwh"],
    )
    return n


def limits(case: dict[str, Any]) -> Any:  # noqa: ANN401 - PyPSA's callback
    """State of charge within its limits and at its target; the peak's price."""
    battery = case["battery"]
    full = battery["capacity_kwh"]

    def add(n: pypsa.Network, _snapshots: object) -> None:
        model = n.model
        variable = model.variables["StorageUnit-state_of_charge"]
        energy = variable.sel({next(d for d in variable.dims if d != "snapshot"): "battery"})
        model.add_constraints(energy >= battery["soc_min"] * full, name="soc_min")
        model.add_constraints(energy <= battery["soc_max"] * full, name="soc_max")
        model.add_constraints(energy.isel(snapshot=-1) == battery["soc_final"] * full, name="soc_final")
        if case["demand_charge"] > 0:
            peak = model.add_variables(lower=0, name="peak")
            flow = model.variables["Link-p"]
            bought = flow.sel({next(d for d in flow.dims if d != "snapshot"): "import"})
            model.add_constraints(bought - peak <= 0, name="peak")
            model.objective = model.objective + case["demand_charge"] * peak

    return add


def main() -> None:
    """Solve REPEATS times, each from the case to the plan."""
    case, repeats = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2])
    cpu, wall = [], []
    for _ in range(repeats):
        began, used = time.perf_counter(), time.process_time()
        n = network(case)
        status = n.optimize(
            solver_name="highs", extra_functionality=limits(case), include_objective_constant=False, log_to_console=False,
            output_flag=False,
        )  # fmt: skip
        wall.append(1e3 * (time.perf_counter() - began))
        cpu.append(1e3 * (time.process_time() - used))
    units = n.storage_units_t
    power = units["p_dispatch"]["battery"].to_numpy() - units["p_store"]["battery"].to_numpy()
    answer = {
        "name": f"PyPSA {pypsa.__version__} (LP, HiGHS)",
        "power_kw": np.asarray(power).tolist(),
        "status": "/".join(map(str, status)),
        "cpu_ms": statistics.median(cpu[1:] or cpu),
        "wall_ms": statistics.median(wall[1:] or wall),
    }
    print(json.dumps({"answers": [answer]}))


main()
