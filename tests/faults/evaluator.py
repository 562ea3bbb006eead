"""An evaluator in a process of its own, to be killed, with policies that fail in every manner.

Arguments: folder of config.json and prices, data directory, workers, then NAME=MODE of each contender beside four baselines. What
an evaluation says goes to standard output as JSON, without what a clock measured.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from evaluation_cases import FixedContender

from serving.evaluation.baselines import Contender
from serving.evaluation.config import read_evaluation
from serving.evaluation.evaluate import Evaluation

BASELINES = ("idle", "threshold", "one_cycle", "perfect_foresight")
MEASURED = ("latency_p50_s", "latency_p99_s")


def without_clock(document):
    """The document less its latencies, which are measured."""
    for part in document["benchmarks"].values():
        for row in part["ranking"]:
            for name in MEASURED:
                row.pop(name, None)
    return document


def main(folder, data_dir, workers, *others):
    config = read_evaluation(Path(folder) / "config.json")
    contenders = [Contender(name=name) for name in BASELINES]
    contenders += [FixedContender(name=name, watt=100.0, mode=mode) for name, _, mode in (word.partition("=") for word in others)]
    made = Evaluation(config=config, folder=Path(folder), data_dir=Path(data_dir), contenders=tuple(contenders))
    made.run(int(workers))
    sys.stdout.write(json.dumps({"from_cache": made.from_cache, "document": without_clock(made.document())}, sort_keys=True))


if __name__ == "__main__":  # worker processes import this module without running it
    main(*sys.argv[1:])
