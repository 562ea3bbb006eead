"""An evaluation from config to documents: jobs, cache, pool, summary. Not here: the command line, HTML, stores."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import InputError, nearest
from core.policy_record import PolicyRecord
from policies.learned.artefact import read_artefact
from policies.learned.hybrid import ARTEFACT_KEY
from serving.evaluation.baselines import Contender
from serving.evaluation.config import BASELINES, EvaluationConfig, PolicyConfig
from serving.evaluation.job import Job, ResultCache, code_sha256
from serving.evaluation.life import lives_of
from serving.evaluation.pool import FIRST_S, Pool
from serving.evaluation.results import BEST, IDLE, MPC, summarise
from serving.evaluation.score import Block

ALWAYS = (IDLE, BEST, MPC)
"""Run whatever is asked for: scores are counted from them."""
Told = Callable[[int, int, int], object]
"""Called with jobs done, jobs in all, steps done of those that run."""


@dataclass(slots=True, kw_only=True)
class Evaluation:
    """All jobs of a config with their results."""

    config: EvaluationConfig
    folder: Path
    data_dir: Path
    contenders: tuple[Contender, ...]
    results: dict[tuple[str, Block], dict[str, Any]] = field(default_factory=dict)
    from_cache: int = 0
    first_s: float = FIRST_S
    """What a first decision may take beyond the deadline."""

    @property
    def names(self) -> list[str]:
        """Of the policies, in the order in which they are shown."""
        return [contender.name for contender in self.contenders]

    def jobs(self) -> list[Job]:
        """Every combination; those that others are counted from come first."""
        found = [
            Job(
                config=self.config, scenario=scenario, week=week, seed=seed, contender=contender, folder=self.folder,
                data_dir=self.data_dir,
            )
            for contender in self.contenders
            for scenario in self.config.scenarios
            for week in (scenario.weeks or self.config.weeks)
            for seed in self.config.seeds
        ]  # fmt: skip
        return sorted(found, key=lambda job: (job.contender.name not in (IDLE, BEST), job.contender.name))

    def run(self, workers: int, told: Told = lambda _d, _a, _s: None) -> None:
        """Run what the cache does not hold. What is done is kept at once: a killed evaluation goes on where it was.

        Raises InputError or StoreError when a scenario cannot be made; a policy's failure is a result.
        """
        cache = ResultCache(self.data_dir / "evaluations" / "cache")
        worlds: dict[tuple[str, str, int], str] = {}
        open_jobs: list[Job] = []
        keys: list[str] = []
        jobs = self.jobs()
        for job in jobs:
            at = _block(job)
            if at not in worlds:
                worlds[at] = job.world().sha256()
            key = job.key(worlds[at])
            kept = cache.get(key)
            if kept is None:
                open_jobs.append(job)
                keys.append(key)
            else:
                # The same decisions may have been cached under another name.
                self.results[job.contender.name, at] = kept | {"policy": job.contender.name, "scenario": job.scenario.name}
                self.from_cache += 1
        steps: dict[int, int] = {}
        done = len(jobs) - len(open_jobs)
        told(done, len(jobs), 0)

        def finished(index: int, result: dict[str, Any]) -> None:
            nonlocal done
            job, key = open_jobs[index], keys[index]
            if result["status"] == "ok":
                cache.put(key, result)
                result["key"] = key
            self.results[job.contender.name, _block(job)] = result
            done += 1
            steps.pop(index, None)
            told(done, len(jobs), sum(steps.values()))

        def stepped(index: int, count: int) -> None:
            steps[index] = count
            if count % 50 == 0:
                told(done, len(jobs), sum(steps.values()))

        Pool(workers, self.config.decision_deadline_s, self.first_s).run(open_jobs, finished, stepped)

    def document(self) -> dict[str, Any]:
        """What the evaluation says; JSON-ready."""
        found = summarise(self.config, self.results, self.names, code_sha256())
        found["life"] = {
            scenario.name: lives_of(self.config.life_years, self.results, self.names, scenario.name, self.config.naive)
            for scenario in self.config.scenarios
        }
        return found


def _block(job: Job) -> Block:
    return (job.scenario.name, job.week.isoformat(), job.seed)


def default_workers() -> int:
    """A process a core."""
    return max(1, len(os.sched_getaffinity(0)))


def contenders_of(
    config: EvaluationConfig, folder: Path, rows: Sequence[Contender] = (), wanted: Sequence[str] = ()
) -> tuple[Contender, ...]:
    """Baselines, the config's policies, and `rows` of a site; with `wanted` only those, and what they are counted from.

    Raises InputError for a name that there is not, or twice; ArtefactError for an artefact that cannot be read.
    """
    found: dict[str, Contender] = {name: Contender(name=name) for name in BASELINES}
    for contender in (*(_from_config(policy, folder) for policy in config.policies), *rows):
        if contender.name in found:
            raise InputError(
                source="evaluation", field="policy", value=contender.name, expected="a name that no other policy or baseline has"
            )
        found[contender.name] = contender
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise InputError(
            source="evaluation", field="--policy", value=unknown[0], expected="a policy" + nearest(unknown[0], list(found))
        )
    if wanted:
        found = {name: item for name, item in found.items() if name in wanted or name in BASELINES}
    return tuple(found.values())


def _from_config(policy: PolicyConfig, folder: Path) -> Contender:
    config: Mapping[str, Any] = policy.config
    files = None
    if policy.artefact is not None:
        artefact = read_artefact(folder / policy.artefact)
        files, config = artefact.files, {**policy.config, ARTEFACT_KEY: artefact.sha256}
    record = PolicyRecord(
        policy_id=None, site_id="evaluation", name=policy.name, policy_type=policy.policy_type, config=config,
        horizon_hours=policy.horizon_hours, update_interval_seconds=900, status="testing",
    )  # fmt: skip
    return Contender(name=policy.name, record=record, files=files)
