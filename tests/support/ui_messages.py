"""UI message streams of the Vercel AI SDK: their chunks, and what the SDK reads.

chunks(body)[0] == {"type": "start", …}
(read,) = sdk_streams([[body]])
"""

from collections.abc import Sequence
from typing import Any

import orjson

from support.node import run_script

DONE = "[DONE]"


def chunks(body: str) -> list[dict[str, Any]]:
    """Return the chunks of a complete stream."""
    *events, rest = body.split("\n\n")
    assert rest == "", body
    data = [event.removeprefix("data: ") for event in events if not event.startswith(":")]
    assert data[-1] == DONE
    return [orjson.loads(each) for each in data[:-1]]


def sdk_streams(conversations: Sequence[Sequence[str]]) -> Any:
    """Return the message and the error that the SDK reads from the bodies of each conversation."""
    return run_script("ui_stream.mjs", conversations)
