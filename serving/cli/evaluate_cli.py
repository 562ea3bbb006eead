"""`pulsebms evaluate`, `pulsebms compare`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from core.errors import InputError
from serving.evaluation.config import read_evaluation
from serving.evaluation.evaluate import Evaluation, contenders_of, default_workers
from serving.evaluation.report import write_report
from serving.evaluation.results import FORMAT, pairwise
from serving.evaluation.rows import rows_of_site, write_scores
from stores.connections import open_stores
from stores.datasets.prices import write_atomically
from stores.settings import StoreSettings

console = Console()


def evaluate(
    config: Path = typer.Option(..., "--config", help="Evaluation file, e.g. configs/evaluation/nl_quick.yaml"),
    policy: list[str] = typer.Option([], "--policy", help="Only this policy beside the baselines; may be given several times."),
    site: str | None = typer.Option(None, "--site", help="Evaluate this site's rows of optimization_policies too."),
    record: bool = typer.Option(True, "--record/--no-record", help="With --site: write scores and metrics into the rows."),
    workers: int | None = typer.Option(None, "--workers", min=1, max=256, help="Processes; default: one a core."),
    out: Path | None = typer.Option(None, "--out", help="Folder of the report (default: evaluations/ in the data directory)."),
) -> None:
    """Replay policies against history on the reference plant; score, rank, report. Stopped and started again, it goes on."""
    settings = StoreSettings.from_env()
    made = read_evaluation(config)
    rows = []
    if site is not None:
        with open_stores(settings, migrate=True) as stores:
            rows = rows_of_site(stores, site)
    contenders = contenders_of(made, config.parent, rows, policy)
    evaluation = Evaluation(config=made, folder=config.parent.absolute(), data_dir=settings.data_dir, contenders=contenders)
    begun = time.monotonic()
    _run(evaluation, workers or default_workers())
    document = evaluation.document()
    folder = out or settings.data_dir / "evaluations" / made.name
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "evaluation.json", json.dumps(document, indent=1, sort_keys=True, allow_nan=False).encode())
    write_report(folder / "report.html", document, evaluation.results)
    _tables(document)
    console.print(
        f"{len(evaluation.results)} jobs ({evaluation.from_cache} from the cache) in {time.monotonic() - begun:.0f} s; "
        f"{folder / 'report.html'}, evaluation.json",
        soft_wrap=True,
    )
    if site is not None and record:
        with open_stores(settings, migrate=True) as stores:
            for line in write_scores(stores.pg, document, contenders):
                console.print(line, soft_wrap=True)


def compare(
    a: str = typer.Argument(..., help="A policy of the evaluation."),
    b: str = typer.Argument(..., help="Another one."),
    report: Path = typer.Option(..., "--evaluation", help="evaluation.json of `pulsebms evaluate`."),
    as_json: bool = typer.Option(False, "--json", help="Print the comparison as JSON."),
) -> None:
    """Policy A less policy B, week by week, with the paired interval; information sets apart."""
    document = _read(report)
    config, results = _again(document)
    known = sorted({name for name, _ in results})
    for name in (a, b):
        if name not in known:
            raise InputError(source=str(report), field="policy", value=name, expected=f"one of {', '.join(known)}")
    found = pairwise(config, results, a, b)
    if as_json:
        console.print_json(json.dumps(found, allow_nan=False))
        return
    for information, part in found.items():
        if "why_not" in part or part["together"] is None:
            console.print(f"{information}: {part.get('why_not', 'nothing to earn')}")
            continue
        table = Table("scenario", f"{a} less {b}, points", "interval", "EUR", "weeks won / lost", title=information)
        for name, one in [*part["by_scenario"].items(), ("all", part["together"])]:
            if one is not None:
                points = one["points"]
                table.add_row(
                    name, f"{points['value']:+.2f}", f"[{points['low']:+.2f}, {points['high']:+.2f}]".replace("[", "\\["),
                    f"{one['eur']:+.2f}", f"{one['weeks_won']} / {one['weeks_lost']}",
                )  # fmt: skip
        console.print(table)


def _run(evaluation: Evaluation, workers: int) -> None:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("jobs", total=None)

        def told(done: int, total: int, _steps: int) -> None:
            progress.update(task, completed=done, total=total)

        evaluation.run(workers, told)


def _tables(document: dict[str, Any]) -> None:
    for information, part in document["benchmarks"].items():
        gap = part.get("foresight_gap_pct")
        said = "" if gap is None else f"; the gap of perfect foresight is {gap:.1f} %"
        table = Table(
            "policy", "score", "interval", "less MPC, points", "EUR", "cycles", "p99 ms", "", title=f"{information}{said}"
        )
        for row in part["ranking"]:
            if row["score"] is None:
                table.add_row(row["policy"], "-", "", "", "", "", "", row.get("why_not", ""))
                continue
            interval, paired = row["score_interval"], row["against_mpc"]
            points = "" if paired is None else "{value:+.2f} \\[{low:+.2f}, {high:+.2f}]".format(**paired["points"])
            table.add_row(
                row["policy"], f"{row['score']:.4f}", "" if interval is None else "{low:.3f} to {high:.3f}".format(**interval),
                points, f"{row['j_eur']:.2f}", f"{row['full_cycles']:.1f}", f"{1e3 * row['latency_p99_s']:.1f}",
                "" if row["eligible"] else f"ineligible: {row['why_not']}",
            )  # fmt: skip
        console.print(table)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(source=str(path), field="file", value=str(error), expected="evaluation.json of an evaluation") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(source=str(path), field="format", value=None, expected=FORMAT)
    return document


def _again(document: dict[str, Any]) -> tuple[Any, dict[Any, Any]]:
    """Config and results of a document, as far as a comparison needs them."""
    from serving.evaluation.config import EvaluationConfig

    results = {}
    for block in document["blocks"]:
        at = (block["scenario"], block["week"], block["seed"])
        results[block["policy"], at] = {"status": block["status"], "account": {"j_eur": block.get("j_eur")}}
    return EvaluationConfig.model_validate(document["config"]), results
