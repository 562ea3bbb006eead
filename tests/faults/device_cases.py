"""The reference device in a process of its own or in this one, and what it did, for the tests that kill it or cut it off."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from core.commands import Command, CommandType
from serving.device_client import Journal
from stores.redis import pending, responses

SCRIPT = Path(__file__).with_name("dispatch_device.py")
_SPEC = importlib.util.spec_from_file_location("dispatch_device", SCRIPT)
device_script = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(device_script)
DEVICE = device_script.DEVICE


def make(client, kind=CommandType.START_CHARGE, *, seq=1, timeout_s=30, epoch=1, **parameters):
    """A command to the device, issued now."""
    if kind.is_start:
        parameters.setdefault("target_power", 1000.0)
    return Command(
        command_id=uuid.uuid4().hex,
        site_id="s",
        device_id=DEVICE,
        command_type=kind,
        parameters=parameters,
        issued_at=pending.redis_now(client),
        timeout_s=timeout_s,
        seq=seq,
        epoch=epoch,
    )


def until(condition, what, deadline_s=20.0):
    """Wait for the condition."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, f"still not so: {what}"
        time.sleep(0.01)


@pytest.fixture
def start(stores, tmp_path):
    """Start the device's process; `stand_still` names the moment at which it stops to be killed."""
    urls = {
        "DATABASE_URL": stores.settings.database_url,
        "REDIS_URL": stores.settings.redis_url,
        "MONGODB_URI": stores.settings.mongodb_uri,
    }
    running = []

    def begin(stand_still="never"):
        child = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(tmp_path / "journal.sqlite"), str(tmp_path / "inverter.log"), stand_still],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **urls},
        )
        running.append(child)
        said(child, "ready")
        return child

    yield begin
    for child in running:
        child.kill()
        child.communicate()


def said(child, word):
    """Wait for a line of the child; what else it writes (its log) is passed over."""
    for line in child.stdout:
        if line.strip() == word:
            return
    raise AssertionError(f"the device ended without saying {word!r}")


def kill(child):
    """SIGKILL, and wait for the end."""
    child.send_signal(signal.SIGKILL)
    child.wait()


def acts(tmp_path):
    """(command_id, seq, wall time, type, outcome) of everything that reached the inverter."""
    log = tmp_path / "inverter.log"
    rows = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [(row[0], int(row[1]), float(row[2]), row[3], row[4]) for row in rows]


def answers(client):
    """Terminal answers that wait for the record, oldest first."""
    parsed = [responses.parse_response(text) for text in responses.take_responses(client, "s", 10_000)]
    return [answer for answer in parsed if answer["kind"] == "response"]


@pytest.fixture
def in_process(stores, tmp_path):
    """An agent of this process, for what needs no kill."""
    journal = Journal(tmp_path / "here.sqlite")
    yield device_script.agent(stores, journal, tmp_path / "inverter.log")
    journal.close()
