"""Tells a state of charge that was sent as a share of 1 from one in percent.

A single 0.67 may be either. Three things together tell them apart, and only over many documents: every value lies in
[0, 1]; at least one is a fraction; and a pack moves. A file in which *nothing* exceeds 1 is refused as a whole (a person
may confirm that it is percent). Within a mixed batch a device is set aside when it moved by more than 0.1 inside [0, 1]:
a real pack between 0 and 1 % is at its protection limit and does not cycle there. A device that only rests there is kept
and named.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

MIN_DOCUMENTS = 20
MIN_SPAN = 0.1


@dataclass(slots=True)
class SocWatch:
    """Lowest and highest SoC, and the number of documents, of each device so far."""

    _seen: dict[str, list[float]] = field(default_factory=dict)

    def add(self, pairs: Iterable[tuple[str, float]]) -> None:
        """Take in (device_id, soc as received)."""
        for device_id, soc in pairs:
            entry = self._seen.get(device_id)
            if entry is None:
                self._seen[device_id] = [soc, soc, 1.0]
            else:
                entry[0] = min(entry[0], soc)
                entry[1] = max(entry[1], soc)
                entry[2] += 1.0

    def all_shares(self) -> tuple[float, float] | None:
        """(lowest, highest) when nothing so far exceeds 1 and something is a fraction; else None."""
        if not self._seen:
            return None
        low, high = min(entry[0] for entry in self._seen.values()), max(entry[1] for entry in self._seen.values())
        fractions = any(value % 1 for entry in self._seen.values() for value in entry[:2])
        return (low, high) if low >= 0 and high <= 1 and fractions else None

    def shares(self) -> set[str]:
        """Devices that moved inside [0, 1] and never left it."""
        return {
            device_id
            for device_id, (low, high, count) in self._seen.items()
            if count >= MIN_DOCUMENTS and low >= 0 and high <= 1 and high - low >= MIN_SPAN
        }

    def resting(self) -> list[str]:
        """Devices that never exceeded 1 and did not move: kept, but worth a look."""
        return sorted(name for name, entry in self._seen.items() if 0 < entry[1] <= 1 and name not in self.shares())
