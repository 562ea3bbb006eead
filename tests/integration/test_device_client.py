"""The client library for device makers: the documentation's example as pasted, with Redis alone, and the library's promises.

Not here: shutdowns and their latch (test_device_client_latch).
"""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.commands import CommandType, Outcome
from core.errors import InputError, StoreError
from serving.device_client import DeviceClient, RevertTimer
from stores.postgres import outbox
from stores.postgres.history import history
from stores.redis import pending, responses
from stores.redis.status import read_status

sys.path.insert(0, str(Path(__file__).parent))

import device_client_cases
from device_client_cases import DEVICE, SITE, answers, carry_out, push

url, client = device_client_cases.url, device_client_cases.client

ROOT = Path(__file__).parents[2]


def example():
    """The first block of Python in docs/device_makers.md."""
    return re.search(r"```python\n(.*?)```", (ROOT / "docs" / "device_makers.md").read_text(), re.DOTALL).group(1)


def said(process, line):
    """Read the program's output until it says this line."""
    seen = []
    for text in process.stdout:
        seen.append(text.strip())
        if seen[-1] == line:
            return
    raise AssertionError(f"it never said {line!r}: {seen}, {process.stderr.read()}")


def test_the_documented_example_works_as_pasted_and_needs_redis_alone(redis_client, url, tmp_path):
    assert len(example().strip().splitlines()) <= 35
    blocked = (
        "import sys\nfor name in ('psycopg', 'pymongo', 'numpy', 'numba', 'structlog', 'pydantic'): sys.modules[name] = None\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", blocked + example()],
        cwd=tmp_path,
        env={**os.environ, "REDIS_URL": url, "DEVICE_ID": DEVICE, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said(process, "inverter 0 W")
        push(redis_client, CommandType.START_CHARGE, seq=1, target_power=1500.0)
        said(process, "inverter -1500 W")
        push(redis_client, CommandType.STOP_CHARGE, seq=2)
        said(process, "inverter 0 W")
        push(redis_client, CommandType.START_DISCHARGE, seq=3, target_power=700.0, valid_for_seconds=0.5)
        said(process, "inverter 700 W")
        said(process, "inverter 0 W")  # nobody spoke: idle by itself
        push(redis_client, CommandType.START_CHARGE, seq=4, target_power=900.0)
        said(process, "inverter -900 W")
        redis_client.set(pending.latch_key(DEVICE), "a shutdown that expired unheard")
        said(process, "inverter 0 W")
        push(redis_client, CommandType.EMERGENCY_SHUTDOWN, seq=5)
        said(process, "inverter 0 W")
        assert read_status(redis_client, DEVICE)["online"] is True
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_take_begin_complete_is_recorded_in_order(client, redis_client):
    command = push(redis_client, CommandType.START_DISCHARGE, target_power=250.0, valid_for_seconds=90.0)
    work = client.take()
    assert (work.set_point_w, work.valid_for_s) == (250.0, 90.0)
    assert client.begin(work)
    client.acknowledge(work)
    client.complete(work, Outcome.COMPLETED, "done", {"set_point": 250.0})
    words = [json.loads(text)["kind"] for text in responses.take_responses(redis_client, SITE, 10)]
    assert words == ["acknowledged", "acknowledged", "response"]
    assert answers(redis_client) == [(command.command_id, "completed")]
    assert client.take() is None
    assert pending.processing(redis_client, DEVICE) == []


def test_what_must_be_refused_never_comes_to_the_device(client, redis_client):
    first = push(redis_client, seq=5, epoch=3)
    work = client.take()
    with pytest.raises(InputError, match="begun"):
        client.complete(work)
    assert client.begin(work)
    client.complete(work)
    refused = [
        push(redis_client, seq=5, epoch=3),  # not newer
        push(redis_client, CommandType.START_CHARGE, seq=7, epoch=3, target_power=float(10**10)),  # out of range
    ]
    redis_client.delete(pending.epoch_key(SITE))
    refused.append(push(redis_client, seq=8, epoch=2))  # an older controller
    fine = push(redis_client, seq=9, epoch=3)
    work = client.take()
    assert work.command.command_id == fine.command_id
    assert answers(redis_client)[1:] == [(command.command_id, "rejected") for command in refused]
    assert answers(redis_client)[0] == (first.command_id, "completed")


def test_begun_before_a_crash_is_indeterminate_and_what_was_not_begun_comes_again(url, redis_client, tmp_path):
    crashed = DeviceClient.connect(url, DEVICE, tmp_path / "journal.sqlite")
    begun, taken = push(redis_client, seq=1), push(redis_client, seq=2)
    assert crashed.begin(crashed.take())
    assert crashed.take() is not None
    crashed.close()  # the process ends here
    after = DeviceClient.connect(url, DEVICE, tmp_path / "journal.sqlite")
    (work,) = after.recover()
    assert work.command.command_id == taken.command_id
    assert answers(redis_client) == [(begun.command_id, "indeterminate")]
    assert after.begin(work)
    after.complete(work)
    assert after.recover() == []
    after.close()


def test_an_answer_that_was_lost_is_given_again_and_nothing_is_done_twice(client, redis_client):
    command = push(redis_client)
    work = client.take()
    client.begin(work)
    client.journal.done(work.command.command_id, "failed|the contactor did not close", {})  # and then Redis is gone
    assert client.recover() == []
    assert answers(redis_client) == [(command.command_id, "failed")]


def test_a_command_whose_deadline_passes_while_it_is_being_begun_is_not_acted_upon(client, redis_client):
    command = push(redis_client)
    work = client.take()
    slow = replace(work, taken_s=work.taken_s - 31.0)  # the disk took so long
    assert not client.begin(slow)
    assert answers(redis_client) == [(command.command_id, "expired")]


def test_rubbish_is_told_and_dropped(client, redis_client):
    dropped = []
    client.on_dropped = dropped.append
    redis_client.lpush(pending.pending_key(DEVICE), "rubbish")
    assert client.take() is None
    assert dropped == ["rubbish"]


def test_a_full_disk_means_that_nothing_is_done(client, redis_client):
    push(redis_client)
    work = client.take()
    pages = client.journal._db.execute("PRAGMA page_count").fetchone()[0]
    client.journal._db.execute(f"PRAGMA max_page_count={pages}")
    filler = "x" * 100_000
    with pytest.raises(StoreError, match="cannot be written"):
        client.journal.begin(work.command.command_id, {"filler": filler})
    client.journal._db.execute("PRAGMA max_page_count=1000000")
    assert client.journal.seen(work.command.command_id) is None, "nothing is half-written"
    (again,) = client.recover()
    assert client.begin(again)


def test_a_heartbeat_expires_and_holds_no_nan(client, redis_client):
    client.heartbeat(last_telemetry=datetime.now(UTC), soc_pct=55.5, power_w=-120.0, alarm_count=1)
    assert read_status(redis_client, DEVICE)["current_soc"] == 55.5
    assert 0 < redis_client.ttl(f"device:status:{DEVICE}") <= 300
    with pytest.raises(InputError, match="finite"):
        client.heartbeat(last_telemetry=datetime.now(UTC), soc_pct=float("nan"), power_w=0.0)


def test_the_revert_timer_ends_once_and_each_fresh_set_point_renews_it():
    timer = RevertTimer()
    assert not timer.over()
    timer.start(0.0)
    assert timer.over()
    assert not timer.over()
    timer.start(3600.0)
    assert not timer.over()
    timer.start(0.0)
    timer.stop()
    assert not timer.over()


def test_answers_that_redis_lost_are_given_again_from_the_journal(client, url, redis_client, tmp_path):
    push(redis_client, seq=1)
    first = carry_out(client)
    push(redis_client, seq=2)
    second = carry_out(client, Outcome.FAILED)
    refused = push(redis_client, seq=2)
    assert client.take() is None
    told = [(first, "completed"), (second, "failed"), (refused.command_id, "rejected")]
    assert answers(redis_client) == told
    redis_client.flushall()
    assert client.take() is None
    assert answers(redis_client) == told
    assert client.take() is None
    assert answers(redis_client) == told, "once"
    client.close()
    redis_client.flushall()
    again = DeviceClient.connect(url, DEVICE, tmp_path / "journal.sqlite")
    again.recover()
    assert answers(redis_client) == told
    again.close()


def test_of_a_redis_that_lost_its_last_second_only_that_is_told_again(client, redis_client):
    push(redis_client, seq=1)
    carry_out(client)
    mark = responses.told(redis_client, DEVICE)
    push(redis_client, seq=2)
    second = carry_out(client)
    redis_client.delete(pending.responses_key(SITE))
    redis_client.set(pending.told_key(DEVICE), mark)  # as its file had it
    assert client.take() is None
    assert answers(redis_client) == [(second, "completed")]


def test_what_is_being_done_is_not_told_as_indeterminate(client, redis_client):
    push(redis_client, seq=1)
    work = client.take()
    assert client.begin(work)
    redis_client.flushall()
    assert client.take() is None
    assert answers(redis_client) == []
    client.complete(work)
    assert answers(redis_client) == [(work.command.command_id, "completed")]


def test_an_answer_that_did_not_get_through_is_told_before_the_mark_moves_past_it(client, redis_client, monkeypatch):
    push(redis_client, seq=1)
    push(redis_client, seq=2)
    works = [client.take(), client.take()]
    assert all(map(client.begin, works))
    with monkeypatch.context() as patch:
        patch.setattr(responses, "finish", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("gone")))
        with pytest.raises(ConnectionError):
            client.complete(works[0])
    redis_client.flushall()
    client.complete(works[1])
    assert client.take() is None
    assert set(answers(redis_client)) == {(work.command.command_id, "completed") for work in works}


