"""Steps per second of the environments, beside CityLearn and EV2Gym from their packages.

    python -m benchmarks.env [--peers DIRECTORY] [--seconds 2] [--threads 2] [--window 0.1] [--batches 1 64 1024] [--only NAME]

Random actions in [-1, 1], episodes of 672 steps, observations returned without a copy; batches of 1, 64, 1024, 8192. A step is a
decision: a quarter hour in fifteen substeps of the circuit (60 s, as in device and twin) or in three, or five minutes in two.
"CPU" is per second of processor time of one thread, "threads" wall time of one batch that --threads threads share. "2 x M/2" are
two processes with half of the environments each, "2 x M" two with all of them each: once the sum of what each makes per second of
its own processor time, as both would make with a core each, once per second of wall time, which says little on a busy machine.
The peers run in environments of their own below DIRECTORY (made there, from a package index, when absent; outside the
repository), random actions too, in the same run: CityLearn on a data set made on the spot in its documented columns
(peers/citylearn_data), EV2Gym on its shipped V2G example. A peer that cannot be installed or started is said to be so.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.common import Table, progress
from envs.data import whole
from envs.sample import sample_year
from envs.vector import PackVectorEnv, SiteVectorEnv


class Case(NamedTuple):
    """Length of a step, of a decision that is, and the longest substep of the circuit in it."""

    dt_s: float
    substep_s: float
    text: str


CASES = (
    Case(900.0, 60.0, "15 min, 15 substeps"),
    Case(900.0, 300.0, "15 min, 3 substeps"),
    Case(300.0, 300.0, "5 min, 2 substeps"),
)
BATCHES = (1, 64, 1024, 8192)
TARGET_PER_S = 10e6
WINDOW_S = 0.1
"""Short, since others on a machine empty the caches: the best of many is what the code itself needs. --window sets another: of
0.005 some are a time slice of their own even on a busy machine."""
KINDS = {"Pack-v0": PackVectorEnv, "Site-v0, 3 packs": SiteVectorEnv}
PEERS = {"citylearn": ("citylearn==3.0.2",), "ev2gym": ("ev2gym==2.0.0", "pandapower", "numba", "psutil", "multicopula")}
"""What each needs; EV2Gym imports more than its metadata says."""
INSTALL_TIMEOUT_S, RUN_TIMEOUT_S = 900, 300


def steps_per_s(env: PackVectorEnv | SiteVectorEnv, seconds: float, window_s: float = WINDOW_S) -> tuple[float, float]:
    """Environment steps per CPU second and per second of wall time, each the best of windows of at least window_s."""
    rng = np.random.default_rng(0)
    actions = [rng.uniform(-1, 1, env.action_space.shape).astype(np.float32) for _ in range(16)]
    env.reset(seed=0)
    for action in actions:
        env.step(action)
    best_cpu = best_wall = 0.0
    for _ in range(max(3, round(seconds / window_s))):
        done, cpu, wall = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() - wall < window_s:
            for action in actions:
                env.step(action)
            done += len(actions) * env.num_envs
        best_cpu = max(best_cpu, done / (time.process_time() - cpu))
        best_wall = max(best_wall, done / (time.perf_counter() - wall))
    return best_cpu, best_wall


def make(name: str, case: Case, environments: int, threads: int = 1) -> PackVectorEnv | SiteVectorEnv:
    """Environments of KINDS on a made-up year."""
    config = {"substep_s": case.substep_s}
    return KINDS[name](environments, whole(sample_year(365, case.dt_s)), config, copy=False, threads=threads)


def _one(
    name: str, case: Case, environments: int, seconds: float, window_s: float, ready: Barrier, rates: Queue[tuple[float, float]]
) -> None:
    env = make(name, case, environments)
    steps_per_s(env, 0.1)
    ready.wait(RUN_TIMEOUT_S)
    rates.put(steps_per_s(env, seconds, window_s))


def two_processes(name: str, case: Case, environments: int, seconds: float, window_s: float) -> tuple[float, float]:
    """Steps of two processes of so many environments each: sum of their rates per CPU second, and per second."""
    context = multiprocessing.get_context("spawn")
    ready, rates = context.Barrier(2), context.Queue()
    arguments = (name, case, environments, seconds, window_s, ready, rates)
    two = [context.Process(target=_one, args=arguments, daemon=True) for _ in range(2)]
    for process in two:
        process.start()
    made = [rates.get(timeout=RUN_TIMEOUT_S) for _ in two]
    for process in two:
        process.join(RUN_TIMEOUT_S)
    return sum(cpu for cpu, _ in made), sum(wall for _, wall in made)


def ours(
    seconds: float, threads: int, window_s: float, batches: Sequence[int], names: Sequence[str]
) -> tuple[Table, list[str], float]:
    """The table; what the default pack makes at 1,024 in each case, in words; there per CPU second in the first case."""
    columns = ("environment", "step", "environments M", "steps / CPU s", f"steps / s, {threads} threads", "2 x M/2, CPU",
               "2 x M/2, wall", "2 x M, CPU", "2 x M, wall")  # fmt: skip
    table, verdicts, first = Table("PulseBMS environments", columns), [], 0.0
    for name in names:
        for case in CASES:
            for m in batches:
                progress(f"{name}, {case.text}, {m}")
                single = make(name, case, m)
                cpu, wall = steps_per_s(single, seconds, window_s)
                apart: list[float | None] = [None] * 4
                if m >= 1024 and threads > 1:
                    spread = make(name, case, m, threads)
                    wall = steps_per_s(spread, seconds, window_s)[1]
                    spread.close()
                    half, full = (two_processes(name, case, size, seconds, window_s) for size in (m // 2, m))
                    apart = [*half, *full]
                table.add(name, case.text, m, cpu, wall, *apart)
                if m == 1024 and name == "Pack-v0":
                    first = first or cpu
                    verdicts.append(_verdict(case, wall, apart))
    return table, verdicts, first


def _verdict(case: Case, wall: float, apart: list[float | None]) -> str:
    half_cpu, half_wall, all_cpu, all_wall = (rate or 0.0 for rate in apart)
    best = max(wall, half_wall, all_wall)
    by_cpu = f"per second of processor time of each of two processes {half_cpu:,.0f} (512 each), {all_cpu:,.0f} (1,024 each)"
    return f"{'PASS' if best >= TARGET_PER_S else 'FAIL'}: {case.text}: {best:,.0f} steps per second of wall time; {by_cpu}"


def peer(directory: Path, name: str) -> tuple[float | None, str]:
    """Steps per CPU second of a peer, and what was run or why nothing was."""
    python = directory / name / "bin" / "python"
    try:
        if not python.exists():
            progress(f"making {directory / name}")
            subprocess.run([sys.executable, "-m", "venv", str(directory / name)], check=True, timeout=INSTALL_TIMEOUT_S)
            command = [str(python), "-m", "pip", "install", "--quiet", *PEERS[name]]
            subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT_S)
        script = Path(__file__).with_name("peers") / "env_case.py"
        run = subprocess.run(
            [str(python), str(script), name],
            check=True,
            timeout=RUN_TIMEOUT_S,
            capture_output=True,
            text=True,
            cwd=directory,
        )
        made = json.loads(run.stdout.strip().splitlines()[-1])
        return float(made["steps_per_cpu_s"]), str(made["what"])
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:]
        return None, f"not run: {last[0] if last else error}"
    except (subprocess.TimeoutExpired, OSError, ValueError, IndexError) as error:
        return None, f"not run: {error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", type=Path, help="directory of the peers' environments, outside the repository")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--window", type=float, default=WINDOW_S, help="seconds, of which the best counts")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    table, verdicts, first = ours(arguments.seconds, arguments.threads, arguments.window, arguments.batches, arguments.only)
    print(table.markdown())
    if arguments.peers is not None:
        times = f"Pack-v0 at 1,024, {CASES[0].text}: times as many"
        beside = Table("Beside, per CPU second", ("environment", "steps / CPU s", times, "what was run"))
        for name, requirements in PEERS.items():
            progress(name)
            rate, what = peer(arguments.peers.resolve(), name)
            beside.add(requirements[0], rate, None if rate is None else first / rate, what)
        print(beside.markdown())
    print(f"Aim: {TARGET_PER_S:,.0f} steps a second of 1,024 environments of Pack-v0 on two cores")
    for verdict in verdicts:
        print(verdict)


if __name__ == "__main__":
    main()
