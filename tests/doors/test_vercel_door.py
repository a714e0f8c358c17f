"""The door of the Vercel AI SDK in virtual time: keys, reconnects, answers, stops and refusals."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from support.doors import HttpAnswer, open_app, request
from support.ui_messages import chunks
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio import agent
from netra_trio.agents.run import Agent, Run
from netra_trio.errors import ToolDenied
from netra_trio.ids import ThreadId, UserId
from netra_trio.server.application import Application
from netra_trio.telemetry.events import DoorOutcome

CHAT = "/api/chat"
WINDOW = 120.0  # seconds: the default resume window

Body = dict[str, Any]


class Recorder:
    """Counts the runs, and lets a test start the pieces of the answers."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.cancelled: list[str] = []
        self.steps = trio.Semaphore(0)

    async def __call__(self, run: Run) -> str | None:
        self.runs.append(run.content)
        kind, _, rest = run.content.partition(" ")
        try:
            if kind == "say":
                return rest
            if kind == "step":
                for word in rest.split():
                    await self.steps.acquire()
                    await run.emit(word + " ")
            elif kind == "approve":
                return await self._approve(run)
            elif kind == "both":
                run.nursery.start_soon(self._look, run)
                await wait_all_tasks_blocked()
                return await self._approve(run)
            elif kind == "ask":
                answer = await run.ask("Which?", schema={"type": "string"})
                return f"You said {answer}."
            elif kind == "flood":
                while True:
                    await run.emit("x" * 1000)
            else:
                raise RuntimeError("unknown")
        except trio.Cancelled:
            self.cancelled.append(run.content)
            raise
        return None

    async def _look(self, run: Run) -> None:
        async with run.tool("look") as tool:
            await self.steps.acquire()
            tool.result = "seen"

    async def _approve(self, run: Run) -> str:
        await run.emit("Well. ")
        try:
            async with run.tool("rm", approve=True, path="x") as tool:
                await self.steps.acquire()
                tool.result = "gone"
        except ToolDenied as denied:
            return f"Not allowed: {denied.args[0]}"
        await run.emit("Done.")
        return ""


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[tuple[Application, Recorder]]:
    recorder = Recorder()
    agents: dict[str, Agent] = {"work": recorder, "long": agent(recorder, unattended="continue")}
    async with open_app(agents=agents, doors=("vercel",), **settings) as app:
        yield app, recorder


def said(text: str, message_id: str = "m1") -> Body:
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "text": text}]}


def body(text: str, message_id: str = "m1", chat: str = "c1", **more: Any) -> Body:
    message = said(text, message_id)
    return {"id": chat, "messages": [message], "trigger": "submit-message", **more}


def posted(app: Application, json: Body, **options: Any) -> Any:
    return request(app, "POST", CHAT, json=json, **options)


def resumed(app: Application, chat: str = "c1", **options: Any) -> Any:
    return request(app, "GET", f"{CHAT}/{chat}/stream", **options)


async def stopped(app: Application, chat: str = "c1", **options: Any) -> Any:
    async with request(app, "POST", f"{CHAT}/{chat}/stop", **options) as answer:
        assert answer.status == 200
        return (await answer.json())["stopped"]


async def ask(app: Application, json: Body, **options: Any) -> list[Body]:
    """Post, and return the chunks of the whole answer."""
    async with posted(app, json, **options) as answer:
        return await read(answer)


async def read(answer: HttpAnswer) -> list[Body]:
    text = await answer.text()
    assert answer.status == 200, text
    return chunks(text)


def text_of(told: list[Body]) -> str:
    return "".join(each["delta"] for each in told if each["type"] == "text-delta")


def run_of(told: list[Body]) -> str:
    run_id: str = told[0]["messageId"]
    return run_id


def outcomes(app: Application) -> dict[str, int]:
    counts = app.instruments.metrics.door_requests.items()
    return {str(key[1]): count for key, count in counts if count}


