"""The trace that work belongs to, as W3C's `traceparent` header has it, in the task's context.

>>> is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
True
>>> is_traceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01")
False
"""

import re
from contextvars import ContextVar

TRACEPARENT: ContextVar[str | None] = ContextVar("TRACEPARENT", default=None)
"""What a run hands on: its own trace, or without traces that of the opening request."""

TRACESTATE_CHARACTERS = 512  # what W3C's Trace Context asks everybody to pass on

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def is_traceparent(text: str) -> bool:
    """Whether this is the header of version 00, as W3C's Trace Context defines it."""
    return _TRACEPARENT.fullmatch(text) is not None
