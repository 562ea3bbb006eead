"""`pulsebms twin calibrate` and the dispatcher's least score from the command line."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from core.calibration import Calibration, Factors
from core.clock import ScaledClock
from core.pack import Pack
from core.series import Series
from core.twin import predict
from serving.clock_config import VARIABLE, to_text
from serving.dispatch.inputs import AMBIENT, LOAD_FORECAST, PRICE, PV_FORECAST
from serving.site_loader import load_site
from stores.mongo.predictions import write_predictions
from stores.mongo.telemetry import insert_telemetry, pack_document
from stores.postgres.calibrations import calibration_history
from stores.postgres.devices import list_devices
from stores.postgres.series import write_series

pytestmark = pytest.mark.timeout(120)
SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=1)


@pytest.fixture
def pulsebms(stores, tmp_path):
    """Run the command line against the test's servers, with the plant's clock standing at NOW."""
    urls = {
        "DATABASE_URL": stores.settings.database_url,
        "REDIS_URL": stores.settings.redis_url,
        "MONGODB_URI": stores.settings.mongodb_uri,
        "PULSEBMS_DATA": str(tmp_path / "data"),
        "COLUMNS": "200",
        VARIABLE: to_text(ScaledClock(NOW, float("inf"), 1.0)),
    }

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "serving.cli", *arguments],
            env={**os.environ, **urls}, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip

    load_site(stores.pg, SITE_FILE)
    start = NOW - timedelta(days=2)
    for name, value in ((PRICE, 0.1), (LOAD_FORECAST, 2e4), (PV_FORECAST, 0.0), (AMBIENT, 20.0)):
        write_series(stores.pg, "demo", Series(name, start, 3600.0, np.full(96, value)), start)
    return run


def publish(stores, device, hours):
    pack = Pack(device, soc_pct=50.0, soh_pct=80.0, temperature_c=20.0, ambient_c=20.0)
    states = []
    for k in range(round(hours * 60)):
        watts = 0.4 * device.max_charge_power_w * (1 if (k // 60) % 2 else -1)
        pack.step(watts, 60.0)
        states.append(pack.state(NOW - timedelta(hours=hours) + timedelta(seconds=60 * (k + 1))))
    insert_telemetry(stores.mongo, [pack_document(state, site_id="demo", firmware="1") for state in states])
    return states[-1]


def test_calibrate_shows_each_device_with_its_reason_and_names_a_wrong_one(pulsebms, stores):
    publish(stores, next(d for d in list_devices(stores.pg, "demo") if d.device_id == "pack-nmc"), 6.0)
    done = pulsebms("twin", "calibrate", "--site", "demo", "--device", "pack-nmc")
    assert done.returncode == 0, done.stderr
    assert "too little excitation" in done.stdout
    assert "0 of 1 accepted" in done.stdout
    (row,) = calibration_history(stores.pg, "pack-nmc")
    assert "h (needed 24 h)" in row.reason
    for arguments, named in ((("--site", "demo", "--device", "pack-nmx"), "pack-nmx"), (("--site", "nope"), "nope")):
        wrong = pulsebms("twin", "calibrate", *arguments)
        assert wrong.returncode == 2
        assert named in wrong.stderr
        assert "Traceback" not in wrong.stderr


def test_the_least_score_can_be_told_to_the_dispatcher(pulsebms, stores):
    for device in list_devices(stores.pg, "demo"):
        state = publish(stores, device, 0.1)
        known = Calibration(device_id=device.device_id, calibrated_at=NOW, score=0.7, factors=Factors())
        made = predict(device, state, np.zeros(104), dt_s=900.0, start=NOW, ambient_c=20.0, calibration=known)
        write_predictions(stores.mongo, [made])
    plain = pulsebms("dispatch", "--site", "demo", "--once", "--dry-run")
    strict = pulsebms("dispatch", "--site", "demo", "--once", "--dry-run", "--min-calibration-score", "0.8")
    assert (plain.returncode, strict.returncode) == (0, 0), plain.stderr + strict.stderr
    assert "its calibration scores" not in plain.stdout + plain.stderr
    assert "its calibration scores 0.70 (needed 0.80)" in strict.stdout + strict.stderr
