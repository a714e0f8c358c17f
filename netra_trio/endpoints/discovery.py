"""`GET /ws/config`: service discovery."""

from netra_trio.config.capabilities import document
from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.call import Call


async def config(call: Call) -> Answer:
    """Return the server's features, endpoints and limits."""
    return Answer(200, document(call.services.settings, call.services.wall_clock()))
