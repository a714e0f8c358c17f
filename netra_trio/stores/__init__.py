"""Stores of users, threads, messages and runs: the interface and its implementations."""
