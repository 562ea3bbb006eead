"""An evaluation from config to documents: jobs, cache, pool, summary. Not here: the command line, HTML, stores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.errors import InputError, nearest
from core.policy_record import PolicyRecord
from policies.learned.artefact import read_artefact
from policies.learned.hybrid import ARTEFACT_KEY
from serving.evaluation.baselines import Contender
from serving.evaluation.config import BASELINES, EvaluationConfig, PolicyConfig
from serving.evaluation.job import Job, code_sha256
from serving.evaluation.life import lives_of
from serving.evaluation.pool import FIRST_S, Pool, Turn
from serving.evaluation.progress import Estimate, Status, Told
from serving.evaluation.result_cache import Claim, ResultCache
from serving.evaluation.results import BEST, IDLE, MPC, summarise
from serving.evaluation.score import Block

ALWAYS = (IDLE, BEST, MPC)
"""Run whatever is asked for: scores are counted from them."""


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

    def run(self, workers: int, told: Told = lambda _: None) -> None:
        """Run what the cache does not hold. What is done is kept at once: a killed evaluation goes on where it was.

        Another evaluation of the same data directory takes its share of the jobs, and each has the results of both. Raises
        InputError or StoreError when a scenario cannot be made, OSError when a result cannot be kept; a policy's failure is a
        result.
        """
        run = _Run(self, ResultCache(self.data_dir / "evaluations" / "cache"), Estimate(workers=workers), told)
        pool = Pool(workers, self.config.decision_deadline_s, self.first_s)
        run.look(pool)
        try:
            pool.run(run.open_jobs, lambda index, result: run.finished(index, result, pool), run.turn, lambda: run.look(pool))
        finally:
            run.release()

    def document(self) -> dict[str, Any]:
        """What the evaluation says; JSON-ready."""
        found = summarise(self.config, self.results, self.names, code_sha256())
        found["life"] = {
            scenario.name: lives_of(self.config.life_years, self.results, self.names, scenario.name, self.config.naive)
            for scenario in self.config.scenarios
        }
        return found


class _Run:
    """One run: which jobs are open, who has them, what is told."""

    def __init__(self, evaluation: Evaluation, cache: ResultCache, estimate: Estimate, told: Told) -> None:
        self.evaluation, self.cache, self.estimate, self.told = evaluation, cache, estimate, told
        self.open_jobs: list[Job] = []
        self.keys: list[str] = []
        self.claims: dict[int, Claim] = {}
        self.left: dict[int, str] = {}
        """Policy of each open job that has not ended."""
        worlds: dict[tuple[str, str, int], str] = {}
        jobs = evaluation.jobs()
        self.total = len(jobs)
        for job in jobs:
            at = _block(job)
            if at not in worlds:
                worlds[at] = job.world().sha256()
            key = job.key(worlds[at])
            if not self._from_cache(job, key):
                self.left[len(self.open_jobs)] = job.contender.name
                self.open_jobs.append(job)
                self.keys.append(key)

    def turn(self, index: int) -> Turn:
        """See Pool.run: done where another evaluation has left its result, later while another one has it."""
        job, key = self.open_jobs[index], self.keys[index]
        claim = self.cache.claim(key)
        if claim is None:
            return "later"
        if self.cache.path(key).exists() and self._from_cache(job, key):
            claim.release()
            del self.left[index]
            return "done"
        self.claims[index] = claim
        return "run"

    def finished(self, index: int, result: dict[str, Any], pool: Pool) -> None:
        """Keep the result and tell."""
        job, key = self.open_jobs[index], self.keys[index]
        if result["status"] == "ok":
            self.cache.put(key, result)
            result["key"] = key
        self.claims.pop(index).release()
        del self.left[index]
        self.evaluation.results[job.contender.name, _block(job)] = result
        self.estimate.note(job.contender.name, result)
        self.told(replace(self._status(pool), ended=(job.contender.name, *_block(job)), error=str(result.get("error", "")),
                          took_s=float(result["took_s"])))  # fmt: skip

    def look(self, pool: Pool) -> None:
        """Tell how far it is."""
        self.told(self._status(pool))

    def release(self) -> None:
        """What an interrupted run still holds."""
        for claim in self.claims.values():
            claim.release()
        self.claims.clear()

    def _from_cache(self, job: Job, key: str) -> bool:
        kept = self.cache.get(key)
        if kept is None:
            return False
        # The same decisions may have been cached under another name.
        name = job.contender.name
        self.evaluation.results[name, _block(job)] = kept | {"policy": name, "scenario": job.scenario.name}
        self.evaluation.from_cache += 1
        self.estimate.note(name, kept)
        return True

    def _status(self, pool: Pool) -> Status:
        failed = sum(result["status"] != "ok" for result in self.evaluation.results.values())
        return Status(
            done=self.total - len(self.left), total=self.total, from_cache=self.evaluation.from_cache, failed=failed,
            steps=pool.steps(), left_s=self.estimate.left_s(list(self.left.values()), pool.running_s()),
        )  # fmt: skip


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