def test_a_late_word_of_the_device_mends_what_the_dispatcher_had_to_infer(client, stores):
    """Redis lost its memory after the device acted: the command stood as expired."""
    draft = outbox.CommandDraft(
        device_id=DEVICE, site_id=SITE, command_type=CommandType.REQUEST_STATUS, parameters={}, issued_by="test"
    )
    (command,) = outbox.enqueue(stores.pg, [draft], epoch=1, redis_now=pending.redis_now(stores.redis))
    pending.push(stores.redis, command)
    assert carry_out(client) == command.command_id
    stores.redis.flushall()
    outbox.expire_overdue(stores.pg, SITE, command.expires_at + timedelta(seconds=6), 5.0)
    assert outcome_of(stores, command) == "expired"
    assert client.take() is None
    for text in responses.take_responses(stores.redis, SITE, 10):
        outbox.record(stores.pg, responses.parse_response(text))
    assert outcome_of(stores, command) == "completed"
    (row,) = history(stores.pg, SITE)
    assert row.success
    assert row.response_data["inferred_before"] == "expired"
    assert not outbox.end_unpushed(stores.pg, command.command_id, Outcome.EXPIRED, "late", command.expires_at)
    assert outcome_of(stores, command) == "completed"


def outcome_of(stores, command):
    (row,) = [row for row in history(stores.pg, SITE) if row.command_id == command.command_id]
    return (row.response_data or {}).get("outcome")


