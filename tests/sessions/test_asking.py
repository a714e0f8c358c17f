"""Questions and approvals: one end each, by an answer, by expiry, or with the run."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from support.memory import EPOCH, Client, Frame, Server, kinds, open_server
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.questions import (
    ANSWER_BYTES,
    ARGUMENTS_BYTES,
    EXPIRES_MAX,
    OPEN_QUESTIONS,
    PROMPT_BYTES,
    RUN_QUESTIONS,
    SCHEMA_BYTES,
)
from netra_trio.agents.run import Agent, Run
from netra_trio.errors import QuestionExpired, StoreUnavailable, ToolDenied
from netra_trio.ids import UserId
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.questions import NewQuestion

NO_HEARTBEAT: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}


async def ask_for_color(run: Run) -> Any:
    return await run.ask("Which color?", {"type": "string", "enum": ["red", "blue"]})


async def delete_file(run: Run) -> str:
    try:
        async with run.tool("delete", approve=True, path=run.content) as tool:
            tool.result = "gone"
    except ToolDenied as denied:
        return f"not deleted: {denied.tool} {denied.outcome}"
    return "deleted"


@asynccontextmanager
async def asking(agent: Agent, **settings: Any) -> AsyncIterator[tuple[Server, Client, Frame]]:
    """Start a run of an agent, and yield the payload of its first question."""
    async with (
        open_server(agents={"agent": agent}, **NO_HEARTBEAT, **settings) as server,
        server.connect() as client,
    ):
        await client.say("x", "k", thread_id="main")
        frames = await client.until("agent_asking")
        yield server, client, frames[-1]["payload"]


async def answer(client: Client, question: Frame, **payload: Any) -> None:
    await client.send("answer", {"question_id": question["question_id"], **payload}, "a-1")


async def rejection(client: Client) -> str:
    frame = await client.expect("error")
    assert frame["correlation_id"] == "a-1"
    assert frame["payload"]["code"] == "ANSWER_REJECTED"
    assert frame["payload"]["recoverable"] is True
    return str(frame["payload"]["error"])


async def ended(client: Client, question: Frame) -> Frame:
    """Return how the question was closed; check that the run ends right after that."""
    frames = await client.until("agent_completed")
    (closed,) = [frame for frame in frames if frame["type"] == "agent_answered"]
    assert closed["payload"]["question_id"] == question["question_id"]
    assert closed["payload"]["run_id"] == question["run_id"]
    payload: Frame = closed["payload"]
    return {**payload, "end": frames[-1]["payload"]}


# Questions.


async def test_a_question_is_answered(autojump_clock: MockClock) -> None:
    async with asking(ask_for_color) as (_, client, question):
        assert question == {
            "run_id": question["run_id"],
            "question_id": question["question_id"],
            "kind": "question",
            "prompt": "Which color?",
            "schema": {"type": "string", "enum": ["red", "blue"]},
            "expires_at": EPOCH + trio.current_time() + 300,
        }
        await answer(client, question, answer="blue")
        frame = await client.expect("agent_answered")
        assert frame["correlation_id"] == "k"  # of the run, as in all its events
        assert frame["payload"] == {
            "run_id": question["run_id"],
            "question_id": question["question_id"],
            "outcome": "answered",
            "answer": "blue",
            "user_id": "alice",
        }
        end = (await client.expect("agent_completed"))["payload"]
        assert (end["status"], end["result"]) == ("completed", "blue")


@pytest.mark.parametrize("value", [0, False, "", [], {}, {"a": [None]}, 1.5, "é"])
async def test_without_a_schema_any_answer_fits(autojump_clock: MockClock, value: Any) -> None:
    async def agent(run: Run) -> dict[str, Any]:
        return {"got": await run.ask("Well?")}

    async with asking(agent) as (_, client, question):
        assert "schema" not in question
        await answer(client, question, answer=value)
        assert (await ended(client, question))["end"]["result"] == {"got": value}


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"answer": "green"}, '$.payload.answer: "green" is not one of "red" or "blue"'),
        ({"answer": 5}, '$.payload.answer: 5 is not of type "string"'),
        ({"approve": True}, "$.payload.answer: a question takes this, and no approval"),
        ({"answer": "red", "approve": True}, "a question takes this"),
        ({}, "$.payload.answer: a question takes this"),
    ],
)
async def test_an_answer_that_does_not_fit_leaves_the_question_open(
    autojump_clock: MockClock, payload: Frame, text: str
) -> None:
    async with asking(ask_for_color) as (_, client, question):
        await answer(client, question, **payload)
        assert text in await rejection(client)
        await answer(client, question, answer="red")
        assert (await ended(client, question))["outcome"] == "answered"


async def test_the_error_names_the_path_in_the_answer(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> Any:
        return await run.ask("When?", {"properties": {"day": {"type": "integer"}}})

    async with asking(agent) as (_, client, question):
        await answer(client, question, answer={"day": "x" * 1000})
        text = await rejection(client)
        assert text.startswith('$.payload.answer.day: "xxx')
        assert len(text) < 300


async def test_the_size_of_an_answer_is_limited(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> int:
        return len(await run.ask("Well?"))

    async with asking(agent, max_message_size=100_000) as (_, client, question):
        await answer(client, question, answer="x" * (ANSWER_BYTES - 1))  # 2 for the quotes
        assert str(ANSWER_BYTES) in await rejection(client)
        await answer(client, question, answer="x" * (ANSWER_BYTES - 2))
        assert (await ended(client, question))["end"]["result"] == ANSWER_BYTES - 2


async def test_a_pattern_takes_linear_time(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> Any:
        return await run.ask("Well?", {"type": "string", "pattern": "^(a+)+$"})

    async with asking(agent) as (_, client, question):
        # With backtracking this would take longer than the sun will exist.
        await answer(client, question, answer="a" * 5000 + "!")
        assert (await rejection(client)).startswith('$.payload.answer: "aaaa')
        await answer(client, question, answer="aaa")
        assert (await ended(client, question))["outcome"] == "answered"


async def test_a_question_expires(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> str:
        with pytest.raises(QuestionExpired, match="no answer within 20 s"):
            await run.ask("Well?", expires=20)
        return "went on"

    async with asking(agent) as (_, client, question):
        start = trio.current_time()
        closed = await ended(client, question)
        assert trio.current_time() - start == pytest.approx(20)
        assert closed["outcome"] == "expired"
        assert "user_id" not in closed
        assert closed["end"]["result"] == "went on"
        await answer(client, question, answer="late")
        assert await rejection(client) == "The question is closed: expired."


# Approvals.


async def test_a_tool_call_is_approved(autojump_clock: MockClock) -> None:
    async with asking(delete_file) as (_, client, question):
        assert question == {
            "run_id": question["run_id"],
            "question_id": question["question_id"],
            "kind": "approval",
            "prompt": "Allow the call of delete?",
            "tool_name": "delete",
            "arguments": {"path": "x"},
            "expires_at": EPOCH + trio.current_time() + 300,
        }
        await answer(client, question, approve=True)
        frames = await client.until("agent_completed")
        assert kinds(frames) == [
            "agent_answered",
            "tool_executing",
            "tool_completed",
            "agent_completed",
        ]
        assert frames[0]["payload"]["outcome"] == "approved"
        assert frames[-1]["payload"]["result"] == "deleted"


async def test_a_denied_tool_call_is_not_executed(autojump_clock: MockClock) -> None:
    async with asking(delete_file) as (_, client, question):
        await answer(client, question, approve=False)
        frames = await client.until("agent_completed")
        assert kinds(frames) == ["agent_answered", "agent_completed"]
        assert frames[0]["payload"]["outcome"] == "denied"
        assert frames[0]["payload"]["user_id"] == "alice"
        assert frames[-1]["payload"]["result"] == "not deleted: delete denied"


async def test_an_expired_approval_denies(autojump_clock: MockClock) -> None:
    async with asking(delete_file) as (_, client, question):
        closed = await ended(client, question)
        assert closed["outcome"] == "expired"
        assert closed["end"]["result"] == "not deleted: delete expired"


async def test_an_approval_takes_no_answer(autojump_clock: MockClock) -> None:
    async with asking(delete_file) as (_, client, question):
        for payload in ({"answer": True}, {}, {"answer": 1, "approve": True}):
            await answer(client, question, **payload)
            assert "an approval takes this, and no answer" in await rejection(client)


async def test_an_approval_is_for_the_arguments_that_were_shown(autojump_clock: MockClock) -> None:
    paths = ["a"]
    entered = False

    async def agent(run: Run) -> str:
        nonlocal entered
        with pytest.raises(ToolDenied) as caught:
            async with run.tool("delete", approve=True, paths=paths):
                entered = True
        return caught.value.outcome

    async with asking(agent) as (_, client, question):
        paths.append("b")
        await answer(client, question, approve=True)
        assert (await ended(client, question))["end"]["result"] == "changed"
    assert not entered


async def test_an_approval_is_for_one_call(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        for _ in range(2):
            async with run.tool("delete", approve=True, path="x"):
                pass

    async with asking(agent) as (_, client, first):
        await answer(client, first, approve=True)
        frames = await client.until("agent_asking")
        second = frames[-1]["payload"]
        await answer(client, first, approve=True)  # the answer is sent again
        assert await rejection(client) == "The question is closed: approved."
        await answer(client, second, approve=False)
        assert (await ended(client, second))["outcome"] == "denied"


async def test_arguments_to_approve_are_shown_completely(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        with pytest.raises(ValueError, match=str(ARGUMENTS_BYTES)):
            async with run.tool("save", approve=True, text="x" * (ARGUMENTS_BYTES - 10)):
                pass
        async with run.tool("save", approve=True, text="x" * (ARGUMENTS_BYTES - 11)):
            pass

    async with asking(agent) as (_, client, question):
        assert len(question["arguments"]["text"]) == ARGUMENTS_BYTES - 11
        await answer(client, question, approve=True)
        assert (await ended(client, question))["end"]["status"] == "completed"


# One end.


async def test_the_first_answer_decides(autojump_clock: MockClock) -> None:
    async with (
        asking(delete_file) as (server, client, question),
        server.connect() as other,
    ):
        await answer(other, question, approve=False)
        await answer(client, question, approve=True)
        frame = await other.expect("agent_answered")
        assert frame["correlation_id"] == "a-1"  # of the answer: the run is of another session
        assert frame["payload"]["outcome"] == "denied"
        frames = await client.until("error")
        frames += await client.until("agent_completed") if len(frames) == 1 else []
        outcomes = [f["payload"]["outcome"] for f in frames if f["type"] == "agent_answered"]
        assert outcomes == ["denied"]


async def test_a_question_of_another_user_does_not_exist(autojump_clock: MockClock) -> None:
    async with (
        asking(ask_for_color) as (server, client, question),
        server.connect("bob") as bob,
    ):
        await answer(bob, question, answer="red")
        assert await rejection(bob) == "There is no open question of that id."
        await answer(client, question, answer="red")
        assert (await ended(client, question))["user_id"] == "alice"


async def test_an_unknown_question_is_rejected(autojump_clock: MockClock) -> None:
    async with open_server(**NO_HEARTBEAT) as server, server.connect() as client:
        await client.send("answer", {"question_id": "q_1", "answer": 1}, "a-1")
        assert await rejection(client) == "There is no open question of that id."


async def test_a_stop_closes_the_question_before_the_run(autojump_clock: MockClock) -> None:
    async with asking(ask_for_color) as (_, client, question):
        await client.send("stop_agent", {"run_id": question["run_id"]})
        frames = await client.until("agent_completed")
        assert kinds(frames) == ["agent_answered", "agent_completed"]
        assert frames[0]["payload"]["outcome"] == "cancelled"
        assert frames[1]["payload"]["status"] == "cancelled"
        await answer(client, question, answer="red")
        assert await rejection(client) == "The question is closed: cancelled."


async def test_a_question_ends_with_its_run_also_if_the_agent_ignores_that(
    autojump_clock: MockClock,
) -> None:
    async def agent(run: Run) -> None:
        with trio.CancelScope(shield=True):
            await run.ask("Well?")

    async with asking(agent) as (_, client, question):
        await client.send("stop_agent", {"run_id": question["run_id"]})
        frames = await client.until("agent_completed")
        assert kinds(frames) == ["agent_answered", "agent_completed"]
        assert frames[0]["payload"]["outcome"] == "cancelled"
        assert frames[1]["payload"]["abandoned"] is True
        await answer(client, question, answer="red")
        assert await rejection(client) == "The question is closed: cancelled."


async def test_an_agent_gives_a_question_up(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> str:
        with trio.move_on_after(5):
            await run.ask("Well?")
        return "given up"

    async with asking(agent) as (_, client, question):
        closed = await ended(client, question)
        assert closed["outcome"] == "cancelled"
        assert closed["end"]["result"] == "given up"
        await answer(client, question, answer="red")
        assert await rejection(client) == "The question is closed: cancelled."


async def test_a_drain_ends_the_question_with_its_run(autojump_clock: MockClock) -> None:
    async with asking(ask_for_color, drain_timeout_ms=4000) as (server, client, _question):
        server.nursery.start_soon(server.node.drain)
        frames, _ = await client.rest()
        events = [frame for frame in frames if "seq" in frame]
        assert kinds(events) == ["agent_answered", "agent_completed"]
        assert events[0]["payload"]["outcome"] == "cancelled"
        assert events[1]["payload"]["status"] == "interrupted"


# The deadline and the window.


async def test_the_deadline_stands_still_while_a_question_is_open(
    autojump_clock: MockClock,
) -> None:
    async def agent(run: Run) -> None:
        await trio.sleep(8)
        await run.ask("Well?", expires=3600)
        assert run.deadline - trio.current_time() == pytest.approx(2)
        await trio.sleep_forever()

    async with asking(agent, agent_timeout_ms=10_000) as (_, client, question):
        await trio.sleep(3000)
        await answer(client, question, answer=1)
        answered = trio.current_time()
        closed = await ended(client, question)
        assert closed["end"]["status"] == "timed_out"
        assert trio.current_time() - answered == pytest.approx(2)


async def test_the_deadline_stands_still_until_the_last_question_is_closed(
    autojump_clock: MockClock,
) -> None:
    async def agent(run: Run) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.ask, "one", None, 20.0)
            await run.ask("two", expires=100)
        await trio.sleep_forever()

    async def ask_and_wait(run: Run) -> None:
        with pytest.raises(ExceptionGroup):
            await agent(run)
        assert run.deadline - trio.current_time() == pytest.approx(10)

    async with asking(ask_and_wait, agent_timeout_ms=10_000) as (_, client, _question):
        frames = await client.until("agent_completed")
        assert frames[-1]["payload"]["status"] == "completed"


async def test_an_open_question_does_not_extend_the_window(autojump_clock: MockClock) -> None:
    statuses: list[str] = []

    async def agent(run: Run) -> None:
        try:
            await run.ask("Well?", expires=EXPIRES_MAX)
        finally:
            statuses.append("ended")

    async with asking(agent, resume_window_ms=60_000) as (_, client, _question):
        client.peer.cut()
        await client.done.wait()
        await trio.sleep(59)
        assert not statuses
        await trio.sleep(5)
        assert statuses == ["ended"]


async def test_the_deadline_goes_on_once_the_question_is_closed(autojump_clock: MockClock) -> None:
    """An acknowledging client that acknowledges nothing leaves no room for the end."""

    async def agent(run: Run) -> None:
        for number in range(6):
            await run.think(f"thought {number}")
        with pytest.raises(QuestionExpired):
            await run.ask("Well?", expires=100)

    async with (
        open_server(
            agents={"agent": agent}, replay_events=8, agent_timeout_ms=10_000, **NO_HEARTBEAT
        ) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say("x")
        await client.until("agent_asking")
        start = trio.current_time()
        frames = await client.until("agent_completed")
        assert frames[-1]["payload"]["status"] == "timed_out"
        assert trio.current_time() - start == pytest.approx(110)
        assert frames[-2]["payload"]["outcome"] == "expired"


async def test_a_question_does_not_undo_a_deadline_that_has_passed(
    autojump_clock: MockClock,
) -> None:
    async def agent(run: Run) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await run.ask("Well?")

    async with asking(agent, agent_timeout_ms=10_000) as (_, client, _question):
        asked = trio.current_time()
        frames = await client.until("agent_completed")
        assert kinds(frames) == ["agent_answered", "agent_completed"]
        assert frames[1]["payload"]["status"] == "timed_out"
        assert frames[1]["payload"]["abandoned"] is True
        assert trio.current_time() - asked < 15


async def test_a_run_that_has_ended_asks_nothing(autojump_clock: MockClock) -> None:
    errors: list[type[BaseException]] = []

    async def agent(run: Run) -> None:
        with trio.CancelScope(shield=True):
            for _ in range(2):
                try:
                    await run.ask("Well?")
                except BaseException as error:
                    errors.append(type(error))

    async with asking(agent) as (_, client, question):
        await client.send("stop_agent", {"run_id": question["run_id"]})
        await client.until("agent_completed")
        await trio.sleep(400)
        assert errors == [trio.ClosedResourceError, trio.ClosedResourceError]


async def test_the_copy_for_another_session_needs_no_room(autojump_clock: MockClock) -> None:
    async def busy(run: Run) -> None:
        for number in range(20):
            await run.think(f"thought {number}")

    async with (
        open_server(
            agents={"agent": ask_for_color, "busy": busy}, replay_events=8, **NO_HEARTBEAT
        ) as server,
        server.connect() as client,
        server.connect(acknowledging=True) as other,
    ):
        await other.say("x", agent="busy")
        await other.until("agent_thinking")
        await client.say("x")
        question = (await client.until("agent_asking"))[-1]["payload"]
        await answer(other, question, answer="red")
        assert (await other.until("agent_answered"))[-1]["correlation_id"] == "a-1"


# Resuming, and history.


@pytest.mark.parametrize("acknowledging", [False, True])
async def test_a_resume_shows_the_question_as_it_stands(
    autojump_clock: MockClock, acknowledging: bool
) -> None:
    async with (
        open_server(agents={"agent": ask_for_color}, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=acknowledging) as client,
    ):
        session_id = client.hello["payload"]["session_id"]
        await client.say("x", "k", thread_id="main")
        frames = await client.until("agent_asking")
        question = frames[-1]["payload"]
        client.peer.cut()
        await client.done.wait()
        options: dict[str, Any] = {"session_id": session_id, "acknowledging": acknowledging}
        async with server.connect(last_seq=frames[-1]["seq"], **options) as again:
            (run,) = again.hello["payload"]["resume"]["runs"]
            assert run["questions"] == [{k: v for k, v in question.items() if k != "run_id"}]
            await answer(again, question, answer="red")
            last = await again.until("agent_completed")
            assert kinds(last) == ["agent_answered", "agent_completed"]
            again.peer.cut()
            await again.done.wait()
            async with server.connect(last_seq=frames[-1]["seq"], **options) as third:
                runs = third.hello["payload"]["resume"]["runs"]
                assert [run.get("questions") for run in runs] == [None]
                assert kinds(await third.until("agent_completed")) == kinds(last)


async def test_the_questions_of_a_resume_have_a_limit(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        async with trio.open_nursery() as nursery:
            for letter in "abc":
                nursery.start_soon(save, run, letter)

    async def save(run: Run, letter: str) -> None:
        async with run.tool("save", approve=True, text=letter * 30_000):
            pass

    async with open_server(agents={"agent": agent}, **NO_HEARTBEAT) as server:
        async with server.connect() as client:
            await client.say("x", "k")
            for _ in range(3):
                await client.until("agent_asking")
            client.peer.cut()
            await client.done.wait()
        session_id = client.hello["payload"]["session_id"]
        async with server.connect(session_id=session_id, last_seq=5) as again:
            questions = again.hello["payload"]["resume"]["runs"][0]["questions"]
            assert [question.get("truncated", False) for question in questions] == [
                False,
                False,
                True,
            ]
            assert set(questions[2]) == {"question_id", "kind", "expires_at", "truncated"}


async def history(client: Client) -> Frame:
    """Return the run of the first message of the thread, in its history."""
    await client.send("get_thread_history", {"thread_id": "main"})
    frame = (await client.until("thread_history"))[-1]
    run: Frame = frame["payload"]["messages"][0]["run"]
    return run


async def test_history_shows_questions_in_full(autojump_clock: MockClock) -> None:
    async with asking(ask_for_color) as (_, client, question):
        shown = {name: value for name, value in question.items() if name != "run_id"}
        assert (await history(client))["questions"] == [shown]
        await answer(client, question, answer="red")
        await client.until("agent_completed")
        (closed,) = (await history(client))["questions"]
        assert closed == {**shown, "outcome": "answered", "answer": "red", "user_id": "alice"}


async def test_history_shows_the_question_of_a_stopped_run_as_cancelled(
    autojump_clock: MockClock,
) -> None:
    async with asking(ask_for_color) as (_, client, question):
        await client.send("stop_agent", {"run_id": question["run_id"]})
        await client.until("agent_completed")
        (closed,) = (await history(client))["questions"]
        assert closed["outcome"] == "cancelled"


# What an agent may ask.


def doubling(levels: int) -> Frame:
    """Return a schema that is twice as large for each level, with its references replaced."""
    parts: Frame = {
        f"a{level}": {"allOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(levels)
    }
    return {"$defs": {**parts, f"a{levels}": {"type": "string"}}, "$ref": "#/$defs/a0"}


async def test_a_schema_may_refer_to_its_parts(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> Any:
        return await run.ask("Well?", doubling(6))

    async with asking(agent) as (_, client, question):
        await answer(client, question, answer=1)
        assert await rejection(client) == '$.payload.answer: 1 is not of type "string"'
        await answer(client, question, answer="red")
        assert (await ended(client, question))["outcome"] == "answered"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((5,), TypeError, "a prompt is a str, got int"),
        (("x" * (PROMPT_BYTES + 1),), ValueError, "a prompt has at most 8192 bytes"),
        (("x", []), TypeError, "a schema is a dict, got list"),
        (("x", {"type": "colour"}), ValueError, 'not a valid JSON Schema: "colour"'),
        (("x", {"$ref": "http://127.0.0.1:9/x"}), ValueError, "not http://127.0.0.1:9/x"),
        (("x", {"$ref": "file:///etc/passwd"}), ValueError, "not file:///etc/passwd"),
        (("x", {"$ref": "#/$defs/none"}), ValueError, "has no part #/\\$defs/none"),
        (("x", {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}), ValueError, "itself"),
        (("x", {"$dynamicRef": "#a"}), ValueError, "no .dynamicRef"),
        (("x", doubling(11)), ValueError, "at most 2000 parts"),
        (("x", {"pattern": "(?=a)a"}), ValueError, "is not a"),
        (("x", {"title": "x" * SCHEMA_BYTES}), ValueError, "a schema has at most 16384 bytes"),
        (("x", None, 0), ValueError, "expires is more than 0"),
        (("x", None, EXPIRES_MAX + 1), ValueError, "at most 86400 s, got 86401"),
        (("x", None, float("nan")), ValueError, "at most 86400 s"),
        (("x", None, True), TypeError, "expires is a number of seconds, got bool"),
        (("x", None, "5"), TypeError, "expires is a number of seconds, got str"),
    ],
)
async def test_bad_arguments_raise(
    autojump_clock: MockClock, arguments: Any, error: type[Exception], text: str
) -> None:
    async def agent(run: Run) -> None:
        with pytest.raises(error, match=text):
            await run.ask(*arguments)
        await run.ask("y" * PROMPT_BYTES, {"title": "y" * (SCHEMA_BYTES - 12)}, EXPIRES_MAX)

    async with asking(agent) as (_server, _client, question):
        assert question["prompt"] == "y" * PROMPT_BYTES
        assert question["expires_at"] == EPOCH + trio.current_time() + EXPIRES_MAX


async def test_more_questions_wait_for_one_to_be_closed(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(OPEN_QUESTIONS + 2):
                nursery.start_soon(run.ask, f"Well {number}?")
                await wait_all_tasks_blocked()

    async with asking(agent) as (_, client, first):
        open_questions = [first]
        while len(open_questions) < OPEN_QUESTIONS:
            open_questions += [(await client.expect("agent_asking"))["payload"]]
        assert await client.sync() == []
        for number in (OPEN_QUESTIONS, OPEN_QUESTIONS + 1):  # in the order of the calls
            await answer(client, open_questions.pop(), answer=1)
            await client.expect("agent_answered")
            question = (await client.expect("agent_asking"))["payload"]
            assert question["prompt"] == f"Well {number}?"
            open_questions.append(question)
        for question in open_questions:
            await answer(client, question, answer=1)
        end = (await client.until("agent_completed"))[-1]
        assert end["payload"]["status"] == "completed"


async def test_a_question_that_waits_is_given_up(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(OPEN_QUESTIONS):
                nursery.start_soon(run.ask, "Well?")
            await wait_all_tasks_blocked()
            with trio.move_on_after(5):
                await run.ask("One more?")
            nursery.cancel_scope.cancel()

    async with asking(agent) as (_, client, _question):
        frames = await client.until("agent_completed")
        assert frames[-1]["payload"]["status"] == "completed"
        assert kinds(frames).count("agent_asking") == OPEN_QUESTIONS - 1
        assert kinds(frames).count("agent_answered") == OPEN_QUESTIONS


async def test_the_number_of_questions_of_a_run_is_limited(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        for _ in range(RUN_QUESTIONS):
            with pytest.raises(QuestionExpired):
                await run.ask("Well?", expires=1)
        with pytest.raises(RuntimeError, match="at most 100 questions"):
            await run.ask("One more?")

    async with asking(agent) as (_, client, _question):
        frames = await client.until("agent_completed")
        assert frames[-1]["payload"]["status"] == "completed"


async def test_a_question_that_cannot_be_stored_is_not_sent(autojump_clock: MockClock) -> None:
    class Unwilling(MemoryStore):
        async def record_question(self, question: NewQuestion) -> None:
            raise StoreUnavailable(f"no room for {question.prompt}")

    async def agent(run: Run) -> None:
        with pytest.raises(StoreUnavailable):
            await run.ask("Well?")

    async with (
        open_server(agents={"agent": agent}, store=Unwilling(), **NO_HEARTBEAT) as server,
        server.connect() as client,
    ):
        await client.say("x")
        frames = await client.until("agent_completed")
        assert kinds(frames) == ["message_confirmed", "agent_started", "agent_completed"]
        assert frames[-1]["payload"]["status"] == "completed"


async def test_a_question_waits_for_room_and_may_expire_before_it_is_sent(
    autojump_clock: MockClock,
) -> None:
    """With an acknowledging client that acknowledges nothing, the log is full."""

    async def agent(run: Run) -> str:
        for number in range(7):
            await run.think(f"thought {number}")
        with pytest.raises(QuestionExpired):
            await run.ask("Well?", expires=10)
        return "expired"

    async with (
        open_server(agents={"agent": agent}, replay_events=8, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say("x")
        frames = await client.until("agent_completed")
        assert "agent_asking" not in kinds(frames)
        assert "agent_answered" not in kinds(frames)
        assert frames[-1]["payload"]["result"] == "expired"


async def test_a_stop_closes_a_question_also_without_room_in_the_log(
    autojump_clock: MockClock,
) -> None:
    async def agent(run: Run) -> None:
        for number in range(6):
            await run.think(f"thought {number}")
        await run.ask("Well?")

    async with (
        open_server(agents={"agent": agent}, replay_events=8, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say("x")
        question = (await client.until("agent_asking"))[-1]["payload"]
        await client.send("stop_agent", {"run_id": question["run_id"]})
        frames = await client.until("agent_completed")
        assert kinds(frames) == ["agent_answered", "agent_completed"]


async def test_an_answer_is_stored_also_if_the_run_is_stopped_right_then(
    autojump_clock: MockClock,
) -> None:
    async with asking(ask_for_color) as (_, client, question):
        await client.send("answer", {"question_id": question["question_id"], "answer": "red"})
        await client.send("stop_agent", {"run_id": question["run_id"]})
        frames = await client.until("agent_completed")
        (closed,) = [f["payload"] for f in frames if f["type"] == "agent_answered"]
        assert closed["outcome"] == "answered"
        (stored,) = (await history(client))["questions"]
        assert stored["outcome"] == "answered"


async def test_nothing_of_a_closed_question_is_left(autojump_clock: MockClock) -> None:
    async with asking(ask_for_color) as (server, client, question):
        user = server.node._users.get(UserId("alice"), trio.current_time())
        assert list(user.questions) == [question["question_id"]]
        await answer(client, question, answer="red")
        await client.until("agent_completed")
        assert not user.questions
