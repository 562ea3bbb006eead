"""One call a step: what envs.block.step_blocks needs is handed to it by a table (core.handed), made once for an engine.

Not here: the step (envs.block), who owns the arrays (envs.engine).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.battery.ecm import compiled_lean
from core.handed import (
    doubles1,
    doubles2,
    doubles3,
    doubles4,
    longs1,
    longs2,
    singles2,
    singles3,
    table_of,
    truths1,
    words1,
)
from envs.block import all_finite, step_blocks

ARRAYS = (
    ("stream", "words1"), ("clocks", "longs2"), ("accounts", "doubles2"), ("state", "doubles3"), ("own_site", "doubles3"),
    ("own", "doubles4"), ("site", "doubles2"), ("pack", "doubles3"), ("shown", "singles3"), ("energy_share", "doubles2"),
    ("spans", "doubles2"), ("ways", "doubles2"), ("ocv_ways", "doubles1"), ("by_soc", "doubles2"),
    ("by_temperature", "doubles2"), ("cell_by_soc", "doubles3"), ("cell_by_temperature", "doubles3"), ("rows", "singles2"),
    ("settled", "doubles2"), ("before", "doubles2"), ("economics", "doubles2"), ("load_ahead", "singles2"),
    ("pv_ahead", "singles2"), ("marginal", "doubles2"), ("marginal_soc", "doubles1"), ("observation", "singles2"),
    ("final_observation", "singles2"), ("reward", "doubles1"), ("truncated", "truths1"), ("results", "doubles2"),
    ("pack_results", "doubles3"), ("final_accounts", "doubles2"), ("desk", "doubles2"),
    ("queries", "doubles3"), ("owners", "longs1"), ("numbers", "longs1"), ("amounts", "doubles1"),
)  # fmt: skip
"""Arrays of the table by name, in its order, with their kinds; names as in step_blocks."""
NUMBERS = (
    "b_first", "b_last", "count", "row_width", "first", "last", "episode_steps", "substeps", "potential", "autoreset",
)  # fmt: skip
AMOUNTS = ("offset_low", "offset_high", "dt_s", "projection_cost")
ENDED, NO_NUMBER = 1, 2
"""What step_handed answers, else 0: an episode ended; an action is no number, and nothing was done."""


class Handed:
    """The table, and the arrays in it that stay as long as it does."""

    def __init__(self, given: dict[str, Any]) -> None:
        """`given`: by name what ARRAYS, NUMBERS and AMOUNTS list; KeyError, ValueError where it does not."""
        self._given = given | {
            "numbers": np.array([int(given[name]) for name in NUMBERS], dtype=np.int64),
            "amounts": np.array([float(given[name]) for name in AMOUNTS]),
        }
        self.table = table_of((kind, self._given[name]) for name, kind in ARRAYS)


@compiled_lean
def step_handed(actions: NDArray[np.float32], table: NDArray[np.int64]) -> int:
    """envs.block.step_blocks of what the table lists; actions as there. 0, ENDED or NO_NUMBER."""
    numbers, amounts = longs1(table, 35), doubles1(table, 36)
    if not all_finite(actions):
        return NO_NUMBER
    # fmt: off
    ended = step_blocks(
        numbers[0], numbers[1], numbers[2], actions, words1(table, 0), longs2(table, 1), doubles2(table, 2), doubles3(table, 3),
        doubles3(table, 4), doubles4(table, 5), doubles2(table, 6), doubles3(table, 7), singles3(table, 8), doubles2(table, 9),
        doubles2(table, 10), doubles2(table, 11), doubles1(table, 12), doubles2(table, 13), doubles2(table, 14),
        doubles3(table, 15), doubles3(table, 16), numbers[3], singles2(table, 17), doubles2(table, 18), doubles2(table, 19),
        doubles2(table, 20), singles2(table, 21), singles2(table, 22), doubles2(table, 23), doubles1(table, 24), numbers[4],
        numbers[5], numbers[6], amounts[0], amounts[1], amounts[2], numbers[7], amounts[3], numbers[8] != 0, numbers[9] != 0,
        singles2(table, 25), singles2(table, 26), doubles1(table, 27), truths1(table, 28), doubles2(table, 29),
        doubles3(table, 30), doubles2(table, 31), doubles2(table, 32), doubles3(table, 33), longs1(table, 34),
    )
    # fmt: on
    return ENDED if ended else 0
