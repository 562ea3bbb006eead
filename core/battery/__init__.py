"""Battery cells and packs as an equivalent circuit: parameters per chemistry and the compiled step.

Here: parameters (core.battery.cells) and the ECM kernel (core.battery.ecm). Not here: a single pack's state (core.pack),
predictions (core.twin), ageing (core.ageing).
"""

from core.battery.cells import CELLS, CellParameters, capacity_ah, capacity_wh, energy_curve_wh, resistance_growth

__all__ = ["CELLS", "CellParameters", "capacity_ah", "capacity_wh", "energy_curve_wh", "resistance_growth"]
