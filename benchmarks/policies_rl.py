"""RL, alone or on the MPC, on the test years of its config: actors of finished runs act without exploration in their environment.

Run: pulsebms train configs/rl/ppo_pack.yaml --seeds 0,1 --run-dir RUN; python -m benchmarks.policies_rl RUN ...

Each test year from its first row to its last, at sites that neither training nor validation has seen, all from half full. Beside
the actors: the best plan with all prices known carried out in the same environment (the scale, not a strict bound), the MPC with
a linear model that knows what the actors know (training.rl_base), a rule that looks ahead, its hours those that earned most on
the validation years, and rest. Training reaches no test year; this reads them, once. Published and revealed prices are not
comparable. Intervals: 95 %, 4,000 paired week blocks, stored energy at the week's mean price.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Table, clean_environment, progress

clean_environment()

from envs import variants as at  # noqa: E402
from envs.data import DataSet, Part, Period  # noqa: E402
from envs.engine import Engine  # noqa: E402
from envs.residual import ResidualEngine  # noqa: E402
from policies.learned.artefact import read_artefact  # noqa: E402
from training.config_file import read_config  # noqa: E402
from training.rl_config import AnyRlConfig, BaseConfig, PpoConfig, SacConfig  # noqa: E402
from training.rl_data import read_data  # noqa: E402
from training.rl_model import acting  # noqa: E402
from training.rl_validation import SITES_SEED, Act, Validator  # noqa: E402
from training.rl_whole import Whole  # noqa: E402
from training.run_directory import ARTEFACT, CONFIG, RESULT, read_json  # noqa: E402
from training.value_score import compare  # noqa: E402

HOURS = (2, 3, 4, 5, 6, 8)
"""Ahead that the rule looks; at 12 h, before the next day is published, 11 are known."""
MPC = "MPC, linear model, by table"
COLUMNS = (
    "run, year", "policy", "% of perfect foresight", "less rule: points [95 %]", "less MPC: points [95 %]",
    "weeks won / lost against it", "EUR/kWh/a",
)  # fmt: skip


def looking_ahead(engine: Engine, rows: NDArray[np.int64], sites: NDArray[np.int64], hours: int) -> Act:
    """Sell above the middle of the highest and the lowest price from now to `hours` ahead, buy below it, by more than wear.

    Where prices are revealed hour by hour, those ahead are taken from the day before.
    """
    price, per_hour = engine.part.exogenous.price_eur_per_kwh, round(3600.0 / engine.dt_s)
    back = 24 * per_hour if engine.config.information == "revealed" else 0
    later = np.arange(1, hours + 1) * per_hour - back
    wear = engine.variants.pack[sites, 0, at.WEAR]
    step = iter(range(len(price)))

    def act(_: NDArray[np.float32]) -> NDArray[np.float64]:
        now = rows + next(step)
        seen = np.concatenate([price[now][:, None], price[np.minimum(now[:, None] + later, len(price) - 1)]], axis=1)
        above = seen[:, 0] - 0.5 * (seen.max(axis=1) + seen.min(axis=1))
        return np.where(above > wear, 1.0, np.where(above < -wear, -1.0, 0.0))[:, None]

    return act


class Year(Whole):
    """A test year at sites that neither training nor validation has seen."""

    def __init__(self, config: AnyRlConfig, part: Part) -> None:
        super().__init__(config, part, SITES_SEED)


def tuned_hours(config: AnyRlConfig, data: DataSet) -> tuple[int, float]:
    """The rule's hours that earned most on the validation years, and what, EUR a year per kWh."""
    course = Validator(config.model_copy(update={"base": None}), data.part("validation"))
    rule: Callable[[int], Act] = lambda hours: looking_ahead(course.batch.engine, course.rows, course.sites, hours)  # noqa: E731
    found = {hours: course.score(rule(hours)).eur_per_kwh_year for hours in HOURS}
    best = max(found, key=lambda hours: found[hours])
    return best, found[best]


