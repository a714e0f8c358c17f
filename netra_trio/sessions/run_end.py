"""The payload of `agent_completed`, as JSON: it is stored, and sent as it is stored."""

from collections.abc import Sequence

from orjson import Fragment, dumps, loads

from netra_trio.agents.execution import Ending
from netra_trio.agents.run import milliseconds
from netra_trio.ids import RunId
from netra_trio.protocol.codec import payload_of
from netra_trio.protocol.messages import AgentCompleted, ListedFile
from netra_trio.protocol.text import cut_json

PAYLOAD_BYTES = 255 * 1024  # an event has at most 256 KiB: docs/protocol.md, Limits
SHORT_RESULT_BYTES = 16 * 1024  # of a result while all bytes of the log are used


def completed_payload(run_id: RunId, ending: Ending, files: Sequence[ListedFile]) -> bytes:
    """Return the payload of `agent_completed`, as JSON.

    The files of an answer leave less room for its result.
    """
    completed = AgentCompleted(
        run_id,
        ending.status,
        milliseconds(ending.duration),
        None if ending.result is None else Fragment(ending.result),
        ending.error,
        ending.truncated or None,
        ending.abandoned or None,
        tuple(file.file_id for file in files) or None,
        tuple(files) or None,
    )
    # A copy of the exact size: a result of orjson uses at least 4 KiB, and this stays in the log.
    payload = bytes(memoryview(dumps(payload_of(completed))))
    result = ending.result or b""
    room = PAYLOAD_BYTES - (len(payload) - len(result))
    return payload if len(result) <= room else _shortened(payload, room)


def shorten_payload(completed: bytes) -> bytes:
    """Return the payload of an `agent_completed` with a short result."""
    return _shortened(completed, SHORT_RESULT_BYTES)


def _shortened(completed: bytes, most: int) -> bytes:
    payload = loads(completed)
    if len(completed) > most and "result" in payload:
        result, truncated = cut_json(payload["result"], most)
        payload["result"] = Fragment(result)
        if truncated:
            payload["truncated"] = True
    return dumps(payload)