async def test_an_answer_and_its_headers(autojump_clock: MockClock) -> None:
    async with running() as (app, _):
        async with posted(app, body("say hello")) as answer:
            told = await read(answer)
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert text_of(told) == "hello"
        assert told[-1]["finishReason"] == "stop"
        assert run_of(told).startswith("run_")
        await wait_all_tasks_blocked()
        assert app.node.sessions.statistics() == {"sessions": 0, "detached": 0}
        assert outcomes(app) == {DoorOutcome.COMPLETED: 1}


async def test_a_retry_runs_once(autojump_clock: MockClock) -> None:
    async with running() as (app, recorder):
        recorder.steps = trio.Semaphore(2)
        first = await ask(app, body("step a b"))
        second = await ask(app, body("step a b", trigger="submit-message"))
        assert (run_of(first), text_of(first)) == (run_of(second), text_of(second))
        assert recorder.runs == ["step a b"]
        async with posted(app, body("say other")) as answer:
            assert answer.status == 400
            assert "correlation_id" in await answer.text()


async def test_a_retry_while_the_run_goes_on(autojump_clock: MockClock) -> None:
    async with running() as (app, recorder):
        async with posted(app, body("step a b")) as first:
            recorder.steps.release()
            await first.piece()
            await wait_all_tasks_blocked()
        async with posted(app, body("step a b")) as second:
            recorder.steps.release()
            assert text_of(await read(second)) == "a b "
        assert recorder.runs == ["step a b"]


async def test_a_disconnect_leaves_the_run_and_the_stream_resumes_it(
    autojump_clock: MockClock,
) -> None:
    async with running(agent_timeout_ms=3_600_000) as (app, recorder):
        async with posted(app, body("step a b c")):
            recorder.steps.release()
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        recorder.steps.release()
        await trio.sleep(WINDOW - 1)
        async with resumed(app) as second:
            await trio.sleep(3 * WINDOW)  # it is followed: its window does not pass
            recorder.steps.release()
            told = await read(second)
        assert text_of(told) == "a b c "
        assert (recorder.runs, recorder.cancelled) == (["step a b c"], [])
        assert outcomes(app) == {DoorOutcome.LEFT: 1, DoorOutcome.COMPLETED: 1}
        async with resumed(app) as third:
            assert (third.status, await third.text()) == (204, "")


async def test_a_follower_that_leaves_begins_the_window_again(autojump_clock: MockClock) -> None:
    async with running(agent_timeout_ms=3_600_000) as (app, recorder):
        async with posted(app, body("step a b")):
            pass
        await trio.sleep(WINDOW - 1)
        async with resumed(app):
            await wait_all_tasks_blocked()
            async with resumed(app):
                await trio.sleep(WINDOW + 1)
        await trio.sleep(WINDOW - 1)
        assert recorder.cancelled == []
        await trio.sleep(2)
        assert recorder.cancelled == ["step a b"]


@pytest.mark.parametrize(("name", "ends"), [("work", True), ("long", False)])
async def test_after_the_window_unattended_decides(
    name: str, ends: bool, autojump_clock: MockClock
) -> None:
    async with running() as (app, recorder):
        async with posted(app, body("step a", agent=name)):
            await wait_all_tasks_blocked()
        await trio.sleep(WINDOW + 1)
        assert recorder.cancelled == (["step a"] if ends else [])
        if not ends:
            recorder.steps.release()
            await wait_all_tasks_blocked()
        status = "cancelled" if ends else "completed"
        async with resumed(app, headers={"last-event-id": "m1"}) as answer:
            told = await read(answer)
        assert ("abort" in {each["type"] for each in told}) is ends
        known = [each.get("messageMetadata", {}).get("status") for each in told]
        assert status in known


