"""The environments as Gymnasium `Env`: one pack, or a site of packs. Their docstrings are the specification.

Not here: the batched form (envs.vector), the equations (core.battery.ecm), the order of an observation's fields (envs.layout).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from envs import kernel
from envs.config import EnvConfig, PackRange
from envs.data import Exogenous, Part, whole
from envs.engine import Engine
from envs.features import Marginal
from envs.layout import LAYOUT_VERSION, OBSERVATION_BOUND
from envs.sample import sample_year

SITE_DEFAULT = (
    {"chemistry": ("LFP",)},
    {"chemistry": ("NMC",)},
    {"chemistry": ("NCA",), "soh_pct": (60.0, 85.0)},
)
"""A site without a config: three packs of three chemistries, one of them tired."""


def part_of(data: Part | Exogenous | None) -> Part:
    """What an environment runs on; none is the made-up year of envs.sample."""
    if isinstance(data, Part):
        return data
    if data is None or isinstance(data, Exogenous):
        return whole(sample_year() if data is None else data)
    raise InputError(source="environment", field="data", value=type(data).__name__, expected="a Part of a DataSet, or Exogenous")


def site_config(config: EnvConfig | Mapping[str, Any] | None) -> EnvConfig:
    """A config of several packs: SITE_DEFAULT where it names none."""
    if not isinstance(config, EnvConfig):
        given = dict(config or {})
        given.setdefault("packs", tuple(PackRange.model_validate(pack) for pack in SITE_DEFAULT))
        config = EnvConfig.of(given)
    return config


def pack_config(config: EnvConfig | Mapping[str, Any] | None) -> EnvConfig:
    """A config of one pack; InputError when it has several."""
    made = EnvConfig.of(config)
    if len(made.packs) != 1:
        raise InputError(
            source="PulseBMS/Pack-v0", field="packs", value=len(made.packs), expected="one pack; PulseBMS/Site-v0 has more"
        )
    return made


def spaces(packs: int, width: int) -> tuple[gymnasium.spaces.Box, gymnasium.spaces.Box]:
    """Observation and action space."""
    observation = gymnasium.spaces.Box(-OBSERVATION_BOUND, OBSERVATION_BOUND, (width,), np.float32)
    return observation, gymnasium.spaces.Box(-1.0, 1.0, (packs,), np.float32)


class _Single(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):  # type: ignore[misc]
    """What both share: an Engine of one."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "layout_version": LAYOUT_VERSION}

    def __init__(self, part: Part, config: EnvConfig, marginal: Marginal | None) -> None:
        self.engine = Engine(part, config, 1, marginal, autoreset=False)
        self.layout = self.engine.layout
        self.observation_space, self.action_space = spaces(self.engine.packs, self.layout.size)
        self._seeded = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode. `options` sets what is else drawn (envs.engine.OPTIONS)."""
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self.engine.seed([int(self.np_random.integers(2**62)) if seed is None else seed])
            self._seeded = True
        observation = self.engine.reset(options)[0].copy()
        return observation, {"time": self.engine.time().isoformat(), "variant": int(self.engine.clocks[0, kernel.VARIANT])}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One step of the data's length. InputError when the action is no number or of another shape."""
        given = np.asarray(action, dtype=np.float32)
        if given.shape != (self.engine.packs,):
            raise InputError(
                source="environment", field="action", value=f"shape {given.shape}", expected=f"shape ({self.engine.packs},)"
            )
        if self.engine.clocks[0, kernel.LEFT] <= 0:
            raise InputError(source="environment", field="step", value="the episode has ended", expected="reset first")
        made = self.engine.step(given[None, :])
        info: dict[str, Any] = dict(zip(kernel.RESULTS, made.results[0].tolist(), strict=True))
        info |= {name: made.pack_results[0, :, k].copy() for k, name in enumerate(kernel.PACK_RESULTS)}
        return made.observation[0].copy(), float(made.reward[0]), False, bool(made.truncated[0]), info


