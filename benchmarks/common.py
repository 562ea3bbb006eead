"""What every table of benchmarks/optimizer.py shares: clocks, the machine in words, tables, the record of a run.

Times are taken twice: CPU time of the process (what a solve costs, whoever else works on the machine) and wall time (what a user
waits for). Not here: instances, solvers.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "cvxpy rebuilt + OSQP"
"""The named peer that every ratio is against."""
BLAS_OVERRIDES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Settings that slow a current numpy down; they only make sense for an old one, and only together."""
PACKAGES = ("numpy", "scipy", "numba", "osqp", "piqp", "highspy", "cvxpy", "clarabel", "qoco")


def clean_environment() -> str:
    """Before numpy is loaded: one BLAS thread, no override of its kernels. Says what was found."""
    dropped = [name for name in BLAS_OVERRIDES if os.environ.pop(name, None) is not None]
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    return f"dropped {' and '.join(dropped)}" if dropped else "no override of BLAS kernels was set"


@dataclass(slots=True)
class Clock:
    """CPU and wall seconds of what ran inside `with clock:`, added up."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    _cpu: float = 0.0
    _wall: float = 0.0

    def __enter__(self) -> Clock:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu_s += time.process_time() - self._cpu
        self.wall_s += time.perf_counter() - self._wall


def machine(blas_note: str) -> dict[str, Any]:
    """The machine and the libraries in neutral words."""
    flags = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        flags = next((line for line in info.read_text().splitlines() if line.startswith(("flags", "Features"))), "")
    vector = next((name for key, name in (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("asimd", "NEON")) if key in flags), "")
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "architecture": platform.machine(),
        "vector_extension": vector,
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": versions,
        "blas": _blas() + f"; {blas_note}",
        "load_average_at_start": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def _blas() -> str:
    """Kernels and threads of the BLAS libraries that are loaded, by threadpoolctl where it is installed."""
    try:
        from threadpoolctl import threadpool_info
    except ModuleNotFoundError:
        return "kernels not checked (threadpoolctl is absent)"
    found = {f"{p.get('internal_api')} {p.get('architecture', '')} x{p['num_threads']}".strip() for p in threadpool_info()}
    return ", ".join(sorted(found)) or "none loaded"


def progress(text: str) -> None:
    """A line on standard error, where tables do not go."""
    print(text, file=sys.stderr, flush=True)


def memory_now_bytes() -> int:
    """Resident memory of this process."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_memory_bytes() -> int:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(slots=True)
class Table:
    """Rows with named columns; printed as Markdown."""

    title: str
    columns: Sequence[str]
    notes: list[str] = field(default_factory=list)
    rows: list[Sequence[Any]] = field(default_factory=list)

    def add(self, *row: object) -> None:
        """One row, a value a column; None prints as a dash."""
        if len(row) != len(self.columns):
            raise ValueError(f"{self.title}: {len(row)} values for {len(self.columns)} columns")
        self.rows.append(row)

    def markdown(self) -> str:
        """Heading, table, notes."""
        lines = [f"### {self.title}", "", "| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        lines += ["| " + " | ".join(_shown(value) for value in row) + " |" for row in self.rows]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)]) + "\n"

    def as_json(self) -> dict[str, Any]:
        """For the record of the run."""
        return {"title": self.title, "columns": list(self.columns), "rows": [list(r) for r in self.rows], "notes": self.notes}


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN
        return "-"
    if value != 0 and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
