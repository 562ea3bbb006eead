"""Steps per second of the environments, beside CityLearn and EV2Gym from their packages.

    python -m benchmarks.env [--peers DIRECTORY] [--seconds 2] [--threads 2]

Random actions in [-1, 1], quarter hours, episodes of a week, observations returned without a copy; batches of 1, 64, 1024, 8192.
"CPU" is per second of processor time of one thread. "threads" is wall time of one batch that --threads threads share, "two
processes" that of two with half of the environments each; both say little on a busy machine. "two processes, CPU" is the sum of
what each makes per second of its own processor time: what both would make with a core each. The peers run in environments
of their own below DIRECTORY (made there, from a package index, when absent; outside the repository), random actions too, in the
same run: CityLearn on a data set made on the spot in its documented columns (peers/citylearn_data), EV2Gym on its shipped V2G
example. A peer that cannot be installed or started is said to be so.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from benchmarks.common import Table, progress
from envs.data import whole
from envs.sample import sample_year
from envs.vector import PackVectorEnv, SiteVectorEnv

BATCHES = (1, 64, 1024, 8192)
TARGET_PER_S = 10e6
WINDOW_S = 0.1
"""Short, since others on a machine empty the caches: the best of many is what the code itself needs."""
KINDS = {"Pack-v0": PackVectorEnv, "Site-v0, 3 packs": SiteVectorEnv}
PEERS = {"citylearn": ("citylearn==3.0.2",), "ev2gym": ("ev2gym==2.0.0", "pandapower", "numba", "psutil", "multicopula")}
"""What each needs; EV2Gym imports more than its metadata says."""
INSTALL_TIMEOUT_S, RUN_TIMEOUT_S = 900, 300


def steps_per_s(env: PackVectorEnv | SiteVectorEnv, seconds: float) -> tuple[float, float]:
    """Environment steps per CPU second and per second of wall time, each the best of windows of WINDOW_S."""
    rng = np.random.default_rng(0)
    actions = [rng.uniform(-1, 1, env.action_space.shape).astype(np.float32) for _ in range(16)]
    env.reset(seed=0)
    for action in actions:
        env.step(action)
    best_cpu = best_wall = 0.0
    for _ in range(max(3, round(seconds / WINDOW_S))):
        done, cpu, wall = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() - wall < WINDOW_S:
            for action in actions:
                env.step(action)
            done += len(actions) * env.num_envs
        best_cpu = max(best_cpu, done / (time.process_time() - cpu))
        best_wall = max(best_wall, done / (time.perf_counter() - wall))
    return best_cpu, best_wall


def _half(
    name: str, substep_s: float, environments: int, seconds: float, ready: Barrier, rates: Queue[tuple[float, float]]
) -> None:
    env = KINDS[name](environments, whole(sample_year(365)), {"substep_s": substep_s}, copy=False)
    steps_per_s(env, 0.1)
    ready.wait(RUN_TIMEOUT_S)
    rates.put(steps_per_s(env, seconds))


def two_processes(name: str, substep_s: float, environments: int, seconds: float) -> tuple[float, float]:
    """Steps of two processes that have half of the environments each: sum of their rates per CPU second, and per second."""
    context = multiprocessing.get_context("spawn")
    ready, rates = context.Barrier(2), context.Queue()
    halves = [
        context.Process(target=_half, args=(name, substep_s, environments // 2, seconds, ready, rates), daemon=True)
        for _ in range(2)
    ]
    for half in halves:
        half.start()
    made = [rates.get(timeout=RUN_TIMEOUT_S) for _ in halves]
    for half in halves:
        half.join(RUN_TIMEOUT_S)
    return sum(cpu for cpu, _ in made), sum(wall for _, wall in made)


def ours(seconds: float, threads: int) -> tuple[Table, float, float, float]:
    """The table; at 1,024 of the default pack: per CPU second at 60 s, the best per second, the best of two processes' CPU."""
    part = whole(sample_year(365))
    columns = ("environment", "substep, s", "environments", "steps / CPU s", f"steps / s, {threads} threads", "two processes",
               "two processes, CPU")  # fmt: skip
    table = Table("PulseBMS environments", columns)
    at_1024 = best_wall = best_cpu = 0.0
    for name, kind in KINDS.items():
        for substep_s in (60.0, 300.0):
            for m in BATCHES:
                progress(f"{name}, {substep_s:.0f} s, {m}")
                config = {"substep_s": substep_s}
                single = kind(m, part, config, copy=False)
                cpu, wall = steps_per_s(single, seconds)
                apart: float | None = None
                apart_cpu: float | None = None
                if m >= 1024 and threads > 1:
                    spread = kind(m, part, config, copy=False, threads=threads)
                    wall = steps_per_s(spread, seconds)[1]
                    spread.close()
                    apart_cpu, apart = two_processes(name, substep_s, m, seconds)
                table.add(name, substep_s, m, cpu, wall, apart, apart_cpu)
                if m == 1024 and name == "Pack-v0":
                    at_1024, best_wall = (cpu if substep_s == 60.0 else at_1024), max(best_wall, wall, apart or 0.0)
                    best_cpu = max(best_cpu, apart_cpu or 0.0)
    return table, at_1024, best_wall, best_cpu


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
    arguments = parser.parse_args()
    table, at_1024, best_wall, best_cpu = ours(arguments.seconds, arguments.threads)
    print(table.markdown())
    if arguments.peers is not None:
        beside = Table(
            "Beside, per CPU second", ("environment", "steps / CPU s", "Pack-v0 at 1,024, 60 s: times as many", "what was run")
        )
        for name, requirements in PEERS.items():
            progress(name)
            rate, what = peer(arguments.peers.resolve(), name)
            beside.add(requirements[0], rate, None if rate is None else at_1024 / rate, what)
        print(beside.markdown())
    verdict = "PASS" if best_wall >= TARGET_PER_S else "FAIL"
    print(f"{verdict}: {best_wall:,.0f} steps/s at 1,024 environments on two cores; aim {TARGET_PER_S:,.0f}")
    print(f"two processes there made {best_cpu:,.0f} steps per second of processor time of each")


if __name__ == "__main__":
    main()
