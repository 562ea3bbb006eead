"""Training: what learned policies are made of and how. Of serving only the command line reaches it, when it is asked to train; a
site controller has none of it."""