@pytest.mark.parametrize("by", ["message", "run"])
async def test_an_ended_run_is_read_again_if_its_message_is_named(
    by: str, autojump_clock: MockClock
) -> None:
    async with running() as (app, recorder):
        recorder.steps = trio.Semaphore(2)
        told = await ask(app, body("step a b"))
        last = "m1" if by == "message" else run_of(told)
        async with resumed(app, headers={"last-event-id": last}) as answer:
            again = await read(answer)
        assert (text_of(again), run_of(again)) == ("a b ", run_of(told))
        async with resumed(app, headers={"last-event-id": "other"}) as answer:
            assert answer.status == 204


async def test_the_newest_of_several_runs_is_resumed(autojump_clock: MockClock) -> None:
    async with (
        running() as (app, recorder),
        posted(app, body("step a")) as first,
        posted(app, body("step b", "m2")) as next_,
        resumed(app) as third,
    ):
        await wait_all_tasks_blocked()
        recorder.steps.release()
        recorder.steps.release()
        assert text_of(await read(third)) == "b "
        assert text_of(await read(first)) == "a "
        assert text_of(await read(next_)) == "b "


async def test_a_head_request_has_no_body(autojump_clock: MockClock) -> None:
    async with running() as (app, recorder), posted(app, body("step a")) as first:
        async with request(app, "HEAD", f"{CHAT}/c1/stream") as answer:
            assert (answer.status, await answer.text()) == (200, "")
            assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
        recorder.steps.release()
        await read(first)


async def test_a_chat_without_messages_is_idle(autojump_clock: MockClock) -> None:
    async with running() as (app, _):
        async with resumed(app, "new") as answer:
            assert answer.status == 204
        assert await stopped(app, "new") == 0


async def test_a_stop_ends_all_runs_of_the_chat(autojump_clock: MockClock) -> None:
    async with running() as (app, recorder):
        async with (
            posted(app, body("step a")) as one,
            posted(app, body("step b", "m2")) as two,
            posted(app, body("step c", "m3", "c2")) as other,
        ):
            await wait_all_tasks_blocked()
            assert await stopped(app, user="bob") == 0
            assert await stopped(app) == 2
            for answer in (one, two):
                told = await read(answer)
                assert told[-1] == {"type": "abort", "reason": "The run was stopped."}
            recorder.steps.release()
            assert text_of(await read(other)) == "c "
        assert recorder.runs == ["step a", "step c"]
        assert await stopped(app) == 0


async def test_another_answer_replaces_the_first(autojump_clock: MockClock) -> None:
    async with running() as (app, recorder):
        first = await ask(app, body("say hello"))
        again = body("say hello", trigger="regenerate-message", messageId=run_of(first))
        second = await ask(app, again)
        assert run_of(second) != run_of(first)
        assert run_of(await ask(app, again)) == run_of(second)  # a retry
        third = await ask(app, {**again, "messageId": run_of(second)})
        assert run_of(third) not in {run_of(first), run_of(second)}
        assert len(recorder.runs) == 3
        assert await _history(app) == ["say hello"]


async def test_another_answer_without_the_id_of_the_first(autojump_clock: MockClock) -> None:
    async with running() as (app, recorder):
        again = body("step a", trigger="regenerate-message")
        async with posted(app, body("step a")) as first:
            await wait_all_tasks_blocked()
        async with posted(app, again) as second:  # the run goes on: it is followed
            recorder.steps.release()
            told = await read(second)
        assert (first.status, len(recorder.runs)) == (200, 1)
        recorder.steps.release()
        assert run_of(await ask(app, again)) != run_of(told)
        assert len(recorder.runs) == 2


async def test_another_answer_to_a_message_that_was_refused_is_the_first(
    autojump_clock: MockClock,
) -> None:
    async with running() as (app, recorder):
        told = await ask(app, body("say hello", trigger="regenerate-message"))
        assert text_of(told) == "hello"
        assert run_of(await ask(app, body("say hello"))) == run_of(told)
        assert len(recorder.runs) == 1


