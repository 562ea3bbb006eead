"""What limits and measured state allow each pack in the interval: the bounds that training's environments act through.

Not here: the bounds themselves (core.limits), the gate, which projects whatever a policy decides (serving.dispatch.gate).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.devices import DeviceConfig
from core.errors import InputError
from core.limits import power_bounds
from core.pack import condition_from_state
from policies.base import Observation, PolicyUnableError

FloatArray = NDArray[np.float64]


def bounds_of(observation: Observation, packs: Sequence[DeviceConfig]) -> FloatArray:
    """(charge, discharge) in W, both >= 0, (packs, 2). PolicyUnableError where a pack's cannot be computed."""
    found = np.zeros((len(packs), 2))
    try:
        ambient_c = float(observation.ambient_c.window(observation.starts_at, 1, observation.interval_s)[0])
        for k, device in enumerate(packs):
            state = observation.states[device.device_id]
            condition = condition_from_state(device, state, observation.interval_s, ambient_c=ambient_c)
            bounds = power_bounds(observation.limits[device.device_id], condition, observation.interval_s)
            found[k] = bounds.charge_w[0], bounds.discharge_w[0]
    except InputError as error:
        raise PolicyUnableError(str(error)) from None
    return found
