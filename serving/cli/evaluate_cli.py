"""`pulsebms evaluate`, `pulsebms compare`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from core.errors import InputError
from serving.cli.evaluate_progress import EvaluationProgress
from serving.cli.evaluate_tables import show_comparison, show_ranking
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
    try:
        with EvaluationProgress(console) as progress:
            evaluation.run(workers or default_workers(), progress.told)
    except KeyboardInterrupt:
        console.print("stopped; what is done is kept: the same command goes on")
        raise
    document = evaluation.document()
    folder = out or settings.data_dir / "evaluations" / made.name
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "evaluation.json", json.dumps(document, indent=1, sort_keys=True, allow_nan=False).encode())
    write_report(folder / "report.html", document, evaluation.results)
    show_ranking(console, document)
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
    show_comparison(console, found, a, b)


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
