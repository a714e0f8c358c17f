"""The decoder of the client: frames of `netra.v2` become the events of `netra.v1`."""

from base64 import b64decode
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from netra_trio.client.decoder import FrameDecoder
from netra_trio.client.event import Event, InvalidEvent
from netra_trio.ids import RunId, ThreadId
from netra_trio.protocol.binary import join_binary
from netra_trio.protocol.codec import encode_event
from netra_trio.protocol.compact import CompactEncoder
from netra_trio.protocol.messages import (
    AgentCompleted,
    AgentStarted,
    AgentThinking,
    PartialResult,
    RunStatus,
)
from netra_trio.sessions.event_log import Entry

Example = dict[str, Any]

NOW = 1640995300.5
STARTED = (
    '{"type": "agent_started", "payload": {"run_id": "run_1", "run": 1}, "seq": 1,'
    ' "correlation_id": "c-1"}'
)


def examples(name: str = "server_to_client_v2") -> list[Example]:
    path = Path(__file__).parent.parent / "golden" / f"{name}.json"
    return cast("list[Example]", orjson.loads(path.read_bytes()))


def decoder() -> FrameDecoder:
    return FrameDecoder(lambda: NOW)


@pytest.mark.parametrize("example", examples(), ids=lambda example: str(example["name"]))
def test_frames_that_a_client_reads(example: Example) -> None:
    decoding = decoder()
    for frame in example["frames"]:
        text = orjson.dumps(frame["v2"]).decode()
        expected = frame.get("v1", frame["v2"])
        if expected is None:
            with pytest.raises(InvalidEvent):
                decoding.decode(text)
        else:
            decoded = decoding.decode(text)
            if isinstance(frame["v2"], list):  # the clock of the server stands still
                expected = {"timestamp": example["frames"][0]["v2"]["timestamp"], **expected}
            assert decoded == Event.of(expected)


@pytest.mark.parametrize(
    "example", examples("server_to_client_v2_binary"), ids=lambda example: str(example["name"])
)
def test_binary_frames_that_a_client_reads(example: Example) -> None:
    frame = b64decode(example["binary"])
    if example["frame"] is None:
        with pytest.raises(InvalidEvent):
            decoder().decode(frame)
    else:
        expected = Event.of(example["frame"])
        assert decoder().decode(frame) == evolve(expected, data=b64decode(example["data"]))


def test_the_size_of_the_data_is_that_of_the_event() -> None:
    text = b'{"type":"binary_result","payload":{"bytes":2},"seq":1}'
    assert decoder().decode(join_binary(text, b"ab")).data == b"ab"
    with pytest.raises(InvalidEvent, match=r"\$\.payload\.bytes"):
        decoder().decode(join_binary(text, b"abc"))


def test_a_delta_has_the_time_of_its_arrival_by_the_clock_of_the_server() -> None:
    now = NOW - 60.0  # this clock is a minute behind
    decoding = FrameDecoder(lambda: now)
    hello = {"type": "connection_established", "payload": {}, "timestamp": NOW}
    decoding.decode(orjson.dumps(hello).decode())
    decoding.decode(STARTED)
    now += 1.0
    assert decoding.decode('[2,"a"]').timestamp == NOW + 1.0


@pytest.mark.parametrize(
    "text", ["", "not JSON", "5", '{"seq": 1}', '{"type": "x", "seq": "1"}', "[[1]]"]
)
def test_invalid_frames(text: str) -> None:
    with pytest.raises(InvalidEvent):
        decoder().decode(text)


def test_a_server_of_the_first_version_gives_no_numbers() -> None:
    decoding = decoder()
    started = '{"type": "agent_started", "payload": {"run_id": "run_1"}, "seq": 1}'
    assert decoding.decode(started).payload == {"run_id": "run_1"}
    with pytest.raises(InvalidEvent, match=r"\$\[2\]: expected the number of a run"):
        decoding.decode('[2,"a"]')


@pytest.mark.parametrize(
    "resume", ["5", "{}", '{"runs": 5}', '{"runs": [5, {}, {"run": "1", "run_id": "run_1"}]}']
)
def test_a_first_frame_without_numbers(resume: str) -> None:
    decoding = decoder()
    decoding.decode(f'{{"type": "connection_established", "payload": {{"resume": {resume}}}}}')
    with pytest.raises(InvalidEvent):
        decoding.decode('[2,"a",1]')


def test_a_listed_run_without_a_key_of_its_message() -> None:
    decoding = decoder()
    listed = '{"runs": [{"run": 1, "run_id": "run_1", "correlation_id": 5}]}'
    decoding.decode(f'{{"type": "connection_established", "payload": {{"resume": {listed}}}}}')
    assert decoding.decode('[2,"a",1]').correlation_id is None


def test_the_texts_of_faults_name_the_element() -> None:
    decoding = decoder()
    decoding.decode(STARTED)
    for frame, path in (
        ("[]", r"\$: expected a delta of 2 to 4 elements"),
        ('["1","a"]', r"\$\[0\]: expected a number of an event"),
        ("[2,5]", r"\$\[1\]: expected a text"),
        ('[2,"a",2]', r"\$\[2\]: expected the number of a run"),
        ('[2,"a",1,3]', r"\$\[3\]: expected the first number of the event"),
    ):
        with pytest.raises(InvalidEvent, match=path):
            decoding.decode(frame)


RUNS = [RunId(f"run_{number}") for number in range(4)]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.sampled_from(RUNS)),
        st.tuples(st.just("think"), st.sampled_from(RUNS)),
        st.tuples(st.just("end"), st.sampled_from(RUNS)),
        st.tuples(st.text(max_size=8), st.sampled_from(RUNS), st.integers(0, 3)),
    ),
    max_size=40,
)


@given(STEPS)
def test_any_events_are_decoded_as_those_of_the_first_version(steps: list[Any]) -> None:
    encoder, compact, json = CompactEncoder(), decoder(), decoder()
    seq = 0
    for kind, run_id, *merged in steps:
        seq += 1
        first = seq if merged and merged[0] else None
        seq += merged[0] if merged else 0
        entry = Entry(seq, event_of(kind, run_id), 0, False, NOW, f"c-{run_id}", first)
        decoded = compact.decode(encoder.encode_event(entry).decode())
        assert decoded == json.decode(encode_event(entry).decode())


def event_of(kind: str, run_id: RunId) -> Any:
    if kind == "start":
        return AgentStarted(run_id, "echo", ThreadId("t"), 1)
    if kind == "think":
        return AgentThinking(run_id, "hm")
    if kind == "end":
        return AgentCompleted(run_id, RunStatus.COMPLETED, 5)
    return PartialResult(run_id, kind)
