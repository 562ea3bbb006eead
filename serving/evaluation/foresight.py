"""Perfect foresight: dynamic programming over each pack's SoC with all prices, load and PV known, run on the same plant.

Levels of SoC and powers lie on grids; what a step does to the SoC is taken from the circuit at rest, then multiplied by what the
plant did beside it in a first run, for charge and discharge apart. Bounds are core.limits' at rest. Value between levels is
interpolated. Packs behind one meter are planned one after the other, each with the others' plans as load, twice round. Where the
month's peak has a price, a cap on import is searched for (golden section; the best value falls off on both sides of the best cap)
and import beyond it is charged at each step. The value that the programme promises, less what the run earned, is the gap.

Not here: the gate and the plant that a plan passes through (serving.evaluation.replay).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from core.battery.ecm import OUTPUTS, STATE
from core.decisions import Decision, Reason, SetPoint
from core.devices import DeviceConfig
from core.limits import power_bounds
from core.pack import Pack, ecm_parameters
from core.twin import run_circuit
from optimizer.linearise import wear_cost
from policies.base import Observation
from serving.evaluation.meter import energy_bill_eur, held_back_w, metered_w, peak_charge_eur
from serving.evaluation.plant import stored_kwh
from serving.evaluation.replay import Trace
from serving.evaluation.world import World

FloatArray = NDArray[np.float64]
LEVELS, POWERS = 241, 61
SWEEPS = 2
CAPS, CAPS_AGAIN, NEAR_CAP = 12, 5, 0.1
"""Caps that are tried in a month, at first and by a later programme, within so much of the earlier one's."""
WARM_K = 3.0
"""The grid's packs are this much above the air: they are in use."""
_SOC = (*OUTPUTS, *STATE).index("soc")
CUT_W, NEAR_PCT = 100.0, 1.0
LEAST_MOVE_PCT = 0.5
"""Steps that move the SoC less say nothing of the plant's efficiency."""


@dataclass(slots=True)
class PackModel:
    """One pack's steps: SoC after each power from each level, percent, and what is allowed."""

    device: DeviceConfig
    levels: FloatArray
    """Shape (L,), percent."""
    powers: FloatArray
    """Shape (A,), W, discharge positive."""
    moved: FloatArray
    """Change of the SoC, percent, shape (L, A)."""
    allowed: NDArray[np.bool_]
    wear_eur_per_kwh: float
    end_kwh: FloatArray
    """Stored energy at each level."""
    charge_scale: float = 1.0
    discharge_scale: float = 1.0

    def after(self) -> FloatArray:
        """SoC after each step, shape (L, A)."""
        scaled = np.where(self.moved > 0, self.moved * self.charge_scale, self.moved * self.discharge_scale)
        return self.levels[:, None] + scaled


def pack_model(world: World, device: DeviceConfig) -> PackModel:
    """From the circuit, at the week's mean temperature."""
    limits, pack = world.limits[device.device_id], world.site.pack(device.device_id)
    low = limits.soc_min_pct
    levels = np.linspace(low, min(limits.soc_max_pct, low + limits.cycle_depth_pct), LEVELS)
    powers = np.linspace(-min(device.max_charge_power_w, limits.charge_power_w),
                         min(device.max_discharge_power_w, limits.discharge_power_w), POWERS)  # fmt: skip
    powers[np.argmin(np.abs(powers))] = 0.0
    ambient = float(world.week(world.ambient_c).mean())
    grid_soc, grid_power = (part.ravel() for part in np.meshgrid(levels, powers, indexing="ij"))
    count = len(grid_soc)
    rows = np.repeat(ecm_parameters(device, pack.soh_pct)[None, :], count, axis=0)
    history = run_circuit(
        [device.chemistry] * count, rows, grid_soc / 100.0, np.full(count, ambient + WARM_K), grid_power[:, None],
        np.full((count, 1), ambient), world.dt_s,
    )  # fmt: skip
    moved = (100.0 * history[:, 0, _SOC] - grid_soc).reshape(LEVELS, POWERS)
    allowed = np.zeros((LEVELS, POWERS), dtype=np.bool_)
    for k, level in enumerate(levels.tolist()):
        resting = Pack(device, soc_pct=level, soh_pct=pack.soh_pct, temperature_c=ambient + WARM_K, ambient_c=ambient)
        bounds = power_bounds(limits, resting.condition(world.dt_s), world.dt_s)
        allowed[k] = (powers >= -bounds.charge_w[0] - 1e-6) & (powers <= bounds.discharge_w[0] + 1e-6)
        allowed[k, powers == 0.0] = True
    return PackModel(
        device=device,
        levels=levels,
        powers=powers,
        moved=moved,
        allowed=allowed,
        wear_eur_per_kwh=wear_cost(device.chemistry, pack.soh_pct, pack.replacement_eur_per_kwh),
        end_kwh=np.array([stored_kwh(device, pack.soh_pct, level) for level in levels]),
    )


