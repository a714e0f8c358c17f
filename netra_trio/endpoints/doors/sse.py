r"""Server-sent events, as the doors write them.

>>> sse("hello", id="7")
b'id: 7\ndata: hello\n\n'
"""

SSE_HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache, no-transform",  # a proxy that compresses would buffer
    "x-accel-buffering": "no",  # nginx
}
KEEP_ALIVE = b": keep-alive\n\n"


def sse(data: str | bytes, *, id: str | None = None, event: str | None = None) -> bytes:  # noqa: A002 - the field of the format
    """Return one event; its data has no line breaks."""
    head = "" if id is None else f"id: {id}\n"
    head += "" if event is None else f"event: {event}\n"
    body = data.encode() if isinstance(data, str) else data
    return head.encode() + b"data: " + body + b"\n\n"
