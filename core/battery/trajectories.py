"""Ageing states and how they grow: from a loss y, back to the x that caused it, on by dx, and to the new loss.

Stepping so is exact for constant stress whatever the step, and needs no memory but y itself. All arrays of one shape. Not here:
rates (core.battery.ageing_models).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
_TINY = 1e-200


def power_law(y: FloatArray, dx: FloatArray, k: FloatArray, p: float) -> FloatArray:
    """y = k x^p."""
    return np.where(dx > 0, (y ** (1.0 / p) + k ** (1.0 / p) * dx) ** p, y)


def scaled_power_law(y: FloatArray, dx: FloatArray, k: FloatArray, p: float) -> FloatArray:
    """y = (k x)^p."""
    return np.where(dx > 0, (y ** (1.0 / p) + k * dx) ** p, y)


def sigmoid(y: FloatArray, dx: FloatArray, y_end: FloatArray, k: FloatArray, p: FloatArray) -> FloatArray:
    """y = 2 y_end (1/2 - 1 / (1 + exp((k x)^p))): rises, then levels off at y_end; a loss beyond y_end stays."""
    y_end, k = np.maximum(y_end, _TINY), np.maximum(k, _TINY)
    share = np.clip(y / y_end, 0.0, 1.0 - 1e-12)
    x = np.log((1.0 + share) / (1.0 - share)) ** (1.0 / p) / k
    grown = y_end * np.tanh(0.5 * np.minimum((k * (x + dx)) ** p, 700.0))
    return np.where((dx > 0) & (y < y_end), np.maximum(grown, y), y)
