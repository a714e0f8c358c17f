"""Telemetry: events, metrics, logs and traces."""
