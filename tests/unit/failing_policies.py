"""Policies that fail in every way that one can, for the tests of runner and ranking; `config["mode"]` says how.

A module of its own because the policy process imports the factory by name.
"""

import ctypes
import os
import signal
import threading
from dataclasses import replace

from core.decisions import Decision, Reason, SetPoint
from core.errors import InputError
from policies.base import PolicyUnableError


class Failing:
    def __init__(self, record):
        self.record = record
        self.name = record.name
        self.calls = 0
        if record.config.get("mode") == "bad_row":
            raise InputError(source="optimization_policies", field="mode", value="bad_row", expected="another")

    def decide(self, observation):
        self.calls += 1
        mode = self.record.config.get("mode", "fine")
        if mode == "hang":
            threading.Event().wait()
        if mode == "hang_in_c":  # holds the interpreter's lock: no other thread of the process runs
            ctypes.PyDLL(None).pause()
        if mode == "stand_still":
            os.kill(os.getpid(), signal.SIGSTOP)
        if mode == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if mode == "raise":
            raise ZeroDivisionError("1 / 0")
        if mode == "unable":
            raise PolicyUnableError("not today")
        if mode == "unsendable":
            return threading.Lock()
        watt = float(self.record.config.get("watt", 0.0))
        decision = Decision(
            site_id=observation.site.site_id,
            starts_at=observation.starts_at,
            interval_s=observation.interval_s,
            source=self.name,
            policy_id=self.record.policy_id,
            set_points=tuple(
                SetPoint(device_id=device.device_id, power_w=watt, reason=Reason.IDLE) for device in observation.devices
            ),
            inputs={"pid": os.getpid(), "calls": self.calls},
        )
        if mode == "nan_point":
            object.__setattr__(decision.set_points[0], "power_w", float("nan"))
        if mode == "nan_plan":
            return replace(decision, plan={"x": [1.0, float("nan")]})
        if mode == "other_site":
            return replace(decision, site_id="elsewhere")
        return decision


def make(record, files=None):
    return Failing(record)
