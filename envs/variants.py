"""Sites drawn from an environment's ranges, as rows of numbers that the kernel gathers.

Every number comes from core's own functions (circuit parameters, folded limits, energy curve) and the optimizer's wear cost. Not
here: the ranges (envs.config), stepping (envs.kernel).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from core.battery.cells import BY_SOC, ROW, energy_curve_wh
from core.battery.ecm import SUBSTEP_S, substep_rates
from core.devices import Chemistry, DeviceConfig
from core.limits import ConstraintRow, PackLimits, tightest
from core.pack import ecm_parameters, power_ratings
from core.site import NOMINAL_CELL_V
from envs.config import EnvConfig, PackRange, Range
from envs.data import Exogenous
from optimizer.linearise import wear_cost

FloatArray = NDArray[np.float64]
PARAMETERS, LIMITS, RATINGS, RATES = slice(0, 11), slice(11, 26), slice(26, 30), slice(30, 35)
"""Columns of a pack's row: core.battery.ecm.PARAMETERS, core.limits.PackLimits.vector, core.pack.power_ratings, substep_rates."""
CELL_HIGH, CELL_LOW, WEAR, ENERGY, SOC_FIRST, SOC_LAST, WARM_FIRST, WARM_LAST = range(35, 43)
V1_BUILT, LAG_KEPT, HEAT_KEPT, HEAT_GAIN = range(43, 47)
"""Shape of the cells' scatter; EUR per kWh of throughput; Wh when full; ranges of the initial state (0-1, K over ambient);
what of v1 builds up, of lag and warmth stays over a step, and K per W at most."""
PACK_COLUMNS = 47
IMPORT_LIMIT, EXPORT_LIMIT, RATED, LOAD_FACTOR, PV_FACTOR, SCALE, PEAK_PRICE, PEAK_FIRST, PEAK_LAST = range(9)
"""Columns of a site's row: W, W, W, factors on load and PV, installed kWh, EUR per kW, range of the first peak in W."""
SITE_COLUMNS = 9
_AT = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variants:
    """V sites of P packs."""

    site: FloatArray
    """Shape (V, SITE_COLUMNS)."""
    pack: FloatArray
    """Shape (V, P, PACK_COLUMNS)."""
    shown: NDArray[np.float32]
    """What an observation shows of a pack and does not change: shape (V, P, 7), soh to share_of_site of envs.layout.PACK."""
    energy_share: FloatArray
    """Energy over that of a full pack at 0, 1, ..., 100 % SoC, a row a chemistry: shape (4, 101)."""
    configs: tuple[tuple[DeviceConfig, ...], ...]
    limits: tuple[tuple[PackLimits, ...], ...]
    soh_pct: FloatArray
    """Shape (V, P)."""


def draw_variants(config: EnvConfig, data: Exogenous) -> Variants:
    """`config.variants` sites; the same config gives the same sites, whatever the seed of the environment."""
    rng = np.random.default_rng(config.variants_seed)
    count, packs = config.variants, len(config.packs)
    site, pack = np.empty((count, SITE_COLUMNS)), np.empty((count, packs, PACK_COLUMNS))
    shown = np.empty((count, packs, 3 + len(Chemistry)), dtype=np.float32)
    soh = np.empty((count, packs))
    all_configs, all_limits = [], []
    substeps = config.substeps_of(data.dt_s)
    most_load_w, most_pv_w = float(data.load_w.max()), float(data.pv_w.max())
    for v in range(count):
        configs, limits = [], []
        for p, given in enumerate(config.packs):
            device = _device(given, f"pack-{p}", rng)
            soh[v, p] = rng.uniform(*given.soh_pct)
            bounds = tightest(device, [_constraints(given, device.device_id)], _AT)
            pack[v, p] = _pack_row(given, device, soh[v, p], bounds, data.dt_s, substeps, rng)
            configs.append(device)
            limits.append(bounds)
        rated_w = sum(max(d.max_charge_power_w, d.max_discharge_power_w) for d in configs)
        installed_kwh = sum(d.nominal_energy_wh for d in configs) / 1000.0
        grid = config.grid
        site[v, IMPORT_LIMIT] = rng.uniform(*grid.import_per_rated) * rated_w
        site[v, EXPORT_LIMIT] = rng.uniform(*grid.export_per_rated) * rated_w
        site[v, RATED] = rated_w
        site[v, LOAD_FACTOR] = _factor(config.load_per_rated, rated_w, most_load_w, rng)
        site[v, PV_FACTOR] = _factor(config.pv_per_rated, rated_w, most_pv_w, rng)
        site[v, SCALE] = installed_kwh
        site[v, PEAK_PRICE] = grid.peak_price_eur_per_kw
        site[v, [PEAK_FIRST, PEAK_LAST]] = np.array(grid.initial_peak_per_rated) * rated_w
        for p, device in enumerate(configs):
            one_hot = [float(device.chemistry is chemistry) for chemistry in Chemistry]
            hours = device.nominal_energy_wh / device.max_discharge_power_w
            shown[v, p] = [
                (soh[v, p] - 80.0) / 20.0,
                *one_hot,
                min(hours / 4.0, 10.0),
                device.max_discharge_power_w / rated_w,
            ]
        all_configs.append(tuple(configs))
        all_limits.append(tuple(limits))
    return Variants(
        site=site,
        pack=pack,
        shown=shown,
        energy_share=energy_shares(),
        configs=tuple(all_configs),
        limits=tuple(all_limits),
        soh_pct=soh,
    )


