"""`pulsebms train`, `pulsebms tune`, `pulsebms artefact register|show`.

The one place of serving that reaches training, and only when it is asked to: a site controller has neither torch nor training.
Here: arguments, what a terminal shows. Not here: training itself (training), the stores' side of an artefact (stores).
"""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from core.errors import InputError, PulseBmsError
from core.policy_record import PolicyRecord
from policies.learned.artefact import Artefact, read_artefact
from serving.dispatch.policy_factory import policy_of
from serving.site_loader import site_config
from stores.connections import open_stores
from stores.mongo.artefacts import store_artefact
from stores.postgres.devices import list_devices
from stores.postgres.policies import register_policy
from stores.settings import StoreSettings

if TYPE_CHECKING:
    from pydantic import BaseModel

    from training.config_file import Read
    from training.rl_config import AnyRlConfig

artefact_app = typer.Typer(help="Artefacts of learned policies.", no_args_is_help=True)
console = Console()
NEEDED = ("torch", "stable_baselines3", "gymnasium", "tensorboard")
INTERRUPTED = 130
DEFAULT_HORIZON_HOURS = 24
ENERGY_VALUE, LOAD_CHAIN = "energy_value", "load_chain"


def train(
    config: Path = typer.Argument(..., help="Config, e.g. configs/rl/ppo_pack.yaml"),
    set_: list[str] = typer.Option([], "--set", help="KEY=VALUE over the config, as ppo.gamma=0.98; may be repeated."),
    run_dir: Path | None = typer.Option(None, "--run-dir", help="Where the run goes; default is runs/NAME in PULSEBMS_DATA."),
    seeds: str = typer.Option("", "--seeds", help="Seeds over the config's, as 0,1,2: one process each, side by side."),
    resume: bool = typer.Option(False, "--resume", help="Continue the run in the run directory from its checkpoints."),
    jobs: int = typer.Option(0, "--jobs", min=0, help="Seeds at a time; default is one a CPU core."),
) -> None:
    """Train a policy by a config alone: PPO or SAC, the energy-value network, or the load chain.

    Ctrl-C ends it after a checkpoint; --resume continues. Needs the extra `train`.
    """
    overrides = [*set_, *([f"seeds=[{seeds}]"] if seeds else [])]
    read = _read(config, overrides)
    folder = (run_dir or StoreSettings.from_env().data_dir / "runs" / read.config.name).absolute()
    if read.config.algorithm == ENERGY_VALUE:
        _train_value(read, folder)
        return
    if read.config.algorithm == LOAD_CHAIN:
        _train_chain(read, folder)
        return
    again = f"pulsebms train {config} --run-dir {shlex.quote(str(folder))} --resume"
    again += "".join(f" --set {shlex.quote(one)}" for one in set_) + (f" --seeds {seeds}" if seeds else "")
    _train_rl(read, folder, again, resume=resume, jobs=jobs or os.cpu_count() or 1)


def tune(
    config: Path = typer.Argument(..., help="Config with a section `tuning`."),
    trials: int = typer.Option(20, "--trials", min=1, max=100_000, help="Finished trials in all; the same command goes on."),
    set_: list[str] = typer.Option([], "--set", help="KEY=VALUE over the config; may be repeated."),
) -> None:
    """Search a config's settings with Optuna; the study is kept in PULSEBMS_DATA and continued by the same command."""
    read = _read(config, set_)
    if read.config.algorithm in (ENERGY_VALUE, LOAD_CHAIN):
        where = read.origin.of("algorithm")
        raise InputError(source=where, field="algorithm", value=read.config.algorithm, expected="ppo or sac")
    _check_extra(("optuna",))
    from serving.cli.dispatch_cli import stop_on_signals
    from training.rl_run import Progress as Step
    from training.tune import check_space
    from training.tune import tune as search

    check_space(read.config, read)
    data_dir = StoreSettings.from_env().data_dir
    folder = data_dir / "tuning" / read.config.name
    stop = stop_on_signals()
    with _progress() as bars:
        shown: dict[int, Any] = {}

        def told(number: int, settings: Mapping[str, Any], step: Step) -> None:
            if number not in shown:
                said = ", ".join(f"{key.rpartition('.')[2]} {_short(value)}" for key, value in settings.items())
                shown[number] = bars.add_task(f"trial {number}", total=step.steps, said=said)
            bars.update(shown[number], completed=step.step)
            if step.score is not None:
                bars.update(shown[number], said=_scored(step.best, step.score))
                if not console.is_terminal:
                    said = _scored(step.best, step.score)
                    done = f"{_counted(step.step, step.steps)}{_left(bars, shown[number])}"
                    console.print(f"trial {number}: {done}, {said}", soft_wrap=True)

        found = search(read, folder, trials, folders=_folders(), told=told, stop=stop.is_set)
    console.print(f"{found.trials} trials finished, {found.pruned} of them ended early; study: {folder / 'study.db'}")
    if found.value is not None:
        settings = " ".join(f"--set {shlex.quote(one)}" for one in found.overrides)
        console.print(f"best: {found.value:.3f} EUR a year per kWh on validation; {settings}", soft_wrap=True)
    if found.stopped:
        console.print("stopped; the same command goes on")
        raise typer.Exit(INTERRUPTED)


