"""The structured interior point: one QP per battery, many batteries at once in SIMD lanes.

Derivation: docs/structured_solver.md.
"""