@pytest.mark.parametrize("new_id", ["m1", "m9"])
async def test_an_edited_message_replaces_the_old_one(
    new_id: str, autojump_clock: MockClock
) -> None:
    async with running() as (app, recorder):
        first = await ask(app, body("say one"))
        await ask(app, body("say later", "m2"))
        edited = body("say two", new_id, messageId="m1")
        second = await ask(app, edited)
        assert (text_of(second), run_of(second) == run_of(first)) == ("two", False)
        assert run_of(await ask(app, edited)) == run_of(second)  # a retry
        assert await _history(app) == ["say two"]
        back = body("say one", new_id, messageId=new_id)
        assert text_of(await ask(app, back)) == "one"
        assert recorder.runs == ["say one", "say later", "say two", "say one"]


async def test_a_message_is_sent_again_at_its_position(autojump_clock: MockClock) -> None:
    async with running() as (app, recorder):
        new = body("say one", messageId="m1")
        first = await ask(app, new)
        assert run_of(await ask(app, new)) == run_of(first)
        assert recorder.runs == ["say one"]


async def test_an_edit_interrupts_the_run_of_the_old_message(autojump_clock: MockClock) -> None:
    async with running() as (app, recorder):
        async with posted(app, body("step a")) as first:
            await wait_all_tasks_blocked()
            edited = await ask(app, body("say two", messageId="m1"))
            assert text_of(edited) == "two"
            assert (await read(first))[-1]["type"] == "abort"
        assert recorder.cancelled == ["step a"]


async def test_an_edit_of_a_waiting_message_waits(autojump_clock: MockClock) -> None:
    async with (
        running() as (app, recorder),
        posted(app, body("step a")) as first,
        posted(app, body("step b", "m2")),
        posted(app, body("say two", "m2", messageId="m2")) as edited,
    ):
        await wait_all_tasks_blocked()
        recorder.steps.release()
        assert text_of(await read(first)) == "a "
        recorder.steps.release()
        assert text_of(await read(edited)) == "two"


async def test_ids_that_are_too_long_together(autojump_clock: MockClock) -> None:
    async with running() as (app, _):
        message_id = "m" * 100
        await ask(app, body("say hello", message_id))
        again = body("say hello", message_id, trigger="regenerate-message", messageId="r" * 28)
        async with posted(app, again) as answer:
            assert answer.status == 400
            assert "together" in await answer.text()
        await ask(app, {**again, "messageId": "r" * 27})


def approval(question_id: str, approved: bool, run_id: str = "run") -> Body:
    part = {
        "type": "dynamic-tool",
        "toolName": "rm",
        "toolCallId": question_id,
        "state": "approval-responded",
        "input": {"path": "x"},
        "approval": {"id": question_id, "approved": approved},
    }
    message = {"id": run_id, "role": "assistant", "parts": [part]}
    return {"id": "c1", "messages": [said("approve"), message], "messageId": run_id}


async def _asked(app: Application, text: str = "approve it") -> tuple[str, str]:
    """Return the ids of a question and of its run."""
    told = await ask(app, body(text))
    asked = next(
        each for each in told if each["type"] in {"tool-approval-request", "data-question"}
    )
    return asked.get("approvalId") or asked["id"], run_of(told)


async def test_an_approved_call_continues_its_part(autojump_clock: MockClock) -> None:
    async with running() as (app, recorder):
        question_id, run_id = await _asked(app)
        async with resumed(app) as answer:  # it stands as it is
            again = await read(answer)
        assert again[-1]["finishReason"] == "tool-calls"
        yes = approval(question_id, True, run_id)
        async with posted(app, yes) as first:
            await wait_all_tasks_blocked()
        recorder.steps.release()
        async with posted(app, yes) as second:  # the stream was cut: the answer is sent again
            told = await read(second)
        assert first.status == 200
        assert run_of(told) == run_id
        output = {"type": "tool-output-available", "toolCallId": question_id, "output": "gone"}
        assert output in told
        assert text_of(told) == "Done."


