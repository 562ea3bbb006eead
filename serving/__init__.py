"""Serving: the command line, the dispatcher, the reference device, the twin service, the demo, the wiring."""
