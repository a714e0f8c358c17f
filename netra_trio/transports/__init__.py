"""Transports, which receive and send frames: one file for each kind of connection."""
