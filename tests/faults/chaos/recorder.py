"""`pulsebms device run DEVICE` with a recorder where the inverter would be. Arguments: the record, the device.

The program is the real one. Its controller and its pack are watched: every command that is carried out, and the power of each
step with what the pack then measures, go to the record before the step returns. Times are monotonic: no clock's step moves them.
"""

import json
import os
import sys
import time

from core.device_logic import DeviceController
from core.pack import Pack
from serving.cli import main
from serving.device import provision

PACK_EVERY_S = 0.5


RECORD = sys.argv[1]


def write(**entry):
    handle = os.open(RECORD, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(handle, json.dumps(entry).encode() + b"\n")
    os.close(handle)


class RecordedController(DeviceController):
    stepped_s = 0.0

    def execute(self, command, *, monotonic_s, **arguments):
        verdict = super().execute(command, monotonic_s=monotonic_s, **arguments)
        write(
            what="act",
            at_s=monotonic_s,
            device_id=command.device_id,
            command_id=command.command_id,
            type=command.command_type.value,
            seq=command.seq,
            epoch=command.epoch,
            outcome=verdict.outcome.value,
            power_w=self.power_w,
            valid_for_s=self.valid_until_s - monotonic_s,
            reset=float(command.parameters.get("reset_latch", 0)) >= 1,
        )
        return verdict

    def applied_power(self, *, monotonic_s, **arguments):
        RecordedController.stepped_s = monotonic_s
        return super().applied_power(monotonic_s=monotonic_s, **arguments)


class RecordedPack(Pack):
    _written_s = 0.0
    _written_w = None

    def step(self, power_w, dt_s):
        super().step(power_w, dt_s)
        at_s = RecordedController.stepped_s
        if power_w == self._written_w and at_s < self._written_s + PACK_EVERY_S:
            return
        self._written_s, self._written_w = at_s, power_w
        state = self.state(provision.pending_now())
        write(
            what="pack",
            at_s=at_s,
            device_id=self.config.device_id,
            power_w=power_w,
            current_a=state.current_a,
            soc_pct=state.soc_pct,
            temperature_c=max(state.cell_temperatures_c),
            cell_min_v=min(state.cell_voltages_v),
            cell_max_v=max(state.cell_voltages_v),
        )


if __name__ == "__main__":
    provision.DeviceController, provision.Pack = RecordedController, RecordedPack
    write(what="start", at_s=time.monotonic(), device_id=sys.argv[2])
    sys.argv = ["pulsebms", "--json-logs", "device", "run", sys.argv[2]]
    main()