def fitted(model: PackModel, world: World, trace: Trace, p: int) -> PackModel:
    """The model with the plant's own ratio of SoC moved to what the circuit said, from a run."""
    before, after, power = trace.soc_pct[:-1, p], trace.soc_pct[1:, p], trace.power_w[:, p]
    said = np.array(
        [np.interp(w, model.powers, _at_level(model, s)) for s, w in zip(before.tolist(), power.tolist(), strict=True)]
    )
    moved = after - before
    scales = {}
    for name, sign in (("charge_scale", 1.0), ("discharge_scale", -1.0)):
        used = (sign * said > LEAST_MOVE_PCT) & (sign * moved > 0)
        scales[name] = float(np.sum(said[used] * moved[used]) / np.sum(said[used] ** 2)) if used.any() else 1.0
    return replace(
        model, charge_scale=scales["charge_scale"], discharge_scale=scales["discharge_scale"], allowed=_allowed(model, trace, p)
    )


def _allowed(model: PackModel, trace: Trace, p: int) -> NDArray[np.bool_]:
    """Bounds as the run met them: where the gate cut a single pack, levels close by allow no more than what was left."""
    allowed = model.allowed.copy()
    if trace.power_w.shape[1] > 1:
        return allowed
    for k in np.flatnonzero(trace.cut_w > CUT_W).tolist():
        left_w = float(trace.power_w[k, p])
        near = np.abs(model.levels - trace.soc_pct[k, p]) < NEAR_PCT
        same = model.powers * left_w > 0
        allowed[np.ix_(near, same & (np.abs(model.powers) > 1.02 * abs(left_w)))] = False
    return allowed


def _at_level(model: PackModel, soc_pct: float) -> FloatArray:
    """What each power moves at a SoC, (A,)."""
    place = np.clip((soc_pct - model.levels[0]) / (model.levels[1] - model.levels[0]), 0.0, LEVELS - 1.0)
    k = min(int(place), LEVELS - 2)
    part = place - k
    found: FloatArray = (1.0 - part) * model.moved[k] + part * model.moved[k + 1]
    return found


