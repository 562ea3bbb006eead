"""`pulsebms demo` end to end: interrupted, killed, and whole in the directory that those left behind."""

import os
import re
import signal
import struct
from datetime import datetime, timedelta
from pathlib import Path

import processes
import pytest

from core.clock import ScaledClock
from core.decisions import Reason
from serving.clock_config import VARIABLE, to_text
from serving.dispatch.inputs import LOAD_ACTUAL, PRICE, PV_ACTUAL
from serving.site_loader import site_config
from stores import embedded
from stores.connections import open_stores
from stores.postgres.decisions import decisions
from stores.postgres.series import read_series
from stores.settings import StoreSettings

pytestmark = pytest.mark.timeout(280)
SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"
HOURS, TICKS, SPEED = 2, 8, 600


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A data directory that all tests here share."""
    folder = tmp_path_factory.mktemp("demo")
    yield folder
    embedded.down(folder / "data", force=True)


@pytest.fixture
def environment(directory):
    return {"PULSEBMS_DATA": str(directory / "data"), "COLUMNS": "200"}


def arguments(directory, hours=HOURS, speed=SPEED):
    return ["demo", "--days", f"{hours / 24}", "--speed", f"{speed}", "--site-file", str(SITE_FILE),
            "--plot", str(directory / "demo.png")]  # fmt: skip


@pytest.fixture
def in_the_middle(directory, environment):
    """A demo whose dispatcher has ticked and whose devices have acted."""
    ticks = directory / "data" / "demo" / "logs" / "dispatcher.log"
    ticks.unlink(missing_ok=True)
    child = processes.start(arguments(directory, hours=12, speed=1500), environment, directory / "interrupted.log")
    processes.until(
        lambda: child.poll() is not None or processes.events(ticks, "tick"),
        "a tick",
        deadline_s=120,
    )
    assert child.poll() is None, (directory / "interrupted.log").read_text()
    assert len(processes.using(directory / "data")) > 8, "demo, devices, twin, dispatcher, keeper, servers"
    yield child
    if child.poll() is None:
        child.kill()
        child.wait()


def nothing_left(directory):
    processes.until(lambda: not processes.using(directory / "data"), "no process is left", deadline_s=20)


def test_ctrl_c_in_the_middle_leaves_no_process(in_the_middle, directory):
    os.killpg(in_the_middle.pid, signal.SIGINT)
    assert in_the_middle.wait(40) == 130
    assert "interrupted; nothing is left running" in (directory / "interrupted.log").read_text()
    nothing_left(directory)
    assert not list((directory / "data" / "demo").glob("clock-*"))


def test_kill_9_in_the_middle_leaves_no_process(in_the_middle, directory):
    in_the_middle.kill()
    in_the_middle.wait()
    nothing_left(directory)


def printed(text, label):
    """The number in the table row (or after the words) of this name."""
    found = re.search(rf"{re.escape(label)}\W+(-?[\d.]+)", text)
    assert found, f"{label} is not in:\n{text}"
    return float(found[1])


def test_a_whole_run_prints_what_the_stores_hold_and_its_data_can_be_planned_on(directory, environment):
    done = processes.run(arguments(directory), environment, timeout_s=200)
    assert done.returncode == 0, done.stdout + done.stderr
    nothing_left(directory)
    text = done.stdout
    assert "limits violated: 0" in text
    assert 4 <= int(re.search(r"\(RMS of (\d+) predictions\)", text)[1]) <= 4 * (TICKS + 1), "of the twin's rounds"
    energies = re.findall(r"(pack-\w+)\W+([\d.]+ / [\d.]+)\W+([\d.]+ / [\d.]+)", text)
    assert len(energies) == 4
    assert all(by_telemetry == by_metrics for _, by_telemetry, by_metrics in energies), text
    assert "4 of 4 devices online" in text
    assert text.count("too little excitation: telemetry") == 4, "two hours are too few to calibrate from"
    begin, end = re.search(r"plant time (\S+ \S+) to (\S+ \S+) UTC", text).groups()
    start = datetime.fromisoformat(f"{begin}+00:00")
    stop = datetime.fromisoformat(f"{end}+00:00")
    assert stop - start == timedelta(hours=HOURS)
    with open_stores(StoreSettings(data_dir=directory / "data")) as stores:
        made = decisions(stores.pg, "demo", since=start, until=stop)
        # A machine that is busy with other things may miss a tick; those that were made are the MPC's, the first one too.
        assert 1 <= len(made) <= TICKS
        assert {decision.source for decision in made} == {"mpc-24h"}
        assert f"{{'mpc-24h': {len(made)}}}" in text
        first = min(decision.starts_at for decision in made)
        issued, acknowledged, completed = stores.pg.execute(
            "SELECT count(*), count(acknowledged_at), count(*) FILTER (WHERE success) FROM command_history h "
            "JOIN optimizer.command_outbox o USING (command_id) "
            "JOIN optimizer.decisions d ON d.id::text = o.decision_id::text"
        ).fetchone()
        assert (printed(text, "issued"), printed(text, "acknowledged"), printed(text, "completed")) == (
            issued,
            acknowledged,
            completed,
        )
        still_open = stores.pg.execute("SELECT count(*) FROM command_history WHERE success IS NULL").fetchone()[0]
        assert still_open == 0, "also those of the runs that were killed have ended"
        query = {"site_id": "demo", "timestamp": {"$gte": start, "$lt": stop}}
        assert printed(text, "telemetry documents") == stores.mongo["telemetry_data"].count_documents(query) == 4 * 60 * HOURS
        assert first == start
        assert printed(text, "without batteries") == pytest.approx(cost_without(stores, start), abs=0.006)
        for decision in made:
            for point in decision.set_points:
                ages = decision.inputs[f"prediction:{point.device_id}"]["age_s"]
                assert 0 <= ages <= 900
    picture = (directory / "demo.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", picture[16:24])
    assert width > 800
    assert height > 800
    assert len(picture) > 20_000, "lines are drawn"
    plan_on_live_data(directory, environment, stop)


def cost_without(stores, start):
    steps = HOURS * 4
    end = start + timedelta(hours=HOURS)
    price, load, pv = (
        read_series(stores.pg, "demo", name, start, end, known_at=end).window(start, steps, 900)
        for name in (PRICE, LOAD_ACTUAL, PV_ACTUAL)
    )
    buy, sell = site_config(stores.pg, "demo").tariff.buy_sell(price)
    net = load - pv
    return float(sum((b if n > 0 else s) * n for b, s, n in zip(buy, sell, net, strict=True))) * 0.25 / 1000


def plan_on_live_data(directory, environment, at):
    """`plan` on what the run left in the stores: a table with a reason for each slot, and a plot."""
    clock = to_text(ScaledClock(at - timedelta(seconds=300), float("inf"), 1.0))
    plot = directory / "plan.png"
    made = processes.run(
        ["plan", "--site", "demo", "--device", "pack-lfp", "--plot", str(plot)], {**environment, VARIABLE: clock}
    )
    assert made.returncode == 0, made.stdout + made.stderr
    rows = [line for line in made.stdout.splitlines() if re.match(r"\W{0,3}\d\d-\d\d \d\d:\d\d\W", line)]
    assert len(rows) == 96
    assert all(any(re.search(rf"\b{reason.value}\b", row) for reason in Reason) for row in rows), made.stdout
    assert "pack-nmc" not in "".join(rows)
    assert plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    wrong = processes.run(["plan", "--site", "demo", "--device", "pack-xyz"], {**environment, VARIABLE: clock})
    assert wrong.returncode == 2
    assert "pack-xyz" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_second_demo_beside_one_that_runs_is_refused_and_disturbs_nothing(in_the_middle, directory, environment):
    second = processes.run(arguments(directory), environment)
    assert second.returncode == 2
    assert "already running" in second.stderr
    shown = processes.run(["history", "--site", "demo"], environment)  # another command in another terminal
    assert shown.returncode == 0, shown.stderr
    assert in_the_middle.poll() is None
