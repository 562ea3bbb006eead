"""`pulsebms command send --wait`: the answer is printed, whoever has it, and the exit code says whether it was done."""

import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core.commands import Outcome
from core.device_protocol import CommandGuard
from serving.cli.commands_cli import command_app
from serving.device_client import DeviceClient, Journal
from serving.dispatch.tick import SiteDispatcher
from serving.site_loader import load_site
from stores.redis import pending
from stores.redis.connect import client_of

SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"
DEVICE = "pack-lfp"


@pytest.fixture
def site(stores):
    return load_site(stores.pg, SITE_FILE)


@pytest.fixture
def send(stores, site, monkeypatch, tmp_path):
    """Run the command in this process; the device of another thread answers `outcome` to each that it takes."""
    monkeypatch.setenv("DATABASE_URL", stores.settings.database_url)
    monkeypatch.setenv("REDIS_URL", stores.settings.redis_url)
    monkeypatch.setenv("MONGODB_URI", stores.settings.mongodb_uri)

    def run(*arguments, outcome=None, settle=False):
        stop, failed = threading.Event(), []

        def device():
            try:
                client = DeviceClient(
                    client_of(stores.settings.redis_url), CommandGuard(device_id=DEVICE), Journal(tmp_path / "journal.sqlite")
                )
                while not stop.wait(0.01):
                    work = client.take()
                    if work is not None and client.begin(work):
                        client.complete(work, outcome, "so it was")
                        if settle:
                            SiteDispatcher(stores, site.site_id).settle()
                client.close()
            except Exception as error:
                failed.append(error)
                raise

        other = threading.Thread(target=device)
        if outcome is not None:
            other.start()
        try:
            return CliRunner().invoke(command_app, ["send", DEVICE, *arguments])
        finally:
            stop.set()
            if outcome is not None:
                other.join()
            assert failed == []

    return run


@pytest.mark.parametrize("settle", [False, True])
@pytest.mark.parametrize(("outcome", "code"), [(Outcome.COMPLETED, 0), (Outcome.FAILED, 1)])
def test_the_answer_is_printed(send, outcome, code, settle):
    """From Redis where no dispatcher has taken it in, and from the record where one has."""
    result = send("request_status", "--wait", "20", outcome=outcome, settle=settle)
    assert result.exit_code == code, result.output
    assert f"{outcome.value}: so it was" in result.output


@pytest.mark.parametrize("known", [False, True])
def test_so_is_that_of_an_emergency_shutdown(send, stores, site, known):
    """`known`: it goes out through Redis first, otherwise by the record."""
    if known:
        pending.remember_site(stores.redis, site.site_id, [DEVICE])
    result = send("emergency_shutdown", "--wait", "20", outcome=Outcome.COMPLETED)
    assert result.exit_code == 0, result.output
    assert "completed: so it was" in result.output


def test_silence_is_said_and_is_no_success(send):
    result = send("request_status", "--wait", "0.3")
    assert result.exit_code == 1
    assert "no answer within 0.3 s" in result.output
    assert send("request_status").exit_code == 0, "without --wait it is enough that it went out"
