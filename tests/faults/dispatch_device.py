"""A device in a process of its own, to be killed: one pack, its journal, a log of what reached the inverter.

Arguments: journal, log, and the moment at which to stand still (never, before_begin, before_act, before_done, before_finish).
Every set point that would reach an inverter is appended to the log, on disk, before execute returns.
"""

import os
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from core.clock import SystemClock
from core.device_logic import DeviceController
from core.devices import Chemistry, DeviceConfig
from core.limits import ConstraintRow, tightest
from core.pack import Pack
from serving.device.agent import DeviceAgent
from serving.device_client import Journal
from stores.connections import open_stores

DEVICE = "pack-1"
CONFIG = DeviceConfig(
    device_id=DEVICE,
    site_id="s",
    name=DEVICE,
    chemistry=Chemistry.NMC,
    nominal_capacity_ah=100,
    nominal_voltage_v=370,
    max_charge_power_w=20_000,
    max_discharge_power_w=25_000,
    series_cells=100,
    parallel_cells=20,
)


class Controller(DeviceController):
    """The real rules; what they let through goes to the log."""

    log: Path

    def execute(self, command, **arguments):
        pause("before_act")
        verdict = super().execute(command, **arguments)
        line = f"{command.command_id} {command.seq} {time.time():.6f} {command.command_type.value} {verdict.outcome.value}\n"
        handle = os.open(self.log, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        os.write(handle, line.encode())
        os.close(handle)
        return verdict


class PausingJournal(Journal):
    """The real journal with places to stand still."""

    def begin(self, *arguments):
        pause("before_begin")
        super().begin(*arguments)

    def done(self, *arguments):
        pause("before_done")
        super().done(*arguments)
        pause("before_finish")


def pause(where):
    if sys.argv[3:4] == [where]:  # in the process of the tests there is no such argument
        sys.stdout.write(f"{where}\n")
        sys.stdout.flush()
        threading.Event().wait()


def agent(stores, journal, log):
    limits = tightest(CONFIG, [ConstraintRow(row_id="r", device_id=DEVICE)], datetime.now(UTC))
    controller = Controller(device_id=DEVICE, limits=limits)
    controller.log = log
    return DeviceAgent(
        stores=stores,
        controller=controller,
        pack=Pack(CONFIG, soc_pct=50, soh_pct=80, temperature_c=25, ambient_c=20),
        journal=journal,
        clock=SystemClock(),
        sink=lambda batch: None,
        pause_s=0.01,
    )


if __name__ == "__main__":
    device = agent(open_stores(), PausingJournal(Path(sys.argv[1])), Path(sys.argv[2]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    device.run(threading.Event())
