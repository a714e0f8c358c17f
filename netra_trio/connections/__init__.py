"""Connections: one nursery for each socket."""
