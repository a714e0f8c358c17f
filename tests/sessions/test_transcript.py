"""The runs that a resume lists: their texts, within a bound."""

from typing import Any

import pytest
from orjson import dumps, loads

from netra_trio.agents.steps import STEPS_BYTES, Steps
from netra_trio.ids import CorrelationId, QuestionId, RunId, ThreadId, ToolCallId
from netra_trio.protocol.codec import Encoded, payload_of
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import (
    AgentAsking,
    AgentCompleted,
    AgentThinking,
    Event,
    PartialResult,
    QuestionKind,
    RunStatus,
    ToolCompleted,
    ToolExecuting,
)
from netra_trio.sessions.event_log import Entry
from netra_trio.sessions.transcript import (
    ALL_STEPS_BYTES,
    QUESTIONS_BYTES,
    RUNS_BYTES,
    QuestionList,
    Transcript,
)


def transcript_of(*names: str) -> Transcript:
    transcript = Transcript()
    for name in names:
        transcript.begin(RunId(name), ThreadId(f"t-{name}"), CorrelationId(f"c-{name}"))
    return transcript


def delta(run: str, text: str) -> list[Entry]:
    event = PartialResult(RunId(run), text)
    return [Entry(1, event, len(text.encode()), False, 0.0, None)]


def ended(run: str) -> list[Entry]:
    return [Entry(1, Encoded(AgentCompleted.TYPE, RunId(run), b"{}"), 2, True, 0.0, None)]


def runs_by_id(transcript: Transcript) -> dict[str, JsonObject]:
    return {run["run_id"]: run for run in transcript.runs()}


def total_bytes(transcript: Transcript) -> int:
    return sum(len(run["content"].encode()) for run in transcript.runs())


def test_the_texts_have_at_most_192_kib() -> None:
    assert RUNS_BYTES == 192 * 1024


def test_a_run_is_listed_until_its_end_is_removed_from_the_log() -> None:
    transcript = transcript_of("a")
    assert transcript.runs() == (
        {
            "run_id": "a",
            "thread_id": "t-a",
            "correlation_id": "c-a",
            "status": "queued",
            "content": "",
        },
    )
    transcript.note(RunId("a"), RunStatus.RUNNING)
    transcript.add_removed(delta("a", "one ") + delta("a", "two"))
    assert runs_by_id(transcript)["a"]["status"] == "running"
    assert runs_by_id(transcript)["a"]["content"] == "one two"
    transcript.note(RunId("a"), RunStatus.COMPLETED)
    assert runs_by_id(transcript)["a"]["status"] == "completed"  # its end is still in the log
    transcript.add_removed(ended("a"))
    assert transcript.runs() == ()


def test_runs_are_listed_in_order_with_their_own_texts() -> None:
    transcript = transcript_of("a", "b")
    transcript.add_removed(delta("b", "B1") + delta("a", "A1") + delta("b", "B2"))
    assert [(run["run_id"], run["content"]) for run in transcript.runs()] == [
        ("a", "A1"),
        ("b", "B1B2"),
    ]


def test_an_unknown_run_is_ignored() -> None:
    transcript = transcript_of()
    transcript.note(RunId("x"), RunStatus.RUNNING)
    transcript.add_removed(delta("x", "text") + ended("x"))
    assert transcript.runs() == ()


def test_a_text_at_the_bound_is_complete_and_one_byte_more_is_cut_at_the_front() -> None:
    transcript = transcript_of("a")
    transcript.add_removed(delta("a", "x" * RUNS_BYTES))
    assert "truncated" not in runs_by_id(transcript)["a"]
    assert total_bytes(transcript) == RUNS_BYTES
    transcript.add_removed(delta("a", "y"))
    assert runs_by_id(transcript)["a"]["truncated"] is True
    assert total_bytes(transcript) == RUNS_BYTES
    assert runs_by_id(transcript)["a"]["content"].endswith("xy")


def test_long_texts_are_cut_and_short_texts_are_complete() -> None:
    transcript = transcript_of("short", "long", "longer")
    transcript.add_removed(delta("short", "s" * 1000))
    transcript.add_removed(delta("long", "l" * RUNS_BYTES) + delta("longer", "m" * RUNS_BYTES))
    runs = runs_by_id(transcript)
    assert runs["short"]["content"] == "s" * 1000
    assert "truncated" not in runs["short"]
    for name in ("long", "longer"):
        assert runs[name]["truncated"] is True
        assert len(runs[name]["content"]) == (RUNS_BYTES - 1000) // 2
    assert total_bytes(transcript) <= RUNS_BYTES


@pytest.mark.parametrize("letter", ["é", "€", "😀"])
def test_a_text_is_cut_between_characters(letter: str) -> None:
    transcript = transcript_of("a", "b")
    for name in ("a", "b"):
        transcript.add_removed(delta(name, "x" + letter * RUNS_BYTES))
    for run in transcript.runs():
        assert set(run["content"]) == {letter}
    assert RUNS_BYTES - 8 <= total_bytes(transcript) <= RUNS_BYTES


