"""Policies beside the active one: shadows, their daily score on the twin, drift. See docs/shadow_and_drift.md."""
