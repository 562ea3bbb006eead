"""How each kind of fault is done and undone. Every one is logged in the world's events."""

import contextlib
import resource
import shutil
import signal
import time

from chaos.schedule import DEVICES, SERVERS, TIMEOUT_S
from chaos.world import SITE
from core.commands import CommandType
from serving import emergency
from stores.connections import connect_postgres
from stores.failures import STORE_FAILURES
from stores.postgres import history
from stores.redis import pending

RESET_EVERY_S = 3.0


class Injector:
    """Does faults to a world and undoes them when their time has come."""

    def __init__(self, world):
        self.world = world
        self.lost_calls = []
        """(store, what was asked) of each answer that was lost."""
        self.unheard = 0
        """Faults of lost answers that met no call, so that nothing was lost."""
        self._lifts = []

    def run_round(self, faults):
        """All faults of one round, then everything undone."""
        begun_s = time.monotonic()
        for fault in faults:
            # One fault at a time in one place, also when the machine is slower than the schedule.
            while time.monotonic() < begun_s + fault.at_s or self._is_busy(fault):
                self._lift_due()
                self.world.step()
            self.world.log(f"fault {fault}")
            lift = getattr(self, f"_{fault.kind}")(fault)
            self._lifts.append((time.monotonic() + fault.hold_s, fault, lift))
        while self._lifts:
            self._lift_due()
            self.world.step()
        self.world.log("round over: every fault is undone")

    def _lift_due(self):
        for entry in [entry for entry in self._lifts if time.monotonic() >= entry[0] or self._is_done(entry[1])]:
            self._lifts.remove(entry)
            entry[2]()
            self.world.log(f"undone #{entry[1].number} {entry[1].kind} {entry[1].target}")

    def _is_busy(self, fault):
        return any((other.target, other.store) == (fault.target, fault.store) for _, other, _ in self._lifts)

    def _is_done(self, fault):
        """The answers are lost: nothing more will happen."""
        return fault.kind == "lost" and not self.world.proxies[fault.target, fault.store].drop_next

    def _kill(self, fault):
        world, name = self.world, fault.target
        if name in SERVERS:
            world.kill_server(name)
            return lambda: world.start_server(name)
        world.held.add(name)
        world.kill(name)
        return lambda: world.start(name)

    def _lost(self, fault):
        proxy = self.world.proxies[fault.target, fault.store]
        proxy.drop_after, proxy.drop_next = int(fault.size), 1 + fault.number % 3
        return lambda: self._gather(proxy, fault.store)

    def _gather(self, proxy, store):
        self.unheard += not proxy.lost
        proxy.drop_next = proxy.drop_after = 0
        self.lost_calls += [(store, asked) for asked in proxy.lost]
        proxy.lost.clear()

    def _slow(self, fault):
        proxy = self.world.proxies[fault.target, fault.store]
        proxy.delay_s = fault.size

        def lift():
            proxy.delay_s = 0.0

        return lift

    def _pause(self, fault):
        return self._stopped(self.world.leader())

    def _silent(self, fault):
        return self._stopped(fault.target)

    def _stopped(self, party):
        self.world.log(f"{party} stands still")
        child = self.world.children[party]
        child.send_signal(signal.SIGSTOP)

        def go_on():
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGCONT)

        return go_on

    def _clock(self, fault):
        self.world.clocks.step(fault.target, int(fault.size))
        return lambda: self.world.clocks.step(fault.target, 0)

    def _disk_full(self, fault):
        """No file of the server may grow: the kernel refuses what is written past the limit, as a full disk would."""
        process = self.world.servers["valkey"].process
        home = self.world.directory / "data" / "valkey"
        largest = max((path.stat().st_size for path in home.rglob("*.aof")), default=0)
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))

        def lift():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

        return lift

    def _empty(self, fault):
        self.world.kill_server("valkey")

        def lift():
            shutil.rmtree(self.world.directory / "data" / "valkey" / "appendonlydir", ignore_errors=True)
            self.world.start_server("valkey")

        return lift

    def _read_only(self, fault):
        self._set_read_only("on")
        return lambda: self._set_read_only("off")

    def _set_read_only(self, value):
        """A connection of its own: another store may be away, and this one must be able to write."""

        def altered():
            with connect_postgres(self.world.servers["postgres"].url) as pg:
                pg.execute("SET default_transaction_read_only = off")
                pg.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
                return pg.execute("SELECT pg_reload_conf()").fetchone()

        self.world.wait(altered, f"default_transaction_read_only is {value}")

    def _shutdown(self, fault):
        """An operator's emergency_shutdown, as `pulsebms command send` does it; its latch is reset when the round is over."""
        stores = self.world.stores
        with contextlib.suppress(*STORE_FAILURES):
            _, result = emergency.send_first(
                stores.redis,
                device_id=fault.target,
                site_id=SITE,
                parameters={"reason": "chaos"},
                timeout_s=TIMEOUT_S,
                issued_by="operator",
            )
            emergency.record_sent(stores.pg, stores.redis, SITE)
            emergency.end_purged(stores.pg, stores.redis, result)
        return lambda: None

    def release(self):
        """The operator resets every latch, again until each device has said that it did."""
        for device_id in DEVICES:
            self._reset(device_id)

    def _reset(self, device_id):
        sent = {"at_s": 0.0, "id": ""}

        def is_reset():
            stores = self.world.stores
            for row in history.history(stores.pg, SITE, device_id=device_id, limit=50):
                if row.command_id == sent["id"] and row.success:
                    return not pending.is_latched(stores.redis, device_id)
            if time.monotonic() > sent["at_s"] + RESET_EVERY_S:
                sent["at_s"] = time.monotonic()
                sent["id"] = self.world.command(device_id, CommandType.UPDATE_PARAMETERS, reset_latch=1.0)
            return False

        self.world.wait(is_reset, f"{device_id} is released")
