"""Dispatch: the protocol beside a naive dispatcher under kills, commands a second beside task queues, and a week in minutes.

    python -m benchmarks.dispatch chaos --path DIR [--seconds 120] [--seed 7]
    python -m benchmarks.dispatch load --path DIR [--devices 10000] [--rounds 5] [--peers]
    python -m benchmarks.dispatch week --path DIR [--devices 100] [--days 7]

Servers of its own run in DIR, which is removed afterwards. `--peers` makes an environment with RQ and procrastinate in DIR (it
needs pip and a package index). PostgreSQL syncs each commit, Valkey's append-only file every second.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.dispatch_chaos import compare
from benchmarks.dispatch_load import bulk, single
from benchmarks.dispatch_week import week
from stores.connections import Stores, open_stores
from stores.settings import StoreSettings

PEERS = ("rq==2.12.0", "procrastinate==3.10.0", "psycopg[binary]==3.3.9")
SINGLE_COMMANDS = 1000
SINGLE_PAUSE_S = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("chaos", "load", "week"))
    parser.add_argument("--path", type=Path, required=True, help="a directory that is not there yet")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--devices", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--peers", action="store_true")
    arguments = parser.parse_args()
    directory = arguments.path.absolute()
    directory.mkdir(parents=True)
    try:
        if arguments.what == "chaos":
            table([{"program": name, **row} for name, row in compare(directory, arguments.seconds, arguments.seed).items()])
            return
        with open_stores(StoreSettings(data_dir=directory / "data"), migrate=True) as stores:
            if arguments.what == "week":
                table(week(stores, directory, arguments.devices or 100, arguments.days))
            else:
                load(stores, directory, arguments.devices or 10_000, arguments.rounds, peers=arguments.peers)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def load(stores: Stores, directory: Path, devices: int, rounds: int, *, peers: bool) -> None:
    """Our own, then the peers', on the same servers in the same run."""
    table([{"tick": k + 1, **row} for k, row in enumerate(bulk(stores, devices, rounds))])
    table([{"one at a time": SINGLE_COMMANDS, **single(stores, SINGLE_COMMANDS, SINGLE_PAUSE_S)}])
    if not peers:
        return
    venv.create(directory / "peers", with_pip=True)
    python = directory / "peers" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PEERS], check=True, capture_output=True)
    stores.pg.execute("CREATE DATABASE peers")
    redis_url = "redis://:{password}@{host}:{port}/0".format(**stores.redis.get_connection_kwargs())
    database_url = f"{stores.database_url.rpartition('/')[0]}/peers"
    script = Path(__file__).with_name("dispatch_peers.py")
    answer = subprocess.run(
        [python, str(script), redis_url, database_url, str(devices), str(rounds)], check=True, capture_output=True, text=True
    )
    for name, found in json.loads(answer.stdout).items():
        rates = sorted(found["per_s"])
        median, best = rates[len(rates) // 2], rates[-1]
        table([{"peer": f"{name} {found['version']}", "per_s": median, "best": best, "p99_ms": found["p99_ms"]}])


def table(rows: Sequence[Mapping[str, object]]) -> None:
    """Rows as a Markdown table on standard output."""
    names = list(rows[0])
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(map(_cell, row.values())) + " |", flush=True)
    print()


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


if __name__ == "__main__":
    sys.exit(main())
