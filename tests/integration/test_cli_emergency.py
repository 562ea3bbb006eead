"""`pulsebms command send ... emergency_shutdown` goes out while PostgreSQL is down, and comes on the record after."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from core.commands import CommandType, Outcome, Response
from serving import emergency
from serving.cli import commands_cli
from serving.dispatch.tick import SiteDispatcher, push_and_settle
from serving.site_loader import load_site
from stores.postgres import outbox
from stores.postgres.history import history
from stores.redis import pending, responses
from stores.redis.status import write_status

pytestmark = pytest.mark.timeout(120)
SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"
DEVICE = "pack-lfp"


@pytest.fixture
def send(stores, tmp_path):
    """Run the command against the test's servers; keyword arguments replace environment variables."""

    def run(*arguments, **environment):
        urls = {
            "DATABASE_URL": stores.settings.database_url,
            "REDIS_URL": stores.settings.redis_url,
            "MONGODB_URI": stores.settings.mongodb_uri,
            "PULSEBMS_DATA": str(tmp_path / "data"),
        }
        return subprocess.run(
            [sys.executable, "-m", "serving.cli", "command", "send", DEVICE, "emergency_shutdown", *arguments],
            env={**os.environ, **urls, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def site(stores):
    return load_site(stores.pg, SITE_FILE)


def away():
    """The URL of a PostgreSQL that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return f"postgresql://u:geheim@127.0.0.1:{port}/x"


def test_it_goes_out_without_postgresql_and_is_recorded_by_the_dispatcher_with_its_answer(send, stores, site):
    pending.remember_site(stores.redis, site.site_id, [DEVICE])
    sent = send("--set", "reason=smoke", DATABASE_URL=away())
    assert sent.returncode == 0, sent.stderr
    assert "not on record yet" in sent.stdout
    assert "geheim" not in sent.stdout + sent.stderr
    assert pending.is_latched(stores.redis, DEVICE)
    assert history(stores.pg, site.site_id) == []
    taken = pending.take(stores.redis, DEVICE)
    assert taken.command.parameters == {"reason": "smoke"}
    answer = Response(
        command_id=taken.command.command_id,
        device_id=DEVICE,
        outcome=Outcome.COMPLETED,
        message="shut down and latched",
        data={},
        acknowledged_at=taken.redis_now,
        completed_at=taken.redis_now,
    )
    responses.finish(stores.redis, taken.command, taken.raw, answer)  # before there is a row to write it to
    dispatcher = SiteDispatcher(stores, site.site_id)
    dispatcher.settle()
    (row,) = history(stores.pg, site.site_id)
    assert (row.command_id, row.command_type, row.success) == (taken.command.command_id, CommandType.EMERGENCY_SHUTDOWN, True)
    assert row.issued_by
    assert pending.unrecorded(stores.redis, site.site_id) == []
    dispatcher.settle()
    assert len(history(stores.pg, site.site_id)) == 1
    assert outbox.last_types(stores.pg, site.site_id) == {DEVICE: CommandType.EMERGENCY_SHUTDOWN}
    assert outbox.unpushed(stores.pg, site.site_id, pending.redis_now(stores.redis)) == []


def test_with_postgresql_up_it_is_on_record_at_once_and_purged_starts_end(send, stores, site):
    pending.remember_site(stores.redis, site.site_id, [DEVICE])
    draft = outbox.CommandDraft(
        device_id=DEVICE,
        site_id=site.site_id,
        command_type=CommandType.START_CHARGE,
        parameters={"target_power": 500.0},
        issued_by="test",
    )
    commands = outbox.enqueue(stores.pg, [draft], epoch=1, redis_now=pending.redis_now(stores.redis))
    push_and_settle(stores, commands)
    sent = send()
    assert sent.returncode == 0, sent.stderr
    assert "1 pending starts were purged" in sent.stdout
    shutdown, start = history(stores.pg, site.site_id)
    assert shutdown.command_type is CommandType.EMERGENCY_SHUTDOWN
    assert start.response_data["outcome"] == "superseded"


def test_a_device_that_redis_does_not_know_is_looked_up(send, stores, site):
    assert send().returncode == 0
    (row,) = history(stores.pg, site.site_id)
    assert row.command_type is CommandType.EMERGENCY_SHUTDOWN
    assert "WARNING" not in send("--site", site.site_id).stderr, "PostgreSQL knows it"


def test_a_device_that_nobody_has_heard_of_is_sent_to_with_a_loud_warning(send, stores):
    unknown = send("--site", "elsewhere", DATABASE_URL=away())
    assert unknown.returncode == 0
    assert len(pending.unrecorded(stores.redis, "elsewhere")) == 1, "it goes out all the same"
    assert "WARNING" in unknown.stderr
    assert DEVICE in unknown.stderr
    assert "NOTHING WAS SHUT DOWN" in unknown.stderr
    write_status(stores.redis, DEVICE, {"online": True})
    assert "WARNING" not in send("--site", "elsewhere", DATABASE_URL=away()).stderr


def test_a_site_that_is_not_the_devices_is_refused_and_nothing_is_sent(send, stores, site):
    pending.remember_site(stores.redis, site.site_id, [DEVICE])
    refused = send("--site", "elsewhere", DATABASE_URL=away())
    assert refused.returncode == 2
    assert "'elsewhere'" in refused.stderr
    assert f"which is {site.site_id}" in refused.stderr
    assert not pending.is_latched(stores.redis, DEVICE)
    assert pending.unrecorded(stores.redis, "elsewhere") == []
    sent = send("--site", site.site_id, DATABASE_URL=away())
    assert sent.returncode == 0
    assert "WARNING" not in sent.stderr


def test_history_names_the_command_and_who_sent_it(send, stores, site, monkeypatch, capsys):
    pending.remember_site(stores.redis, site.site_id, [DEVICE])
    assert send().returncode == 0
    (row,) = history(stores.pg, site.site_id)
    for name in ("database_url", "redis_url", "mongodb_uri"):
        monkeypatch.setenv(name.upper(), getattr(stores.settings, name))
    monkeypatch.setattr(commands_cli, "console", Console(width=200))
    commands_cli.history(site=site.site_id, device=None, hours=1.0, limit=40)
    shown = capsys.readouterr().out
    assert row.command_id.removeprefix("cmd_")[:8] in shown
    assert row.issued_by in shown


def test_without_postgresql_and_without_a_site_it_says_what_is_missing(send):
    refused = send(DATABASE_URL=away())
    assert refused.returncode == 2
    assert "DATABASE_URL" in refused.stderr
    assert "--site" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_rubbish_among_the_unrecorded_is_dropped_and_keeps_nothing_out(stores, site):
    key = pending.unrecorded_key(site.site_id)
    stores.redis.rpush(key, "x", json.dumps({"issued_by": "a"}), json.dumps({"issued_by": "a", "message": "{}"}))
    command, _ = emergency.send_first(
        stores.redis, device_id=DEVICE, site_id=site.site_id, parameters={}, timeout_s=30, issued_by="me"
    )
    assert emergency.record_sent(stores.pg, stores.redis, site.site_id) == 4
    assert [row.command_id for row in history(stores.pg, site.site_id)] == [command.command_id]
    assert pending.unrecorded(stores.redis, site.site_id) == []
