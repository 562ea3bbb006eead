"""The reference device: a simulated pack that obeys the command protocol."""
