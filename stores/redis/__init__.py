"""Redis: the command queue as Lua scripts, device status, site metrics, sessions."""
