"""The demo agent, executed as in a session: its rules, the order of events, and the pace."""

import re
from collections.abc import Sequence
from contextvars import copy_context
from itertools import pairwise
from typing import Any, TypeVar

import orjson
import pytest
import trio
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from support.kept_files import KeptFiles
from trio.testing import MockClock

from netra_trio.agents.demo.agent import (
    EXAMPLES,
    PACE,
    SLOW_SECONDS,
    THINKING,
    demo,
)
from netra_trio.agents.demo.calculator import calculate
from netra_trio.agents.demo.echo import echo
from netra_trio.agents.demo.quoting import QUOTE_CHARACTERS, quoted
from netra_trio.agents.execution import Ending, Execution, execute_runs
from netra_trio.agents.run import Agent, RunSpec
from netra_trio.broker.base import HistoryLimits
from netra_trio.broker.memory import MemoryBackend
from netra_trio.errors import StoreUnavailable
from netra_trio.ids import (
    CorrelationId,
    QuestionId,
    RunId,
    ThreadId,
    UserId,
    new_message_id,
    new_run_id,
)
from netra_trio.protocol.binary import BinaryEvent
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import (
    AgentStarted,
    AgentThinking,
    Event,
    HistoryMessage,
    PartialResult,
    RunStatus,
    ToolCompleted,
    ToolExecuting,
)
from netra_trio.rooms.publisher import Publisher
from netra_trio.stores.base import NewMessage, RunEnd, Store
from netra_trio.stores.memory import MemoryStore

T = TypeVar("T")
ANN, THREAD, CORRELATION = UserId("ann"), ThreadId("thread"), CorrelationId("corr")


