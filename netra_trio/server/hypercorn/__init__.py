"""Hypercorn as the host for HTTP/1.1, HTTP/2 and its own command."""
