"""The dispatcher: inputs -> ranked policies -> safety gate -> commands -> history, once an interval."""
