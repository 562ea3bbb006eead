"""Everything about the optimizer, measured side by side in one run on one machine.

    python -m benchmarks.optimizer [--quick] [--only fleets,sites,exclusivity,common] [--peers DIRECTORY] [--out FILE.json]

Needs the extra `bench`. Tables go to standard output as Markdown, figures to --out as JSON (benchmarks.plot draws from it).
Parts: `fleets` (one device with every solver; cost against fleet size), `sites` (many packs behind one meter), `exclusivity`
(negative prices against a full MILP), `common` (the common case; EMHASS and PyPSA with --peers, made by benchmarks/peers.sh).
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PARTS = ("fleets", "sites", "exclusivity", "common")
ROOT = Path(__file__).resolve().parents[1]


def step_aside() -> None:
    """A script run as a file has this folder first on its path, and finds this file where it means the package `optimizer`."""
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]
    if __name__ == "optimizer":
        del sys.modules["optimizer"]
        importlib.import_module("optimizer")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="small samples: minutes instead of most of an hour, and rougher")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas (default: all)")
    parser.add_argument("--peers", type=Path, help="directory made by benchmarks/peers.sh, for the common case")
    parser.add_argument("--out", type=Path, help="write every figure to this JSON file")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    parts = [part.strip() for part in arguments.only.split(",")]
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        parser.error(f"--only: no part {', '.join(unknown)}; known are {', '.join(PARTS)}")
    from benchmarks.common import clean_environment

    note = clean_environment()  # before numpy is loaded
    from benchmarks.parts import run_parts

    record: dict[str, Any] = {"began": datetime.now(UTC).isoformat(timespec="minutes"), "quick": arguments.quick}
    for name, figures in run_parts(parts, note, quick=arguments.quick, peers=arguments.peers, seed=arguments.seed):
        record[name] = figures
        if arguments.out:
            arguments.out.write_text(json.dumps(record, indent=1, default=float))


if not __package__:
    step_aside()
if __name__ == "__main__":
    main()