def test_a_long_run_uses_bounded_memory() -> None:
    transcript = transcript_of("a")
    for number in range(2000):
        transcript.add_removed(delta("a", f"{number:08}" * 128))
    run = runs_by_id(transcript)["a"]
    assert run["truncated"] is True
    assert run["content"].endswith("00001999" * 128)
    assert total_bytes(transcript) <= RUNS_BYTES
    kept = len(transcript._runs[RunId("a")].text.text)
    assert kept <= RUNS_BYTES + 64 * 1024 + 1024


def test_a_text_that_another_node_has_gone_on_with_is_marked() -> None:
    transcript = transcript_of("a", "b")
    transcript.add_removed(delta("a", "text"))
    transcript.mark_cut([RunId("a")])
    runs = runs_by_id(transcript)
    assert (runs["a"]["content"], runs["a"]["truncated"]) == ("text", True)
    assert "truncated" not in runs["b"]


RUN = RunId("a")
CALL = ToolCallId("c1")


def entry(event: Any) -> list[Entry]:
    return [Entry(1, event, 1, False, 0.0, None)]


def encoded(event: Event) -> list[Entry]:
    """Return the entry as the copy of another node's log has it."""
    payload = dumps(payload_of(event))
    return entry(Encoded(event.TYPE, RUN, payload))


STORY: list[Event] = [
    AgentThinking(RUN, "first", 1, 2),
    PartialResult(RUN, "Hi 😀"),
    ToolExecuting(RUN, CALL, "look", {"n": 1}),
    AgentAsking(RUN, QuestionId("q1"), QuestionKind.QUESTION, "Which?", 9.0),
    PartialResult(RUN, " there"),
    ToolCompleted(RUN, CALL, "look", True, 7, [1]),
]


@pytest.mark.parametrize("cut", range(len(STORY) + 1))
@pytest.mark.parametrize("moves", [False, True])
def test_a_run_is_listed_with_the_steps_that_left_the_log(cut: int, moves: bool) -> None:
    expected, at = Steps(), 0
    transcript = transcript_of("a")
    for event in STORY[:cut]:
        if isinstance(event, PartialResult):
            at += len(event.content)
            transcript.add_removed(entry(event))
        else:
            expected.note(event, at)
            transcript.add_removed(encoded(event) if moves else entry(event))
        if moves:
            copy = transcript.dump()
            transcript = Transcript()
            transcript.load(loads(dumps(copy)))
    steps = loads(expected.encode())
    assert runs_by_id(transcript)["a"].get("steps", []) == steps
    assert ("steps" in runs_by_id(transcript)["a"]) == (cut > 0)


def test_the_places_of_steps_are_in_the_text_that_is_left() -> None:
    transcript = transcript_of("a")
    transcript.add_removed(entry(AgentThinking(RUN, "early")))
    transcript.add_removed(delta("a", "x" * (2 * RUNS_BYTES)))
    transcript.add_removed(entry(AgentThinking(RUN, "late")) + delta("a", "end"))
    run = runs_by_id(transcript)["a"]
    assert [step["at"] for step in run["steps"]] == [0, len(run["content"]) - 3]


def test_all_steps_have_at_most_64_kib_together() -> None:
    names = [f"r{number}" for number in range(5)]
    transcript = transcript_of(*names)
    for name in names:
        long = ToolExecuting(RunId(name), CALL, "look", "x" * STEPS_BYTES)
        transcript.add_removed(entry(long))
    listed = [len(dumps(run["steps"])) for run in transcript.runs() if "steps" in run]
    assert len(listed) == 4
    assert ALL_STEPS_BYTES - 200 < sum(listed) <= ALL_STEPS_BYTES


def test_steps_that_do_not_fit_leave_their_place_to_those_of_other_runs() -> None:
    names = [f"r{number}" for number in range(5)]
    transcript = transcript_of(*names, "last")
    for name, size in zip(names, [STEPS_BYTES] * 3 + [STEPS_BYTES - 500, STEPS_BYTES], strict=True):
        transcript.add_removed(entry(ToolExecuting(RunId(name), CALL, "look", "x" * size)))
    transcript.add_removed(entry(AgentThinking(RunId("last"), "short")))
    listed = runs_by_id(transcript)
    assert [name for name in (*names, "last") if "steps" not in listed[name]] == ["r4"]


def test_a_question_that_does_not_fit_leaves_its_place_to_later_ones() -> None:
    long, short = (
        {"question_id": prompt[:1], "kind": "question", "expires_at": 9.0, "prompt": prompt}
        for prompt in ("x" * QUESTIONS_BYTES, "y")
    )
    shortened = {name: long[name] for name in ("question_id", "kind", "expires_at")}
    listed = QuestionList().fit([long, short])
    assert listed == [{**shortened, "truncated": True}, short]


def test_steps_of_an_unknown_run_are_ignored() -> None:
    transcript = Transcript()
    transcript.add_removed(entry(AgentThinking(RUN, "x")))
    assert transcript.runs() == ()
