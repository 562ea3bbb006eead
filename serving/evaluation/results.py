"""From the results of jobs to what an evaluation says: ranking per information set, scores by scenario, comparisons.

Scores of different information sets stand in different tables and never meet. Not here: the numbers' formulas
(serving.evaluation.score), pictures and HTML (serving.evaluation.report).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.evaluation.config import BASELINES, EvaluationConfig
from serving.evaluation.score import (
    Block,
    Frame,
    compare,
    frame_of,
    iqm_interval,
    only,
    performance_score,
    ratio,
    score_interval,
)

FORMAT = "pulsebms-evaluation/1"
IDLE, BEST, MPC = "idle", "perfect_foresight", "mpc"
SUMMED = (
    "j_eur", "cash_eur", "peak_eur", "wear_eur", "energy_eur", "throughput_kwh", "curtailed_kwh", "cut_kwh", "plant_cut_steps",
    "violations",
)  # fmt: skip
MEANS = ("full_cycles", "soh_loss_pct", "decided_share")
Results = Mapping[tuple[str, Block], Mapping[str, Any]]
"""(policy, block) -> result document of its job."""


def summarise(config: EvaluationConfig, results: Results, policies: Sequence[str], code: str) -> dict[str, Any]:
    """The evaluation's document, JSON-ready. The same results give the same document."""
    benchmarks = {}
    for information in sorted({scenario.information for scenario in config.scenarios}):
        names = {scenario.name for scenario in config.scenarios if scenario.information == information}
        benchmarks[information] = _benchmark(config, results, policies, names)
    return {
        "format": FORMAT,
        "name": config.name,
        "code_sha256": code,
        "config": config.model_dump(mode="json"),
        "benchmarks": benchmarks,
        "blocks": [
            {
                "policy": policy, "scenario": block[0], "week": block[1], "seed": block[2], "status": result["status"],
                "error": result.get("error", ""), "key": result.get("key", ""), **result.get("account", {}),
                "violated": result.get("violations", {}), "promised_eur": result.get("promised_eur"),
            }
            for (policy, block), result in sorted(results.items(), key=lambda item: item[0])
        ],
    }  # fmt: skip


def benchmark_frame(config: EvaluationConfig, results: Results, scenarios: set[str]) -> Frame | None:
    """Blocks in which idle and perfect foresight were run; None where there is none."""
    own = {
        policy: {block: float(r["account"]["j_eur"]) for (name, block), r in results.items()
                 if name == policy and r["status"] == "ok" and block[0] in scenarios}
        for policy in (IDLE, BEST)
    }  # fmt: skip
    shared = sorted(own[IDLE].keys() & own[BEST].keys())
    return frame_of(shared, own[IDLE], own[BEST], config.level, config.resamples) if shared else None


def j_of(results: Results, policy: str, frame: Frame) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """J of a policy in the frame's blocks; None when one of them is missing or failed."""
    found = []
    for block in frame.blocks:
        result = results.get((policy, block))
        if result is None or result["status"] != "ok":
            return None
        found.append(float(result["account"]["j_eur"]))
    return np.array(found)


def _benchmark(config: EvaluationConfig, results: Results, policies: Sequence[str], scenarios: set[str]) -> dict[str, Any]:
    frame = benchmark_frame(config, results, scenarios)
    if frame is None:
        return {"ranking": [], "why": "idle or perfect foresight did not finish in any week", "blocks": 0, "weeks": 0}
    draws = frame.draws()
    spikes = frame.spikes()
    mpc = j_of(results, MPC, frame)
    rows = [_row(config, results, policy, frame, draws, spikes, mpc) for policy in policies]
    rows.sort(key=lambda row: (not row["eligible"], -1.0 if row["score"] is None else -row["score"], row["policy"]))
    promised = [float(results[BEST, block]["promised_eur"]) for block in frame.blocks]
    room = float(frame.room_eur.sum())
    return {
        "blocks": len(frame.blocks),
        "weeks": len({block[1] for block in frame.blocks}),
        "room_eur": room,
        "foresight_gap_pct": 100.0 * (sum(promised) - float(frame.best_eur.sum())) / room if room > 0 else None,
        "spike_blocks": [list(block) for block, apart in zip(frame.blocks, spikes.tolist(), strict=True) if apart],
        "ranking": rows,
    }


