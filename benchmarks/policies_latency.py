"""CPU time of a learned decision's parts in NumPy, and its distance from torch. Run: python -m benchmarks.policies_latency"""

from __future__ import annotations

import time
from itertools import pairwise

from benchmarks.common import Table, clean_environment

clean_environment()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from policies.learned.layout import value_features  # noqa: E402
from training.artefacts import network_of_torch  # noqa: E402

ROUNDS = 5000
SHAPES = {"energy value, 42-128-128-40": (42, 128, 128, 40), "actor, 64-64-64-1": (64, 64, 64, 1)}


def main() -> None:
    torch.set_num_threads(1)
    table = Table("One decision", ("network", "CPU µs, mean", "wall µs, p99", "largest distance from torch"))
    for name, widths in SHAPES.items():
        torch.manual_seed(0)
        parts: list[torch.nn.Module] = []
        for inner, outer in pairwise(widths):
            parts += [torch.nn.Linear(inner, outer), torch.nn.SiLU()]
        module = torch.nn.Sequential(*parts[:-1])
        network = network_of_torch(module, "silu")
        x = np.random.default_rng(0).normal(size=(ROUNDS, widths[0])).astype(np.float32)
        with torch.no_grad():
            distance = float(np.abs(network(x) - module(torch.from_numpy(x)).numpy()).max())
        walls = np.empty(ROUNDS)
        begun = time.process_time()
        for k in range(ROUNDS):
            at = time.perf_counter()
            network(x[k])
            walls[k] = time.perf_counter() - at
        cpu = (time.process_time() - begun) / ROUNDS
        table.add(name, f"{1e6 * cpu:.1f}", f"{1e6 * np.quantile(walls, 0.99):.1f}", f"{distance:.1e}")
    one, prices = np.array([12.0]), np.full((1, 37), 0.1)
    begun = time.process_time()
    for _ in range(ROUNDS):
        value_features(one, np.array([1]), prices, one, one, one)
    table.add("features of the energy value", f"{1e6 * (time.process_time() - begun) / ROUNDS:.1f}", None, None)
    print(table.markdown())


if __name__ == "__main__":
    main()
