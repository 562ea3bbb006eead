"""The fault gate: the real programs under faults (world, faults), a seeded schedule of them, and a judge of the record.

Not here: what must hold for single traps (test_dispatch_device, test_dispatch_process), the embedded servers' own lives.
"""