def _row(
    config: EvaluationConfig,
    results: Results,
    policy: str,
    frame: Frame,
    draws: np.ndarray[Any, np.dtype[np.int64]],
    spikes: np.ndarray[Any, np.dtype[np.bool_]],
    mpc: np.ndarray[Any, np.dtype[np.float64]] | None,
) -> dict[str, Any]:
    """One line of the ranking."""
    own = [results.get((policy, block)) for block in frame.blocks]
    errors = sorted(
        {r.get("error", "") for r in own if r is not None and r["status"] != "ok"} | {"not run" for r in own if r is None}
    )
    row: dict[str, Any] = {"policy": policy, "baseline": policy in BASELINES, "score": None, "eligible": False}
    j_eur = j_of(results, policy, frame)
    if errors or j_eur is None:
        return row | {"why_not": "; ".join(errors)[:500]}
    done = [r for r in own if r is not None]
    violated: dict[str, int] = {}
    for result in done:
        for kind, count in result["violations"].items():
            violated[kind] = violated.get(kind, 0) + count
    score, middle = score_interval(frame, j_eur, draws), iqm_interval(frame, j_eur, draws)
    one_week = len({block[1] for block in frame.blocks}) < 2  # which, drawn again and again, is always the same
    latency = np.concatenate([np.asarray(result["latency_s"]) for result in done])
    row |= {
        "score": None if score is None else score.value,
        "score_interval": None if score is None or one_week else score.document(),
        "ratio": ratio(frame, j_eur),
        "iqm": None if middle is None or one_week else middle.document(),
        "score_without_spikes": performance_score(frame, j_eur, ~spikes),
        "score_of_spikes": performance_score(frame, j_eur, spikes) if spikes.any() else None,
        "eligible": not violated,
        "why_not": "" if not violated else "limits passed: " + ", ".join(f"{k} {n}" for k, n in sorted(violated.items())),
        "violated": violated,
        "latency_p50_s": float(np.quantile(latency, 0.5)),
        "latency_p99_s": float(np.quantile(latency, 0.99)),
        "peak_w": max(float(result["account"]["peak_w"]) for result in done),
        "by_scenario": _by_scenario(frame, j_eur, done),
        "against_mpc": None,
    }
    row |= {name: sum(float(result["account"][name]) for result in done) for name in SUMMED}
    row |= {name: float(np.mean([result["account"][name] for result in done])) for name in MEANS}
    unable: dict[str, int] = {}
    for result in done:
        for why, count in result["unable"].items():
            unable[why] = unable.get(why, 0) + count
    row["unable"] = dict(sorted(unable.items(), key=lambda item: -item[1])[:3])
    if mpc is not None and policy != MPC:
        found = compare(frame, j_eur, mpc, draws)
        row["against_mpc"] = None if found is None else found.document()
    return row


def _by_scenario(
    frame: Frame, j_eur: np.ndarray[Any, np.dtype[np.float64]], done: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    names = np.array([block[0] for block in frame.blocks])
    found = {}
    for name in sorted(set(names.tolist())):
        keep = names == name
        part = only(frame, keep)
        interval = score_interval(part, j_eur[keep], part.draws())
        kept = [result for result, own in zip(done, keep.tolist(), strict=True) if own]
        found[name] = {
            "score": performance_score(part, j_eur[keep]),
            "interval": None if interval is None else interval.document(),
            "j_eur": float(j_eur[keep].sum()),
            "room_eur": float(part.room_eur.sum()),
            "violations": sum(result["account"]["violations"] for result in kept),
        }
    return found


def pairwise(config: EvaluationConfig, results: Results, a: str, b: str) -> dict[str, Any]:
    """Policy a less policy b in each information set, and block by block; JSON-ready."""
    found: dict[str, Any] = {}
    for information in sorted({scenario.information for scenario in config.scenarios}):
        names = {scenario.name for scenario in config.scenarios if scenario.information == information}
        frame = benchmark_frame(config, results, names)
        mine, theirs = (None, None) if frame is None else (j_of(results, a, frame), j_of(results, b, frame))
        if frame is None or mine is None or theirs is None:
            found[information] = {"why_not": "one of the two did not finish every week"}
            continue
        draws = frame.draws()
        together = compare(frame, mine, theirs, draws)
        scenarios = np.array([block[0] for block in frame.blocks])
        parts = {}
        for name in sorted(names & set(scenarios.tolist())):
            keep = scenarios == name
            part = only(frame, keep)
            one = compare(part, mine[keep], theirs[keep], part.draws())
            parts[name] = None if one is None else one.document()
        found[information] = {
            "together": None if together is None else together.document(),
            "by_scenario": parts,
            "blocks": [
                {"scenario": block[0], "week": block[1], "seed": block[2], a: float(x), b: float(y), "difference": float(x - y)}
                for block, x, y in zip(frame.blocks, mine.tolist(), theirs.tolist(), strict=True)
            ],
        }
    return found
