"""A device of the client library on a real Redis, and the controller's side of its queue, for the tests of that library."""

import json
import uuid

import pytest

from core.commands import Command, CommandType, Outcome
from serving.device_client import DeviceClient
from stores.redis import pending, responses

DEVICE, SITE = "pack-9", "s"


@pytest.fixture
def url(redis_client):
    """Where the device finds its Redis."""
    return "redis://:{password}@{host}:{port}/0".format(**redis_client.get_connection_kwargs())


@pytest.fixture
def client(url, tmp_path):
    """The device, with a journal that a second one can open after it."""
    made = DeviceClient.connect(url, DEVICE, tmp_path / "journal.sqlite")
    yield made
    made.close()


def push(redis_client, kind=CommandType.REQUEST_STATUS, *, seq=1, epoch=1, timeout_s=30, device_id=DEVICE, **parameters):
    """A command as the controller pushes it."""
    if kind.is_start:
        parameters.setdefault("target_power", 1000.0)
    command = Command(
        command_id=uuid.uuid4().hex,
        site_id=SITE,
        device_id=device_id,
        command_type=kind,
        parameters=parameters,
        issued_at=pending.redis_now(redis_client),
        timeout_s=timeout_s,
        seq=seq,
        epoch=epoch,
    )
    pending.push(redis_client, command)
    return command


def answers(redis_client):
    """(command_id, outcome) of what waits for the record, oldest first."""
    found = [json.loads(text) for text in responses.take_responses(redis_client, SITE, 1000)]
    return [(word["command_id"], word["outcome"]) for word in found if word["kind"] == "response"]


def carry_out(client, outcome=Outcome.COMPLETED):
    """Take, begin and complete the next command; its id."""
    work = client.take()
    assert client.begin(work)
    client.complete(work, outcome)
    return work.command.command_id
