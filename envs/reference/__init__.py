"""The reference plant: packs of electrochemical cells (PyBaMM), another kind of model than any policy or twin computes with.

Needs the extra `twin` (PyBaMM); it is imported at first use, so that this package can be imported without it. Here: parameter
sets (parameters), the electrode balance and an aged cell (balance), a cell stepped under power (cell), a pack of them (pack).
Not here: the equivalent circuit and its fit (core.battery, benchmarks).
"""

from envs.reference.cell import CellModel, ReferenceCell, cell_model
from envs.reference.pack import ReferencePack, StepResult
from envs.reference.parameters import SETS, ModelName, patches

__all__ = ["SETS", "CellModel", "ModelName", "ReferenceCell", "ReferencePack", "StepResult", "cell_model", "patches"]
