"""What a finished training leaves: the artefact that serving loads, and the seed's `result.json`.

Here: metadata of an actor, and of a residual with its gate. Not here: the gate itself (training.rl_whole), the format
(training.artefacts, policies.learned.artefact), registering it in a store (serving.cli.train_cli).
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from core.errors import InputError
from envs.data import DataSet
from envs.layout import LAYOUT_NAME
from envs.residual_layout import BASE_LAYOUT_NAME
from policies.learned.artefact import Artefact
from training.artefacts import make_artefact, write_artefact
from training.rl_config import AnyRlConfig
from training.rl_model import SQUASH
from training.rl_run import Outcome
from training.rl_whole import Gate, residual_gate
from training.run_directory import ARTEFACT, RESULT, code_version, config_sha256, versions, write_json

PRICE = "day_ahead_price_eur_per_kwh"


def metrics_of(config: AnyRlConfig, outcome: Outcome, gate: Gate | None = None) -> dict[str, Any]:
    """What was reached on validation; of a residual, at the share that it was trained with, and what its gate says."""
    found: dict[str, Any] = {
        "validation_years": list(config.split.validation), "best_at_step": outcome.course.best_step, "steps": outcome.step,
        "validation_eur_per_kwh_year": _rounded(outcome.course.best),
    }  # fmt: skip
    if outcome.score is not None:
        found["validation_wear_eur_per_kwh_year"] = _rounded(outcome.score.wear_eur_per_kwh_year)
        found["validation_projected_share"] = _rounded(outcome.score.projected_share)
    if outcome.foresight and outcome.course.best is not None:
        found["foresight_eur_per_kwh_year"] = _rounded(outcome.foresight)
        found["validation_pct_of_foresight"] = round(100.0 * outcome.course.best / outcome.foresight, 2)
    if gate is not None:
        found["gate_share"], found["best_share"] = gate.share, gate.best_share
        found["gain_over_base_pct"] = list(gate.gain_pct)
        found["base_eur_per_kwh_year"] = _rounded(outcome.base)
    return found


def export(config: AnyRlConfig, data: DataSet, outcome: Outcome, folder: Path, seed: int) -> Artefact:
    """Write `folder/artefact` and `folder/result.json`. The same training makes the same bytes, however often interrupted.

    Raises InputError when no validation was reached, OSError when nothing can be written.
    """
    if outcome.network is None:
        raise InputError(source=str(folder), field="validation", value=None, expected="at least one before the training ended")
    said = config.model_dump(mode="json", exclude={"seeds", "tuning"})
    for name, file in config.data.files().items():
        said["data"][name]["path"] = file.path.name
    environment = config.env.config
    chemistries = tuple(dict.fromkeys(chemistry for pack in environment.packs for chemistry in pack.chemistry))
    gate = None if config.base is None else residual_gate(config, data, outcome.network)
    residual: dict[str, Any] = {}
    if config.base is not None and gate is not None:
        residual = {"share": gate.share, "base": config.base.model_dump(mode="json")}
    artefact = make_artefact(
        {"actor": outcome.network},
        kind="actor" if gate is None else "residual",
        layout=LAYOUT_NAME if gate is None else BASE_LAYOUT_NAME,
        chemistries=chemistries,
        information=(PRICE,),
        parameters={
            "environment": environment.model_dump(mode="json"),
            "dt_s": config.data.dt_s,
            "timezone": config.data.timezone,
            "price_forecast": config.data.price_forecast is not None,
            "squash": SQUASH[config.algorithm],
            **residual,
        },
        metrics=metrics_of(config, outcome, gate),
        training={
            "config": said, "config_sha256": config_sha256(config), "seed": seed, "data_sha256": data.exogenous.sha256(),
            "python": platform.python_version(), "packages": versions(), "code": code_version(),
        },
    )  # fmt: skip
    write_artefact(artefact, folder / ARTEFACT)
    write_json(
        folder / RESULT,
        {
            "seed": seed, "sha256": artefact.sha256, "status": outcome.status, "cpu_s": round(outcome.course.cpu_s, 1),
            "steps_per_cpu_s": round(outcome.step / max(outcome.course.cpu_s, 1e-9)), **metrics_of(config, outcome, gate),
            "validations": outcome.course.validations,
        },
    )  # fmt: skip
    return artefact


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
