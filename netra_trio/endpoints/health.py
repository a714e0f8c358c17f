"""`GET /ws/health`: whether the server and its dependencies can answer."""

from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.call import Call
from netra_trio.endpoints.overview import Overview


async def health(overview: Overview, _: Call) -> Answer:
    """Return the state of the server and of each dependency; 503 while it drains.

    Args:
        overview: Reports on the server.
        _: The request.
    """
    body = await overview.health()
    return Answer(503 if body["status"] == "draining" else 200, body)
