"""Hypercorn 0.18 as the host for HTTP/1.1, HTTP/2 and its own command, with bounds of our own."""