async def test_a_call_that_ends_while_another_one_is_approved(autojump_clock: MockClock) -> None:
    async with running() as (app, recorder):
        told = await ask(app, body("both it"))
        call_id, question_id = [
            each["toolCallId"] for each in told if each["type"] == "tool-input-available"
        ]
        recorder.steps.release()
        await wait_all_tasks_blocked()
        yes = approval(question_id, True, run_of(told))
        open_part = {"type": "dynamic-tool", "state": "input-available", "toolCallId": call_id}
        yes["messages"][-1]["parts"].append(open_part)
        recorder.steps.release()
        rest = await ask(app, yes)
        again = await ask(app, yes)  # after the end of the run
        for each in (rest, again):
            outputs = {
                chunk["toolCallId"]: chunk["output"]
                for chunk in each
                if chunk["type"] == "tool-output-available"
            }
            assert outputs == {call_id: "seen", question_id: "gone"}


async def test_a_denied_call(autojump_clock: MockClock) -> None:
    async with running() as (app, _):
        question_id, run_id = await _asked(app)
        told = await ask(app, approval(question_id, False, run_id))
        assert {"type": "tool-output-denied", "toolCallId": question_id} in told
        # The agent has emitted text before, so what it returns is not its answer.
        assert told[-1]["finishReason"] == "stop"
        late = await ask(app, approval(question_id, True, run_id))
        response = {"type": "tool-approval-response", "approvalId": question_id}
        assert {**response, "approved": False, "reason": "denied"} in late


async def test_an_answer_after_the_expiry(autojump_clock: MockClock) -> None:
    async with running(resume_window_ms=600_000) as (app, _):
        question_id, run_id = await _asked(app)
        await trio.sleep(301)
        told = await ask(app, approval(question_id, True, run_id))
        response = {"type": "tool-approval-response", "approvalId": question_id}
        assert {**response, "approved": False, "reason": "expired"} in told
        assert {"type": "tool-output-denied", "toolCallId": question_id} in told


async def test_the_answer_to_a_question(autojump_clock: MockClock) -> None:
    async with running() as (app, _):
        question_id, run_id = await _asked(app, "ask me")
        last = {"id": run_id, "role": "assistant", "parts": []}
        answer = {"questionId": question_id, "answer": 5}
        json = {"id": "c1", "messages": [said("ask me"), last], "answer": answer}
        async with posted(app, json) as refused:
            assert refused.status == 409
            assert "$.payload.answer" in await refused.text()
        told = await ask(app, {**json, "answer": {**answer, "answer": "red"}})
        shown = next(each for each in told if each["type"] == "data-question")
        assert (shown["id"], shown["data"]["answer"]) == (question_id, "red")
        assert text_of(told) == "You said red."


async def test_an_answer_to_no_question(autojump_clock: MockClock) -> None:
    async with running() as (app, _):
        async with posted(app, approval("q_none", True)) as answer:
            assert answer.status == 409
        question_id, _ = await _asked(app)
        async with posted(app, approval("q_none", True)) as answer:
            assert answer.status == 409
            assert await answer.text() == "There is no such question in this chat."
        async with posted(app, approval(question_id, True), user="bob") as answer:
            assert answer.status == 409


async def test_a_stalled_reader_is_cut_and_the_run_goes_on(autojump_clock: MockClock) -> None:
    async with running() as (app, recorder):
        async with posted(app, body("flood")) as answer:
            await answer.piece()
            answer.pause()
            await trio.sleep(6)
            assert outcomes(app) == {DoorOutcome.STALLED: 1}
            assert recorder.cancelled == []
        assert await stopped(app) == 1


