"""A site in which things go wrong: servers, two dispatchers, devices, an operator, and a proxy in front of each store of each.

Here: what runs, how it is started and watched. Not here: the faults (chaos.faults), what must have held (chaos.judge).
"""

import contextlib
import json
import os
import random
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import processes
import yaml
from reply_proxy import ReplyProxy

from chaos.clock import Clocks
from chaos.schedule import DEVICES, DISPATCHERS, INTERVAL_S, LEASE_TTL_S, SERVERS, STORES_OF, TIMEOUT_S
from core.commands import CommandType
from core.series import Series
from serving.dispatch.inputs import AMBIENT, LOAD_FORECAST, PRICE, PV_FORECAST
from serving.dispatch.tick import push_and_settle
from serving.site_loader import load_site
from stores.connections import open_stores
from stores.embedded.servers import STARTERS
from stores.failures import STORE_FAILURES
from stores.postgres import leases, outbox
from stores.postgres.series import write_series
from stores.redis import pending
from stores.settings import StoreSettings

SITE_FILE = Path(__file__).parents[3] / "configs" / "sites" / "demo.yaml"
RECORDER = Path(__file__).with_name("recorder.py")
SITE = "demo"
PATIENCE_S = 150.0
"""For anything that must happen: long, for the machine may be busy. What is judged is the record, never the waiting."""
OPERATOR_EVERY_S = 0.6
SEEN_EVERY_S = 0.3
PRICE_STEP_S = 6.0
VARIABLES = {"postgres": "DATABASE_URL", "valkey": "REDIS_URL", "mongod": "MONGODB_URI"}


