"""The sparse QP of a site: pattern assembled once, values refilled at each step.

    min 1/2 x'Px + q'x + const   s.t.  A x = b,  gl <= G x <= gu,  xl <= x <= xu           (P diagonal)

in kW, kWh, K, V and EUR, so that entries are of order one; `unit` holds the range that each variable typically moves in, for
first-order solvers. Variables, each block N long: per device c d e T zE zT zV, then hi lo zD zF (scalars), then c d e of each
layer of wear_segments; the meter's b s u zI zX, the tracking deviation t, and the scalar peak. The equations are those of
optimizer.problem. Not here: solvers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from optimizer.problem import DeviceData, SiteProblem

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
DEVICE_BLOCKS = ("c", "d", "e", "T", "zE", "zT", "zV")
DEVICE_SCALARS = ("hi", "lo", "zD", "zF")
GRID_BLOCKS = ("b", "s", "u", "zI", "zX", "t")
DEVICE_ROWS = (
    "soc_max", "soc_min", "temperature_max", "temperature_min", "voltage_max", "voltage_min", "charge_taper", "discharge_taper",
    "cycle_high", "cycle_low", "cycle_depth", "terminal_min", "terminal_max",
)  # fmt: skip
"""Inequality rows of a device: N each, but one each of cycle_depth, terminal_min and terminal_max."""
SEGMENT_BLOCKS = 3
METER_ROWS = ("peak", "grid_import", "grid_export")
KILO = 1000.0
RowKey = tuple[int | None, str]
"""Device index, None for the meter, and the rows' name."""


@dataclass(slots=True)
class _Rows:
    """Entries of a constraint matrix and its right-hand sides, collected block by block in a fixed order."""

    rows: list[IntArray] = field(default_factory=list)
    cols: list[IntArray] = field(default_factory=list)
    values: list[FloatArray] = field(default_factory=list)
    low: list[FloatArray] = field(default_factory=list)
    high: list[FloatArray] = field(default_factory=list)
    named: dict[RowKey, IntArray] = field(default_factory=dict)
    count: int = 0

    def add(self, key: RowKey, n: int, terms: list[tuple[IntArray, FloatArray | float]], low: object, high: object) -> None:
        """n rows; each term gives the columns (n,) and coefficients of one variable. Column -1 leaves the entry out."""
        base = self.count + np.arange(n)
        self.named[key] = base
        for columns, coefficient in terms:
            keep = columns >= 0
            self.rows.append(base[keep])
            self.cols.append(columns[keep])
            self.values.append(np.broadcast_to(np.asarray(coefficient, dtype=np.float64), (n,))[keep])
        self.low.append(np.broadcast_to(np.asarray(low, dtype=np.float64), (n,)))
        self.high.append(np.broadcast_to(np.asarray(high, dtype=np.float64), (n,)))
        self.count += n


class _Matrix:
    """A CSC matrix whose pattern is kept while its values change."""

    def __init__(self, rows: _Rows, width: int) -> None:
        r, c = np.concatenate(rows.rows), np.concatenate(rows.cols)
        self._order = np.lexsort((r, c))
        pointers = np.concatenate([[0], np.cumsum(np.bincount(c, minlength=width))])
        self.csc = sp.csc_matrix((np.concatenate(rows.values)[self._order], r[self._order], pointers), shape=(rows.count, width))

    def refill(self, rows: _Rows) -> None:
        self.csc.data[:] = np.concatenate(rows.values)[self._order]


@dataclass(frozen=True, slots=True)
class Ahead:
    """For each column and row the one of the next step, and the last for the last: indices that shift a solution by a step."""

    columns: IntArray
    equalities: IntArray
    inequalities: IntArray


