"""The payload of the end of a run, whose size is bounded."""

import orjson
import pytest

from netra_trio.agents.attachments import BINARY_RESULTS
from netra_trio.agents.execution import Ending
from netra_trio.ids import RunId, new_file_id
from netra_trio.protocol.fields import ATTACHMENTS, MEDIA_TYPE_CHARACTERS
from netra_trio.protocol.messages import ListedFile, RunStatus
from netra_trio.protocol.text import EVENT_BYTES
from netra_trio.sessions.run_end import PAYLOAD_BYTES, completed_payload

FILES = [
    ListedFile(new_file_id(), '"' * 255, "a/" + "b" * (MEDIA_TYPE_CHARACTERS - 2), 2**32)
    for _ in range(ATTACHMENTS)
] + [ListedFile(new_file_id(), "", "audio/mpeg", 2**32) for _ in range(BINARY_RESULTS)]


def completed(result: str, files: list[ListedFile]) -> bytes:
    ending = Ending(RunStatus.COMPLETED, orjson.dumps(result))
    return completed_payload(RunId("run_1"), ending, files)


def test_the_longest_result_without_files_is_whole() -> None:
    payload = orjson.loads(completed("x" * (EVENT_BYTES - 2), []))
    assert len(payload["result"]) == EVENT_BYTES - 2
    assert "truncated" not in payload


@pytest.mark.parametrize("more", [0, 1])
def test_files_leave_less_room_for_the_result(more: int) -> None:
    room = PAYLOAD_BYTES - len(completed("", FILES))
    payload = completed("x" * (room + more), FILES)
    assert len(payload) <= PAYLOAD_BYTES + len(',"truncated":true')
    fields = orjson.loads(payload)
    assert len(fields["files"]) == len(fields["attachments"]) == len(FILES)
    assert fields["result"] == "x" * room
    assert fields.get("truncated", False) == bool(more)
