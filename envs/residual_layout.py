"""Where each field of an observation lies that shows what a base decides: envs.layout's fields, then the base's.

Here: version, names, places. Not here: the environment that shows it (envs.residual), the same in serving
(policies.learned.hybrid). A change of place, meaning or scale is a new version.
"""

from __future__ import annotations

from envs.layout import Layout

BASE_LAYOUT_NAME = "environment-base/1"
"""As artefacts name it: the fields of envs.layout (version 1), then `pack0_base`, `pack1_base`, ...: what the base decides, as a
share of rated power from -1 to 1, discharge positive."""


class BaseLayout(Layout):
    """See BASE_LAYOUT_NAME."""

    __slots__ = ()

    @property
    def names(self) -> tuple[str, ...]:
        """One name a field; length `size`."""
        return (*super().names, *(f"pack{p}_base" for p in range(self.packs)))

    @property
    def size(self) -> int:
        """Columns of an observation."""
        return super().size + self.packs
