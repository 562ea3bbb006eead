"""One electrochemical cell stepped under power: SPMe or DFN with a lumped thermal node.

Power, ambient, starting temperature and state of charge, contact resistance and active material are INPUTS of one built model, so
that a chemistry and model is discretised and compiled once per process, whatever the cells made of it. PyBaMM keeps the compiled
library on disk (PYBAMM_CASADI_AOT_CACHE, else a folder of the temporary directory). Not here: packs (envs.reference.pack).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.battery import resistance_growth
from core.devices import Chemistry
from core.errors import InputError
from envs.reference.balance import Balance, Electrodes
from envs.reference.parameters import SETS, ModelName, parameter_values, require_pybamm

FloatArray = NDArray[np.float64]
MESH = {"x_n": 8, "x_s": 6, "x_p": 8, "r_n": 10, "r_p": 10}
"""Within 0.5 mV and 0.02 % SoC of PyBaMM's default mesh over a day."""
RETRY_SHARES = (1.0, 0.8, 0.5, 0.25, 0.1, 0.0)
"""Shares of the wanted power that are tried when a step ends on a voltage event or the solver gives up."""
KELVIN = 273.15
PULSE_S = 60.0
PULSE_C_RATE_PER_H = 0.5
_EVENT_MARGIN_V = 0.001
"""Cut-offs of the simulation lie this far outside those of the SoC scale: a full cell at rest is no event."""
_POWER, _AMBIENT, _START = "Power function [W]", "Ambient temperature [K]", "Initial temperature [K]"
_CONTACT = "Contact resistance [Ohm]"
_CONCENTRATION = "{} concentration in {} electrode [mol.m-3]"
_ACTIVE = "{} electrode active material volume fraction"
_SIDES = ("negative", "positive")
_VOLTAGE, _TEMPERATURE, _CHARGE = "Battery voltage [V]", "Volume-averaged cell temperature [K]", "Discharge capacity [A.h]"
OUTPUTS = (_VOLTAGE, _TEMPERATURE, _CHARGE, "Total heating [W]")


@dataclass(frozen=True, slots=True, kw_only=True)
class CellStep:
    """One step of a cell. Discharge positive; profiles at `times_s` within the step, shape (k,)."""

    power_w: float
    """Mean over the step: the power that flowed."""
    share: float
    """Of the wanted power; below 1 the step was derated."""
    current_a: float
    """Mean over the step, from the charge that flowed."""
    voltage_v: FloatArray
    temperature_c: FloatArray
    soc: FloatArray


class CellModel:
    """A chemistry's cell as a built model, shared by all cells of that kind."""

    def __init__(self, chemistry: Chemistry, model: ModelName, *, compiled: bool, mesh: Mapping[str, int] = MESH) -> None:
        pybamm = require_pybamm()
        values = parameter_values(chemistry)
        self.chemistry, self.model = chemistry, model
        self.electrodes = Electrodes(values)
        self._active = {side: float(values[_ACTIVE.format(side.title())]) for side in _SIDES}
        self._maximum = {side: float(values[_CONCENTRATION.format("Maximum", side)]) for side in _SIDES}
        inputs = [_POWER, _AMBIENT, _START, _CONTACT]
        inputs += [_CONCENTRATION.format("Initial", side) for side in _SIDES]
        inputs += [_ACTIVE.format(side.title()) for side in _SIDES]
        values.update(dict.fromkeys(inputs, "[input]"), check_already_exists=False)
        values["Lower voltage cut-off [V]"] = self.electrodes.lower_v - _EVENT_MARGIN_V
        values["Upper voltage cut-off [V]"] = self.electrodes.upper_v + _EVENT_MARGIN_V
        options = {"thermal": "lumped", "operating mode": "power", "contact resistance": "true"}
        self.simulation = pybamm.Simulation(
            getattr(pybamm.lithium_ion, model)(options),
            parameter_values=values,
            solver=pybamm.IDAKLUSolver(options={"compile": compiled}),
            var_pts=dict(mesh),
        )
        inputs_of_a_cell = self.inputs(self.electrodes.new, 0.5, 25.0, 25.0, 0.0, 0.0)
        self.simulation.build(inputs=inputs_of_a_cell)
        self._outputs = self._output_function(list(inputs_of_a_cell))

    def _output_function(self, names: list[str]) -> Any:
        """OUTPUTS of a state as one function: PyBaMM's own post-processing costs more than the step itself."""
        casadi = importlib.import_module("casadi")
        built = self.simulation.built_model
        time, state = casadi.MX.sym("t"), casadi.MX.sym("y", built.len_rhs_and_alg)
        inputs = {name: casadi.MX.sym(name) for name in names}
        found = [built.get_processed_variable(name).to_casadi(time, state, inputs=inputs) for name in OUTPUTS]
        return casadi.Function("outputs", [time, state, casadi.vertcat(*inputs.values())], [casadi.vertcat(*found)])

    def outputs(self, solution: Any, inputs: Mapping[str, float]) -> FloatArray:
        """OUTPUTS at the end of a solution; shape (4,)."""
        found = self._outputs(solution.t[-1], solution.y[:, -1], np.array(list(inputs.values())))
        return np.asarray(found, dtype=np.float64).ravel()

    def inputs(
        self, balance: Balance, soc: float, temperature_c: float, ambient_c: float, contact_ohm: float, power_w: float
    ) -> dict[str, float]:
        """The model's inputs for a step of a cell that started at a SoC and temperature."""
        found = {_POWER: power_w, _AMBIENT: ambient_c + KELVIN, _START: temperature_c + KELVIN, _CONTACT: contact_ohm}
        for side, stoichiometry in zip(_SIDES, balance.stoichiometries(soc), strict=True):
            found[_CONCENTRATION.format("Initial", side)] = stoichiometry * self._maximum[side]
            found[_ACTIVE.format(side.title())] = balance.active_share * self._active[side]
        return found

    @lru_cache(maxsize=256)  # noqa: B019 - models live as long as the process
    def aged(self, soh_pct: float) -> tuple[Balance, float]:
        """Electrode balance and contact resistance (Ohm) of a cell at a state of health.

        The contact resistance (film and connection growth) is what lifts the resistance of a 60 s pulse at 50 % SoC and 25 °C to
        core.battery.resistance_growth times the new cell's. Raises InputError when the set cannot age so far.
        """
        try:
            balance = self.electrodes.aged(soh_pct / 100.0)
        except ValueError as error:
            raise InputError(
                source=f"reference cell {SETS[self.chemistry]}", field="soh_pct", value=soh_pct, expected=str(error)
            ) from error
        if soh_pct >= 100.0:
            return balance, 0.0
        wanted_ohm = resistance_growth(soh_pct) * self.pulse_ohm(self.electrodes.new, 0.0)
        return balance, max(0.0, wanted_ohm - self.pulse_ohm(balance, 0.0))

    def pulse_ohm(self, balance: Balance, contact_ohm: float) -> float:
        """Resistance of a 60 s discharge pulse of 0.5 C (of the new capacity), 50 % SoC, 25 °C."""
        cell = ReferenceCell(self, balance=balance, contact_ohm=contact_ohm, soc=0.5, temperature_c=25.0, ambient_c=25.0)
        rest_v = cell.electrodes.open_circuit_v(*balance.stoichiometries(0.5))
        step = cell.step(PULSE_C_RATE_PER_H * self.electrodes.new.capacity_ah * rest_v, PULSE_S)
        return float((rest_v - step.voltage_v[-1]) / cell.current_a)