def rows_of(run_dir: Path, table: Table) -> None:
    """Every finished seed of a run on every test year."""
    read = read_config(run_dir / CONFIG)
    config, data = read.config, read_data(read.config, read.origin)
    if not isinstance(config, PpoConfig | SacConfig) or len(config.env.config.packs) != 1:
        raise SystemExit(f"{run_dir}: a PPO or SAC run of one pack is expected")
    hours, reached = tuned_hours(config, data)
    actors: dict[str, tuple[Act, float | None]] = {}
    for folder in sorted(path.parent for path in run_dir.glob(f"seed-*/{RESULT}")):
        said = read_json(folder / RESULT) or {}
        artefact = read_artefact(folder / ARTEFACT)
        gate = artefact.metadata.parameters.get("share") if config.base is not None else None
        act = acting(artefact.network("actor"), config.algorithm)
        name = f"{config.algorithm.upper()}, seed {said['seed']}"
        if config.base is None:
            actors[name] = act, None
        else:
            actors[f"HYBRID, seed {said['seed']} (gate: {gate:g})"] = act, gate
            if gate != config.base.share:
                actors[f"{name}, share {config.base.share:g} as trained"] = act, config.base.share
        table.notes.append(note_of(config, said) + f"; the rule, {hours} h ahead, {reached:.2f}")
        progress(table.notes[-1])
    test = data.part("test")
    for number in config.split.test:
        part = test.narrowed(Period.of_years((number,), config.data.timezone))
        plain = Year(config.model_copy(update={"base": None}), part)
        based = Year(config.model_copy(update={"base": config.base or BaseConfig()}), part)
        assert isinstance(based.engine, ResidualEngine)  # noqa: S101 - by its base
        best, rule = plain.foresight(), plain.run(looking_ahead(plain.engine, plain.rows, plain.sites, hours))
        mpc = based.run(based.idle)
        runs = {"perfect foresight": best, MPC: mpc, f"rule, {hours} h ahead": rule}
        for name, (act, share) in actors.items():
            if share is not None:
                based.engine.share = share
            runs[name] = (plain if share is None else based).run(act)
        runs["idle"] = plain.run(plain.idle)
        for name, run in runs.items():
            less_rule, less_mpc = (
                None if run is best or run is other else compare(run, other, best.total_eur, plain.price, plain.week)
                for other in (rule, mpc)
            )
            table.add(
                f"{config.name}, {number}", name, f"{100 * run.total_eur / best.total_eur:.2f}", less_rule and str(less_rule),
                less_mpc and str(less_mpc), less_mpc and f"{less_mpc.weeks_won} / {less_mpc.weeks_lost}",
                f"{plain.eur_per_kwh_year(run):.2f}",
            )  # fmt: skip


def note_of(config: AnyRlConfig, said: Mapping[str, Any]) -> str:
    """What a seed's result says of its training."""
    text = (
        f"{config.name}, seed {said['seed']}: {said['cpu_s']:.0f} CPU-s of learning, {said['steps']:,} steps, best at "
        f"{said['best_at_step']:,}; on validation {said['validation_eur_per_kwh_year']:.2f} EUR/kWh/a, "
        f"{said['validation_pct_of_foresight']:.1f} % of foresight"
    )
    if config.base is None:
        return text
    mean, low, high = said["gain_over_base_pct"]
    return (
        f"{text}, the MPC alone {said['base_eur_per_kwh_year']:.2f}; over the whole year at share {said['best_share']:g} "
        f"{mean:+.2f} [{low:+.2f}, {high:+.2f}] % of the MPC, so that the gate is {said['gate_share']:g}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run directories of `pulsebms train`")
    table = Table("RL alone and residual on the MPC, in their environment", COLUMNS)
    for run_dir in parser.parse_args().runs:
        rows_of(run_dir, table)
    print(table.markdown())


if __name__ == "__main__":
    main()
