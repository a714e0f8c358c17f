"""The payload of `agent_completed`, as JSON: it is stored, and sent as it is stored."""

from collections.abc import Sequence

from orjson import Fragment, dumps, loads

from netra_trio.agents.execution import Ending
from netra_trio.agents.run import milliseconds
from netra_trio.ids import RunId
from netra_trio.protocol.codec import payload_of
from netra_trio.protocol.messages import AgentCompleted, ListedFile
from netra_trio.protocol.text import cut_json

SHORT_RESULT_BYTES = 16 * 1024  # of a result while all bytes of the log are used


def completed_payload(run_id: RunId, ending: Ending, files: Sequence[ListedFile]) -> bytes:
    """Return the payload of `agent_completed`, as JSON."""
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
    return bytes(memoryview(dumps(payload_of(completed))))


def shorten_payload(completed: bytes) -> bytes:
    """Return the payload of an `agent_completed` with a short result."""
    payload = loads(completed)
    if len(completed) > SHORT_RESULT_BYTES and "result" in payload:
        result, truncated = cut_json(payload["result"], SHORT_RESULT_BYTES)
        payload["result"] = Fragment(result)
        if truncated:
            payload["truncated"] = True
    return dumps(payload)
