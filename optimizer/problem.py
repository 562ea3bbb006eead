"""The MPC's problem data: what is known about the meter and about each device, over N steps of dt_s.

Here: frozen value objects and their checks. Not here: how they are derived from limits and predictions
(optimizer.linearise), matrices (optimizer.assembly), solving.

Problem, for devices i and steps k of h = dt_s / 3600 hours (prices in EUR/kWh, powers in W, energies in Wh; all terms
of the objective in EUR, so that W and Wh enter divided by 1000):

    min  sum_k h (buy_k b_k - sell_k s_k) + peak_price * peak + curtailment_cost * sum_k h u_k
         + tracking_weight * sum_{k tracked} h (b_k - s_k - target_k)^2             [kW^2 h]
         + sum_i { sum_k h wear (c+d) [or by depth: wear_segments] + h wear_quadratic (c^2+d^2) + h soc_stress (e/E - centre)^2
                   + h move_weight (d - c - reference)^2 - terminal_value e_N + slack penalties }
    e+ = e + h (eta_c c - d / eta_d) - leak
    T+ = a T + b_c c + b_d d + w
    b_k - s_k = load_k - (pv_k - u_k) + sum_i (c - d),   0 <= u_k <= pv_k when curtailable
    0 <= b_k <= import limit (+ slack), 0 <= s_k <= export limit (+ slack), b_k <= peak, peak >= peak already incurred
    energy_min - z <= e <= energy_max + z;  temperature_min - z <= T <= temperature_max + z
    voltage_min - z <= v0 + v_per_wh e + v_per_w (c - d) <= voltage_max + z         (e at the start of the step)
    c <= charge_max, d <= discharge_max, c <= taper_c - slope_c e, d <= taper_d + slope_d e
    max(e0, e_k, highest so far) - min(e0, e_k, lowest so far) <= cycle_depth

Slacks cost `SoftCosts`: a state outside its limits is brought back inside, never "infeasible".
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError

FloatArray = NDArray[np.float64]
STIFFER = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftCosts:
    """Penalties of soft limits: linear per unit and step, and quadratic (1/2 r z^2)."""

    energy_eur_per_kwh: float = 2.0
    energy_quadratic: float = 1.0
    temperature_eur_per_k: float = 2.0
    temperature_quadratic: float = 1.0
    voltage_eur_per_v: float = 2.0
    voltage_quadratic: float = 1.0
    grid_eur_per_kw: float = 50.0
    """Import or export beyond the meter's limit; above any price, so that it is the least violation."""
    depth_eur_per_kwh: float = 2.0
    """Cycle depth that the past has already exceeded."""
    terminal_eur_per_kwh: float = 10.0
    """Shortfall from a terminal energy target: priced, so that an unreachable one is not infeasible."""

    def stiff(self) -> SoftCosts:
        """Penalties of a device's limits so high that breaking them pays nowhere: where a plan had to be cut to keep them."""
        return replace(
            self,
            energy_eur_per_kwh=STIFFER * self.energy_eur_per_kwh,
            temperature_eur_per_k=STIFFER * self.temperature_eur_per_k,
            voltage_eur_per_v=STIFFER * self.voltage_eur_per_v,
            depth_eur_per_kwh=STIFFER * self.depth_eur_per_kwh,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GridData:
    """One grid connection (meter) over N steps; arrays have shape (N,)."""

    buy_eur_per_kwh: FloatArray
    """Import price, network tariff included."""
    sell_eur_per_kwh: FloatArray
    """Export price."""
    load_w: FloatArray
    pv_w: FloatArray
    import_limit_w: FloatArray
    export_limit_w: FloatArray
    peak_price_eur_per_kw: float = 0.0
    peak_incurred_w: float = 0.0
    """Highest import of this billing period so far."""
    curtailable: bool = False
    curtailment_cost_eur_per_kwh: float = 0.0
    target_w: FloatArray | None = None
    """Dispatch signal: net import to track."""
    tracked: NDArray[np.bool_] | None = None
    """Steps that have a target, (N,); None where all have. What `target_w` holds in the others means nothing."""
    tracking_weight: float = 0.0
    """EUR per kW^2 and hour of deviation from `target_w`."""
    import_reserve_w: float = 0.0
    """What `import_limit_w` leaves free of the meter's own limit, for what forecasts miss; only explained, not optimised."""
    export_reserve_w: float = 0.0

    def tracking_weights(self) -> FloatArray:
        """Weight of each step's deviation, (N,): zero where nothing is tracked."""
        steps = np.ones(len(self.buy_eur_per_kwh))
        if self.target_w is None:
            return 0.0 * steps
        return self.tracking_weight * (steps if self.tracked is None else np.where(self.tracked, 1.0, 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentCost:
    """A layer of the stored energy, with a wear cost of its own (Xu et al. 2018; optimizer.segments)."""

    width_wh: float
    """Energy it can hold."""
    stored_wh: float
    """Energy in it now."""
    wear_eur_per_kwh: float
    """Per kWh of terminal throughput, each direction, over a cycle (`DeviceData.layer_scale`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceData:
    """One device over N steps, linearised around its prediction; arrays have shape (N,)."""

    device_id: str
    energy_wh: float
    """Energy now."""
    capacity_wh: float
    """Energy between 0 and 100 % SoC at the present SoH."""
    energy_curve_wh: tuple[float, ...] | None = None
    """Energy at evenly spaced SoC from 0 to 100 %; None where energy is in proportion to SoC."""
    energy_min_wh: float
    energy_max_wh: float
    cycle_depth_wh: float
    energy_low_wh: float
    """Lowest and highest energy of the cycle so far; `energy_wh` when a new one begins."""
    energy_high_wh: float
    charge_max_w: FloatArray
    discharge_max_w: FloatArray
    charge_taper_w: FloatArray
    """Intercept of c <= charge_taper_w - charge_taper_w_per_wh * e; inf where there is no taper."""
    charge_taper_w_per_wh: FloatArray
    discharge_taper_w: FloatArray
    discharge_taper_w_per_wh: FloatArray
    eta_charge: FloatArray
    """One-way efficiencies, terminal energy to stored energy."""
    eta_discharge: FloatArray
    leak_wh: float
    """Self-discharge per step."""
    temperature_c: float
    temperature_a: float
    """Share of the temperature that is left after a step."""
    temperature_charge_k_per_w: FloatArray
    temperature_discharge_k_per_w: FloatArray
    temperature_drift_c: FloatArray
    temperature_min_c: float
    temperature_max_c: FloatArray
    voltage_v: FloatArray
    """v0: terminal voltage at e = 0 and no power, extrapolated."""
    voltage_v_per_wh: FloatArray
    voltage_v_per_w: FloatArray
    voltage_min_v: float
    voltage_max_v: float
    wear_eur_per_kwh: float
    """Per kWh of terminal throughput, each direction."""
    wear_segments: tuple[SegmentCost, ...] | None = None
    """Wear by depth: layers from the shallow, cheap one down; what exceeds them wears at `wear_eur_per_kwh`. None: all does."""
    wear_quadratic: float = 0.0
    """EUR per kW^2 and hour."""
    soc_stress_eur_per_h: float = 0.0
    """EUR per hour at (e/E - centre) = 1."""
    soc_stress_centre: float = 0.5
    terminal_value_eur_per_kwh: float = 0.0
    terminal_energy_wh: float | None = None
    """Energy to hold at the end of the horizon; None leaves the end free."""
    reference_w: FloatArray | None = None
    """Net power (discharge positive) of the last plan, shifted; equal-cost plans stay with it."""
    move_weight: float = 0.0
    """EUR per kW^2 and hour of deviation from `reference_w`."""

    @property
    def layer_scale(self) -> float:
        """Terminal kWh each way per kWh that a cycle stores, kappa = (min 1/eta_c + min eta_d) / 2.

        A layer takes kappa (wear - its wear) off per kWh that it stores or gives. So charge and discharge through it cost its own
        wear together, never less than nothing, and which layer takes which step's energy does not depend on that step's losses.
        """
        return 0.5 * (float((1.0 / self.eta_charge).min()) + float(self.eta_discharge.min()))

    def soc_pct(self, energy_wh: FloatArray) -> FloatArray:
        """SoC at energies of any shape, percent."""
        curve = self.energy_curve_wh or (0.0, self.capacity_wh)
        return np.interp(energy_wh, curve, np.linspace(0.0, 100.0, len(curve)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteProblem:
    """Devices behind one meter. One device is a site of one. Checked when made."""

    dt_s: float
    grid: GridData
    devices: tuple[DeviceData, ...]
    soft: SoftCosts = field(default_factory=SoftCosts)

    def __post_init__(self) -> None:
        """Raise InputError naming device, field and value when shapes, signs or units cannot be."""
        if not (np.isfinite(self.dt_s) and self.dt_s > 0):
            raise InputError(source="problem", field="dt_s", value=self.dt_s, expected="seconds > 0")
        n = self.steps
        if n < 1:
            raise InputError(source="problem", field="horizon", value=n, expected="at least one step")
        _check_arrays("grid", self.grid, n)
        for name in ("import_limit_w", "export_limit_w", "pv_w"):
            _not_negative("grid", name, getattr(self.grid, name))
        for name in ("tracking_weight", "peak_price_eur_per_kw", "peak_incurred_w"):
            _not_negative("grid", name, getattr(self.grid, name))
        for item in fields(self.soft):
            _not_negative("soft limits", item.name, getattr(self.soft, item.name))
        for device in self.devices:
            _check_device(device, n)
        ids = [device.device_id for device in self.devices]
        if len(set(ids)) < len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise InputError(source="problem", field="device_id", value=twice, expected="each device once")

    @property
    def steps(self) -> int:
        """Number of steps N."""
        return len(self.grid.buy_eur_per_kwh)

    @property
    def dt_h(self) -> float:
        """Length of a step in hours."""
        return self.dt_s / 3600.0


_MAY_BE_INFINITE = {
    "charge_taper_w",
    "discharge_taper_w",
    "temperature_max_c",
    "temperature_min_c",
    "import_limit_w",
    "export_limit_w",
    "voltage_max_v",
    "voltage_min_v",
    "cycle_depth_wh",
}


NO_LESS_THAN_NOTHING = ("leak_wh", "wear_quadratic", "soc_stress_eur_per_h", "move_weight")
"""Scalars of a device; negative weights of squares would make the problem one without a least value."""


def _check_arrays(source: str, data: GridData | DeviceData, steps: int) -> None:
    for item in fields(data):
        value = getattr(data, item.name)
        kind = str(item.type)
        if (value is None and "None" in kind) or kind.startswith(("str", "tuple")):
            continue
        if "Array" in kind:
            if not isinstance(value, np.ndarray) or value.shape != (steps,):
                got = f"{len(value)} values" if np.ndim(value) == 1 else f"shape {np.shape(value)}"
                array_of = "" if isinstance(value, np.ndarray) else "an array of "
                raise InputError(source=source, field=item.name, value=got, expected=f"{array_of}{steps} values")
        elif not isinstance(value, int | float | np.generic):
            raise InputError(source=source, field=item.name, value=value, expected="a number")
        array = np.asarray(value, dtype=np.float64)
        bad = np.isnan(array) if item.name in _MAY_BE_INFINITE else ~np.isfinite(array)
        if bad.any():
            where = f"{item.name}[{int(np.argmax(bad))}]" if array.ndim else item.name
            raise InputError(source=source, field=where, value=float(array[bad].flat[0]), expected="a finite number")


def _not_negative(source: str, name: str, array: FloatArray | float) -> None:
    if not isinstance(array, np.ndarray):
        if not (np.isfinite(array) and array >= 0):
            raise InputError(source=source, field=name, value=array, expected="a number >= 0")
    elif (array < 0).any():
        k = int(np.argmax(array < 0))
        raise InputError(source=source, field=f"{name}[{k}]", value=float(array[k]), expected="a number >= 0")


def _check_device(device: DeviceData, steps: int) -> None:
    source = f"device {device.device_id}"
    _check_arrays(source, device, steps)
    if device.capacity_wh <= 0:
        raise InputError(source=source, field="capacity_wh", value=device.capacity_wh, expected="a number > 0")
    if not device.energy_min_wh < device.energy_max_wh:
        raise InputError(
            source=source,
            field="energy_min_wh and energy_max_wh",
            value=f"{device.energy_min_wh:g} and {device.energy_max_wh:g}",
            expected="a range that is not empty",
        )
    if device.energy_low_wh > device.energy_high_wh:
        raise InputError(
            source=source,
            field="energy_low_wh and energy_high_wh",
            value=f"{device.energy_low_wh:g} and {device.energy_high_wh:g}",
            expected="the lowest energy of the cycle not above the highest",
        )
    for name in ("charge_max_w", "discharge_max_w", *NO_LESS_THAN_NOTHING):
        _not_negative(source, name, getattr(device, name))
    if device.cycle_depth_wh < 0:
        raise InputError(source=source, field="cycle_depth_wh", value=device.cycle_depth_wh, expected="a number >= 0")
    if not 0 <= device.temperature_a <= 1:
        raise InputError(source=source, field="temperature_a", value=device.temperature_a, expected="a share in [0, 1]")
    _check_segments(source, device)
    for name in ("eta_charge", "eta_discharge"):
        eta = getattr(device, name)
        outside = (eta <= 0) | (eta > 1)
        if outside.any():
            k = int(np.argmax(outside))
            raise InputError(source=source, field=f"{name}[{k}]", value=float(eta[k]), expected="a share in (0, 1]")


def _check_segments(source: str, device: DeviceData) -> None:
    least = 0.0
    for j, part in enumerate(device.wear_segments or ()):
        for name, value, good, expected in (
            ("width_wh", part.width_wh, part.width_wh > 0, "a number > 0"),
            ("stored_wh", part.stored_wh, 0 <= part.stored_wh <= part.width_wh, f"0 to {part.width_wh:g} Wh"),
            (
                "wear_eur_per_kwh",
                part.wear_eur_per_kwh,
                least <= part.wear_eur_per_kwh <= device.wear_eur_per_kwh,
                f"{least:g} to {device.wear_eur_per_kwh:g}: no layer cheaper than a shallower one or dearer than the rest",
            ),
        ):
            if not (np.isfinite(value) and good):
                raise InputError(source=source, field=f"wear_segments[{j}].{name}", value=value, expected=expected)
        least = part.wear_eur_per_kwh
