"""The copy of a log: what is decoded is what was encoded."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from netra_trio.ids import QuestionId, RunId, ThreadId, ToolCallId
from netra_trio.protocol.codec import Encoded, payload_of
from netra_trio.protocol.messages import (
    AgentAnswered,
    AgentAsking,
    AgentCompleted,
    AgentStarted,
    AgentThinking,
    Confirmation,
    MessageConfirmed,
    PartialResult,
    QuestionKind,
    QuestionOutcome,
    RunStatus,
    ToolCompleted,
    ToolExecuting,
)
from netra_trio.sessions.event_log import Entry
from netra_trio.sessions.log_copy import Base, decode, encode

CALL, QUESTION = ToolCallId("call"), QuestionId("q")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
runs = st.sampled_from([RunId("run_1"), RunId("run_2")])
keys = st.sampled_from(["key-1", "key-2", None])
json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
structured = st.one_of(
    st.builds(
        lambda run, text: MessageConfirmed(
            text, run, ThreadId("main"), Confirmation.QUEUED, position=1
        ),
        runs,
        texts,
    ),
    st.builds(lambda run: AgentStarted(run, "agent", ThreadId("main"), 1), runs),
    st.builds(lambda run, text: AgentThinking(run, text, 1, 2), runs, texts),
    st.builds(lambda run, value: ToolExecuting(run, CALL, "tool", {"x": value}), runs, json),
    st.builds(
        lambda run, value: ToolCompleted(run, CALL, "tool", True, 3, value, None, None),
        runs,
        json,
    ),
    st.builds(
        lambda run, text: AgentAsking(run, QUESTION, QuestionKind.QUESTION, text, 5.5),
        runs,
        texts,
    ),
    st.builds(
        lambda run, value: AgentAnswered(run, QUESTION, QuestionOutcome.ANSWERED, value),
        runs,
        json,
    ),
    st.builds(lambda run, value: AgentCompleted(run, RunStatus.COMPLETED, 7, value), runs, json),
)


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """Return entries with increasing numbers, some of them merged."""
    entries: list[Entry] = []
    seq = draw(st.integers(0, 5))
    for _ in range(draw(st.integers(0, 12))):
        first = seq + 1
        seq += draw(st.sampled_from([1, 1, 1, 4]))
        merged = seq > first
        if merged or draw(st.booleans()):
            text = draw(texts)
            event: object = PartialResult(draw(runs), text)
            size, reserved = len(text.encode()), False
        elif draw(st.booleans()):
            payload = orjson.dumps(payload_of(AgentCompleted(draw(runs), RunStatus.FAILED, 1)))
            event = Encoded(AgentCompleted.TYPE, RunId("run_1"), payload)
            size, reserved = len(payload), True
        else:
            event, size, reserved = draw(structured), draw(st.integers(0, 100)), draw(st.booleans())
        timestamp = draw(st.floats(1e9, 2e9))
        entries.append(
            Entry(seq, event, size, reserved, timestamp, draw(keys), first if merged else None)
        )
    return entries


def plain(entry: Entry) -> tuple[object, ...]:
    """Return what an entry has, with its event as a client gets it."""
    event = entry.event
    return (
        entry.seq,
        entry.seq_from,
        event.TYPE,
        event.run_id,
        event.content
        if isinstance(event, PartialResult)
        else orjson.loads(orjson.dumps(payload_of(event))),
        entry.size,
        entry.reserved,
        entry.timestamp,
        entry.correlation_id,
    )


@given(logs(), st.integers(0, 12))
def test_a_round_trip(entries: list[Entry], at: int) -> None:
    """In any number of batches, of which the first one has a base."""
    base = Base(entries[0].first - 1 if entries else 9, [{"run_id": "run_1", "content": "é"}])
    copy = decode([encode(entries[:at], base), encode(entries[at:])])
    assert [plain(entry) for entry in copy.entries] == [plain(entry) for entry in entries]
    assert copy.base == base
    assert copy.last == (entries[-1].seq if entries else 9)


@given(logs(), logs())
def test_a_base_replaces_everything(old: list[Entry], new: list[Entry]) -> None:
    copy = decode([encode(old, Base(0, ())), encode(new, Base(3, ()))])
    assert [plain(entry) for entry in copy.entries] == [plain(entry) for entry in new]
    assert copy.base == Base(3, [])


def test_no_copy_is_empty() -> None:
    copy = decode([])
    assert (copy.base, list(copy.entries), copy.last) == (Base(0, ()), [], 0)


def test_deltas_are_short() -> None:
    run, key = RunId("run_1a22ca8a4520002bc89bd5b28"), "key"
    entries = [Entry(n, PartialResult(run, "word "), 5, False, 1.5, key) for n in range(1, 101)]
    assert len(encode(entries)) < 100 * 25