def test_a_message_for_another_device_does_not_stay_in_the_processing_list(client, redis_client):
    other = push(redis_client, device_id="pack-10")
    redis_client.lpush(pending.pending_key(DEVICE), other.to_wire())
    assert client.take() is None
    assert answers(redis_client) == [(other.command_id, "rejected")]
    assert pending.processing(redis_client, DEVICE) == []
    assert responses.told(redis_client, "pack-10") == ""


def test_a_command_whose_deadline_acting_would_miss_is_not_begun(client, redis_client):
    command = push(redis_client)
    work = client.take()
    close = replace(work, taken_s=work.taken_s - 29.9)
    assert 0 < close.left_s() < client.act_margin_s
    assert not client.begin(close)
    assert client.journal.seen(command.command_id) is None
    assert answers(redis_client) == [(command.command_id, "expired")]


def test_the_deadline_is_judged_again_after_the_disk(client, redis_client, monkeypatch):
    command = push(redis_client)
    work = client.take()
    original, times = client.journal.begin, []

    def slow(*arguments):
        original(*arguments)
        times.append(time.monotonic())
        monkeypatch.setattr(time, "monotonic", lambda: times[0] + 29.9)

    monkeypatch.setattr(client.journal, "begin", slow)
    assert not client.begin(work)
    assert answers(redis_client) == [(command.command_id, "expired")]