async def test_a_drain_ends_the_stream_with_an_error(autojump_clock: MockClock) -> None:
    async with running() as (app, _):
        async with posted(app, body("step a")) as answer:
            await wait_all_tasks_blocked()
            app.node.capacity.is_draining = True
            async with posted(app, body("say x", "m2")) as refused:
                assert refused.status == 503
                assert "restart" in await refused.text() or "shut" in await refused.text()
            app.node.capacity.is_draining = False
            async with trio.open_nursery() as nursery:
                nursery.start_soon(app.node.drain)
                told = await read(answer)
        assert told[-1]["type"] == "error"


async def test_a_keep_alive_is_a_comment(autojump_clock: MockClock) -> None:
    async with running() as (app, recorder), posted(app, body("step a")) as answer:
        await answer.piece()
        await trio.sleep(31)
        assert b": keep-alive" in await answer.piece()
        recorder.steps.release()
        await read(answer)


async def test_the_rate_of_messages(autojump_clock: MockClock) -> None:
    async with running(max_message_rate=1, burst_queue=0) as (app, _):
        await ask(app, body("say one"))
        async with posted(app, body("say two", "m2")) as answer:
            assert answer.status == 429
            assert int(answer.headers["retry-after"]) > 0
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert (await answer.text()).startswith("Too many messages")
        assert text_of(await ask(app, body("say one"))) == "one"  # a retry takes no place


REFUSED: list[tuple[Body, int]] = [
    ({"user": None}, 401),
    ({"headers": {"authorization": "Bearer x"}}, 401),
    ({"headers": {"origin": "https://evil.example"}}, 403),
    ({"body": b"{"}, 400),
    ({"body": b'{"id": "c1", "messages": "\\ud800"}'}, 400),
    ({"body": b"[" * 5000}, 400),
    ({"body": b" " * (1024 * 1024 + 1)}, 413),
    ({"body": b" " * (1024 * 1024)}, 400),
    ({"json": body("say x", agent="nobody")}, 400),
    ({"json": body("x" * 10_241)}, 413),
    ({"json": body("x" * 10_240)}, 413),
]


@pytest.mark.parametrize(("options", "status"), REFUSED)
async def test_what_is_refused(options: Body, status: int, autojump_clock: MockClock) -> None:
    async with running() as (app, recorder):
        async with request(app, "POST", CHAT, **{"json": body("say x"), **options}) as answer:
            assert answer.status == status
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert await answer.text()
        assert recorder.runs == []
        assert outcomes(app) == {DoorOutcome.REFUSED: 1}
        await wait_all_tasks_blocked()
        assert app.node.sessions.statistics()["sessions"] == 0


@pytest.mark.parametrize(("method", "name"), [("GET", "stream"), ("POST", "stop")])
async def test_the_other_endpoints_check_as_well(
    method: str, name: str, autojump_clock: MockClock
) -> None:
    async with running() as (app, _):
        for options, status in [
            ({"user": None}, 401),
            ({"headers": {"origin": "https://evil.example"}}, 403),
        ]:
            path = f"{CHAT}/c1/{name}"
            async with request(app, method, path, **options) as answer:  # type: ignore[arg-type]
                assert answer.status == status
        async with request(app, method, f"{CHAT}/a b/{name}") as answer:
            assert answer.status == 400


async def test_pages_of_allowed_origins(autojump_clock: MockClock) -> None:
    origin = {"origin": "http://localhost:3000"}
    async with running() as (app, _):
        async with posted(app, body("say x"), headers=origin) as answer:
            await read(answer)
        exposed = answer.headers["access-control-expose-headers"]
        assert "x-vercel-ai-ui-message-stream" in exposed
        asked = {**origin, "access-control-request-headers": "user-agent"}
        async with request(app, "OPTIONS", CHAT, headers=asked) as answer:
            allowed = answer.headers["access-control-allow-headers"].split(", ")
        assert {"authorization", "content-type", "user-agent", "last-event-id"} <= set(allowed)


async def _history(app: Application) -> list[str]:
    store = app.node.services.store
    page = await store.history(UserId("alice"), ThreadId("c1"), limit=100)
    assert page is not None
    return [each.content for each in page[0] if each.role == "user"]
