"""Connections: one nursery for each."""
