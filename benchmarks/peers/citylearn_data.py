"""A data set for CityLearn in the columns that it documents, so that nothing is downloaded: one building with PV and a battery.

A made-up year of hours: prices, load, PV and weather by time of day and season with noise of a fixed seed. Only steps are
counted, so what the numbers are does not matter; devices and observations are those of the 2022 challenge. Runs in the peer's
interpreter. Not here: the timing (env_case).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

HOURS = 8760
AHEAD_H = (6, 12, 24)
OBSERVATIONS = (
    "month", "day_type", "hour", "outdoor_dry_bulb_temperature", "outdoor_dry_bulb_temperature_predicted_1",
    "outdoor_dry_bulb_temperature_predicted_2", "outdoor_dry_bulb_temperature_predicted_3", "outdoor_relative_humidity",
    "outdoor_relative_humidity_predicted_1", "outdoor_relative_humidity_predicted_2", "outdoor_relative_humidity_predicted_3",
    "diffuse_solar_irradiance", "diffuse_solar_irradiance_predicted_1", "diffuse_solar_irradiance_predicted_2",
    "diffuse_solar_irradiance_predicted_3", "direct_solar_irradiance", "direct_solar_irradiance_predicted_1",
    "direct_solar_irradiance_predicted_2", "direct_solar_irradiance_predicted_3", "carbon_intensity", "non_shiftable_load",
    "solar_generation", "electrical_storage_soc", "net_electricity_consumption", "electricity_pricing",
    "electricity_pricing_predicted_1", "electricity_pricing_predicted_2", "electricity_pricing_predicted_3",
)  # fmt: skip
"""The 28 that the challenge showed."""


def _with_predictions(name: str, values: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: values} | {f"{name}_predicted_{k + 1}": np.roll(values, -h) for k, h in enumerate(AHEAD_H)}


def write(folder: Path) -> Path:
    """The files of the data set in a folder; the path of its schema."""
    rng = np.random.default_rng(0)
    hours = np.arange(HOURS)
    clock, season = 2 * np.pi * (hours % 24) / 24, 2 * np.pi * hours / HOURS
    day = pd.date_range("2021-01-01", periods=HOURS, freq="h")
    sun = np.clip(-np.cos(clock), 0, None) * (1.0 - 0.5 * np.cos(season)) * rng.uniform(0.5, 1.0, HOURS)
    zeros = np.zeros(HOURS)
    building = {
        "month": day.month, "hour": hours % 24 + 1, "day_type": day.dayofweek + 1, "daylight_savings_status": zeros.astype(int),
        "indoor_dry_bulb_temperature": zeros + 21.0, "average_unmet_cooling_setpoint_difference": zeros,
        "indoor_relative_humidity": zeros + 50.0,
        "non_shiftable_load": 1.0 + 0.5 * np.cos(clock + 2) + rng.uniform(0, 0.5, HOURS),
        "dhw_demand": zeros, "cooling_demand": zeros, "heating_demand": zeros, "solar_generation": 500.0 * sun,
    }  # fmt: skip
    weather = (
        _with_predictions("outdoor_dry_bulb_temperature", 12.0 - 8.0 * np.cos(season) - 4.0 * np.cos(clock))
        | _with_predictions("outdoor_relative_humidity", 60.0 + 20.0 * np.cos(clock))
        | _with_predictions("diffuse_solar_irradiance", 200.0 * sun)
        | _with_predictions("direct_solar_irradiance", 500.0 * sun)
    )
    pricing = _with_predictions("electricity_pricing", 0.25 + 0.1 * np.cos(clock + 2) + rng.uniform(0, 0.05, HOURS))
    files: dict[str, dict[str, Any]] = {
        "building": building, "weather": weather, "pricing": pricing, "carbon": {"carbon_intensity": zeros + 0.15},
    }  # fmt: skip
    for name, columns in files.items():
        pd.DataFrame(columns).to_csv(folder / f"{name}.csv", index=False)
    battery = {
        "capacity": 6.4,
        "efficiency": 0.9,
        "capacity_loss_coefficient": 1e-5,
        "loss_coefficient": 0.0,
        "nominal_power": 5.0,
    }
    schema = {
        "random_seed": 0, "root_directory": None, "central_agent": True, "simulation_start_time_step": 0,
        "simulation_end_time_step": HOURS - 1, "episode_time_steps": None, "rolling_episode_split": False,
        "random_episode_split": False, "seconds_per_time_step": 3600,
        "observations": {name: {"active": True, "shared_in_central_agent": True} for name in OBSERVATIONS},
        "actions": {"electrical_storage": {"active": True}},
        "agent": {"type": "citylearn.agents.base.BaselineAgent", "attributes": {}},
        "reward_function": {"type": "citylearn.reward_function.RewardFunction", "attributes": {}},
        "buildings": {
            "Building_1": {
                "include": True, "energy_simulation": "building.csv", "weather": "weather.csv", "carbon_intensity": "carbon.csv",
                "pricing": "pricing.csv", "inactive_observations": [], "inactive_actions": [],
                "electrical_storage": {"type": "citylearn.energy_model.Battery", "autosize": False, "attributes": battery},
                "pv": {"type": "citylearn.energy_model.PV", "autosize": False, "attributes": {"nominal_power": 4.0}},
            }
        },
    }  # fmt: skip
    path = folder / "schema.json"
    path.write_text(json.dumps(schema))
    return path
