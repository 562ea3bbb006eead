"""Pure domain: devices, limits, battery physics, commands, decisions. No I/O lives here.

Sign convention, everywhere in this project: discharge is positive, charge negative; grid
import positive, grid export negative. Times are timezone-aware datetimes, UTC inside.
"""
