"""RL trained alone, on the test years of its config: actors of finished runs act without exploration in their environment.

Run: pulsebms train configs/rl/ppo_pack.yaml --seeds 0,1 --run-dir RUN; python -m benchmarks.policies_rl RUN ...

Each test year from its first row to its last, at sites that neither training nor validation has seen, all from half full. Beside
the actors: the best plan with all prices known carried out in the same environment (the scale, not a strict bound), a rule that
looks ahead, its hours those that earned most on the validation years, and rest. Training reaches no test year; this reads them,
once. Published and revealed prices are not comparable. Intervals: 95 %, 4,000 paired week blocks, stored energy at the week's
mean price.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Table, clean_environment, progress

clean_environment()

from envs import variants as at  # noqa: E402
from envs.data import DataSet, Part, Period  # noqa: E402
from envs.engine import Engine  # noqa: E402
from envs.kernel import CASH, WEAR_COST  # noqa: E402
from policies.learned.artefact import read_artefact  # noqa: E402
from training.config_file import read_config  # noqa: E402
from training.rl_config import AnyRlConfig, PpoConfig, SacConfig  # noqa: E402
from training.rl_data import read_data  # noqa: E402
from training.rl_foresight import foresight_actor  # noqa: E402
from training.rl_model import acting  # noqa: E402
from training.rl_validation import HOURS_PER_YEAR, ROUND_TRIPS, SITES_SEED, Act, Validator  # noqa: E402
from training.run_directory import ARTEFACT, CONFIG, RESULT, read_json  # noqa: E402
from training.value_score import Run, compare  # noqa: E402

HOURS = (2, 3, 4, 5, 6, 8)
"""Ahead that the rule looks; at 12 h, before the next day is published, 11 are known."""
SITES = 26
LONGEST_D = 370
COLUMNS = ("run, year", "policy", "% of perfect foresight", "less rule: points [95 %]", "weeks won / lost", "EUR/kWh/a")


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


class Year:
    """A test year at every site."""

    def __init__(self, config: AnyRlConfig, part: Part) -> None:
        whole = config.validation.model_copy(update={"days": LONGEST_D, "envs": SITES, "sites": SITES})
        seeded = config.env.config.model_copy(update={"variants_seed": config.env.config.variants_seed + SITES_SEED})
        section = config.env.model_copy(update={"config": seeded})
        self.course = Validator(config.model_copy(update={"validation": whole, "env": section}), part)
        self.engine, self.rows, self.sites = self.course.batch.engine, self.course.rows, self.course.sites
        first, steps = int(self.rows[0]), self.course.steps
        self.price = self.engine.part.exogenous.price_eur_per_kwh[first : first + steps]
        self.week = round(7 * 86_400 / self.engine.dt_s)

    def run(self, act: Act) -> Run:
        """All sites together; what is left in the stores at the end is sold at the year's mean price."""
        observation, _ = self.course.batch.reset(seed=0, options=self.course.options)
        earned, stored = np.zeros(len(self.price)), np.zeros(len(self.price))
        before = self.course.stored_kwh().sum()
        for k in range(len(self.price)):
            made = self.engine.step(np.clip(act(observation), -1.0, 1.0).astype(np.float32))
            earned[k] = (made.results[:, CASH] - made.results[:, WEAR_COST]).sum()
            if (k + 1) % self.week == 0:
                stored[k] = self.course.stored_kwh().sum()
            observation = made.observation
        earned[-1] += (self.course.stored_kwh().sum() - before) * self.price.mean()
        return Run(earned_eur=earned, stored_kwh=stored)

    def eur_per_kwh_year(self, run: Run) -> float:
        installed = float(self.engine.variants.site[self.sites, at.SCALE].sum())
        return run.total_eur / installed / (len(self.price) * self.engine.dt_s / 3600.0 / HOURS_PER_YEAR)

    def foresight(self) -> Run:
        """The best of the plans that know all prices."""
        plans = (foresight_actor(self.engine, self.rows, self.sites, self.course.steps, share) for share in ROUND_TRIPS)
        return max((self.run(act) for act in plans), key=lambda run: run.total_eur)


def tuned_hours(config: AnyRlConfig, data: DataSet) -> tuple[int, float]:
    """The rule's hours that earned most on the validation years, and what, EUR a year per kWh."""
    course = Validator(config, data.part("validation"))
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
    actors = {}
    for folder in sorted(path.parent for path in run_dir.glob(f"seed-*/{RESULT}")):
        said = read_json(folder / RESULT) or {}
        actors[f"{config.algorithm.upper()}, seed {said['seed']}"] = acting(
            read_artefact(folder / ARTEFACT).network("actor"), config.algorithm
        )
        table.notes.append(
            f"{config.name}, seed {said['seed']}: {said['cpu_s']:.0f} CPU-s of learning, {said['steps']:,} steps, best at "
            f"{said['best_at_step']:,}; on validation {said['validation_eur_per_kwh_year']:.2f} EUR/kWh/a, "
            f"{said['validation_pct_of_foresight']:.1f} % of foresight; the rule, {hours} h ahead, {reached:.2f}"
        )
        progress(table.notes[-1])
    test = data.part("test")
    for number in config.split.test:
        year = Year(config, test.narrowed(Period.of_years((number,), config.data.timezone)))
        best, rule = year.foresight(), year.run(looking_ahead(year.engine, year.rows, year.sites, hours))
        runs = {"perfect foresight": best, f"rule, {hours} h ahead": rule}
        runs |= {name: year.run(act) for name, act in actors.items()}
        runs["idle"] = year.run(lambda _: np.zeros((SITES, 1)))
        for name, run in runs.items():
            against = None if run is best or run is rule else compare(run, rule, best.total_eur, year.price, year.week)
            won = None if against is None else f"{against.weeks_won} / {against.weeks_lost}"
            percent = f"{100 * run.total_eur / best.total_eur:.1f}"
            table.add(
                f"{config.name}, {number}", name, percent, against and str(against), won, f"{year.eur_per_kwh_year(run):.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run directories of `pulsebms train`")
    table = Table("RL trained alone, in its environment", COLUMNS)
    for run_dir in parser.parse_args().runs:
        rows_of(run_dir, table)
    print(table.markdown())


if __name__ == "__main__":
    main()
