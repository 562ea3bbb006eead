"""Where the stores are: the environment's URLs, or the embedded servers' data directory."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """`None` for a URL means: use the embedded server. URLs carry passwords and stay out of repr."""

    data_dir: Path
    database_url: str | None = field(default=None, repr=False)
    redis_url: str | None = field(default=None, repr=False)
    mongodb_uri: str | None = field(default=None, repr=False)

    @classmethod
    def from_env(cls) -> StoreSettings:
        """PULSEBMS_DATA (default `.pulsebms`), DATABASE_URL, REDIS_URL, MONGODB_URI."""
        return cls(
            data_dir=Path(os.environ.get("PULSEBMS_DATA") or ".pulsebms").absolute(),
            database_url=os.environ.get("DATABASE_URL") or None,
            redis_url=os.environ.get("REDIS_URL") or None,
            mongodb_uri=os.environ.get("MONGODB_URI") or None,
        )

    @property
    def wanted(self) -> list[str]:
        """Names of the embedded servers that are needed."""
        given = {"postgres": self.database_url, "valkey": self.redis_url, "mongod": self.mongodb_uri}
        return [name for name, url in given.items() if url is None]
