"""UI message streams of the Vercel AI SDK: their chunks, and what the SDK reads.

chunks(body)[0] == {"type": "start", …}
with sdk_reader() as read:
    read(body)["message"]
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import orjson

from support.node import running_script
from support.server import PATIENCE

DONE = "[DONE]"


def chunks(body: str) -> list[dict[str, Any]]:
    """Return the chunks of a complete stream."""
    *events, rest = body.split("\n\n")
    assert rest == "", body
    data = [event.removeprefix("data: ") for event in events if not event.startswith(":")]
    assert data[-1] == DONE
    return [orjson.loads(each) for each in data[:-1]]


@contextmanager
def sdk_reader() -> Iterator[Callable[..., Any]]:
    """Yield a function that returns the message and the error that the SDK reads from streams.

    A later stream continues the message of the one before it.
    """
    with (
        running_script("ui_stream.mjs", None) as ready,
        httpx2.Client(timeout=PATIENCE, trust_env=False) as client,
    ):
        yield lambda *bodies: client.post(f"http://127.0.0.1:{ready['port']}", json=bodies).json()
