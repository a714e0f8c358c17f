"""What is told of runs to a client that comes back: their text, within a bound."""

import pytest

from netra_trio.ids import CorrelationId, RunId, ThreadId
from netra_trio.protocol.codec import Encoded
from netra_trio.protocol.messages import AgentCompleted, JsonObject, PartialResult, RunStatus
from netra_trio.sessions.event_log import Entry
from netra_trio.sessions.transcript import RUNS_BYTES, Transcript


def begun(*names: str) -> Transcript:
    transcript = Transcript()
    for name in names:
        transcript.begin(RunId(name), ThreadId(f"t-{name}"), CorrelationId(f"c-{name}"))
    return transcript


def said(run: str, text: str) -> list[Entry]:
    event = PartialResult(RunId(run), text)
    return [Entry(1, event, len(text.encode()), False, 0.0, None)]


def ended(run: str) -> list[Entry]:
    return [Entry(1, Encoded(AgentCompleted.TYPE, RunId(run), b"{}"), 2, True, 0.0, None)]


def told(transcript: Transcript) -> dict[str, JsonObject]:
    return {run["run_id"]: run for run in transcript.runs()}


def total(transcript: Transcript) -> int:
    return sum(len(run["content"].encode()) for run in transcript.runs())


def test_the_bound_is_the_contracts() -> None:
    assert RUNS_BYTES == 192 * 1024


def test_a_run_is_listed_until_its_end_is_known() -> None:
    transcript = begun("a")
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
    transcript.forget(said("a", "one ") + said("a", "two"))
    assert told(transcript)["a"]["status"] == "running"
    assert told(transcript)["a"]["content"] == "one two"
    transcript.note(RunId("a"), RunStatus.COMPLETED)
    assert told(transcript)["a"]["status"] == "completed"  # it ended, but nobody was told
    transcript.forget(ended("a"))
    assert transcript.runs() == ()


def test_runs_are_listed_in_their_order_and_apart() -> None:
    transcript = begun("a", "b", "c")
    transcript.forget(said("b", "B1") + said("a", "A1") + said("b", "B2"))
    transcript.drop(RunId("c"))
    assert [(run["run_id"], run["content"]) for run in transcript.runs()] == [
        ("a", "A1"),
        ("b", "B1B2"),
    ]


def test_what_is_unknown_is_ignored() -> None:
    transcript = begun()
    transcript.note(RunId("x"), RunStatus.RUNNING)
    transcript.drop(RunId("x"))
    transcript.forget(said("x", "text") + ended("x"))
    assert transcript.runs() == ()


def test_a_text_of_the_bound_is_whole_and_one_byte_beyond_is_cut_at_the_front() -> None:
    transcript = begun("a")
    transcript.forget(said("a", "x" * RUNS_BYTES))
    assert "truncated" not in told(transcript)["a"]
    assert total(transcript) == RUNS_BYTES
    transcript.forget(said("a", "y"))
    assert told(transcript)["a"]["truncated"] is True
    assert total(transcript) == RUNS_BYTES
    assert told(transcript)["a"]["content"].endswith("xy")


def test_the_longest_is_cut_and_the_short_ones_are_whole() -> None:
    transcript = begun("short", "long", "longer")
    transcript.forget(said("short", "s" * 1000))
    transcript.forget(said("long", "l" * RUNS_BYTES) + said("longer", "m" * RUNS_BYTES))
    runs = told(transcript)
    assert runs["short"]["content"] == "s" * 1000
    assert "truncated" not in runs["short"]
    for name in ("long", "longer"):
        assert runs[name]["truncated"] is True
        assert len(runs[name]["content"]) == (RUNS_BYTES - 1000) // 2
    assert total(transcript) <= RUNS_BYTES


@pytest.mark.parametrize("letter", ["é", "€", "😀"])
def test_a_cut_leaves_whole_characters(letter: str) -> None:
    transcript = begun("a", "b")
    for name in ("a", "b"):
        transcript.forget(said(name, "x" + letter * RUNS_BYTES))
    for run in transcript.runs():
        assert set(run["content"]) == {letter}
    assert RUNS_BYTES - 8 <= total(transcript) <= RUNS_BYTES


def test_a_long_run_stays_cut_and_takes_bounded_memory() -> None:
    transcript = begun("a")
    for number in range(2000):
        transcript.forget(said("a", f"{number:08}" * 128))
    run = told(transcript)["a"]
    assert run["truncated"] is True
    assert run["content"].endswith("00001999" * 128)
    assert total(transcript) <= RUNS_BYTES
    kept = sum(len(chunk) for chunk in transcript._told[RunId("a")].chunks)
    assert kept <= RUNS_BYTES + 64 * 1024 + 1024