@artefact_app.command("register")
def register(
    run_dir: Path = typer.Argument(..., help="A run's directory, or an artefact's."),
    site: str = typer.Option(..., "--site", help="Site id."),
    name: str = typer.Option("", "--name", help="Name of the policy; default is the config's."),
    policy_type: str = typer.Option("", "--type", help="RL or HYBRID; default RL, and HYBRID for a residual and a load chain."),
    model_version: str = typer.Option("", "--version", help="Default: the first digits of the artefact's hash."),
    horizon_hours: int | None = typer.Option(
        None, "--horizon", min=1, max=24 * 14, help="Of the plan (HYBRID); default 24, and a residual's own."
    ),
) -> None:
    """Store a trained policy's artefact in MongoDB and write its row of optimization_policies, status `testing`.

    It decides nothing until somebody makes it active. An active policy of that name is not exchanged.
    """
    artefact, trained_at = _artefact_of(run_dir)
    record = _record(artefact, trained_at, site, name, policy_type, model_version, horizon_hours, str(run_dir))
    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        site_config(stores.pg, site)
        present = sorted({device.chemistry for device in list_devices(stores.pg, site)})
        missing = [chemistry.value for chemistry in present if chemistry not in artefact.metadata.chemistries]
        if missing:
            covered = ", ".join(chemistry.value for chemistry in artefact.metadata.chemistries)
            raise InputError(
                source=str(run_dir), field="chemistries", value=covered, expected=f"{', '.join(missing)} of {site} too"
            )
        policy_of(record, artefact.files)  # for its checks: what would not be allowed to decide is not registered
        store_artefact(stores.mongo, artefact.files)
        policy_id = register_policy(stores.pg, record)
    console.print(f"{record.name}: {record.policy_type} policy {policy_id}, status testing", soft_wrap=True)
    console.print(f"artefact {artefact.sha256}", soft_wrap=True)