class PackEnv(_Single):
    """One battery pack behind a meter, with prices, and load and PV where the data has them. `PulseBMS/Pack-v0`.

    ### Arguments
    `data`: a `Part` of a `DataSet` (or `Exogenous`); none is a made-up year for trying out. `config`: an `EnvConfig` or a
    mapping; every default is documented there. `marginal`: an MPC's marginal value of energy by row and SoC, an optional block.

    ### Action
    `Box(-1, 1, (1,), float32)`. Share of rated power: 1 discharges, -1 charges. Then it is projected: onto the pack's bounds
    (core.limits.power_bounds of the true Condition, over the whole step), then onto the meter's limits, which packs are only cut
    for what they add to. No action can break a limit of a pack.

    ### Observation
    `Box(-10, 10, (size,), float32)`, in the order of `envs.layout.Layout` (LAYOUT_VERSION 1); `env.unwrapped.layout.index` names
    every column. m and s are mean and standard deviation of the trailing week's prices (s at least 0.002 EUR/kWh), R the site's
    rated power. Nothing is shown that is not known when the step begins.

    | fields | value |
    |---|---|
    | sin_day ... cos_year | local time of day (also its double), of week, of year |
    | price | (p - m) / s, p the step's own price, EUR/kWh |
    | price_spread_log, price_mean | 0.3 ln(s / 0.02), m / s |
    | price_error_0h ... 24h | latest (p - forecast) / s and its means over 3, 12, 24 h; forecast: given, or 24 h before |
    | forecast_spread | disagreement of forecasts where given, else trailing deviation of the error, / s |
    | price_ahead_1h ... | mean over each hour ahead: published, else forecast, else 24 h before; (p - m) / s |
    | marginal_0 ... | the MPC's marginal values at its SoC points, (v - m) / s |
    | net_load_ahead_1h ... | forecast load less PV of each hour ahead / R |
    | load, pv, net_load_error | of the step before / R; the last: actual less forecast |
    | import_limit, export_limit | / R |
    | peak | highest import of the month so far / R |
    | peak_price | EUR/kW / (24 h s) |
    | trade_fee | (buy - sell) / s |
    | soc, temperature, ambient | 2 z - 1 (z in 0-1); (T - 25 degC) / 20 K, ambient of the step before |
    | soh, is_lfp ... is_nca | (SoH - 80 %) / 20 %; 1 or 0 |
    | hours_at_rated, share_of_site | nameplate energy / rated power / 4 h; rated power / R |
    | wear | EUR/kWh of throughput / s |
    | marginal_here | the MPC's marginal value at the pack's own SoC |

    ### Reward
    (cash - wear + potential) / (s x installed kWh) - projection_cost x share of R that was cut. Cash: the meter's bill without
    packs less the bill with them, peak tariff included, EUR. Wear: optimizer.linearise.wear_cost x throughput. Potential: change
    of stored energy at open circuit x m. `info` holds each of them and, by pack, intended and applied power (W).

    ### Start
    Row, site (one of `config.variants`), SoC, temperature, ambient offset are drawn uniformly from the environment's own stream.
    The pack is at rest. SoH is constant within an episode.

    ### End
    Never terminated: there is no state to fail in. Truncated after `config.episode_steps`, or with the data.

    ### Versions
    v0: first.
    """

    def __init__(
        self,
        data: Part | Exogenous | None = None,
        config: EnvConfig | Mapping[str, Any] | None = None,
        marginal: Marginal | None = None,
    ) -> None:
        super().__init__(part_of(data), pack_config(config), marginal)


class SiteEnv(_Single):
    """Several packs, of mixed chemistry and health, behind one meter. `PulseBMS/Site-v0`.

    As `PackEnv`, but: the action is `Box(-1, 1, (P,), float32)`, one share of its own rated power a pack; the last block of the
    observation comes P times (`pack0_soc`, `pack1_soc`, ...); where the meter's limit binds, the packs that add to the excess
    are cut in proportion; R and the installed kWh are those of all packs. Without a config: an LFP, an NMC, a tired NCA pack.

    ### Versions
    v0: first.
    """

    def __init__(
        self,
        data: Part | Exogenous | None = None,
        config: EnvConfig | Mapping[str, Any] | None = None,
        marginal: Marginal | None = None,
    ) -> None:
        super().__init__(part_of(data), site_config(config), marginal)
