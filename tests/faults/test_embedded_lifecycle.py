"""The embedded servers live exactly as long as a client does: starts, kills, restarts, in real processes."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from core.errors import StoreError
from stores import embedded
from stores.connections import connect_mongo, connect_postgres, connect_redis
from stores.embedded.runtime import Paths, alive, is_locked, lock_holders, read_json
from stores.settings import StoreSettings

CLIENT = """
import sys
from pathlib import Path
from stores.embedded import open_embedded
from stores.settings import StoreSettings
held = open_embedded(StoreSettings(data_dir=Path(sys.argv[1])))
sys.stdout.write(held.database_url + chr(10))
sys.stdout.flush()
sys.stdin.read()
"""


def until(condition, what, deadline_s=15.0):
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, f"still not so: {what}"
        time.sleep(0.02)


@pytest.fixture
def settings(tmp_path):
    chosen = StoreSettings(data_dir=tmp_path / "data")
    yield chosen
    embedded.down(chosen.data_dir, force=True)


@pytest.fixture
def clients(settings):
    running = []

    def start():
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", CLIENT, str(settings.data_dir)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def processes(settings):
    """Pids of the keeper and of its servers."""
    state = read_json(Paths(settings.data_dir).state)
    return state["keeper_pid"], {name: server["pid"] for name, server in state["servers"].items()}


def stopped(settings, keeper, servers):
    until(lambda: not any(map(alive, [keeper, *servers.values()])), "keeper and servers gone", 10.0)
    assert not is_locked(Paths(settings.data_dir).keeper_lock)


def test_data_survives_a_stop_and_a_changed_port(settings):
    with embedded.open_embedded(settings) as held:
        keeper, servers = processes(settings)
        with connect_postgres(held.database_url) as pg:
            pg.execute("CREATE TABLE kept AS SELECT 7 AS n")
        mongo, cache = connect_mongo(held.mongodb_uri), connect_redis(held.redis_url)
        mongo.kept.insert_one({"n": 7})
        cache.set("kept", "7")
        mongo.client.close()
        cache.close()
        with embedded.open_embedded(settings) as second:
            assert second.database_url == held.database_url
            assert processes(settings) == (keeper, servers)
        assert alive(keeper)
    stopped(settings, keeper, servers)
    assert not Paths(settings.data_dir).state.exists()
    (settings.data_dir / "mongod" / "port.json").unlink()  # the replica set must follow to another port
    with embedded.open_embedded(settings) as again:
        assert again.database_url == held.database_url
        assert again.mongodb_uri != held.mongodb_uri
        with connect_postgres(again.database_url) as pg:
            assert pg.execute("SELECT n FROM kept").fetchone() == (7,)
        mongo, cache = connect_mongo(again.mongodb_uri), connect_redis(again.redis_url)
        assert mongo.kept.find_one({}, {"_id": 0}) == {"n": 7}
        assert cache.get("kept") == "7"
        mongo.client.close()
        cache.close()


def test_two_clients_at_once_share_one_keeper_and_a_killed_last_client_ends_it(settings, clients):
    first, second = clients(), clients()
    assert first.stdout.readline() == second.stdout.readline() != ""
    keeper, servers = processes(settings)
    assert set(lock_holders(Paths(settings.data_dir).clients_lock)) == {first.pid, second.pid}
    first.kill()
    first.wait()
    with pytest.raises(StoreError, match=str(second.pid)):
        embedded.down(settings.data_dir)
    assert alive(keeper)
    second.kill()
    stopped(settings, keeper, servers)
    third = clients()
    assert third.stdout.readline().startswith("postgresql://")


def test_a_killed_keeper_takes_the_servers_along_and_the_next_start_works(settings):
    with embedded.open_embedded(settings) as held:
        with connect_postgres(held.database_url) as pg:
            pg.execute("CREATE TABLE kept AS SELECT 7 AS n")
        keeper, servers = processes(settings)
        os.kill(keeper, signal.SIGKILL)
        until(lambda: not any(map(alive, servers.values())), "servers gone", 10.0)
        assert embedded.status(settings.data_dir)["running"] is False
        held.refresh()
        assert processes(settings)[0] != keeper
        with connect_postgres(held.database_url) as pg:
            assert pg.execute("SELECT n FROM kept").fetchone() == (7,)


@pytest.mark.parametrize("name", ["postgres", "valkey", "mongod"])
def test_a_killed_server_comes_back_on_its_port(settings, name):
    with embedded.open_embedded(settings) as held:
        keeper, servers = processes(settings)
        os.kill(servers[name], signal.SIGKILL)
        until(lambda: processes(settings)[1][name] != servers[name], f"{name} restarted", 30.0)
        urls = held.database_url, held.redis_url, held.mongodb_uri
        held.refresh()
        assert (held.database_url, held.redis_url, held.mongodb_uri) == urls
        assert processes(settings)[0] == keeper
        connect_postgres(held.database_url).close()
        connect_redis(held.redis_url).close()
        connect_mongo(held.mongodb_uri).client.close()


def test_up_stays_without_clients_until_down_and_keeps_secrets(settings):
    embedded.up(settings)
    keeper, servers = processes(settings)
    report = embedded.status(settings.data_dir)
    assert report["running"]
    assert report["pinned"]
    assert report["clients"] == []
    paths = Paths(settings.data_dir)
    assert stat.S_IMODE(paths.state.stat().st_mode) == 0o600
    assert stat.S_IMODE(paths.run.stat().st_mode) == 0o700
    secrets = [(settings.data_dir / name / "password").read_text() for name in ("postgres", "valkey")]
    logs = [path.read_text(errors="replace") for path in settings.data_dir.glob("*/*.log")]
    lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in servers.values()]
    assert len(logs) >= 4
    for secret in secrets:
        assert len(secret) >= 32
        assert not any(secret in text for text in [*logs, *lines, str(report)])
    for name in ("postgres", "valkey"):
        assert stat.S_IMODE((settings.data_dir / name / "password").stat().st_mode) == 0o600
    embedded.down(settings.data_dir)
    stopped(settings, keeper, servers)
    embedded.down(settings.data_dir)  # nothing runs: nothing to do


def test_down_by_force_under_a_client(settings):
    with embedded.open_embedded(settings) as held:
        keeper, servers = processes(settings)
        embedded.down(settings.data_dir, force=True)
        stopped(settings, keeper, servers)
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(held.database_url)


def test_only_the_servers_that_are_wanted_run_and_more_can_be_asked_for(tmp_path):
    some = StoreSettings(data_dir=tmp_path / "data", database_url="postgresql://u@h/x", mongodb_uri="mongodb://h/x")
    with embedded.open_embedded(some) as held:
        assert held.database_url is None
        assert set(processes(some)[1]) == {"valkey"}
        more = StoreSettings(data_dir=tmp_path / "data", mongodb_uri="mongodb://h/x")
        with embedded.open_embedded(more) as other:
            assert other.database_url is not None
            assert set(processes(some)[1]) == {"valkey", "postgres"}
    embedded.down(some.data_dir)


def test_a_data_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StoreError, match=r"data directory .*data cannot be written"):
        embedded.open_embedded(StoreSettings(data_dir=tmp_path / "data"))


def test_a_server_that_will_not_start_names_its_log(tmp_path):
    settings = StoreSettings(data_dir=tmp_path / "data", database_url="postgresql://u@h/x", mongodb_uri="mongodb://h/x")
    spoiled = tmp_path / "data" / "valkey" / "appendonlydir"
    spoiled.parent.mkdir(parents=True)
    spoiled.write_text("not a directory")
    with pytest.raises(StoreError, match=r"valkey\.log"):
        embedded.open_embedded(settings)
    until(lambda: not is_locked(Paths(settings.data_dir).keeper_lock), "keeper gone")
