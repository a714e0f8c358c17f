"""The golden examples of binary frames, which TypeScript tests read too.

Of the server each example is `{name, binary, frame, data?}`: the whole frame in base64, its JSON
frame (null if it is invalid), and its data in base64. Of a client it is `{name, binary, valid,
code?}`.
"""

from base64 import b64decode
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from netra_trio.ids import FileId, RunId
from netra_trio.protocol.binary import BinaryEvent, BinaryFrame
from netra_trio.protocol.codec import BadFrame
from netra_trio.protocol.codes import BAD_FRAME, ErrorCode
from netra_trio.protocol.messages import BinaryResult
from netra_trio.protocol.wire_format import COMPACT, JSON_ACKNOWLEDGING, JSON_PLAIN
from netra_trio.sessions.event_log import Entry

Example = dict[str, Any]


def examples(name: str) -> list[Example]:
    path = Path(__file__).parent.parent / "golden" / f"{name}_v2_binary.json"
    return cast("list[Example]", orjson.loads(path.read_bytes()))


def name_of(example: Example) -> str:
    return str(example["name"])


SENT, RECEIVED = examples("server_to_client"), examples("client_to_server")


@pytest.mark.parametrize("example", [each for each in SENT if each["frame"]], ids=name_of)
def test_frames_of_the_server(example: Example) -> None:
    frame, data = example["frame"], b64decode(example["data"])
    payload = frame["payload"]
    result = BinaryResult(
        RunId(payload["run_id"]), payload["media_type"], FileId(payload["file_id"]), len(data)
    )
    event = BinaryEvent(result, data)
    entry = Entry(frame["seq"], event, 0, False, frame["timestamp"], frame["correlation_id"])
    encoded = COMPACT.encoder().encode_event(entry)
    assert type(encoded) is BinaryFrame
    assert bytes(encoded) == b64decode(example["binary"])
    assert orjson.loads(JSON_ACKNOWLEDGING.encoder().encode_event(entry)) == frame


@pytest.mark.parametrize("example", RECEIVED, ids=name_of)
def test_frames_of_a_client(example: Example) -> None:
    payload = b64decode(example["binary"])
    if example["valid"]:
        assert COMPACT.decode(payload, max_size=10_240).message.TYPE in example["name"]
    else:
        with pytest.raises(BadFrame) as caught:
            COMPACT.decode(payload, max_size=10_240)
        assert caught.value.problem.code == example["code"]
    for wire in (JSON_ACKNOWLEDGING, JSON_PLAIN):
        with pytest.raises(BadFrame) as refused:
            wire.decode(payload, max_size=10_240)
        assert refused.value.problem.code is ErrorCode.INVALID_MESSAGE_TYPE


def test_the_examples_are_complete() -> None:
    for listed in (SENT, RECEIVED):
        assert len({name_of(each) for each in listed}) == len(listed)
    codes = {each["code"] for each in RECEIVED if not each["valid"]}
    missing = {ErrorCode.MESSAGE_TOO_LARGE, ErrorCode.INVALID_TYPE_FIELD}  # as for text frames
    assert codes == {str(code) for code in BAD_FRAME - missing}
