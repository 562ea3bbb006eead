"""`twin compare`: the equivalent circuit beside the reference plant, on days that its fit never saw.

Not here: the days and the acceptance figures (envs.reference), the twin service (serving.twin_service).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from core.battery.cells import CELLS
from core.devices import Chemistry
from envs.reference.compare import ACCEPTED, CircuitDay, accepted, circuit_day, error, fitted_cell
from envs.reference.days import UNSEEN_DAYS, CellDay, simulate_day
from serving.cli.twin_plot import plot_days

console = Console()


def compare(
    chemistry: Chemistry = typer.Option(Chemistry.NMC, "--chemistry", help="LFP, NMC, LCO or NCA.", case_sensitive=False),
    days: int = typer.Option(len(UNSEEN_DAYS), "--days", min=1, max=len(UNSEEN_DAYS), help="How many of the unseen days."),
    soh_pct: float = typer.Option(100.0, "--soh", help="Health of the reference cell; the fit is of a new one."),
    out: Path | None = typer.Option(None, "--plot", help="Where the picture goes; twin_CHEMISTRY.png when not given."),
    compiled: bool = typer.Option(True, help="Compile the DFN (needs a C compiler; pays off from the second day on)."),
) -> None:
    """Compare the fitted circuit with the DFN on unseen days; fails when it is not within the acceptance figures."""
    cell = fitted_cell(chemistry, soh_pct)
    reference = [simulate_day(chemistry, day, soh_pct=soh_pct, compiled=compiled) for day in UNSEEN_DAYS[:days]]
    made = [circuit_day(cell, day) for day in reference]
    passed = report(chemistry, reference, made)
    path = out or Path(f"twin_{chemistry.value}.png")
    plot_days(chemistry, reference, made, path)
    console.print(f"plot: {path}")
    if not passed:
        raise typer.Exit(1)


def report(chemistry: Chemistry, reference: Sequence[CellDay], made: Sequence[CircuitDay]) -> bool:
    """Print the error of each day and of all, and the verdict; True when all days together are accepted."""
    table = Table(title=f"{chemistry.value}: circuit against DFN ({CELLS[chemistry].source}), per cell, root mean square")
    for heading in ("day", "ambient", "SoC", "voltage", "state of charge", "temperature", "derated"):
        table.add_column(heading, justify="right")
    for day, circuit in zip(reference, made, strict=True):
        found = error([circuit], [day])
        table.add_row(
            str(day.day.seed),
            f"{day.day.ambient_c:g} °C",
            f"{100 * day.soc.min():.0f} to {100 * day.soc.max():.0f} %",
            f"{found.voltage_mv:.2f} mV",
            f"{found.soc_pct:.3f} %",
            f"{found.temperature_k:.3f} K",
            f"{day.derated_steps} steps",
        )
    whole, most = error(made, reference), ACCEPTED[chemistry]
    table.add_section()
    table.add_row("all", "", "", f"{whole.voltage_mv:.2f} mV", f"{whole.soc_pct:.3f} %", f"{whole.temperature_k:.3f} K", "")
    table.add_row("accepted up to", "", "", f"{most.voltage_mv:g} mV", f"{most.soc_pct:g} %", f"{most.temperature_k:g} K", "")
    console.print(table)
    passed = accepted(chemistry, whole)
    console.print("[green]accepted[/green]" if passed else "[red]NOT accepted[/red]")
    return passed
