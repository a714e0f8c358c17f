"""The contract of a wire format, tested for every format."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netra_trio.ids import RunId, ThreadId
from netra_trio.protocol.codec import BadFrame
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.messages import AgentStarted, Heartbeat, PartialResult, Ping
from netra_trio.protocol.problem import problem
from netra_trio.protocol.wire_format import (
    COMPACT,
    JSON_ACKNOWLEDGING,
    JSON_PLAIN,
    SUBPROTOCOL,
    WireFormat,
    select_format,
)
from netra_trio.sessions.event_log import Entry

FORMATS: list[WireFormat] = [JSON_PLAIN, JSON_ACKNOWLEDGING, COMPACT]
RUN = RunId("run_1")

each_format = pytest.mark.parametrize("wire", FORMATS, ids=lambda wire: str(wire.name))


def test_the_names_and_kinds_of_the_formats() -> None:
    assert [(wire.name, wire.acknowledges) for wire in FORMATS] == [
        (None, False),
        (SUBPROTOCOL, True),
        ("netra.v2", True),
    ]


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        ((), JSON_PLAIN),
        (("netra.v1",), JSON_ACKNOWLEDGING),
        (("netra.v1", "x"), JSON_ACKNOWLEDGING),
        (("netra.v2",), COMPACT),
        (("netra.v1", "netra.v2"), COMPACT),
        (("netra.v3", "NETRA.V1", ""), None),
    ],
)
def test_the_offered_subprotocols_select_the_format(
    offered: tuple[str, ...], selected: WireFormat | None
) -> None:
    assert select_format(offered) is selected


@each_format
def test_a_message_is_decoded(wire: WireFormat) -> None:
    frame = wire.decode(
        '{"type": "ping", "payload": {"n": 1}, "correlation_id": "c"}', max_size=100
    )
    assert (frame.message, frame.correlation_id) == (Ping({"n": 1}), "c")


@each_format
def test_a_frame_at_the_size_limit_and_one_byte_more(wire: WireFormat) -> None:
    text = '{"type": "ping", "payload": {}}'
    assert wire.decode(text, max_size=len(text)).message == Ping({})
    with pytest.raises(BadFrame) as caught:
        wire.decode(text, max_size=len(text) - 1)
    assert caught.value.problem.code is ErrorCode.MESSAGE_TOO_LARGE


@each_format
def test_a_binary_frame_is_refused(wire: WireFormat) -> None:
    with pytest.raises(BadFrame) as caught:
        wire.decode(b'{"type": "ping", "payload": {}}', max_size=100)
    assert caught.value.problem.code is ErrorCode.INVALID_MESSAGE_TYPE


@each_format
@given(text=st.text(), seq=st.integers(1, 2**53), first=st.none() | st.just(1))
def test_a_delta_is_encoded_with_its_numbers(
    wire: WireFormat, text: str, seq: int, first: int | None
) -> None:
    entry = Entry(seq, PartialResult(RUN, text), 0, False, 1.5, "c-1", first)
    expected = {
        "type": "partial_result",
        "payload": {"run_id": RUN, "content": text},
        "timestamp": 1.5,
        "correlation_id": "c-1",
        "seq": seq,
    }
    if first is not None:
        expected["seq_from"] = first
    assert orjson.loads(wire.encoder().encode_event(entry)) == expected


@each_format
def test_any_other_event_is_encoded_with_its_number(wire: WireFormat) -> None:
    event = AgentStarted(RUN, "echo", ThreadId("t"), 2)
    frame = orjson.loads(wire.encoder().encode_event(Entry(7, event, 0, False, 1.5, "c-1")))
    assert (frame["type"], frame["seq"]) == ("agent_started", 7)
    assert frame["payload"]["attempt"] == 2


@each_format
def test_control_frames_have_no_number(wire: WireFormat) -> None:
    frame = orjson.loads(wire.encode_control(Heartbeat(2.5), 1.5, "c-1"))
    assert frame == {
        "type": "heartbeat",
        "payload": {"server_time": 2.5},
        "timestamp": 1.5,
        "correlation_id": "c-1",
    }


@each_format
def test_an_error_is_a_control_frame(wire: WireFormat) -> None:
    fault = problem(ErrorCode.QUEUE_FULL, "Full.", retry_after_ms=1000)
    frame = orjson.loads(wire.encode_problem(fault, 1.5))
    assert frame["type"] == "error"
    assert frame["payload"] == fault.body(1.5)
    assert "seq" not in frame
