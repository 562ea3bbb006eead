"""One job: a contender in a week of a scenario under a seed, from its key to its result document.

Here: `Job`, its content hash, `run_job`. Not here: many at once (serving.evaluation.pool), the cache
(serving.evaluation.result_cache).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import core
import envs
import optimizer
import policies
import serving.dispatch
from serving.evaluation.account import account
from serving.evaluation.baselines import Contender
from serving.evaluation.config import EvaluationConfig, Faults, PlantModel, ScenarioConfig
from serving.evaluation.foresight import Foresight, fitted, pack_model
from serving.evaluation.plant import make_packs
from serving.evaluation.replay import Trace, replay
from serving.evaluation.world import World, make_world

FORESIGHT = "perfect_foresight"
ROUNDS = 4
KEPT_VIOLATIONS = 20
_LIBRARIES = ("numpy", "scipy", "numba", "piqp", "osqp", "highspy", "pybamm", "rainflow", "safetensors")
Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that one replay depends on."""

    config: EvaluationConfig
    scenario: ScenarioConfig
    week: date
    seed: int
    contender: Contender
    folder: Path
    data_dir: Path

    @property
    def plant(self) -> PlantModel:
        """Which plant it runs on."""
        return self.scenario.plant or self.config.plant

    @property
    def faults(self) -> Faults:
        """The scenario's; idle and perfect foresight, from which the others are counted, know the truth."""
        return Faults() if self.contender.name in ("idle", FORESIGHT) and self.contender.record is None else self.scenario.faults

    def world(self) -> World:
        """Its week."""
        return make_world(self.config, self.scenario, self.week, self.seed, self.folder, self.data_dir)

    def key(self, world_sha256: str) -> str:
        """Hash of data, plant, policy, settings and code: equal keys have equal results."""
        said = {
            "world": world_sha256,
            "plant": self.plant,
            "faults": self.faults.model_dump(mode="json"),
            "policy": self.contender.identity(),
            "mpc_horizon_hours": self.config.mpc_horizon_hours,
            "correction_phi": self.config.correction_phi,
            "code": code_sha256(),
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


@cache
def code_sha256() -> str:
    """Of every source file that a replay runs, and the versions of the libraries below it."""
    digest = hashlib.sha256()
    for package in (core, envs, optimizer, policies, serving.dispatch):
        _hash_folder(digest, Path(str(package.__file__)).parent)
    _hash_folder(
        digest, Path(__file__).parent, ("account", "baselines", "five_minute", "foresight", "job", "plant", "replay", "world")
    )
    for name in _LIBRARIES:
        try:
            digest.update(f"{name}=={version(name)}".encode())
        except PackageNotFoundError:
            digest.update(f"{name} absent".encode())
    return digest.hexdigest()


def _hash_folder(digest: Any, folder: Path, stems: tuple[str, ...] = ()) -> None:  # noqa: ANN401 - hashlib has no public type
    for path in sorted(folder.rglob("*.py")):
        if not stems or path.stem in stems:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())


def run_job(job: Job, progress: Progress = lambda _: None) -> dict[str, Any]:
    """The result document of a job. Raises whatever its policy raises."""
    world = job.world()
    promised = None
    if job.contender.name == FORESIGHT and job.contender.record is None:
        trace, promised = _foresight(job, world, progress)
    else:
        policy = job.contender.policy(job.config, world.dt_s)
        trace = replay(policy, world, _packs(job, world), job.faults, progress)
    found = account(trace, world)
    counts: dict[str, int] = {}
    for violation in trace.violations:
        counts[violation.kind] = counts.get(violation.kind, 0) + 1
    return {
        "status": "ok",
        "policy": job.contender.name,
        "scenario": job.scenario.name,
        "information": job.scenario.information,
        "week": job.week.isoformat(),
        "seed": job.seed,
        "account": found.document(),
        "promised_eur": promised,
        "violations": counts,
        "first_violations": [asdict(item) for item in trace.violations[:KEPT_VIOLATIONS]],
        "unable": trace.unable,
        "latency_s": trace.latency_s.tolist(),
        "trace": {
            "start": world.start.isoformat(),
            "dt_s": world.dt_s,
            "devices": [
                {"device_id": d.device_id, "chemistry": d.chemistry.value, "soh_pct": world.site.pack(d.device_id).soh_pct,
                 "replacement_eur_per_kwh": world.site.pack(d.device_id).replacement_eur_per_kwh,
                 "energy_kwh": d.nominal_energy_wh / 1000.0}
                for d in world.devices
            ],
            "power_w": trace.power_w.T.tolist(),
            "soc_pct": trace.soc_pct.T.tolist(),
            "temperature_c": trace.temperature_c.T.tolist(),
            "grid_w": trace.grid_w.tolist(),
            "price_eur_per_kwh": world.week(world.price).tolist(),
        },
    }  # fmt: skip


def _packs(job: Job, world: World) -> list[Any]:
    return make_packs(world.site, world.devices, world.start_soc_pct, float(world.ambient_c[world.first]), job.plant)


def _foresight(job: Job, world: World, progress: Progress) -> tuple[Trace, float]:
    """The best of several runs, each with what the run before has shown of the plant; and what the first programmes promised."""
    models = [pack_model(world, device) for device in world.devices]
    best: Trace | None = None
    best_eur, promised = -np.inf, -np.inf
    caps_w: dict[int, float] = {}
    for k in range(ROUNDS):
        policy = Foresight(world, models, near_caps_w=caps_w)
        caps_w = policy.caps_w
        trace = replay(policy, world, _packs(job, world), Faults(), progress)
        earned = account(trace, world).j_eur
        if earned > best_eur:
            best, best_eur = trace, earned
        if k <= 1:
            # The second programme knows the plant's losses; later ones only give up power that a run was cut by.
            promised = policy.promised_eur
        models = [fitted(model, world, trace, p) for p, model in enumerate(models)]
    assert best is not None  # noqa: S101 - ROUNDS > 0 and money is finite
    return best, max(promised, best_eur)
