"""A fleet holds what its devices hold, and names what it refuses."""

from dataclasses import fields, replace

import numpy as np
import pytest

from core.errors import InputError
from optimizer.fleet import PROFILES, SCALARS, stack
from optimizer.problem import DeviceData, SegmentCost


def test_every_number_of_a_device_has_a_column():
    refused = {"wear_segments"}
    assert {f.name for f in fields(DeviceData)} - {"device_id", "energy_curve_wh"} - refused == set(SCALARS) | set(PROFILES)


def test_wear_by_depth_is_refused_by_name(make_random_site):
    devices = make_random_site(3, 6, 2).devices
    layers = (SegmentCost(width_wh=1e3, stored_wh=0.0, wear_eur_per_kwh=0.0),)
    with pytest.raises(InputError, match=r"device pack-1: wear_segments: got '1 segments', expected None"):
        stack((devices[0], replace(devices[1], wear_segments=layers)))


def test_stacked_devices_come_back(make_random_site):
    devices = make_random_site(3, 12, 3).devices
    fleet = stack(devices)
    assert (fleet.count, fleet.steps) == (3, 12)
    for i, device in enumerate(devices):
        back = fleet.device(i)
        for name in SCALARS + PROFILES:
            expected = getattr(device, name)
            if name in ("move_weight", "reference_w") and (device.reference_w is None or device.move_weight == 0):
                continue
            assert (getattr(back, name) is None) == (expected is None)
            if expected is not None:
                np.testing.assert_array_equal(getattr(back, name), expected)
    assert fleet.take(np.array([2, 0])).device_ids == (devices[2].device_id, devices[0].device_id)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("capacity_wh", -1.0, "capacity_wh"),
        ("energy_max_wh", 0.0, "energy_max_wh"),
        ("leak_wh", float("nan"), "leak_wh"),
        ("leak_wh", -1.0, "leak_wh"),
        ("cycle_depth_wh", -1.0, "cycle_depth_wh"),
        ("energy_high_wh", 0.0, "energy_high_wh"),
        ("temperature_a", 1.2, "temperature_a"),
        ("wear_quadratic", -1e-3, "wear_quadratic"),
        ("soc_stress_eur_per_h", -0.1, "soc_stress_eur_per_h"),
        ("move_weight", -1e-4, "move_weight"),
    ],
)
def test_a_number_that_cannot_be_is_named(make_random_site, name, value, named):
    devices = make_random_site(4, 6, 2).devices
    with pytest.raises(InputError, match=f"{devices[1].device_id}.*{named}"):
        stack((devices[0], replace(devices[1], **{name: value})))


def test_an_efficiency_in_percent_is_named_with_its_step(make_random_site):
    device = make_random_site(5, 6, 1).devices[0]
    eta = device.eta_charge.copy()
    eta[4] = 95.0
    with pytest.raises(InputError, match=r"eta_charge\[4\].*95"):
        stack((replace(device, eta_charge=eta),))


def test_another_horizon_or_no_device_is_refused(make_random_site):
    with pytest.raises(InputError, match="6 values"):
        stack((make_random_site(1, 6, 1).devices[0], make_random_site(1, 8, 1).devices[0]))
    with pytest.raises(InputError, match="at least one device"):
        stack(())
