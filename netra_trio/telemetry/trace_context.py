"""The trace that a task belongs to, as a W3C `traceparent` in the context of the task.

>>> is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
True
>>> is_traceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01")
False
"""

import re
from contextvars import ContextVar

TRACEPARENT: ContextVar[str | None] = ContextVar("TRACEPARENT", default=None)
"""The `traceparent` of a run: of its own span, or without tracing that of the upgrade request."""

TRACESTATE_CHARACTERS = 512  # the length that W3C's Trace Context requires to be forwarded

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def is_traceparent(text: str) -> bool:
    """Whether this is a valid header of version 00 of W3C's Trace Context."""
    return _TRACEPARENT.fullmatch(text) is not None
