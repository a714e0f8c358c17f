"""Any sequence of valid and invalid frames: each has the specified reply, and no state is left.

Each frame is generated with its expected reply. A frame that can have a correlation id has a unique
one, which identifies its replies; errors without a correlation id are counted.
"""

from collections import defaultdict
from typing import Any

import orjson
import pytest
import trio
from attrs import define, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from support.memory import Client, Frame, kinds, open_server, token
from support.stores import ScriptedStore
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.connections.reader import BAD_FRAMES
from netra_trio.errors import TransportClosed
from netra_trio.protocol.codes import EndReason

pytestmark = pytest.mark.unmeasured

SIZE = 300  # bytes of a message
RUN = "a run"  # message_confirmed, then a run
STOPPED = "stop_agent"

Key = str


@frozen
class SentFrame:
    """A frame and its expected reply.

    Attributes:
        kind: The type of the message; None if it is not a message.
        payload: The payload.
        raw: The data, if it is not a message.
        answer: The type of the reply or the code of the error; None for no reply, RUN for a run.
        wait: Seconds to wait before it is sent.
    """

    answer: str | None
    kind: str | None = None
    payload: Any = None
    raw: str | bytes = ""
    wait: float = 0.0

    @property
    def is_bad(self) -> bool:
        """Whether it counts as a bad frame."""
        return self.answer in BAD

    def data(self, key: Key) -> str | bytes:
        """Return the data of the frame."""
        if self.kind is None:
            return self.raw
        frame: Frame = {"type": self.kind, "correlation_id": key}
        if self.payload is not None:
            frame["payload"] = self.payload
        return orjson.dumps(frame).decode()


BAD = {
    "EMPTY_MESSAGE",
    "JSON_PARSE_ERROR",
    "INVALID_MESSAGE_TYPE",
    "MISSING_TYPE_FIELD",
    "INVALID_TYPE_FIELD",
    "UNKNOWN_MESSAGE_TYPE",
    "VALIDATION_ERROR",
    "MESSAGE_TOO_LARGE",
}
TOO_BIG = "too big"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)
open_payloads = st.dictionaries(st.text(max_size=4), json_values, max_size=2).filter(
    lambda value: len(orjson.dumps(value)) < SIZE - 80
)
threads = st.sampled_from(["a", "b", None])


def work(content: str, thread: str | None, on_busy: str | None) -> SentFrame:
    """Return a message that starts a run."""
    payload: Frame = {"content": content}
    if thread is not None:
        payload["thread_id"] = thread
    if on_busy is not None:
        payload["on_busy"] = on_busy
    return SentFrame(RUN, "user_message", payload)


def invalid(kind: str, payload: Any) -> SentFrame:
    """Return a message with an invalid field."""
    return SentFrame("VALIDATION_ERROR", kind, payload)