def energy_shares() -> FloatArray:
    """Stored energy over that of a full pack, from core.battery.cells.energy_curve_wh; shape (4, 101)."""
    shares = np.empty((len(ROW), BY_SOC.shape[1]))
    for chemistry, row in ROW.items():
        curve = energy_curve_wh(_of(chemistry, 1000.0, 500.0, 1, "curve"), 100.0)
        shares[row] = curve / curve[-1]
    return shares


def _pack_row(
    given: PackRange,
    device: DeviceConfig,
    soh_pct: float,
    limits: PackLimits,
    dt_s: float,
    substeps: int,
    rng: np.random.Generator,
) -> FloatArray:
    row = np.empty(PACK_COLUMNS)
    row[PARAMETERS] = ecm_parameters(device, soh_pct)
    row[LIMITS] = limits.vector()
    row[RATINGS] = power_ratings(device)
    substep_s = dt_s / substeps
    substep_rates(row[PARAMETERS], substep_s, row[RATES])
    if substep_s > SUBSTEP_S:
        # Warming of a longer substep is that of as many of 60 s with the same heat: a pack's time constant is some 20 minutes.
        capacity, cooling = row[PARAMETERS][7], row[PARAMETERS][8]
        row[RATES][3] = (1.0 - (1.0 - SUBSTEP_S * cooling / capacity) ** (substep_s / SUBSTEP_S)) / cooling
    row[CELL_HIGH] = rng.uniform(0.35, 0.65)
    row[CELL_LOW] = 1.0 - row[CELL_HIGH]
    row[WEAR] = wear_cost(device.chemistry, soh_pct, given.replacement_eur_per_kwh)
    row[ENERGY] = energy_curve_wh(device, soh_pct)[-1]
    row[[SOC_FIRST, SOC_LAST]] = np.array(given.initial_soc_pct) / 100.0
    row[[WARM_FIRST, WARM_LAST]] = given.initial_warmth_k
    parameters = row[PARAMETERS]
    row[V1_BUILT], row[LAG_KEPT] = 1.0 - np.exp(-dt_s / parameters[4]), np.exp(-dt_s / parameters[5])
    row[HEAT_KEPT] = np.exp(-dt_s * parameters[8] / parameters[7])
    # Heat of all polarisation over that of what builds up in the step is at most this: core.battery.condition.condition_row.
    most = 1.0 / min(1.0, row[V1_BUILT], 1.0 - row[LAG_KEPT])
    row[HEAT_GAIN] = (1.0 - row[HEAT_KEPT]) / parameters[8] * most
    return row


def _device(given: PackRange, name: str, rng: np.random.Generator) -> DeviceConfig:
    chemistry = given.chemistry[int(rng.integers(len(given.chemistry)))]
    low, high = np.log(given.energy_kwh)
    energy_wh = 1000.0 * float(np.exp(rng.uniform(low, high)))
    power_w = energy_wh * rng.uniform(*given.power_per_energy)
    return _of(chemistry, energy_wh, float(power_w), given.series_cells, name)


def _of(chemistry: Chemistry, energy_wh: float, power_w: float, series_cells: int, name: str) -> DeviceConfig:
    cell_v = sum(NOMINAL_CELL_V[chemistry]) / 2.0
    return DeviceConfig(
        device_id=name, site_id="environment", name=name, chemistry=chemistry,
        nominal_capacity_ah=energy_wh / (cell_v * series_cells), nominal_voltage_v=cell_v * series_cells,
        max_charge_power_w=power_w, max_discharge_power_w=power_w, series_cells=series_cells, parallel_cells=1,
    )  # fmt: skip


def _constraints(given: PackRange, name: str) -> ConstraintRow:
    return ConstraintRow(
        row_id="environment", device_id=name, max_charge_current_a=None, max_discharge_current_a=None,
        max_cell_voltage_v=None, min_cell_voltage_v=None, max_cell_temperature_c=given.temperature_max_c,
        min_cell_temperature_c=given.temperature_min_c, max_temperature_delta_k=given.temperature_delta_k,
        max_soc_pct=given.soc_max_pct, min_soc_pct=given.soc_min_pct,
        max_cycle_depth_pct=given.soc_max_pct - given.soc_min_pct, max_c_rate_per_h=given.max_c_rate_per_h,
    )  # fmt: skip


def _factor(multiple: Range | None, rated_w: float, most_w: float, rng: np.random.Generator) -> float:
    if multiple is None:
        return 1.0
    return float(rng.uniform(*multiple)) * rated_w / most_w if most_w > 0 else 0.0