@define
class Collector:
    """An outlet with unlimited room, which records each event with its time."""

    events: list[Event] = field(factory=list)
    times: list[float] = field(factory=list)

    def has_room(self, size: int) -> bool:
        assert size >= 0
        return True

    async def wait_for_room(self, size: int) -> None:
        raise AssertionError(f"there is room for {size} bytes")

    def append(self, event: Event | BinaryEvent, size: int, correlation_id: CorrelationId) -> None:
        assert size <= 256 * 1024
        assert not isinstance(event, BinaryEvent)
        assert correlation_id == CORRELATION
        self.events.append(event)
        self.times.append(trio.current_time())

    def append_now(self, event: Event, size: int, correlation_id: CorrelationId) -> None:
        raise AssertionError(f"the demo asks nothing: {event} {size} {correlation_id}")

    def show_question(self, run_id: RunId, question: JsonObject) -> None:
        raise AssertionError(f"the demo asks nothing: {run_id} {question}")

    def hide_question(self, run_id: RunId, question_id: QuestionId) -> None:
        raise AssertionError(f"the demo asks nothing: {run_id} {question_id}")

    def events_of(self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def text(self) -> str:
        return "".join(delta.content for delta in self.events_of(PartialResult))


def execution(
    content: str,
    outlet: Collector,
    store: Store | None = None,
    agent: Agent = demo,
    files: KeptFiles | None = None,
) -> Execution:
    message = NewMessage(
        user_id=ANN,
        thread_id=THREAD,
        message_id=new_message_id(),
        run_id=new_run_id(),
        agent_name="demo",
        correlation_id=CORRELATION,
        key=None,
        fingerprint=b"",
        content=content,
        created_at=0.0,
    )
    files = files or KeptFiles()
    spec = RunSpec(
        message,
        agent,
        permissions=frozenset(),
        input=None,
        timeout=300.0,
        files=tuple(file for file, _ in files.files.values()),
    )
    return Execution(
        spec,
        outlet,
        store or MemoryStore(),
        wall_clock=lambda: 0.0,
        publisher=Publisher(MemoryBackend().broker, HistoryLimits(), lambda: 0.0),
        files=files,
        context=copy_context(),
        open_questions={},
    )


@define
class OneRun:
    """A source of one run, which records its ending."""

    run: Execution | None
    endings: list[Ending] = field(factory=list)

    async def next(self) -> Execution | None:
        run, self.run = self.run, None
        return run

    def suspended(self) -> None:
        pass

    async def finish(self, execution: Execution, ending: Ending) -> None:
        assert execution.has_ended is False
        self.endings.append(ending)


async def execute(run: Execution) -> Ending:
    source = OneRun(run)
    await execute_runs(source)
    (ending,) = source.endings
    return ending


async def ask(
    content: str, store: Store | None = None, files: KeptFiles | None = None
) -> Collector:
    """Run the demo agent; check the properties that all its answers have."""
    outlet = Collector()
    ending = await execute(execution(content, outlet, store, files=files))
    assert ending.status is RunStatus.COMPLETED
    assert ending.result == orjson.dumps(outlet.text)
    assert [type(event) for event in outlet.events[:2]] == [AgentStarted, AgentThinking]
    thoughts = [
        (thought.step_number, thought.total_steps) for thought in outlet.events_of(AgentThinking)
    ]
    assert thoughts == [(1, 3), (2, 3), (3, 3)]
    check_markdown(outlet.text)
    return outlet


def check_markdown(text: str) -> None:
    """Check that each code span is closed, and that no other text is Markdown by accident."""
    outside = re.sub(r"(?<!`)(`+)(?!`)[^\n]+?(?<!`)\1(?!`)", "", text)
    assert not re.search(r"[`<>&\[\]\\]", outside)
    assert all(line.count("**") % 2 == 0 for line in outside.splitlines())
    assert text == text.lstrip()


async def record(store: Store, *, question: str, answer: str) -> None:
    run_id = new_run_id()
    await store.record(
        NewMessage(
            user_id=ANN,
            thread_id=THREAD,
            message_id=new_message_id(),
            run_id=run_id,
            agent_name="demo",
            correlation_id=CORRELATION,
            key=None,
            fingerprint=b"",
            content=question,
            created_at=0.0,
        )
    )
    await store.end_run(
        RunEnd(run_id, RunStatus.COMPLETED, new_message_id(), answer, False, 0.0, b"{}")
    )


# The rules.


async def test_a_calculation_uses_the_calculator(autojump_clock: MockClock) -> None:
    outlet = await ask("what is 12*(3+4)?")
    assert outlet.text == "`12*(3+4)` is **84**."
    assert [type(event) for event in outlet.events] == [
        AgentStarted,
        AgentThinking,
        AgentThinking,
        ToolExecuting,
        ToolCompleted,
        AgentThinking,
        PartialResult,
        PartialResult,
        PartialResult,
    ]
    assert shown(outlet.events_of(ToolExecuting)) == [("calculator", {"expression": "12*(3+4)"})]
    assert results(outlet) == ["84"]


def shown(tools: Sequence[ToolExecuting]) -> list[tuple[str, object]]:
    return [(tool.tool_name, orjson.loads(orjson.dumps(tool.arguments))) for tool in tools]


def results(outlet: Collector) -> list[object]:
    return [orjson.loads(orjson.dumps(tool.result)) for tool in outlet.events_of(ToolCompleted)]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("0.1+0.2", "`0.1+0.2` is **0.3**."),
        ("sqrt(16)", "`sqrt(16)` is **4**."),
        ("2^70", "`2^70` is **1180591620717411303424**."),
        (
            "-(9**999)",
            "`-(9**999)` is **-1942079168580724010…99074868783790048889** (954 digits).",
        ),
    ],
)
async def test_numbers_are_rounded_and_shortened(
    content: str, text: str, autojump_clock: MockClock
) -> None:
    outlet = await ask(content)
    assert outlet.text == text
    assert results(outlet) == [str(calculate(content))]


async def test_tools_are_called_concurrently(autojump_clock: MockClock) -> None:
    outlet = await ask("What time is it in New York and Tokyo, and what is 2^10?")
    tools = outlet.events_of(ToolExecuting)
    assert sorted(tool.tool_name for tool in tools) == ["calculator", "clock", "clock"]
    assert all(tool.duration_ms == THINKING * 1000 for tool in outlet.events_of(ToolCompleted))
    places = [n for n, event in enumerate(outlet.events) if isinstance(event, ToolExecuting)]
    assert places == [3, 4, 5], "all begin before one ends"
    assert re.fullmatch(
        r"- `2\^10` is \*\*1024\*\*\.\n"
        r"- The time in `New York` is \*\*[-0-9: ]{16}, America/New_York \(UTC-0[45]:00\)\*\*\.\n"
        r"- The time in `Tokyo` is \*\*[-0-9: ]{16}, Asia/Tokyo \(UTC\+09:00\)\*\*\.",
        outlet.text,
    )


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("1/0", "expected a divisor other than 0, got 0 at /"),
        ("calculate 9**9**9", "at most 4096 bits, got a larger one at **"),
        ("time in Tokio", "did you mean Asia/Tokyo?"),
        ("1" + "+1" * 200, "at most 200 characters, got 401"),
    ],
)
async def test_the_error_of_a_tool_is_in_the_answer(
    content: str, error: str, autojump_clock: MockClock
) -> None:
    outlet = await ask(content)
    (completed,) = outlet.events_of(ToolCompleted)
    assert not completed.success
    assert error in (completed.error or "")
    assert outlet.text.startswith("I am sorry, ")
    assert error in outlet.text


