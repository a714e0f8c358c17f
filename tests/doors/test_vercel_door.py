"""The door of the Vercel AI SDK in virtual time: keys, reconnects, answers, stops and refusals."""

import pytest
import trio
from support.doors import request
from support.vercel import (
    CHAT,
    WINDOW,
    Body,
    ask,
    body,
    outcomes,
    posted,
    read,
    resumed,
    run_of,
    running,
    stopped,
    text_of,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.ids import ThreadId, UserId
from netra_trio.server.application import Application
from netra_trio.telemetry.events import DoorOutcome


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
            assert (await answer.text()).startswith("$.messages[-1].id: expected a new one")


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
async def test_a_refused_request(options: Body, status: int, autojump_clock: MockClock) -> None:
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
