"""The whole run: rounds of faults on a world, the site's return to normal after each, and the record of it all."""

import signal
import statistics
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

from chaos.faults import Injector
from chaos.judge import Bounds, Record, Recorded, Round, judge
from chaos.schedule import DEVICES, DISPATCHERS, GRACE_S, INTERVAL_S, TIMEOUT_S, schedule
from chaos.world import SITE, World
from core.limits import CELL_WINDOW_V
from serving.dispatch.tick import SiteDispatcher
from stores.postgres import outbox
from stores.postgres.history import history
from stores.redis import pending


class Gate:
    """Runs `count` faults of the seed in rounds of `a_round`; `findings` holds the judge's word."""

    def __init__(self, directory, *, seed, count, a_round):
        self.directory = directory
        self.world = World(directory, seed)
        self.rounds = schedule(seed, count, a_round, step_clocks=self.world.clocks.available)
        self.injector = Injector(self.world)
        self.record = None
        self.findings = {}
        self._results = []
        self._forgot_s = []
        self._ended_badly = []

    def run(self):
        world = self.world
        for party in (*DEVICES, *DISPATCHERS):
            world.start(party)
        self._back_to_normal(0, time.monotonic())
        for number, faults in enumerate(self.rounds, 1):
            before = len(world.events)
            self.injector.run_round(faults)
            self._forgot_s += [at_s for at_s, text in world.events[before:] if text == "valkey killed"]
            self._back_to_normal(number, time.monotonic())
        self._end()
        self.record = self._read()
        self.findings = judge(self.record) | {"ended badly": self._ended_badly}
        return self.findings

    def _back_to_normal(self, number, undone_s):
        """Wait for the first decision for a whole interval after everyone was there again; keep what it was."""
        world = self.world
        world.wait(lambda: world.admin() is not None, "all stores answer")
        self.injector.release()
        ready = datetime.now(UTC)
        known = {row[0] for row in world.stores.pg.execute("SELECT id FROM optimizer.decisions")}
        early = [key for key, seen_s in world.first_seen_s.items() if seen_s < time.monotonic()]

        def decided():
            rows = world.stores.pg.execute(
                "SELECT id, source, set_points FROM optimizer.decisions WHERE starts_at >= %s ORDER BY recorded_at",
                (ready + timedelta(seconds=INTERVAL_S),),
            )
            return next((row for row in rows if row[0] not in known), None)

        decision_id, source, points = world.wait(decided, "the site is dispatched again")

        def ended():
            rows = world.stores.pg.execute(
                "SELECT h.response_data->>'outcome' FROM optimizer.command_outbox o JOIN command_history h "
                "ON h.command_id = o.command_id AND h.issued_at = o.issued_at WHERE o.decision_id = %s",
                (decision_id,),
            ).fetchall()
            return (True, [row[0] for row in rows]) if all(row[0] for row in rows) else None

        _, outcomes = world.wait(ended, "the commands of that decision have ended")
        over_s = time.monotonic() - undone_s
        wait_s = time.monotonic() + TIMEOUT_S + GRACE_S + INTERVAL_S
        still_open = []

        def none_open():
            still_open[:] = [
                row[0]
                for row in world.stores.pg.execute(
                    "SELECT command_id FROM optimizer.command_outbox WHERE ended_at IS NULL AND command_id = ANY(%s)", (early,)
                )
            ]
            # Twice as long as deadline, grace and interval together: the machine may be busy.
            return not still_open or time.monotonic() > wait_s + TIMEOUT_S + GRACE_S + INTERVAL_S

        world.wait(none_open, "what was issued before has ended, or should have")
        self._results.append(
            Round(
                number=number,
                source=source,
                devices=frozenset(point["device_id"] for point in points),
                outcomes=tuple(outcomes),
                recovery_s=over_s,
                still_open=tuple(still_open),
            )
        )
        world.log(f"round {number}: normal after {over_s:.1f} s")

    def _end(self):
        """Everyone is told to end and does; what is open then ends by its deadline."""
        world = self.world
        world.held |= set(world.children)
        for party in DISPATCHERS:
            world.children[party].send_signal(signal.SIGTERM)
        for party in DISPATCHERS:
            self._ended(party)
        dispatcher = SiteDispatcher(world.stores, SITE)
        end_s = time.monotonic() + 60
        while outbox.open_commands(world.stores.pg, SITE):
            dispatcher.settle()
            outbox.expire_overdue(world.stores.pg, SITE, pending.redis_now(world.stores.redis), 1.0)
            if time.monotonic() > end_s:
                break  # the judge names them
            time.sleep(0.05)
        for party in DEVICES:
            world.children[party].send_signal(signal.SIGTERM)
        for party in DEVICES:
            self._ended(party)

    def _ended(self, party):
        code = self.world.children[party].wait(60)
        if code:
            self._ended_badly.append(f"{party} ended with code {code}")

    def _read(self):
        world = self.world
        seqs = dict(world.stores.pg.execute("SELECT command_id, seq FROM optimizer.command_outbox"))
        timeouts = dict(world.stores.pg.execute("SELECT command_id, timeout_seconds FROM command_history"))
        commands = {
            row.command_id: Recorded(
                device_id=row.device_id,
                type=row.command_type.value,
                seq=seqs.get(row.command_id, 0),
                issued_s=row.issued_at.timestamp(),
                timeout_s=timeouts[row.command_id],
                outcome=(row.response_data or {}).get("outcome"),
            )
            for row in history(world.stores.pg, SITE, limit=1_000_000)
        }
        return Record(
            entries=world.entries(),
            commands=commands,
            first_seen_s=world.first_seen_s,
            redis_steps=world.clocks.history.get("valkey", [(float("-inf"), 0)]),
            wall_of_monotonic=world.wall_of_monotonic,
            bounds={pack.device_id: bounds_of(pack) for pack in world.site.packs},
            forgot_s=self._forgot_s,
            rounds=self._results,
            tracebacks=world.tracebacks(),
        )

    def summary(self):
        """What was done and found, for a person."""
        faults = Counter(fault.kind for faults in self.rounds for fault in faults)
        acts = [entry for entry in self.record.entries if entry["what"] == "act"]
        outcomes = Counter(command.outcome for command in self.record.commands.values())
        recoveries = [round_.recovery_s for round_ in self._results[1:]]
        lines = [
            f"faults: {sum(faults.values())}: {dict(sorted(faults.items()))}",
            f"commands: {len(self.record.commands)}, by outcome {dict(outcomes)}; executed {len(acts)}",
            f"pack samples: {sum(entry['what'] == 'pack' for entry in self.record.entries)}",
            f"answers lost: {len(self.injector.lost_calls)} ({self.injector.unheard} such faults met no call)",
            f"process starts: {self.world.starts}",
            f"normal again after: median {statistics.median(recoveries):.1f} s, longest {max(recoveries):.1f} s",
        ]
        for kind, found in self.findings.items():
            lines.append(f"{kind}: {len(found)}" + "".join(f"\n    {text}" for text in found[:20]))
        return "\n".join(lines)


def bounds_of(pack):
    """The tightest of a pack's rows, straight from the site file: independent of what the program makes of them."""
    rows = [row.model_dump() for row in pack.constraints]

    def least(name, default):
        return min([default, *(row[name] for row in rows if row.get(name) is not None)])

    def most(name, default):
        return max([default, *(row[name] for row in rows if row.get(name) is not None)])

    low_v, high_v = CELL_WINDOW_V[pack.chemistry]
    return Bounds(
        charge_w=least("max_charge_power", pack.max_charge_power_w),
        discharge_w=least("max_discharge_power", pack.max_discharge_power_w),
        charge_a=least("max_charge_current", float("inf")),
        discharge_a=least("max_discharge_current", float("inf")),
        soc_min_pct=most("min_soc", 0.0),
        soc_max_pct=least("max_soc", 100.0),
        cell_min_v=most("min_cell_voltage", low_v),
        cell_max_v=least("max_cell_voltage", high_v),
        temperature_c=least("max_cell_temperature", 60.0),
    )