async def test_the_other_questions_are_answered_after_an_error(autojump_clock: MockClock) -> None:
    outlet = await ask("1 / 0; 1+1")
    assert sorted(tool.success for tool in outlet.events_of(ToolCompleted)) == [False, True]
    assert outlet.text.startswith("- I am sorry, `1 / 0` is beyond me")
    assert outlet.text.endswith("\n- `1+1` is **2**.")


async def test_the_history_is_quoted(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    for n in range(6):
        await record(store, question=f"*question* {n}\n" + n * "x", answer=f"answer {n}")
    outlet = await ask("what did I say?", store)
    assert outlet.text == (
        "Before this you said, oldest first:\n\n1. `*question* 1 x`\n2. `*question* 2 xx`\n"
        "3. `*question* 3 xxx`\n4. `*question* 4 xxxx`\n5. `*question* 5 xxxxx`\n"
    )


async def test_the_answer_without_a_history(autojump_clock: MockClock) -> None:
    assert "first message" in (await ask("history")).text


class UnavailableStore(MemoryStore):
    """A store that cannot answer."""

    async def history(self, *_: Any, **__: Any) -> tuple[Sequence[HistoryMessage], bool] | None:
        raise StoreUnavailable("down")


async def test_the_answer_while_the_store_is_unavailable(autojump_clock: MockClock) -> None:
    assert "ask again in a moment" in (await ask("history", UnavailableStore())).text


async def test_a_file_of_the_conversation(autojump_clock: MockClock) -> None:
    store, files = MemoryStore(), KeptFiles()
    await record(store, question="*Hello*", answer="Hi!")
    outlet = await ask("please make a file of it", store, files)
    assert outlet.text == "Here is what was said: 3 messages."
    [(file, content)] = files.files.values()
    assert (file.name, file.media_type, file.user_id) == ("conversation.md", "text/markdown", ANN)
    assert content.decode() == (
        "## You\n\n*Hello*\n\n## Demo\n\nHi!\n\n## You\n\nplease make a file of it\n"
    )


async def test_a_file_while_the_storage_is_unavailable(autojump_clock: MockClock) -> None:
    outlet = await ask("make a file", files=KeptFiles(is_down=True))
    assert "ask again in a moment" in outlet.text


PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\x0dIHDR" + b"\0\0\x01\x40" + b"\0\0\0\xf0" + b"..."


@pytest.mark.parametrize(
    ("data", "media_type", "text"),
    [
        (b"one\n\n*two*\nthree\nfour", "text/plain", "; it begins with `one`, `*two*`, `three`"),
        ("Grüße".encode(), "text/markdown", "; it begins with `Grüße`"),
        (b"x\xff", "application/json", "; it begins with `x\ufffd`"),
        (b" \n", "text/plain", ""),
        (b"", "text/plain", ""),
        (PNG, "image/png", ", 320 by 240 pixels"),
        (PNG[:23], "image/png", ""),
        (b"GIF" + PNG, "image/png", ""),
        (b"%PDF-", "application/pdf", ""),
    ],
)
async def test_a_file_is_described(
    data: bytes, media_type: str, text: str, autojump_clock: MockClock
) -> None:
    files = KeptFiles()
    files.put(data, "a `b`.txt", media_type, user=ANN)
    size = "1 byte" if len(data) == 1 else f"{len(data)} bytes"
    outlet = await ask("what is 1+1?", files=files)
    known = f"`` a `b`.txt ``, `{media_type}`, {size}"
    assert outlet.text == f"You sent 1 file:\n\n- {known}{text}\n"


async def test_files_that_cannot_be_read_are_named(autojump_clock: MockClock) -> None:
    files = KeptFiles(is_down=True)
    for name in ("a.txt", "b.txt"):
        files.put(b"x", name, user=ANN)
    outlet = await ask("look", files=files)
    assert outlet.text == "You sent 2 files:\n\n" + "".join(
        f"- `{name}`, `text/plain`, 1 byte; I cannot read it right now\n"
        for name in ("a.txt", "b.txt")
    )


@pytest.mark.parametrize("content", ["help", "Hello!", "  good morning", "hi", "can you HELP me?"])
async def test_the_answer_to_a_greeting(content: str, autojump_clock: MockClock) -> None:
    outlet = await ask(content)
    assert outlet.text.startswith("Hello! I am the demo agent")
    assert all(f"`{example}`" in outlet.text for example, _ in EXAMPLES)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("How are you", "You wrote `How are you`: 3 words, 11 characters."),
        ("x", "You wrote `x`: 1 word, 1 character."),
        ("", "You wrote nothing: 0 words, 0 characters."),
        ("a `b`\n\n# <c>", "You wrote `` a `b` # <c> ``: 4 words, 12 characters."),
        ("y" * 100_000, f"You wrote `{'y' * QUOTE_CHARACTERS}…`: 1 word, 100000 characters."),
        ("this, slowing down", "You wrote `this, slowing down`: 3 words, 18 characters."),
    ],
)
async def test_the_answer_to_other_messages(
    content: str, text: str, autojump_clock: MockClock
) -> None:
    outlet = await ask(content)
    assert outlet.text.startswith(text + "\n\n")
    assert all(f"`{example}`" in outlet.text for example, _ in EXAMPLES)


