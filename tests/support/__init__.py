"""Helpers of the tests: a server in virtual time, and clients that talk to it."""
