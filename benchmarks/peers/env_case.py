"""Steps per CPU second of CityLearn (the building of citylearn_data) or of EV2Gym's example: env_case.py NAME, its interpreter.

Random actions over at most 20 s of processor time; prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
LIMIT_S = 20.0


def citylearn() -> tuple[Any, str]:
    """One building with PV and a battery, a year of hours: the data set that citylearn_data makes."""
    from citylearn.citylearn import CityLearnEnv
    from citylearn_data import write

    with tempfile.TemporaryDirectory() as folder:
        return CityLearnEnv(str(write(Path(folder))), central_agent=True), "one building, made-up year"


def ev2gym() -> tuple[Any, str]:
    """The package's V2G example."""
    import ev2gym as package
    from ev2gym.models.ev2gym_env import EV2Gym

    folder = Path(package.__file__).parent / "example_config_files"
    config = folder / "V2GProfitMax.yaml"
    os.chdir(folder.parents[1])  # the example names its data from there
    return EV2Gym(config_file=str(config), verbose=False, save_replay=False, save_plots=False), config.name


def rate(env: Any) -> float:  # noqa: ANN401 - the peers have no common type
    env.reset()
    # CityLearn takes one list of actions a building, or one for all.
    space = env.action_space[0] if isinstance(env.action_space, list) else env.action_space
    steps, begin = 0, time.process_time()
    while time.process_time() - begin < LIMIT_S:
        action = space.sample()
        made = env.step([action] if isinstance(env.action_space, list) else action)
        steps += 1
        if made[2] or made[3]:
            env.reset()
    return steps / (time.process_time() - begin)


env_made, text = {"citylearn": citylearn, "ev2gym": ev2gym}[sys.argv[1]]()
print(json.dumps({"steps_per_cpu_s": rate(env_made), "what": text}))
