"""Electrochemical parameter sets per chemistry, and the values that they lack, each with its source.

Here: which published set stands for a chemistry, the patches, the import of PyBaMM. Not here: models (envs.reference.cell).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from core.devices import Chemistry
from core.errors import InputError

ModelName = Literal["SPMe", "DFN"]

SETS: Mapping[Chemistry, str] = {
    Chemistry.LFP: "Prada2013",
    Chemistry.NMC: "Chen2020",
    Chemistry.LCO: "Ramadass2004",
    Chemistry.NCA: "NCA_Kim2011",
}
"""PyBaMM's names. Prada et al., J. Electrochem. Soc. 160 (2013) A616 (A123 26650 2.3 Ah); Chen et al., ibid. 167 (2020) 080534
(LG M50); Ramadass et al., ibid. 151 (2004) A196 (Sony 18650); Kim et al., ibid. 158 (2011) A955 (NCA pouch, its 0.43 Ah unit)."""

THERMAL_FALLBACK_SET = "Marquis2019"
"""Layer densities, heat capacities and collectors that a set lacks: Marquis et al., J. Electrochem. Soc. 166 (2019) A3693."""
_LAYERS = ("Negative", "Positive", "Separator")
_LAYER_ENDINGS = ("density [kg.m-3]", "specific heat capacity [J.kg-1.K-1]", "thickness [m]", "conductivity [S.m-1]")


@dataclass(frozen=True, slots=True)
class Patch:
    """A value that a set lacks, or that a cell inside a pack has instead, and where it comes from."""

    value: float
    source: str


_CAN_H = Patch(10.0, "natural convection between cells of a rack; also the value of Chen2020")
_LFP_EMPTY = Patch(2.5, "where packs call an LFP cell empty, and the contract's default min_cell_voltage; the set says 2.0 V")
_26650 = "cylinder 26 mm x 65 mm (A123 ANR26650 data sheet)"
_18650 = "cylinder 18 mm x 65 mm (Sony US18650 data sheet)"
_PATCHES: Mapping[Chemistry, Mapping[str, Patch]] = {
    Chemistry.LFP: {
        "Cell volume [m3]": Patch(3.45e-5, _26650),
        "Cell cooling surface area [m2]": Patch(6.37e-3, _26650),
        "Total heat transfer coefficient [W.m-2.K-1]": _CAN_H,
        "Lower voltage cut-off [V]": _LFP_EMPTY,
        "Open-circuit voltage at 0% SOC [V]": _LFP_EMPTY,
    },
    Chemistry.NMC: {},
    Chemistry.LCO: {
        "Cell volume [m3]": Patch(1.65e-5, _18650),
        "Cell cooling surface area [m2]": Patch(4.18e-3, _18650),
        "Total heat transfer coefficient [W.m-2.K-1]": _CAN_H,
    },
    # The set describes one bare electrode pair with both faces in moving air. Cells of a pack are NCR18650B cans (3.2 Ah).
    Chemistry.NCA: {
        "Cell cooling surface area [m2]": Patch(4.18e-3 * 0.43 / 3.2, "surface of an NCR18650B (3.2 Ah) per 0.43 Ah"),
        "Total heat transfer coefficient [W.m-2.K-1]": _CAN_H,
    },
}


def require_pybamm() -> Any:
    """The library, with its telemetry off. InputError naming the extra when it is not installed."""
    os.environ["PYBAMM_DISABLE_TELEMETRY"] = "true"
    try:
        pybamm = importlib.import_module("pybamm")
    except ModuleNotFoundError as error:
        if error.name != "pybamm":
            raise
        raise InputError(
            source="reference plant",
            field="pybamm",
            value="not installed",
            expected="the extra `twin`: pip install 'pulsebms-optimizer[twin]'",
        ) from error
    pybamm.set_logging_level("ERROR")
    return pybamm


@cache
def patches(chemistry: Chemistry) -> Mapping[str, Patch]:
    """Every value that replaces or completes the published set of a chemistry."""
    pybamm = require_pybamm()
    own = pybamm.ParameterValues(SETS[chemistry])
    spare = pybamm.ParameterValues(THERMAL_FALLBACK_SET)
    found = dict(_PATCHES[chemistry])
    for name in spare.keys():  # noqa: SIM118 - not a dict
        thermal = name.startswith(_LAYERS) and name.endswith(_LAYER_ENDINGS)
        if thermal and name not in own.keys():  # noqa: SIM118
            found[name] = Patch(float(spare[name]), "Marquis et al. 2019")
    return found


def parameter_values(chemistry: Chemistry) -> Any:
    """A new pybamm.ParameterValues of the chemistry, patched."""
    pybamm = require_pybamm()
    values = pybamm.ParameterValues(SETS[chemistry])
    values.update({name: patch.value for name, patch in patches(chemistry).items()}, check_already_exists=False)
    return values
