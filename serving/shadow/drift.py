"""A two-sided CUSUM on standardised residuals: has the mean of what is measured less what was predicted moved?

    z = clip((r - m) / s, -4, 4);  g+ = max(0, g+ + z - k);  g- = max(0, g- - z - k);  alarm where g+ or g- > h
E. S. Page, "Continuous inspection schemes", Biometrika 41 (1954) 100-115. Reference m and spread s are median and 1.4826 MAD of
the first residuals (robust: Rousseeuw and Croux, JASA 88 (1993) 1273), so that a bias that was there from the beginning is no
drift. With k = 0.5 and h = 12 the mean time between false alarms of independent normal residuals is (exp(2 k b) - 2 k b - 1) /
(2 k^2), b = h + 1.166 (Siegmund, Sequential Analysis, 1985), one-sided 1.0e6; a shift of d > k spreads is found in about
h / (d - k). Clipping lets no single reading alarm; g is capped at 2 h, so that an alarm ends once its cause has.

Here: the detector, pure, its state JSON-ready. Not here: residuals (serving.shadow.residuals), judgement (serving.shadow.judge).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

import numpy as np

REFERENCE = 96
"""First residuals, of which reference and spread are made."""
ALLOWANCE, THRESHOLD, CLIP = 0.5, 12.0, 4.0
"""k, h and the bound of z."""
CAP = 2.0
"""Times the threshold."""
MAD_TO_SIGMA = 1.4826
LEAST_SPREAD: Mapping[str, float] = {"soc_pct": 0.1, "temperature_c": 0.2}
"""What sensors tell apart: a spread below is theirs."""
MATERIAL: Mapping[str, float] = {"soc_pct": 0.5, "temperature_c": 2.0}
"""A shift of the day's median that is smaller matters to nobody ..."""
MATERIAL_SPREADS = 1.5
"""... and one of fewer spreads may be what residuals that hang together do by themselves: the sums suppose that they do not."""


@dataclass(slots=True, kw_only=True)
class Cusum:
    """The detector of one quantity of one pack."""

    least_spread: float
    learning: list[float] = field(default_factory=list)
    """Residuals of which the reference will be made."""
    reference: float | None = None
    spread: float | None = None
    above: float = 0.0
    below: float = 0.0
    count: int = 0

    @property
    def alarm(self) -> bool:
        """Whether the mean has moved, as of the last residual."""
        return max(self.above, self.below) > THRESHOLD

    def see(self, residual: float) -> bool:
        """Take in one residual; returns the alarm. One that is not finite is no residual."""
        if not isfinite(residual):
            return self.alarm
        self.count += 1
        if self.reference is None or self.spread is None:
            self.learning.append(residual)
            if len(self.learning) >= REFERENCE:
                self.reference = float(np.median(self.learning))
                mad = float(np.median(np.abs(np.array(self.learning) - self.reference)))
                self.spread = max(self.least_spread, MAD_TO_SIGMA * mad)
                self.learning = []
            return False
        z = float(np.clip((residual - self.reference) / self.spread, -CLIP, CLIP))
        self.above = min(CAP * THRESHOLD, max(0.0, self.above + z - ALLOWANCE))
        self.below = min(CAP * THRESHOLD, max(0.0, self.below - z - ALLOWANCE))
        return self.alarm

    def as_json(self) -> dict[str, Any]:
        """What `cusum_of` reads."""
        return asdict(self)


def cusum_of(kept: Mapping[str, Any] | None, quantity: str) -> Cusum:
    """A detector as it was kept; a new one when nothing was, or nothing that can be read."""
    try:
        return Cusum(**dict(kept)) if kept is not None else Cusum(least_spread=LEAST_SPREAD[quantity])
    except TypeError:
        return Cusum(least_spread=LEAST_SPREAD[quantity])


@dataclass(frozen=True, slots=True, kw_only=True)
class Drifted:
    """One quantity of one pack that has drifted on a day."""

    device_id: str
    quantity: str
    shift: float
    """The day's median residual less the reference, in the quantity's unit."""
    statistic: float
    """The larger of the two sums at the day's end; beyond THRESHOLD."""
    spread: float
    residuals: int

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def watch_day(
    values: Mapping[str, Mapping[str, Sequence[float]]], before: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Drifted], dict[str, dict[str, Any]]]:
    """What has drifted at the end of a day, and the detectors' states after it; `before`: those after the day before."""
    drifted: list[Drifted] = []
    states: dict[str, dict[str, Any]] = {key: dict(part) for key, part in before.items()}
    for device_id, quantities in values.items():
        for quantity, residuals in quantities.items():
            detector = cusum_of(states.get(device_id, {}).get(quantity), quantity)
            learned = detector.reference is not None
            for residual in residuals:
                detector.see(residual)
            states.setdefault(device_id, {})[quantity] = detector.as_json()
            if not (learned and detector.alarm and detector.reference is not None and detector.spread is not None):
                continue
            shift = float(np.median(np.asarray(residuals, dtype=np.float64))) - detector.reference
            if abs(shift) > max(MATERIAL[quantity], MATERIAL_SPREADS * detector.spread):
                drifted.append(
                    Drifted(
                        device_id=device_id, quantity=quantity, shift=round(shift, 4),
                        statistic=round(max(detector.above, detector.below), 3), spread=round(detector.spread, 4),
                        residuals=len(residuals),
                    )
                )  # fmt: skip
    return drifted, states