class SiteQP:
    """QP of a SiteProblem; `update` takes another problem of the same shape (steps, devices, tracking or not)."""

    def __init__(self, problem: SiteProblem) -> None:
        self.problem = problem
        self.shape = shape_of(problem)
        n = problem.steps
        plain = len(DEVICE_BLOCKS) * n + len(DEVICE_SCALARS)
        starts = np.cumsum([0] + [plain + SEGMENT_BLOCKS * n * count for count in self.shape[2]])
        self._starts: list[int] = starts[:-1].tolist()
        self._grid_start = int(starts[-1])
        self.size = self._grid_start + len(GRID_BLOCKS) * n + 1
        self.n = n
        self.kept: dict[str, object] = {}
        """Solver objects set up for this pattern, by name; optimizer.solvers keeps them here."""
        self.version = 0
        """Counts the updates."""
        eq, ineq = self._fill(problem)
        self._eq, self._ineq = _Matrix(eq, self.size), _Matrix(ineq, self.size)
        self._eq_rows, self._ineq_rows = eq.named, ineq.named

    def update(self, problem: SiteProblem) -> None:
        """Refill every value; ValueError when the shape is another."""
        if shape_of(problem) != self.shape:
            raise ValueError(f"shape {shape_of(problem)} is not {self.shape}")
        self.version += 1
        self.problem = problem
        eq, ineq = self._fill(problem)
        self._eq.refill(eq)
        self._ineq.refill(ineq)

    @property
    def a(self) -> sp.csc_matrix:
        """Equality matrix."""
        return self._eq.csc

    @property
    def g(self) -> sp.csc_matrix:
        """Inequality matrix."""
        return self._ineq.csc

    def device(self, i: int, name: str) -> IntArray:
        """Columns of a device's block (N,) or scalar (1,)."""
        base = self._starts[i]
        if name in DEVICE_BLOCKS:
            return base + DEVICE_BLOCKS.index(name) * self.n + np.arange(self.n)
        return np.array([base + len(DEVICE_BLOCKS) * self.n + DEVICE_SCALARS.index(name)])

    def segment(self, i: int, j: int, name: str) -> IntArray:
        """Columns (N,) of layer j of a device's wear_segments: charge `c`, discharge `d`, energy `e`."""
        base = self._starts[i] + len(DEVICE_BLOCKS) * self.n + len(DEVICE_SCALARS)
        return base + (SEGMENT_BLOCKS * j + "cde".index(name)) * self.n + np.arange(self.n)

    def grid(self, name: str) -> IntArray:
        """Columns of a block of the meter (N,), or of the peak (1,)."""
        if name == "peak":
            return np.array([self.size - 1])
        return self._grid_start + GRID_BLOCKS.index(name) * self.n + np.arange(self.n)

    def rows(self, i: int, name: str) -> IntArray:
        """Inequality rows of a device (DEVICE_ROWS), indices into g, gl, gu; KeyError for another name."""
        return self._ineq_rows[i, name]

    def meter_rows(self, name: str) -> IntArray:
        """Inequality rows of the meter (METER_ROWS), shape (N,)."""
        return self._ineq_rows[None, name]

    def equality_rows(self, i: int | None, name: str) -> IntArray:
        """Equality rows (N,): `energy` and `temperature` of device i; with None `balance` and `tracking` of the meter."""
        return self._eq_rows[i, name]

    def ahead(self) -> Ahead:
        """Indices that take a solution of this problem as a guess for that of the next step."""
        devices = range(self.shape[1])
        names = DEVICE_BLOCKS + DEVICE_SCALARS
        columns = [self.device(i, name) for i in devices for name in names] + [self.grid(name) for name in (*GRID_BLOCKS, "peak")]
        columns += [self.segment(i, j, name) for i, count in enumerate(self.shape[2]) for j in range(count) for name in "cde"]
        shifted = []
        for groups, size in (
            (columns, self.size),
            (self._eq_rows.values(), len(self.b)),
            (self._ineq_rows.values(), len(self.gl)),
        ):
            index = np.arange(size)
            for group in groups:
                index[group[:-1]] = group[1:]
            shifted.append(index)
        return Ahead(*shifted)

    def objective(self, x: FloatArray) -> float:
        """Value of the objective, EUR."""
        return float(0.5 * x @ (self.p * x) + self.q @ x + self.constant)

    def _fill(self, problem: SiteProblem) -> tuple[_Rows, _Rows]:
        self.p, self.q, self.constant = np.zeros(self.size), np.zeros(self.size), 0.0
        self.xl, self.xu = np.zeros(self.size), np.full(self.size, np.inf)
        self.unit = np.ones(self.size)
        eq, ineq = _Rows(), _Rows()
        for i, device in enumerate(problem.devices):
            self._device(i, device, problem, eq, ineq)
        self._meter(problem, eq, ineq)
        for i, device in enumerate(problem.devices):
            self._segments(i, device, problem.dt_h, eq, ineq)
        self.b = np.concatenate(eq.low)
        self.gl, self.gu = np.concatenate(ineq.low), np.concatenate(ineq.high)
        return eq, ineq

    def _device(self, i: int, d: DeviceData, problem: SiteProblem, eq: _Rows, ineq: _Rows) -> None:
        n, h, soft = self.n, problem.dt_h, problem.soft
        col = {name: self.device(i, name) for name in DEVICE_BLOCKS + DEVICE_SCALARS}
        before_e, before_t = np.concatenate([[-1], col["e"][:-1]]), np.concatenate([[-1], col["T"][:-1]])
        e0, full = d.energy_wh / KILO, d.capacity_wh / KILO
        first = np.arange(n) == 0
        rhs = np.full(n, -d.leak_wh / KILO) + np.where(first, e0, 0.0)
        flow = [(col["c"], -h * d.eta_charge), (col["d"], h / d.eta_discharge)]
        eq.add((i, "energy"), n, [(col["e"], 1.0), (before_e, -1.0), *flow], rhs, rhs)
        rhs = d.temperature_drift_c + np.where(first, d.temperature_a * d.temperature_c, 0.0)
        eq.add(
            (i, "temperature"),
            n,
            [
                (col["T"], 1.0),
                (before_t, -d.temperature_a),
                (col["c"], -KILO * d.temperature_charge_k_per_w),
                (col["d"], -KILO * d.temperature_discharge_k_per_w),
            ],
            rhs,
            rhs,
        )
        inf = np.inf
        ineq.add((i, "soc_max"), n, [(col["e"], 1.0), (col["zE"], -1.0)], -inf, d.energy_max_wh / KILO)
        ineq.add((i, "soc_min"), n, [(col["e"], 1.0), (col["zE"], 1.0)], d.energy_min_wh / KILO, inf)
        ineq.add((i, "temperature_max"), n, [(col["T"], 1.0), (col["zT"], -1.0)], -inf, d.temperature_max_c)
        ineq.add((i, "temperature_min"), n, [(col["T"], 1.0), (col["zT"], 1.0)], d.temperature_min_c, inf)
        v0 = d.voltage_v + np.where(first, d.voltage_v_per_wh * d.energy_wh, 0.0)
        volts = [
            (before_e, KILO * d.voltage_v_per_wh),
            (col["c"], KILO * d.voltage_v_per_w),
            (col["d"], -KILO * d.voltage_v_per_w),
        ]
        ineq.add((i, "voltage_max"), n, [*volts, (col["zV"], -1.0)], -inf, d.voltage_max_v - v0)
        ineq.add((i, "voltage_min"), n, [*volts, (col["zV"], 1.0)], d.voltage_min_v - v0, inf)
        # A taper's row asks for less than nothing at a state beyond it: there it stops at zero power, and later rows give way
        # by the energy slack of the state before. A state inside never needs that, and must not buy power with slack.
        before_z, relief = np.concatenate([[-1], col["zE"][:-1]]), _beyond_taper(d)
        for row, name, sign, room, slope in (
            ("charge_taper", "c", -1.0, d.charge_taper_w, d.charge_taper_w_per_wh),
            ("discharge_taper", "d", 1.0, d.discharge_taper_w, d.discharge_taper_w_per_wh),
        ):
            at_start = np.maximum(room + sign * slope * d.energy_wh, 0.0)
            give_way: list[tuple[IntArray, FloatArray | float]] = [(before_e, -sign * slope), (before_z, -relief * slope)]
            ineq.add((i, row), n, [(col[name], 1.0), *give_way], -inf, np.where(first, at_start, room) / KILO)
        ineq.add((i, "cycle_high"), n, [(col["e"], 1.0), (np.repeat(col["hi"], n), -1.0)], -inf, 0.0)
        ineq.add((i, "cycle_low"), n, [(col["e"], 1.0), (np.repeat(col["lo"], n), -1.0)], 0.0, inf)
        ineq.add((i, "cycle_depth"), 1, [(col["hi"], 1.0), (col["lo"], -1.0), (col["zD"], -1.0)], -inf, d.cycle_depth_wh / KILO)
        target = d.terminal_energy_wh
        last = col["e"][-1:]
        ineq.add((i, "terminal_min"), 1, [(last, 1.0), (col["zF"], 1.0)], -inf if target is None else target / KILO, inf)
        ineq.add((i, "terminal_max"), 1, [(last, 1.0), (col["zF"], -1.0)], -inf, inf if target is None else target / KILO)

        power = max(float(d.charge_max_w.max()), float(d.discharge_max_w.max()), 1.0) / KILO
        for names, unit in (
            (("c", "d"), power),
            (("e", "hi", "lo"), full / 2),
            (("zE", "zD", "zF"), full / 10),
            (("T",), 10.0),
            (("zT", "zV"), 0.3),
        ):
            for name in names:
                self.unit[col[name]] = unit
        self.xu[col["c"]], self.xu[col["d"]] = d.charge_max_w / KILO, d.discharge_max_w / KILO
        for name in ("e", "T"):
            self.xl[col[name]] = -inf
        self.xl[col["hi"]], self.xl[col["lo"]] = max(e0, d.energy_high_wh / KILO), -inf
        self.xu[col["lo"]] = min(e0, d.energy_low_wh / KILO)
        for name, linear, quadratic in (
            ("zE", soft.energy_eur_per_kwh, soft.energy_quadratic),
            ("zT", soft.temperature_eur_per_k, soft.temperature_quadratic),
            ("zV", soft.voltage_eur_per_v, soft.voltage_quadratic),
            ("zD", soft.depth_eur_per_kwh, 0.0),
            ("zF", soft.terminal_eur_per_kwh if target is not None else 0.0, 0.0),
        ):
            self.q[col[name]] += linear
            self.p[col[name]] += quadratic
        if target is None:
            self.xu[col["zF"]] = 0.0
        for name in ("c", "d"):
            self.q[col[name]] += h * d.wear_eur_per_kwh
            self.p[col[name]] += 2 * h * d.wear_quadratic
        stress = h * d.soc_stress_eur_per_h
        self.p[col["e"]] += 2 * stress / full**2
        self.q[col["e"]] -= 2 * stress * d.soc_stress_centre / full
        self.constant += n * stress * d.soc_stress_centre**2
        self.q[last] -= d.terminal_value_eur_per_kwh
        if d.reference_w is not None and d.move_weight > 0:
            # (d - c - r)^2 with c d = 0 in every executed plan is d^2 + c^2 - 2 r (d - c) + r^2: separable.
            weight, r = h * d.move_weight, d.reference_w / KILO
            for name, sign in (("c", 1.0), ("d", -1.0)):
                self.p[col[name]] += 2 * weight
                self.q[col[name]] += sign * 2 * weight * r
            self.constant += float(weight * (r**2).sum())

    def _segments(self, i: int, d: DeviceData, h: float, eq: _Rows, ineq: _Rows) -> None:
        """Layers of energy, each with its flows; what these leave of c and d goes through the deepest, unlimited one."""
        n, segments = self.n, d.wear_segments or ()
        for j, part in enumerate(segments):
            c, dis, e = (self.segment(i, j, name) for name in "cde")
            before = np.concatenate([[-1], e[:-1]])
            rhs = np.where(np.arange(n) == 0, part.stored_wh / KILO, 0.0)
            flow = [(c, -h * d.eta_charge), (dis, h / d.eta_discharge)]
            eq.add((i, f"segment_{j}"), n, [(e, 1.0), (before, -1.0), *flow], rhs, rhs)
            self.xu[e] = self.unit[e] = part.width_wh / KILO
            discount = h * d.layer_scale * (d.wear_eur_per_kwh - part.wear_eur_per_kwh)
            for flows, name, stored in ((c, "c", d.eta_charge), (dis, "d", 1.0 / d.eta_discharge)):
                self.q[flows] -= discount * stored
                self.unit[flows] = self.unit[self.device(i, name)]
        if segments:
            for name, row in (("c", "segment_charge"), ("d", "segment_discharge")):
                shares = [(self.segment(i, j, name), 1.0) for j in range(len(segments))]
                ineq.add((i, row), n, [*shares, (self.device(i, name), -1.0)], -np.inf, 0.0)

    def _meter(self, problem: SiteProblem, eq: _Rows, ineq: _Rows) -> None:
        n, h, grid, soft = self.n, problem.dt_h, problem.grid, problem.soft
        col = {name: self.grid(name) for name in GRID_BLOCKS}
        terms: list[tuple[IntArray, FloatArray | float]] = [(col["b"], 1.0), (col["s"], -1.0), (col["u"], -1.0)]
        for i in range(len(problem.devices)):
            terms += [(self.device(i, "c"), -1.0), (self.device(i, "d"), 1.0)]
        rhs = (grid.load_w - grid.pv_w) / KILO
        eq.add((None, "balance"), n, terms, rhs, rhs)
        tracking = grid.tracking_weights()
        target = np.where(tracking > 0, grid.target_w / KILO, 0.0) if grid.target_w is not None else np.zeros(n)
        eq.add((None, "tracking"), n, [(col["b"], 1.0), (col["s"], -1.0), (col["t"], -1.0)], target, target)
        self.xl[col["t"]] = -np.inf
        most = sum((max(float(d.charge_max_w.max()), float(d.discharge_max_w.max())) for d in problem.devices), 0.0)
        unit = max(1.0, float(np.abs(rhs).max()), most / KILO)
        for name in ("b", "s", "u", "t"):
            self.unit[col[name]] = unit
        for name in ("zI", "zX"):
            self.unit[col[name]] = unit / 10
        self.unit[self.grid("peak")] = unit
        self.p[col["t"]] += 2 * h * tracking
        peak = self.grid("peak")
        ineq.add((None, "peak"), n, [(col["b"], 1.0), (np.repeat(peak, n), -1.0)], -np.inf, 0.0)
        ineq.add((None, "grid_import"), n, [(col["b"], 1.0), (col["zI"], -1.0)], -np.inf, grid.import_limit_w / KILO)
        ineq.add((None, "grid_export"), n, [(col["s"], 1.0), (col["zX"], -1.0)], -np.inf, grid.export_limit_w / KILO)
        self.xl[peak] = grid.peak_incurred_w / KILO
        self.xu[col["u"]] = grid.pv_w / KILO if grid.curtailable else 0.0
        # Generous ceilings keep import and export finite where both would pay.
        ceiling = (np.abs(grid.load_w) + grid.pv_w) / KILO + sum(
            (d.charge_max_w + d.discharge_max_w) / KILO for d in problem.devices
        )
        self.xu[col["b"]] = self.xu[col["s"]] = ceiling + 1.0
        self.q[col["b"]] += h * grid.buy_eur_per_kwh
        self.q[col["s"]] -= h * grid.sell_eur_per_kwh
        self.q[col["u"]] += h * grid.curtailment_cost_eur_per_kwh
        for name in ("zI", "zX"):
            self.q[col[name]] += soft.grid_eur_per_kw
        self.q[peak] += grid.peak_price_eur_per_kw


def _beyond_taper(d: DeviceData) -> float:
    """1.0 where the energy now is outside its limits, or a taper leaves no power at it; else 0.0."""
    outside = not d.energy_min_wh <= d.energy_wh <= d.energy_max_wh
    no_charge = (d.charge_taper_w < d.charge_taper_w_per_wh * d.energy_wh).any()
    no_discharge = (d.discharge_taper_w + d.discharge_taper_w_per_wh * d.energy_wh < 0).any()
    return float(outside or no_charge or no_discharge)


def shape_of(problem: SiteProblem) -> tuple[int, int, tuple[int, ...]]:
    """What must be equal for an update: steps, devices, and each device's number of wear_segments."""
    return problem.steps, len(problem.devices), tuple(len(device.wear_segments or ()) for device in problem.devices)
