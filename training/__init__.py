"""Training: what learned policies are made of and how. Runs where policies are made; serving imports nothing from here."""
