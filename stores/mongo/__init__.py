"""MongoDB: collections with validators and indexes, telemetry, predictions."""
