"""The compact frames of `netra.v2`, and their golden examples.

Each example of the file is `{name, frames}`: the frames of one socket, in order. A frame is
`{v2, v1?}`; `v1` is the frame of `netra.v1` that says the same, absent where it is equal, and null
for an invalid frame, which is the last one of its example. The `v1` of a delta has no timestamp.
"""

from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from attrs import evolve, fields_dict

from netra_trio.ids import ConnectionId, RunId, SessionId, ThreadId, UserId
from netra_trio.protocol.codec import Encoded, encode_event
from netra_trio.protocol.compact import CompactEncoder
from netra_trio.protocol.messages import (
    AgentCompleted,
    AgentStarted,
    ConnectionEstablished,
    ListedAgent,
    PartialResult,
    ResumeState,
    RunStatus,
    Verdict,
)
from netra_trio.sessions.event_log import Entry

Example = dict[str, Any]

A, B = RunId("run_1"), RunId("run_2")


def examples() -> list[Example]:
    path = Path(__file__).parent.parent / "golden" / "server_to_client_v2.json"
    return cast("list[Example]", orjson.loads(path.read_bytes()))


def name_of(example: Example) -> str:
    return str(example["name"])


EXAMPLES = examples()


def is_valid(example: Example) -> bool:
    return bool(example["frames"][-1].get("v1", True))


def test_the_examples_have_different_names_and_nothing_else() -> None:
    assert len({name_of(example) for example in EXAMPLES}) == len(EXAMPLES)
    for example in EXAMPLES:
        assert example.keys() == {"name", "frames"}
        assert is_valid(example) is not name_of(example).startswith("invalid: ")
        assert all(frame.keys() <= {"v1", "v2"} for frame in example["frames"])
        assert all(frame.get("v1", True) for frame in example["frames"][:-1])


@pytest.mark.parametrize("example", [each for each in EXAMPLES if is_valid(each)], ids=name_of)
@pytest.mark.parametrize("is_copied", [False, True], ids=["own", "of another node"])
def test_compact_frames_of_the_server(example: Example, is_copied: bool) -> None:
    encoder = CompactEncoder()
    for frame in example["frames"]:
        said = frame.get("v1", frame["v2"])
        if said["type"] == ConnectionEstablished.TYPE:
            encoded = encoder.encode_hello(hello_of(said["payload"]), said["timestamp"])
        else:
            encoded = encoder.encode_event(entry_of(said, is_copied=is_copied))
        assert orjson.loads(encoded) == frame["v2"]


def hello_of(payload: Example) -> ConnectionEstablished:
    resume = payload["resume"]
    return ConnectionEstablished(
        ConnectionId(payload["connection_id"]),
        SessionId(payload["session_id"]),
        UserId(payload["user_id"]),
        payload["server_time"],
        payload["heartbeat_interval"],
        payload["features"],
        payload["limits"],
        ResumeState(
            Verdict(resume["verdict"]),
            replayed=resume["replayed"],
            last_seq=resume["last_seq"],
            runs=tuple(resume["runs"]),
        ),
        payload["user_room"],
        tuple(
            ListedAgent(each["name"], each["title"], tuple(each["examples"]))
            for each in payload["agents"]
        ),
    )


def entry_of(frame: Example, *, is_copied: bool = False) -> Entry:
    """Return the entry of the log for a frame of `netra.v1`."""
    payload, kind = frame["payload"], frame["type"]
    event: PartialResult | AgentStarted | Encoded
    if kind == PartialResult.TYPE:
        event = PartialResult(RunId(payload["run_id"]), payload["content"])
    elif kind == AgentStarted.TYPE and not is_copied:
        assert payload.keys() == fields_dict(AgentStarted).keys() - {"TYPE"}
        event = AgentStarted(**payload)
    else:
        event = Encoded(kind, RunId(payload["run_id"]), orjson.dumps(payload))
    return Entry(
        frame["seq"],
        event,
        0,
        False,
        frame.get("timestamp", 0.0),
        frame["correlation_id"],
        frame.get("seq_from"),
    )


def test_the_first_frame_is_not_changed_for_other_connections() -> None:
    listed: dict[str, Any] = {"run_id": A, "status": "running", "content": ""}
    state = ResumeState(Verdict.EXACT, runs=(listed,))
    hello = evolve(hello_of(EXAMPLES[0]["frames"][0]["v2"]["payload"]), resume=state)
    CompactEncoder().encode_hello(hello, 1.5)
    assert "run" not in listed


def delta(seq: int, run_id: RunId, text: str, seq_from: int | None = None) -> Entry:
    return Entry(seq, PartialResult(run_id, text), 0, False, 1.5, "c-1", seq_from)


def start(seq: int, run_id: RunId) -> Entry:
    return Entry(seq, AgentStarted(run_id, "echo", ThreadId("t"), 1), 0, False, 1.5, "c-1")


def end(seq: int, run_id: RunId) -> Entry:
    return Entry(seq, AgentCompleted(run_id, RunStatus.COMPLETED, 5), 0, False, 1.5, "c-1")


def test_a_delta_of_six_bytes_takes_at_most_twenty() -> None:
    encoder = CompactEncoder()
    encoder.encode_event(start(1, A))
    for seq in (2, 999_999_999):
        assert len(encoder.encode_event(delta(seq, A, "hello "))) <= 20
    encoder.encode_event(start(999_999, B))
    assert len(encoder.encode_event(delta(9_999_999, A, "hello "))) <= 20
    assert len(encode_event(delta(999_999, A, "hello "))) > 100  # in netra.v1


def test_a_delta_of_a_run_without_a_number_is_an_object() -> None:
    encoder = CompactEncoder()
    entry = delta(5, A, "Hel", seq_from=4)
    assert encoder.encode_event(entry) == encode_event(entry)
    encoder.encode_event(start(6, A))
    encoder.encode_event(end(7, A))
    assert encoder.encode_event(delta(8, A, "x")) == encode_event(delta(8, A, "x"))


def test_a_number_needs_memory_only_until_its_run_ends() -> None:
    encoder = CompactEncoder()
    for number in range(1, 1001):
        run_id = RunId(f"run_{number}")
        started = orjson.loads(encoder.encode_event(start(2 * number, run_id)))
        assert started["payload"]["run"] == number
        encoder.encode_event(end(2 * number + 1, run_id))
    assert not encoder._numbers


def test_a_copy_of_an_end_says_nothing_about_other_runs() -> None:
    encoder = CompactEncoder()
    encoder.encode_event(start(1, A))
    copied = Entry(2, Encoded(AgentCompleted.TYPE, B, b"{}"), 0, True, 1.5, "c-1")
    assert orjson.loads(encoder.encode_event(copied))["type"] == "agent_completed"
    assert encoder.encode_event(delta(3, A, "x")) == b'[3,"x"]'