@artefact_app.command("show")
def show(run_dir: Path = typer.Argument(..., help="A run's directory, or an artefact's.")) -> None:
    """What an artefact is and what it reached on validation; verified as serving verifies it."""
    artefact, _ = _artefact_of(run_dir)
    said = artefact.metadata
    table = Table(show_header=False)
    table.add_column("field", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_row("sha256", artefact.sha256)
    table.add_row("kind, layout", f"{said.kind}, {said.layout}")
    table.add_row("chemistries", ", ".join(chemistry.value for chemistry in said.chemistries))
    table.add_row("networks", ", ".join(f"{key} {' '.join(map(str, shape.widths))}" for key, shape in said.networks.items()))
    for key, value in said.metrics.items():
        table.add_row(key, str(value))
    console.print(table)


def _read(path: Path, overrides: list[str]) -> Read:
    """The config, checked before anything heavy is imported."""
    from training.config_file import read_config

    return read_config(path, overrides)


def _folders() -> list[Path]:
    return [Path.cwd(), StoreSettings.from_env().data_dir / "datasets"]


def _check_extra(more: tuple[str, ...] = ()) -> None:
    missing = [name for name in (*NEEDED, *more) if importlib.util.find_spec(name) is None]
    if missing:
        wanted = "pip install 'pulsebms-optimizer[train]'"
        raise PulseBmsError(f"training needs {', '.join(missing)}, which are not installed: {wanted}")


def _train_rl(read: Read, folder: Path, again: str, *, resume: bool, jobs: int) -> None:
    from training.rl_data import read_data, with_files
    from training.run_directory import begin
    from training.seeds import Ended, choose, run_seeds

    config: AnyRlConfig = with_files(read.config, _folders(), read.origin)  # type: ignore[arg-type]
    data = read_data(config, read.origin)
    _check_extra()
    for remark in begin(folder, config, data.exogenous.sha256(), read.origin.file, resume=resume):
        console.print(f"[yellow]{remark}[/]")
    console.print(f"run: {folder}", soft_wrap=True)
    with _progress() as bars:
        tasks = {seed: bars.add_task(f"seed {seed}", total=config.steps, said="starting") for seed in config.seeds}

        def listen(seed: int, event: dict[str, Any]) -> None:
            if event["event"] != "progress":
                return
            said = "" if event["best"] is None else _scored(event["best"], event["score"])
            bars.update(tasks[seed], completed=event["step"], said=said)
            if event["score"] is not None and not console.is_terminal:
                console.print(
                    f"seed {seed}: {_counted(event['step'], event['steps'])}{_left(bars, tasks[seed])}, {said}", soft_wrap=True
                )

        ended: dict[int, Ended] = run_seeds(folder, config.seeds, listen, jobs=jobs)
    failed = {seed: how.message for seed, how in ended.items() if how.event == "failed"}
    if any(how.event == "stopped" for how in ended.values()):
        console.print(f"stopped after a checkpoint; to go on: {again}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED)
    if failed:
        said = "; ".join(f"seed {seed}: {message}" for seed, message in failed.items())
        raise PulseBmsError(f"{said}. To go on from the last checkpoint: {again}")
    _results(choose(folder, config.seeds), folder)


def _results(result: Mapping[str, Any], folder: Path) -> None:
    table = Table("seed", "best on validation, EUR/kWh/a", "% of foresight", "at step", "steps", "CPU s")
    for one in result["seeds"]:
        share = one.get("validation_pct_of_foresight")
        table.add_row(
            str(one["seed"]), f"{one['validation_eur_per_kwh_year']:.3f}", "" if share is None else f"{share:.1f}",
            str(one["best_at_step"]), str(one["steps"]), str(one["cpu_s"]),
        )  # fmt: skip
    console.print(table)
    console.print(f"artefact of seed {result['best_seed']}: {folder / 'artefact'} ({result['sha256'][:12]})", soft_wrap=True)


def _train_value(read: Read, folder: Path) -> None:
    from training.rl_data import find_file
    from training.value_config import ValueConfig

    config = read.config
    assert isinstance(config, ValueConfig)  # noqa: S101 - by its algorithm
    path = find_file(config.data.path, _folders(), read.origin, "data.path").resolve()
    _check_extra()
    from training.value_network import train_value

    config = config.model_copy(update={"data": config.data.model_copy(update={"path": path})})
    _without_seeds(folder)
    with _progress() as bars:
        tasks: dict[str, Any] = {}

        def told(what: str, done: int, total: int, score: float) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, said="")
            bars.update(tasks[what], completed=done, said=f"{100 * score:.2f} % of perfect foresight")

        try:
            artefact = train_value(config, folder, told)
        except InputError as error:  # dates between which the file holds nothing: only the file could tell
            if not error.field.startswith("split"):
                raise
            where = read.origin.of("split")
            raise InputError(source=where, field=error.field, value=error.value, expected=error.expected) from None
    _written(read, config, folder, artefact)


def _train_chain(read: Read, folder: Path) -> None:
    from training.chain_config import ChainConfig
    from training.chain_fit import train_chain
    from training.rl_data import find_file

    config = read.config
    assert isinstance(config, ChainConfig)  # noqa: S101 - by its algorithm
    files = {
        name: file.model_copy(update={"path": find_file(file.path, _folders(), read.origin, f"data.{name}.path").resolve()})
        for name, file in config.data.files().items()
    }
    config = config.model_copy(update={"data": config.data.model_copy(update=files)})
    _without_seeds(folder)
    with _progress() as bars:
        tasks: dict[str, Any] = {}

        def told(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, said="")
            bars.update(tasks[what], completed=done, said=f"day {done} of {total}")

        artefact = train_chain(config, read.origin, folder, told)
    _written(read, config, folder, artefact)


def _without_seeds(folder: Path) -> None:
    """Make a run's directory. InputError where one of PPO or SAC is in it, which is made by seeds."""
    if any(folder.glob("seed-*")):
        raise InputError(
            source="command line", field="--run-dir", value=str(folder), expected="a directory without a run of PPO or SAC"
        )
    folder.mkdir(parents=True, exist_ok=True)


def _written(read: Read, config: BaseModel, folder: Path, artefact: Artefact) -> None:
    """The record beside an artefact that took seconds and was not made by seeds, and what it reached."""
    from training.run_directory import CONFIG, RECORD, code_version, config_sha256, config_text, versions, write_json

    (folder / CONFIG).write_text(config_text(config), encoding="utf-8")
    record: dict[str, Any] = {"config_file": read.origin.file, "config_sha256": config_sha256(config), "packages": versions()}
    record |= {"code": code_version(), "data_sha256": artefact.metadata.training["data_sha256"]}
    write_json(folder / RECORD, {**record, "ended_at": datetime.now(UTC).isoformat(timespec="seconds")})
    for key, value in artefact.metadata.metrics.items():
        console.print(f"{key}: {value}")
    console.print(f"artefact: {folder / 'artefact'} ({artefact.sha256[:12]})", soft_wrap=True)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), TextColumn("{task.fields[said]}"), console=console, disable=not console.is_terminal,
    )  # fmt: skip