class World:
    """Servers are children of this process, so that it alone decides when they run. One thread; proxies have their own."""

    def __init__(self, directory, seed):
        self.directory = directory
        self.rng = random.Random(seed)  # noqa: S311
        self.events = []
        """(monotonic s, text): everything that was done, in order."""
        self.first_seen_s = {}
        """command_id -> monotonic time at which PostgreSQL was first seen to hold it."""
        self.children = {}
        self.held = set()
        """Parties that a fault keeps from being started again."""
        self.starts = 0
        self._open = tempfile.TemporaryDirectory(prefix="chaos-clocks-")
        Path(self._open.name).chmod(0o755)
        self.clocks = Clocks(Path(self._open.name))
        self.servers = {}
        for name in SERVERS:
            self.start_server(name)
        self.stores = open_stores(self._settings({name: server.url for name, server in self.servers.items()}), migrate=True)
        self.wall_of_monotonic = time.time() - time.monotonic()
        self._make_site()
        self.proxies = {
            (party, store): ReplyProxy(("127.0.0.1", self.servers[store].port))
            for party, names in STORES_OF.items()
            for store in SERVERS
            if store in names or store == "postgres"
        }
        self._operator_s = self._seen_s = 0.0

    def log(self, text):
        self.events.append((time.monotonic(), text))
        with (self.directory / "faults.log").open("a") as file:
            file.write(f"{self.events[-1][0] - self.events[0][0]:9.3f} {text}\n")

    # Servers

    def start_server(self, name):
        """Start it, on its port of before where it had one. From the main thread only: a server dies with the thread."""
        extra = self.clocks.environment(name) if name != "mongod" else {}
        before = {key: os.environ.get(key) for key in extra}
        os.environ.update(extra)
        try:
            server = STARTERS[name](self.directory / "data" / name)
        finally:
            for key, value in before.items():
                if value is None:
                    del os.environ[key]
                else:
                    os.environ[key] = value
        for (_, store), proxy in getattr(self, "proxies", {}).items():
            if store == name:
                proxy.address = ("127.0.0.1", server.port)
        self.servers[name] = server
        self.log(f"{name} runs")

    def kill_server(self, name):
        self.servers[name].process.kill()
        self.servers[name].process.wait()
        self.log(f"{name} killed")

    def admin(self):
        """The world's own way to the stores, past every proxy; None while one of them is away."""
        try:
            self.stores.reconnect()
            self.stores.pg.execute("SET default_transaction_read_only = off")
            self.stores.redis.ping()
        except STORE_FAILURES:
            return None
        return self.stores

    # Parties

    def start(self, party):
        """A dispatcher or a device, as a service manager would."""
        self.held.discard(party)
        urls = {store: self._proxied(party, store) for store in SERVERS}
        environment = {VARIABLES[store]: url for store, url in urls.items()}
        environment |= {"PULSEBMS_DATA": str(self.directory / "devices"), **self.clocks.environment(party)}
        self.starts += 1
        log = self.directory / f"{party}.{self.starts}.log"
        if party in DISPATCHERS:
            arguments = ["dispatch", "--site", SITE, "--validity-grace", "2", "--telemetry-max-age", "700"]
            arguments += ["--command-timeout", str(TIMEOUT_S), "--lease", str(LEASE_TTL_S)]
            self.children[party] = processes.start(arguments, environment, log)
        else:
            program = (str(RECORDER),)
            self.children[party] = processes.start([str(self.record_file), party], environment, log, program)
        self.log(f"{party} started")

    def kill(self, party):
        child = self.children[party]
        child.kill()
        child.wait()

    @property
    def record_file(self):
        return self.directory / "inverter.jsonl"

    def leader(self):
        """The dispatcher that holds the lease, by its pid; a dispatcher at random when nobody can tell."""
        stores = self.admin()
        if stores is not None:
            row = stores.pg.execute("SELECT holder FROM optimizer.site_leases WHERE site_id = %s", (SITE,)).fetchone()
            if row and row[0]:
                pid = int(row[0].split(":")[1])
                for party in DISPATCHERS:
                    if self.children[party].pid == pid:
                        return party
        return self.rng.choice(DISPATCHERS)

    # Time

    def step(self):
        """One look around: what has ended by itself is started again, the operator acts, the record is watched."""
        for party, child in list(self.children.items()):
            if child.poll() is not None and party not in self.held:
                self.log(f"{party} ended with code {child.returncode}")
                self.start(party)
        now_s = time.monotonic()
        if now_s >= self._seen_s:
            self._seen_s = now_s + SEEN_EVERY_S
            self._look()
        if now_s >= self._operator_s:
            self._operator_s = now_s + OPERATOR_EVERY_S
            self._operate()
        time.sleep(0.02)

    def wait(self, condition, what, patience_s=PATIENCE_S):
        """Until the condition gives something; AssertionError with the last events when it never does."""
        end_s = time.monotonic() + patience_s
        while True:
            self.step()
            with contextlib.suppress(*STORE_FAILURES):
                if found := condition():
                    return found
            if time.monotonic() > end_s:
                last = "\n".join(f"{at_s - self.events[0][0]:8.2f} {text}" for at_s, text in self.events[-40:])
                raise AssertionError(f"still not so after {patience_s:.0f} s: {what}\n{last}\nlogs in {self.directory}")

    def _look(self):
        with contextlib.suppress(*STORE_FAILURES):
            if self.servers["postgres"].process.poll() is None:
                for (command_id,) in self.stores.pg.execute("SELECT command_id FROM optimizer.command_outbox"):
                    self.first_seen_s.setdefault(command_id, time.monotonic())

    def _operate(self):
        """A command by hand to some device, as `pulsebms command send` does it: recorded, then pushed."""
        kind = self.rng.choice((CommandType.REQUEST_STATUS, CommandType.STOP_CHARGE, CommandType.STOP_DISCHARGE))
        device_id = self.rng.choice(DEVICES)
        with contextlib.suppress(*STORE_FAILURES):
            self.command(device_id, kind)

    def command(self, device_id, kind, **parameters):
        draft = outbox.CommandDraft(
            device_id=device_id,
            site_id=SITE,
            command_type=kind,
            parameters=parameters,
            timeout_s=TIMEOUT_S,
            issued_by="operator",
        )
        stores = self.stores
        epoch = leases.current_epoch(stores.pg, SITE)
        commands = outbox.enqueue(stores.pg, [draft], epoch=epoch, redis_now=pending.redis_now(stores.redis))
        push_and_settle(stores, commands)
        return commands[0].command_id

    # Making and ending

    def _make_site(self):
        """Prices change every few seconds between cheap, middling and dear: the rule charges, idles, discharges."""
        site = yaml.safe_load(SITE_FILE.read_text())
        site["packs"] = [pack for pack in site["packs"] if pack["device_id"] in DEVICES]
        for policy in site["policies"]:
            policy |= {"update_interval_seconds": INTERVAL_S, "horizon_hours": 1}
        self.site = load_site(self.stores.pg, yaml.safe_dump(site))
        start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
        steps = int(5 * 3600 / PRICE_STEP_S)
        price = np.resize([0.05, 0.05, 0.10, 0.30, 0.05, 0.05, 0.30, 0.10], steps)
        hours = np.ones(30)
        known = start - timedelta(hours=1)
        write_series(self.stores.pg, SITE, Series(PRICE, start, PRICE_STEP_S, price), known)
        for name, value in ((LOAD_FORECAST, 6e4), (PV_FORECAST, 0.0), (AMBIENT, 20.0)):
            write_series(self.stores.pg, SITE, Series(name, start - timedelta(hours=24), 3600.0, value * hours), known)

    def _proxied(self, party, store):
        proxy = self.proxies[party, store]
        url = urlsplit(self.servers[store].url)
        return self.servers[store].url.replace(url.netloc, f"{url.netloc.rpartition(':')[0]}:{proxy.port}", 1)

    def _settings(self, urls):
        return StoreSettings(
            data_dir=self.directory / "unused",
            database_url=urls["postgres"],
            redis_url=urls["valkey"],
            mongodb_uri=urls["mongod"],
        )

    def entries(self):
        """The inverters' record; a last line that a kill cut off is none."""
        found = []
        for line in self.record_file.read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def tracebacks(self):
        """Logs that hold one: no fault of a store is worth a traceback."""
        return [log.name for log in sorted(self.directory.glob("*.log")) if "Traceback" in log.read_text(errors="replace")]

    def close(self):
        for child in self.children.values():
            child.kill()
        for child in self.children.values():
            child.wait()
        with contextlib.suppress(*STORE_FAILURES):
            self.stores.close()
        for server in self.servers.values():
            server.process.kill()
        for server in self.servers.values():
            server.process.wait()
        for proxy in self.proxies.values():
            proxy.cut()
        self._open.cleanup()
        sys.stdout.flush()