@dataclass(slots=True)
class Foresight:
    """A policy with everything known. `promised_eur` is J by the programme's own model."""

    world: World
    models: list[PackModel]
    promised_eur: float = 0.0
    name: str = "perfect_foresight"
    near_caps_w: dict[int, float] = field(default_factory=dict)
    """Caps of an earlier programme to search around."""
    caps_w: dict[int, float] = field(default_factory=dict)
    """Month -> import that it plans to stay below; empty where peaks cost nothing."""
    _values: list[FloatArray] = field(default_factory=list)
    _plans: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    _ends_pct: list[float] = field(default_factory=list)
    _net_w: FloatArray = field(default_factory=lambda: np.zeros(0))
    _months: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    _buy: FloatArray = field(default_factory=lambda: np.zeros(0))
    _sell: FloatArray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        world = self.world
        self._net_w = world.week(world.load_w - world.pv_w)
        self._months = world.months()
        self._buy, self._sell = world.site.tariff.buy_sell(world.week(world.price))
        if world.site.grid.peak_price_eur_per_kw > 0:
            self._search_caps()
        self._plan()

    def _plan(self) -> float:
        """Plans of all packs under the caps; returns J by the model."""
        self._plans = np.zeros((self.world.steps, len(self.models)))
        alone = len(self.models) == 1 or (not self.caps_w and all(f == 0 for f in _fees(self.world)))
        for _ in range(1 if alone else SWEEPS):
            self._values, self._ends_pct = [], []
            for p, model in enumerate(self.models):
                others = self._plans.sum(axis=1) - self._plans[:, p]
                value = self._solve(model, self._net_w - others)
                self._plans[:, p], end_pct = self._follow(model, value, self._net_w - others)
                self._values.append(value)
                self._ends_pct.append(end_pct)
        self.promised_eur = self._promised()
        return self.promised_eur

    def _search_caps(self) -> None:
        """The cap of each month, one after the other, the first one not below what has been incurred."""
        idle_w, _ = metered_w(self.world, np.zeros(self.world.steps))
        charge_w = sum(float(-model.powers[0]) for model in self.models)
        discharge_w = sum(float(model.powers[-1]) for model in self.models)
        months = sorted(set(self._months.tolist()))
        for k, month in enumerate(months):
            least_w = self.world.peak_incurred_w if k == 0 else 0.0
            alone_w = max(0.0, float(idle_w[self._months == month].max()))
            low, high, tries = max(least_w, alone_w - discharge_w), max(least_w, alone_w + charge_w), CAPS
            if month in self.near_caps_w:
                low = max(low, (1 - NEAR_CAP) * self.near_caps_w[month])
                high, tries = max(low, min(high, (1 + NEAR_CAP) * self.near_caps_w[month])), CAPS_AGAIN

            def value(cap_w: float, month: int = month) -> float:
                self.caps_w[month] = cap_w
                return self._plan()

            self.caps_w[month] = _best_of(value, low, high, tries)

    def decide(self, observation: Observation) -> Decision:
        """The best power of each pack from where it is; see Policy.decide."""
        k = round((observation.starts_at - self.world.start).total_seconds() / self.world.dt_s)
        row = self.world.first + k
        net = float(self.world.load_w[row] - self.world.pv_w[row])
        points = []
        for p, model in enumerate(self.models):
            soc = observation.states[model.device.device_id].soc_pct
            others = float(self._plans[k].sum() - self._plans[k, p])
            power_w = self._best(model, self._values[p], k, soc, net - others)
            reason = Reason.IDLE if power_w == 0 else Reason.PRICE_HIGH if power_w > 0 else Reason.PRICE_LOW
            points.append(SetPoint(device_id=model.device.device_id, power_w=power_w, reason=reason))
        return Decision(
            site_id=observation.site.site_id,
            starts_at=observation.starts_at,
            interval_s=observation.interval_s,
            source=self.name,
            set_points=tuple(points),
        )

    def _reward(self, model: PackModel, k: int, net_w: float) -> FloatArray:
        """EUR of each power at a step, (A,)."""
        site, hours = self.world.site, self.world.dt_s / 3600.0
        buy, sell = float(self._buy[k]), float(self._sell[k])
        grid = np.append(net_w - model.powers, net_w)
        if site.pv.curtailable:
            pv_w = self.world.pv_w[self.world.first + k]
            grid += held_back_w(site, grid, pv_w, self._buy[k], self._sell[k])
        kwh = grid * hours / 1000.0
        bill = np.where(kwh > 0, kwh * buy, kwh * sell)
        wear = model.wear_eur_per_kwh * np.abs(model.powers) * hours / 1000.0
        worth: FloatArray = bill[-1] - bill[:-1] - wear
        limits, alone_w, grid = site.grid, grid[-1], grid[:-1]
        if self.caps_w:
            beyond = np.maximum(0.0, grid - self.caps_w.get(int(self._months[k]), np.inf))
            worth -= limits.peak_price_eur_per_kw * beyond / 1000.0
        over = (grid > max(limits.import_limit_w, alone_w)) | (-grid > max(limits.export_limit_w, -alone_w))
        return np.where(over, -np.inf, worth)

    def _solve(self, model: PackModel, net_w: FloatArray) -> FloatArray:
        """Value of each level before each step and after the last, (steps + 1, L)."""
        world = self.world
        value = np.empty((world.steps + 1, LEVELS))
        value[-1] = model.end_kwh * float(world.week(world.price).mean())
        after = model.after()
        step = model.levels[1] - model.levels[0]
        place = (after - model.levels[0]) / step
        inside = model.allowed & (place > -0.5) & (place < LEVELS - 0.5)
        inside[:, model.powers == 0.0] = True
        place = np.clip(place, 0.0, LEVELS - 1.0)
        index = np.minimum(place.astype(np.int64), LEVELS - 2)
        part = place - index
        for k in range(world.steps - 1, -1, -1):
            ahead = (1.0 - part) * value[k + 1, index] + part * value[k + 1, index + 1]
            total = np.where(inside, ahead + self._reward(model, k, float(net_w[k]))[None, :], -np.inf)
            value[k] = total.max(axis=1)
        return value

    def _best(self, model: PackModel, value: FloatArray, k: int, soc_pct: float, net_w: float) -> float:
        """The power that earns most from a SoC; of equals the smallest."""
        level = np.clip(soc_pct, model.levels[0], model.levels[-1])
        moved = _at_level(model, float(level))
        moved = np.where(moved > 0, moved * model.charge_scale, moved * model.discharge_scale)
        nearest = round((float(level) - model.levels[0]) / (model.levels[1] - model.levels[0]))
        after = level + moved
        slack = 0.5 * (model.levels[1] - model.levels[0])
        fits = model.allowed[nearest] & (after >= model.levels[0] - slack) & (after <= model.levels[-1] + slack)
        fits |= model.powers == 0.0
        worth = np.interp(after, model.levels, value[k + 1]) + self._reward(model, k, net_w)
        worth = np.where(fits, worth - 1e-9 * np.abs(model.powers) / 1000.0, -np.inf)
        return float(model.powers[int(np.argmax(worth))])

    def _follow(self, model: PackModel, value: FloatArray, net_w: FloatArray) -> tuple[FloatArray, float]:
        """The plan by the model itself, (steps,), and the SoC at its end."""
        soc = self.world.start_soc_pct[model.device.device_id]
        plan = np.zeros(self.world.steps)
        for k in range(self.world.steps):
            plan[k] = self._best(model, value, k, soc, float(net_w[k]))
            moved = float(np.interp(plan[k], model.powers, _at_level(model, soc)))
            soc += moved * (model.charge_scale if moved > 0 else model.discharge_scale)
        return plan, soc

    def _promised(self) -> float:
        """J of all packs' plans together, by the model."""
        world, hours = self.world, self.world.dt_s / 3600.0

        def bill(packs_w: FloatArray) -> float:
            grid_w, _ = metered_w(world, packs_w)
            return energy_bill_eur(world, grid_w) + peak_charge_eur(world, grid_w)

        total = bill(np.zeros(world.steps)) - bill(self._plans.sum(axis=1))
        mean_price = float(world.week(world.price).mean())
        for p, (model, end_pct) in enumerate(zip(self.models, self._ends_pct, strict=True)):
            start_pct = world.start_soc_pct[model.device.device_id]
            gained = float(np.interp(end_pct, model.levels, model.end_kwh) - np.interp(start_pct, model.levels, model.end_kwh))
            through = float(np.abs(self._plans[:, p]).sum()) * hours / 1000.0
            total += gained * mean_price - model.wear_eur_per_kwh * through
        return total


def _best_of(value: Callable[[float], float], low: float, high: float, tries: int) -> float:
    """Where `value` is highest in [low, high], by golden section with so many calls; the ends count too."""
    golden = (np.sqrt(5.0) - 1.0) / 2.0
    found = {low: value(low), high: value(high)}
    a, b = low, high
    c, d = b - golden * (b - a), a + golden * (b - a)
    while len(found) < tries and b - a > 1.0:
        for point in (c, d):
            if point not in found:
                found[point] = value(point)
        if found[c] >= found[d]:
            b, d = d, c
            c = b - golden * (b - a)
        else:
            a, c = c, d
            d = a + golden * (b - a)
    return float(max(found, key=lambda point: (found[point], -point)))


def _fees(world: World) -> tuple[float, ...]:
    tariff = world.site.tariff
    return (
        tariff.network_fee_eur_per_kwh, tariff.tax_eur_per_kwh, tariff.supplier_margin_eur_per_kwh,
        tariff.export_margin_eur_per_kwh, tariff.vat_share,
    )  # fmt: skip