def _scored(best: float | None, score: float | None) -> str:
    now = "" if score is None else f"{score:.2f}, "
    return "" if best is None else f"validation {now}best {best:.2f} EUR/kWh/a"


def _counted(step: int, steps: int) -> str:
    return f"{step} of {steps} steps"


def _left(bars: Progress, task: TaskID) -> str:
    """What a bar shows, for a log file: the time left, once steps have been timed."""
    left_s = next(one.time_remaining for one in bars.tasks if one.id == task)
    return "" if not left_s else f", {timedelta(seconds=round(left_s))} left"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _artefact_of(folder: Path) -> tuple[Artefact, datetime]:
    """The verified artefact of a run or folder, and when it was written."""
    inner = folder / "artefact" if (folder / "artefact").is_dir() else folder
    artefact = read_artefact(inner)
    return artefact, datetime.fromtimestamp((inner / "SHA256").stat().st_mtime, tz=UTC)


def _record(
    artefact: Artefact,
    trained_at: datetime,
    site: str,
    name: str,
    policy_type: str,
    model_version: str,
    horizon_hours: int | None,
    source: str,
) -> PolicyRecord:
    """The row that a learned policy gets."""
    said = artefact.metadata
    kind = policy_type or ("HYBRID" if said.kind in ("residual", LOAD_CHAIN) else "RL")
    if kind not in ("RL", "HYBRID"):
        raise InputError(source="command line", field="--type", value=kind, expected="RL or HYBRID")
    given = said.training.get("config", {})
    called = name or (given.get("name") if isinstance(given, Mapping) else None)
    if not called:
        raise InputError(source=source, field="--name", value=None, expected="a name: the artefact's config has none")
    dt_s, base = said.parameters.get("dt_s"), said.parameters.get("base")
    base = base if isinstance(base, Mapping) else {}
    planned = base.get("horizon_hours")
    if planned is not None and horizon_hours not in (None, planned):
        expected = f"{planned}, the plan that the residual was trained on"
        raise InputError(source="command line", field="--horizon", value=horizon_hours, expected=expected)
    # The MPC of the row is the one that the residual was trained on.
    kept = {key: base[key] for key in ("terminal_value_share",) if key in base}
    return PolicyRecord(
        policy_id=None,
        site_id=site,
        name=str(called),
        policy_type=kind,
        config={"artefact": artefact.sha256, **kept},
        model_version=model_version or artefact.sha256[:12],
        training_date=trained_at,
        performance_metrics=dict(said.metrics),
        horizon_hours=horizon_hours or planned or DEFAULT_HORIZON_HOURS,
        update_interval_seconds=None if dt_s is None else int(dt_s),
    )
