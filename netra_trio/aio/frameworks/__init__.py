"""Adapters for agent frameworks: each makes an agent of an object of its framework."""