good = st.one_of(
    st.builds(lambda p: SentFrame("pong", "ping", p), open_payloads | st.none()),
    st.builds(lambda p: SentFrame(None, "pong", p), open_payloads | st.none()),
    st.just(SentFrame(None, "ack", {"seq": 0})),
    st.just(SentFrame("auth_ok", "auth", {"token": token()})),
    st.sampled_from(["", "x.y.z", token("bob")]).map(
        lambda t: SentFrame("INVALID_TOKEN", "auth", {"token": t})
    ),
    st.just(SentFrame("RUN_NOT_FOUND", "stop_agent", {"run_id": "run_0"})),
    st.just(SentFrame(STOPPED, "stop_agent", {})),
    st.just(SentFrame("THREAD_NOT_FOUND", "get_thread_history", {"thread_id": "none"})),
    st.builds(
        work,
        st.text(min_size=1, max_size=8).filter(str.strip),
        threads,
        st.sampled_from([None, "enqueue", "interrupt"]),
    ),
    st.just(SentFrame(RUN, "agent_request", {"agent": "emit_twice", "input": {"a": [1]}})),
    st.just(SentFrame("AGENT_NOT_FOUND", "agent_request", {"agent": "none", "input": ""})),
)
nearly = st.one_of(
    st.just(invalid("ping", [])),
    st.just(invalid("ack", {"seq": "0"})),
    st.just(invalid("ack", {"seq": -1})),
    st.just(invalid("ack", {"seq": 0.0})),
    st.just(invalid("ack", {})),
    st.just(invalid("auth", {"token": 5})),
    st.just(invalid("user_message", {"content": " \n"})),
    st.just(invalid("user_message", {"content": "x", "text": "x"})),
    st.just(invalid("user_message", {"content": "x", "on_busy": "wait"})),
    st.just(invalid("user_message", {"content": "x", "deadline_ms": 0})),
    st.just(invalid("user_message", {"content": "x", "thread_id": "a b"})),
    st.just(invalid("agent_request", {"agent": "emit_twice"})),
    st.just(invalid("agent_request", {"agent": "emit_twice", "input": [1]})),
    st.just(invalid("stop_agent", {"run_id": ""})),
    st.just(invalid("get_thread_history", {"thread_id": "a", "limit": 101})),
    st.just(SentFrame("UNKNOWN_MESSAGE_TYPE", "heartbeat", {})),
    st.just(SentFrame("MESSAGE_TOO_LARGE", raw='"' + "é" * (SIZE // 2) + '"')),
    st.just(SentFrame("MISSING_TYPE_FIELD", raw='{"payload": {}}')),
    st.just(SentFrame("INVALID_TYPE_FIELD", raw='{"type": 1}')),
)


def not_json(raw: str) -> SentFrame:
    """Return text that is not JSON."""
    return SentFrame("JSON_PARSE_ERROR" if raw else "EMPTY_MESSAGE", raw=raw)


bad_frames = st.one_of(
    st.text(max_size=20).map(lambda text: not_json("{" + text if text else "")),
    json_values.filter(lambda value: not isinstance(value, dict)).map(
        lambda value: SentFrame("INVALID_MESSAGE_TYPE", raw=orjson.dumps(value).decode())
    ),
    st.binary(max_size=20).map(lambda data: SentFrame("INVALID_MESSAGE_TYPE", raw=data)),
)
huge = st.sampled_from(
    [SentFrame(TOO_BIG, raw="x" * (16 * SIZE + 1)), SentFrame(TOO_BIG, raw=b"\0" * 9999)]
)
waits = st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.05, 1.0, 40.0])
frames = st.builds(
    lambda sent, wait: SentFrame(sent.answer, sent.kind, sent.payload, sent.raw, wait),
    st.one_of(good, good, good, nearly, bad_frames)
    | st.integers(0, 30).flatmap(lambda n: huge if n == 0 else good),
    waits,
)


async def emit_twice(run: Run) -> None:
    """Emit two texts, with a pause between."""
    await run.emit("a")
    await trio.sleep(0.01)
    await run.emit("b")


@define(eq=False)
class Exchange:
    """The frames that were sent and received."""

    client: Client
    acknowledging: bool
    sent: dict[Key, SentFrame] = field(factory=dict)
    received: list[Frame] = field(factory=list)
    close_code: int | None = None

    async def send(self, plan: list[SentFrame]) -> None:
        """Send the frames, until the connection ends."""
        try:
            for n, sent in enumerate(plan):
                await trio.sleep(sent.wait)
                await self._send_one(f"c-{n}", sent)
            await trio.sleep(2)
            await self.client.send("ping", {}, "last")
            await trio.sleep(1)
        except TransportClosed:
            return

    async def _send_one(self, key: Key, sent: SentFrame) -> None:
        if sent.answer == STOPPED:
            runs = [f["payload"]["run_id"] for f in self.received if f["type"] == "agent_started"]
            ends = [f["payload"]["run_id"] for f in self.received if f["type"] == "agent_completed"]
            live = [run for run in runs if run not in ends]
            sent = SentFrame(None, "pong")
            if live:
                sent = SentFrame(STOPPED, "stop_agent", {"run_id": live[-1]})
        self.sent[key] = sent
        await self.client.send_raw(sent.data(key))
        if self.acknowledging:
            last = max((f.get("seq", 0) for f in self.received), default=0)
            await self.client.send("ack", {"seq": last})

    async def record(self) -> None:
        """Record the received frames."""
        try:
            while True:
                self.received.append(await self.client.next())
        except TransportClosed as closed:
            self.close_code = closed.code


def expected_end(sent: dict[Key, SentFrame], *, acks_between: bool) -> tuple[int, EndReason | None]:
    """Return how many frames the server handles, and why it ends the connection, if it does."""
    bad = 0
    for n, frame in enumerate(sent.values(), 1):
        if frame.answer == TOO_BIG:
            return n, EndReason.TOO_BIG
        bad = bad + 1 if frame.is_bad else 0
        if bad == BAD_FRAMES:
            return n, EndReason.ERROR_LIMIT
        if acks_between:
            bad = 0
    return len(sent), None


def check(exchange: Exchange) -> None:
    """Check the replies to all frames, and the end of the connection."""
    handled, reason = expected_end(exchange.sent, acks_between=exchange.acknowledging)
    answers: dict[Key | None, list[Frame]] = defaultdict(list)
    for frame in exchange.received:
        answers[frame.get("correlation_id")].append(frame)
    without_key: dict[str, int] = defaultdict(int)
    for n, (key, sent) in enumerate(exchange.sent.items()):
        if n >= handled:
            assert answers[key] == []
        elif sent.kind is None:
            without_key[str(sent.answer)] += 1
        else:
            check_answer(sent, answers[key], is_cut_off=reason is not None)
    if reason is EndReason.TOO_BIG:
        without_key["MESSAGE_TOO_LARGE"] += 1
        del without_key[TOO_BIG]
    elif reason is EndReason.ERROR_LIMIT:
        without_key["ERROR_LIMIT_EXCEEDED"] += 1
    codes = [f["payload"]["code"] for f in answers[None] if f["type"] == "error"]
    assert {code: codes.count(code) for code in codes} == without_key
    others = {f["type"] for f in answers[None] if f["type"] != "error"}
    assert others <= {"connection_established", "heartbeat"}
    expected = EndReason.PEER_CLOSED if reason is None else reason
    assert exchange.client.ended is expected
    assert exchange.close_code == expected.close_code
    numbers = [frame["seq"] for frame in exchange.received if "seq" in frame]
    assert numbers == list(range(1, len(numbers) + 1))
    if reason is None:
        assert kinds(answers["last"]) == ["pong"]


def check_answer(sent: SentFrame, answers: list[Frame], *, is_cut_off: bool) -> None:
    """Check the replies with the correlation id of a frame."""
    got = [f["payload"]["code"] if f["type"] == "error" else f["type"] for f in answers]
    if sent.answer in {None, STOPPED}:
        # The run may have ended before the stop. Otherwise the reply is the end of the run.
        assert got in ([], ["RUN_NOT_FOUND"]) if sent.answer == STOPPED else got == []
    elif sent.answer == RUN:
        check_run(answers, got, is_cut_off=is_cut_off)
    elif not got:
        assert is_cut_off
        assert sent.kind in {"auth", "get_thread_history"}  # background requests
    else:
        assert got == [sent.answer]
        if sent.answer == "pong":
            assert answers[0]["payload"] == (sent.payload or {})


def check_run(answers: list[Frame], got: list[str], *, is_cut_off: bool) -> None:
    """Check that a message was confirmed, and that its run has a start and one end."""
    if is_cut_off and (not got or got[-1] != "agent_completed"):
        assert "agent_completed" not in got
        return
    assert got[0] == "message_confirmed"
    assert got[-1] == "agent_completed"
    assert got.count("agent_completed") == 1
    assert got[1:-1] in ([], ["agent_started", *["partial_result"] * (len(got) - 3)])
    assert len({frame["payload"]["run_id"] for frame in answers}) == 1
    text = "".join(f["payload"]["content"] for f in answers if f["type"] == "partial_result")
    status = answers[-1]["payload"]["status"]
    assert (status, text) == ("completed", "ab") or status == "cancelled"


async def send_and_check(plan: list[SentFrame], *, acknowledging: bool) -> None:
    """Send frames over a connection, and check the replies and that no state is left."""
    before = trio.lowlevel.current_statistics().tasks_living
    store = ScriptedStore()
    options: dict[str, Any] = {"max_message_size": SIZE, "resume_window_ms": 0}
    async with open_server(agents={"emit_twice": emit_twice}, store=store, **options) as server:
        tasks = trio.lowlevel.current_statistics().tasks_living
        client = server.start(acknowledging=acknowledging, max_bytes=16 * SIZE)
        exchange = Exchange(client, acknowledging)
        exchange.received.append(await client.expect("connection_established"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.record)
            await exchange.send(plan)
            await wait_all_tasks_blocked()
            client.peer.close()
        await client.done.wait()
        await wait_all_tasks_blocked()
        statistics = server.node.statistics()
        assert (statistics["slots"], statistics["connections"], statistics["sessions"]) == (0, 0, 0)
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        check(exchange)
    assert set(store.ends) == set(store.recorded)
    assert set(store.ends.values()) <= {1}
    assert trio.lowlevel.current_statistics().tasks_living == before


@settings(max_examples=300, deadline=None)
@given(plan=st.lists(frames, max_size=25), acknowledging=st.booleans())
def test_any_sequence_of_frames_is_answered(plan: list[SentFrame], *, acknowledging: bool) -> None:
    async def run() -> None:
        await send_and_check(plan, acknowledging=acknowledging)

    with capture_logs() as logs:
        trio.run(run, clock=MockClock(autojump_threshold=0))
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


@settings(max_examples=30, deadline=None)
@given(plan=st.lists(nearly | bad_frames, min_size=4, max_size=8), acknowledging=st.booleans())
def test_any_sequence_of_bad_frames_ends_the_connection(
    plan: list[SentFrame], *, acknowledging: bool
) -> None:
    async def run() -> None:
        await send_and_check(plan, acknowledging=acknowledging)

    trio.run(run, clock=MockClock(autojump_threshold=0))