async def test_words_are_emitted_at_a_fixed_pace(autojump_clock: MockClock) -> None:
    outlet = await ask("How are you")
    deltas = outlet.events_of(PartialResult)
    assert all(len(delta.content.split()) == 1 for delta in deltas)
    times = outlet.times[-len(deltas) :]
    assert times[-1] - times[0] == pytest.approx(PACE * (len(deltas) - 1))


async def test_slow_mode_emits_a_line_each_second(autojump_clock: MockClock) -> None:
    outlet = await ask("Please count Slowly to 1+1")
    assert "**You can stop me at any time**" in outlet.text.partition("\n")[0]
    lines = [
        n for n, delta in enumerate(outlet.events_of(PartialResult)) if delta.content[:2] == "- "
    ]
    assert len(lines) == SLOW_SECONDS
    times = outlet.times[-len(outlet.events_of(PartialResult)) :]
    steps = {round(times[later] - times[n], 6) for n, later in pairwise(lines)}
    assert steps == {1.0}


async def test_slow_mode_can_be_stopped(autojump_clock: MockClock) -> None:
    outlet = Collector()
    run = execution("slow", outlet)
    endings: list[Ending] = []
    async with trio.open_nursery() as nursery:

        async def keep_ending() -> None:
            endings.append(await execute(run))

        nursery.start_soon(keep_ending)
        await trio.sleep(10)
        run.stop(RunStatus.CANCELLED)
    (ending,) = endings
    assert ending.status is RunStatus.CANCELLED
    assert 5 < outlet.text.count("\n- ") < 10


@pytest.mark.parametrize(("example", "effect"), EXAMPLES)
async def test_each_example_has_its_documented_effect(
    example: str, effect: str, autojump_clock: MockClock
) -> None:
    outlet = await ask(example)
    signs = {
        "calculator": "is **84**",
        "clock": "Asia/Tokyo",
        "history": "first message",
        "attach": "Here is what was said: 1 message.",
        "count": f"of {SLOW_SECONDS}",
    }
    (sign,) = (sign for word, sign in signs.items() if word in effect)
    assert sign in outlet.text


@given(st.text(alphabet=st.characters(categories=None)) | st.text(alphabet="`ab *_\n\\"))
def test_any_text_can_be_quoted(text: str) -> None:
    quotation = quoted(text)
    check_markdown(quotation)
    assert len(quotation) <= 3 * QUOTE_CHARACTERS + 5
    quotation.encode()


# The echo agent.


async def test_the_echo_agent(autojump_clock: MockClock) -> None:
    outlet = Collector()
    ending = await execute(execution("to and fro", outlet, agent=echo))
    assert ending.result == b'"to and fro"'
    assert [delta.content for delta in outlet.events_of(PartialResult)] == ["to and fro"]
