"""Rooms: numbered streams of events that many sessions read."""