@lru_cache(maxsize=16)
def cell_model(chemistry: Chemistry, model: ModelName, compiled: bool = True) -> CellModel:
    """The model of a chemistry, built once per process; InputError for a model that is none of SPMe and DFN."""
    if model not in ("SPMe", "DFN"):
        raise InputError(source="reference plant", field="model", value=model, expected="SPMe or DFN")
    return CellModel(chemistry, model, compiled=compiled)


class ReferenceCell:
    """A cell with its state. `step` holds a power; the state is kept when a step fails."""

    def __init__(
        self, model: CellModel, *, balance: Balance, contact_ohm: float, soc: float, temperature_c: float, ambient_c: float
    ) -> None:
        self._model = model
        self.electrodes = model.electrodes
        self.balance = balance
        self.contact_ohm = contact_ohm
        self.ambient_c = ambient_c
        self._start = (soc, temperature_c)
        self._solution: Any = None
        self.soc = soc
        self.temperature_c = temperature_c
        self.voltage_v = self.electrodes.open_circuit_v(*balance.stoichiometries(soc))
        self.current_a = 0.0
        self.heat_w = 0.0
        """Heat set free, current and voltage: at the end of the last step."""

    def step(self, power_w: float, dt_s: float, sample_s: float | None = None) -> CellStep:
        """Hold a power (W, discharge positive) for dt_s, or less of it when the cell cannot; profiles every sample_s, or the end.

        Raises RuntimeError when the cell cannot even rest.
        """
        for share in RETRY_SHARES:
            inputs = self._model.inputs(self.balance, *self._start, self.ambient_c, self.contact_ohm, power_w * share)
            solution = self._try(inputs, dt_s)
            if solution is not None:
                return self._take(solution, inputs, share, dt_s, sample_s)
        raise RuntimeError(f"{self._model.chemistry} cell at {100 * self.soc:.1f} % SoC, {self.voltage_v:.3f} V cannot rest")

    def _try(self, inputs: Mapping[str, float], dt_s: float) -> Any:
        """The solution of a step, or None when it ended early."""
        simulation = self._model.simulation
        simulation._solution = None  # the simulation is shared; each cell carries its own
        try:
            found = simulation.step(dt_s, inputs=inputs, save=False, starting_solution=self._solution)
        except require_pybamm().SolverError:
            return None
        return found if found.termination == "final time" else None

    def _take(self, solution: Any, inputs: Mapping[str, float], share: float, dt_s: float, sample_s: float | None) -> CellStep:
        begin_s = 0.0 if self._solution is None else float(self._solution.t[-1])
        self._solution = solution
        voltage_v, kelvin, charge_ah, self.heat_w = (float(value) for value in self._model.outputs(solution, inputs))
        ends = [np.array([voltage_v]), np.array([kelvin]), np.array([charge_ah])]
        if sample_s is not None:
            times_s = begin_s + sample_s * np.arange(1, round(dt_s / sample_s))
            ends = [
                np.append(solution[name](t=times_s), end)
                for name, end in zip((_VOLTAGE, _TEMPERATURE, _CHARGE), ends, strict=True)
            ]
        soc = self._start[0] - ends[2] / self.balance.capacity_ah
        step = CellStep(
            power_w=inputs[_POWER],
            share=share,
            current_a=(self.soc - float(soc[-1])) * self.balance.capacity_ah / (dt_s / 3600.0),
            voltage_v=ends[0],
            temperature_c=ends[1] - KELVIN,
            soc=soc,
        )
        self.soc, self.voltage_v, self.temperature_c = float(soc[-1]), voltage_v, float(step.temperature_c[-1])
        self.current_a = step.power_w / voltage_v
        return step
