"""The `ag-ui` door in virtual time: retries, cuts, stops, interrupts, refusals and limits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import trio
from support.ag_ui import Event, check, run_input, text_of
from support.doors import HttpAnswer, open_app, request
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.options import Unattended, agent
from netra_trio.agents.run import Run
from netra_trio.endpoints.doors.answering import BODY_BYTES
from netra_trio.endpoints.doors.runs import STOP_SECONDS
from netra_trio.server.application import Application
from netra_trio.sessions import runner
from netra_trio.telemetry.events import DoorOutcome

WINDOW = 120.0  # seconds, by default
PATH = "/ag-ui/demo"


class Demo:
    """An agent of which a test sees the runs; the message says what it does."""

    def __init__(self) -> None:
        self.runs = 0
        self.ended = trio.Event()
        self.go_on = trio.Event()

    async def __call__(self, run: Run) -> Any:
        self.runs += 1
        try:
            return await getattr(self, run.content.split()[0])(run)
        finally:
            self.ended.set()

    async def hello(self, run: Run) -> dict[str, int]:
        await run.emit("Hel")
        await run.think("a greeting")
        await run.emit("lo")
        async with run.tool("add", a=1) as tool:
            tool.result = 2
        await run.emit("!")
        return {"runs": self.runs}

    async def wait(self, run: Run) -> None:
        await run.emit("before ")
        await self.go_on.wait()
        await run.emit("after")

    async def ignores(self, run: Run) -> None:
        await run.emit("before ")
        with trio.CancelScope(shield=True):
            await self.go_on.wait()

    async def returns(self, run: Run) -> str:
        return run.content

    async def fails(self, run: Run) -> None:
        await run.emit("a")
        raise ValueError

    async def long(self, run: Run) -> None:
        for _ in range(400):
            await run.emit("x" * 1024)

    async def delete(self, run: Run) -> str:
        await run.emit("Deleting. ")
        async with run.tool("delete", approve=True, path="x") as tool:
            tool.result = "gone"
        await run.emit("Deleted.")
        return "done"

    async def ask(self, run: Run) -> None:
        answer = await run.ask("How many?", schema={"type": "integer"})
        await run.emit(f"{answer}")
        await run.emit(f", {await run.ask('And a word?')}")


@asynccontextmanager
async def opened(
    demo: Demo, *, unattended: Unattended = "cancel", **settings: Any
) -> AsyncIterator[Application]:
    agents = {"demo": agent(demo, unattended=unattended)}
    async with open_app(agents=agents, doors=("ag-ui",), **settings) as app:
        yield app


async def run_events(app: Application, body: Any, **options: Any) -> list[Event]:
    async with request(app, "POST", PATH, json=body, **options) as answer:
        return await events_of(answer)


async def events_of(answer: HttpAnswer) -> list[Event]:
    assert answer.status == 200, await answer.text()
    assert answer.headers["content-type"] == "text/event-stream"
    return [orjson.loads(data) for data in await answer.data()]


async def refused(app: Application, body: Any, path: str = PATH, **options: Any) -> dict[str, Any]:
    async with request(app, "POST", path, json=body, **options) as answer:
        fault: dict[str, Any] = {**await answer.json(), "status": answer.status}
        return fault


async def stop(app: Application, **body: Any) -> list[str]:
    async with request(app, "POST", f"{PATH}/stop", json={"threadId": "t-1", **body}) as answer:
        assert answer.status == 200
        stopped: list[str] = (await answer.json())["stopped"]
        return stopped


class Stream:
    """Reads the events of an answer one by one."""

    def __init__(self, answer: HttpAnswer) -> None:
        self._answer = answer
        self._text = ""
        self.last_id = ""

    async def next(self) -> Event | None:
        """Return the next event; None at the end."""
        while True:
            block, end, rest = self._text.partition("\n\n")
            if not end:
                piece = await self._answer.piece()
                if not piece:
                    return None
                self._text += piece.decode()
                continue
            self._text = rest
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            if "data" in fields:
                self.last_id = fields["id"]
                event: Event = orjson.loads(fields["data"])
                return event

    async def until(self, kind: str) -> list[Event]:
        """Return the events up to the first one of this kind."""
        found = []
        while event := await self.next():
            found.append(event)
            if event["type"] == kind:
                break
        return found

    async def rest(self) -> list[Event]:
        """Return the events up to the end."""
        return await self.until("")

    @property
    def last(self) -> dict[str, str]:
        """The header with the id of the last event."""
        return {"last-event-id": self.last_id}


def sessions(app: Application) -> int:
    return len(list(app.node.sessions))


def resume(interrupted: list[Event], payload: Any = None, status: str = "resolved") -> Any:
    [interrupt] = interrupted[-1]["outcome"]["interrupts"]
    return [{"interruptId": interrupt["id"], "status": status, "payload": payload}]


async def test_a_run_and_its_retries(autojump_clock: MockClock) -> None:
    demo = Demo()
    async with opened(demo) as app:
        first = await run_events(app, run_input())
        check(first)
        assert text_of(first) == "Hello!"
        assert first[-1]["result"] == {"runs": 1}
        assert await run_events(app, run_input()) == first
        other_run = await run_events(app, run_input(run="r-2"))
        assert [each["runId"] for each in other_run if "runId" in each] == ["r-2", "r-2"]
        assert other_run[1:-1] == first[1:-1]
        assert demo.runs == 1
        await wait_all_tasks_blocked()
        assert sessions(app) == 0


async def test_a_text_that_is_only_returned(autojump_clock: MockClock) -> None:
    async with opened(Demo()) as app:
        found = await run_events(app, run_input(text="returns"))
        check(found)
        assert text_of(found) == "returns"


async def test_a_failed_run(autojump_clock: MockClock) -> None:
    async with opened(Demo()) as app:
        found = await run_events(app, run_input(text="fails"))
        check(found)
        assert (found[-1]["type"], found[-1]["code"]) == ("RUN_ERROR", "AGENT_ERROR")


async def test_another_text_under_the_same_id_is_refused(autojump_clock: MockClock) -> None:
    async with opened(Demo()) as app:
        await run_events(app, run_input())
        fault = await refused(app, run_input(text="hello you"))
        assert (fault["status"], fault["code"]) == (400, "VALIDATION_ERROR")
        assert fault["error"].startswith("$.messages[0].id")


async def test_a_client_that_leaves_does_not_stop_the_run(autojump_clock: MockClock) -> None:
    demo = Demo()
    async with opened(demo) as app:
        async with request(app, "POST", PATH, json=run_input(text="wait")) as answer:
            stream = Stream(answer)
            had = await stream.until("TEXT_MESSAGE_CONTENT")
        await wait_all_tasks_blocked()
        assert not demo.ended.is_set()
        last = stream.last
        async with request(app, "POST", PATH, json=run_input(text="wait"), headers=last) as answer:
            await answer.started()
            await wait_all_tasks_blocked()
            demo.go_on.set()
            rest = await events_of(answer)
        joined = had + rest
        check(joined)
        assert text_of(joined) == "before after"
        assert await run_events(app, run_input(text="wait"), headers=last) == rest
        assert demo.runs == 1


@pytest.mark.parametrize("unattended", ["cancel", "continue"])
async def test_when_the_window_has_passed(
    unattended: Unattended, autojump_clock: MockClock
) -> None:
    demo = Demo()
    async with opened(demo, unattended=unattended) as app:
        async with request(app, "POST", PATH, json=run_input(text="wait")) as answer:
            await Stream(answer).until("TEXT_MESSAGE_CONTENT")
        await trio.sleep(WINDOW + 1)
        assert demo.ended.is_set() == (unattended == "cancel")
        demo.go_on.set()
        found = await run_events(app, run_input(text="wait"))
        check(found)
        if unattended == "cancel":
            assert found[-1]["code"] == "CANCELLED"
        else:
            assert text_of(found) == "before after"


async def test_a_run_that_is_read_goes_on_behind_the_window(autojump_clock: MockClock) -> None:
    demo = Demo()
    async with opened(demo) as app:
        async with request(app, "POST", PATH, json=run_input(text="wait")) as answer:
            await Stream(answer).until("TEXT_MESSAGE_CONTENT")
        async with request(app, "POST", PATH, json=run_input(text="wait")) as answer:
            await trio.sleep(WINDOW + 30)
            demo.go_on.set()
            found = await Stream(answer).rest()
        check(found)
        assert text_of(found) == "before after"


async def test_a_retry_with_the_part_that_the_client_has(autojump_clock: MockClock) -> None:
    demo = Demo()
    async with opened(demo) as app:
        async with request(app, "POST", PATH, json=run_input(text="wait")) as answer:
            content = (await Stream(answer).until("TEXT_MESSAGE_CONTENT"))[-1]
        partial = {"id": content["messageId"], "role": "assistant", "content": content["delta"]}
        demo.go_on.set()
        found = await run_events(app, run_input(text="wait", run="r-2", more=[partial]))
        check(found)
        assert text_of(found) == "after"


async def test_a_stop(autojump_clock: MockClock) -> None:
    demo = Demo()
    async with opened(demo) as app:
        async with request(app, "POST", PATH, json=run_input(text="wait")) as answer:
            stream = Stream(answer)
            await stream.until("TEXT_MESSAGE_CONTENT")
            [run_id] = await stop(app)
            assert demo.ended.is_set()
            assert stream.last_id.startswith(f"{run_id}/")
            rest = await stream.rest()
        assert (rest[-1]["type"], rest[-1]["code"]) == ("RUN_ERROR", "CANCELLED")
        assert await stop(app) == []
        again = await run_events(app, run_input(text="wait"))
        assert again[-1]["code"] == "CANCELLED"


async def test_a_stop_of_a_run_that_does_not_end_waits_for_a_limited_time(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "ABANDON_SECONDS", 60.0)
    demo = Demo()
    async with opened(demo) as app:
        async with request(app, "POST", PATH, json=run_input(text="ignores")) as answer:
            await Stream(answer).until("TEXT_MESSAGE_CONTENT")
            begin = trio.current_time()
            assert len(await stop(app)) == 1
            assert trio.current_time() - begin == STOP_SECONDS
            assert not demo.ended.is_set()
        demo.go_on.set()


async def test_a_stop_of_one_message(autojump_clock: MockClock) -> None:
    demo = Demo()
    async with opened(demo) as app:
        async with (
            request(app, "POST", PATH, json=run_input("m-1", "wait")) as first,
            request(app, "POST", PATH, json=run_input("m-2", "hello")) as second,
        ):
            await wait_all_tasks_blocked()
            assert len(await stop(app, messageId="m-2")) == 1
            assert (await events_of(second))[-1]["code"] == "CANCELLED"
            demo.go_on.set()
            assert text_of(await events_of(first)) == "before after"
        assert demo.runs == 1


async def test_a_stop_that_is_refused(autojump_clock: MockClock) -> None:
    async with opened(Demo()) as app:
        path = f"{PATH}/stop"
        for body, status, code in (
            ({"threadId": "t-9"}, 404, "THREAD_NOT_FOUND"),
            ({"threadId": "no id"}, 400, "VALIDATION_ERROR"),
            ({}, 400, "VALIDATION_ERROR"),
            ("x" * 20_000, 413, "BAD_REQUEST"),
        ):
            fault = await refused(app, body, path)
            assert (fault["status"], fault["code"]) == (status, code)
        assert (await refused(app, {}, path, user=None))["status"] == 401
        assert not list(app.node.sessions)


async def test_a_busy_thread_runs_one_message_after_the_other(autojump_clock: MockClock) -> None:
    demo = Demo()
    async with (
        opened(demo) as app,
        request(app, "POST", PATH, json=run_input("m-1", "wait")) as first,
        request(app, "POST", PATH, json=run_input("m-2", "hello")) as second,
    ):
        streams = Stream(first), Stream(second)
        await streams[0].until("TEXT_MESSAGE_CONTENT")
        await streams[1].until("RUN_STARTED")
        assert trio.current_time() < 1
        demo.go_on.set()
        assert text_of(await streams[0].rest()) == "after"
        assert text_of(await streams[1].rest()) == "Hello!"


@pytest.mark.parametrize(
    ("payload", "status", "text", "outcome"),
    [
        ({"approved": True}, "resolved", "Deleted.", "success"),
        (True, "resolved", "Deleted.", "success"),
        ({"approved": False}, "resolved", "", None),
        (None, "cancelled", "", None),
    ],
)
async def test_an_approval(
    payload: Any, status: str, text: str, outcome: str | None, autojump_clock: MockClock
) -> None:
    async with opened(Demo()) as app:
        first = await run_events(app, run_input(text="delete"))
        check(first)
        body = run_input(text="delete", run="r-2", resume=resume(first, payload, status))
        second = await run_events(app, body)
        check(second)
        assert text_of(second) == text
        calls = [event["toolCallId"] for event in first if event["type"] == "TOOL_CALL_START"]
        results = [event["toolCallId"] for event in second if event["type"] == "TOOL_CALL_RESULT"]
        assert results == calls
        assert second[-1].get("outcome", {}).get("type") == outcome
        assert await run_events(app, body) == second  # a retry of the answer
        await wait_all_tasks_blocked()


async def test_questions_one_after_the_other(autojump_clock: MockClock) -> None:
    demo = Demo()
    async with opened(demo) as app:
        first = await run_events(app, run_input(text="ask"))
        assert first[-1]["outcome"]["interrupts"][0]["responseSchema"] == {"type": "integer"}
        assert await run_events(app, run_input(text="ask")) == first  # a retry shows it again
        wrong = await refused(app, run_input(text="ask", resume=resume(first, "many")))
        assert (wrong["status"], wrong["code"]) == (409, "ANSWER_REJECTED")
        assert wrong["error"].startswith("$.resume[0].payload: ")
        body = run_input(None, run="r-2", resume=resume(first, 5))
        del body["messages"]
        second = await run_events(app, body)
        check(second)
        assert text_of(second) == "5"
        other = await refused(app, run_input(text="ask", resume=resume(first, 6)))
        assert (other["status"], other["code"]) == (409, "ANSWER_REJECTED")
        third = await run_events(app, run_input(text="ask", resume=resume(second, "yes")))
        check(third)
        assert text_of(third) == ", yes"
        assert demo.runs == 1


async def test_an_answer_that_is_too_deep_or_too_long(autojump_clock: MockClock) -> None:
    async with opened(Demo()) as app:
        first = await run_events(app, run_input(text="ask"))
        deep: Any = 5
        for _ in range(200):
            deep = [deep]
        fault = await refused(app, run_input(text="ask", resume=resume(first, deep)))
        assert (fault["status"], fault["code"]) == (400, "VALIDATION_ERROR")
        assert fault["error"].startswith("$.resume[0].payload: ")
        fault = await refused(app, run_input(text="ask", resume=resume(first, "x" * 200_000)))
        assert (fault["status"], fault["code"]) == (413, "MESSAGE_TOO_LARGE")
        found = await run_events(app, run_input(text="ask", resume=resume(first, 5)))
        assert text_of(found) == "5"


async def test_an_answer_that_is_cut(autojump_clock: MockClock) -> None:
    async with opened(Demo()) as app:
        first = await run_events(app, run_input(text="delete"))
        body = run_input(text="delete", run="r-2", resume=resume(first, {"approved": True}))
        async with request(app, "POST", PATH, json=body) as answer:
            stream = Stream(answer)
            had = await stream.until("TEXT_MESSAGE_START")
        rest = await run_events(app, body, headers=stream.last)
        joined = had + rest
        check(joined)
        assert text_of(joined) == "Deleted."


async def test_a_new_message_while_a_question_is_open(autojump_clock: MockClock) -> None:
    demo = Demo()
    async with opened(demo) as app:
        first = await run_events(app, run_input(text="ask"))
        fault = await refused(app, run_input("m-2", "hello"))
        assert (fault["status"], fault["code"]) == (409, "AGENT_BUSY")
        assert fault["error"].startswith("$.resume: missing")
        entries = resume(first, status="cancelled")
        found = await run_events(app, run_input("m-2", "hello", resume=entries))
        check(found)
        assert text_of(found) == "Hello!"
        old = await run_events(app, run_input(text="ask"))
        assert old[-1]["code"] == "CANCELLED"
        again = await run_events(app, run_input(text="ask", resume=entries))
        assert again[-1]["code"] == "CANCELLED"


async def test_an_expired_question(autojump_clock: MockClock) -> None:
    async with opened(Demo(), unattended="continue") as app:
        first = await run_events(app, run_input(text="delete"))
        await trio.sleep(301)
        late = await refused(app, run_input(text="delete", resume=resume(first, True)))
        assert (late["status"], late["code"]) == (409, "ANSWER_REJECTED")
        assert late["error"] == "$.resume[0]: The interrupt is closed: expired."
        entries = resume(first, status="cancelled")
        found = await run_events(app, run_input(text="delete", resume=entries))
        check(found)
        assert "in time" in next(e["content"] for e in found if e["type"] == "TOOL_CALL_RESULT")


async def test_an_interrupt_that_the_thread_does_not_have(autojump_clock: MockClock) -> None:
    async with opened(Demo()) as app:
        entries = [{"interruptId": "q_9", "status": "resolved", "payload": 1}]
        fault = await refused(app, run_input(resume=entries))
        assert (fault["status"], fault["code"]) == (409, "ANSWER_REJECTED")
        assert fault["error"].startswith("$.resume[0].interruptId: ")


async def test_a_message_is_run_again_on_purpose(autojump_clock: MockClock) -> None:
    demo = Demo()
    async with opened(demo) as app:
        again: Any = {"forwardedProps": {"regenerate": True}}
        first = await run_events(app, run_input(**again))  # there is nothing to run again
        second = await run_events(app, run_input(run="r-2", **again))
        assert (first[-1]["result"], second[-1]["result"]) == ({"runs": 1}, {"runs": 2})
        retried = await run_events(app, run_input(run="r-2", **again))
        assert retried[-1]["runId"] == "r-2"
        assert text_of(retried) == "Hello!"
        plain = await run_events(app, run_input(run="r-4"))
        assert plain[1:-1] == retried[1:-1]
        assert demo.runs == 2
        await run_events(app, run_input(run="r-3", **again))
        assert demo.runs == 3


@pytest.mark.parametrize("given", ["7", "run_1/1/2/3/2/", "a/b"])
async def test_an_event_id_of_another_endpoint(given: str, autojump_clock: MockClock) -> None:
    async with opened(Demo()) as app:
        fault = await refused(app, run_input(), headers={"last-event-id": given})
        assert (fault["status"], fault["code"]) == (400, "BAD_REQUEST")
        found = await run_events(app, run_input(), headers={"last-event-id": "run_9/1/0/0/0/"})
        assert found[0]["type"] == "RUN_STARTED"
        empty = await run_events(app, run_input(), headers={"last-event-id": ""})
        assert empty == found


async def test_refusals(autojump_clock: MockClock) -> None:
    async with opened(Demo()) as app:
        for body, status, code, text in (
            ([], 400, "VALIDATION_ERROR", "$: expected an object"),
            (run_input(thread="no id"), 400, "VALIDATION_ERROR", "$.threadId: "),
            (run_input("m-9", "x" * 11_000), 413, "MESSAGE_TOO_LARGE", "The message has 11000"),
            (run_input("m-9", "x" * 400_000), 413, "MESSAGE_TOO_LARGE", "The message has 400000"),
            ("x" * BODY_BYTES, 413, "BAD_REQUEST", "The body has more than"),
        ):
            fault = await refused(app, body)
            assert (fault["status"], fault["code"]) == (status, code), fault
            assert fault["error"].startswith(text)
        for raw in (b"", b"{", b'{"threadId": "\\ud800"}', b"[" * 5000, b"\xff"):
            async with request(app, "POST", PATH, body=raw) as answer:
                assert answer.status == 400
                assert (await answer.json())["error"] == "The body is not JSON."
        fault = await refused(app, run_input(), "/ag-ui/nobody")
        assert (fault["status"], fault["code"]) == (404, "AGENT_NOT_FOUND")
        fault = await refused(app, run_input(), user=None)
        assert (fault["status"], fault["code"]) == (401, "AUTH_REQUIRED")
        foreign = {"origin": "https://evil.example"}
        fault = await refused(app, run_input(), headers=foreign)
        assert (fault["status"], fault["code"]) == (403, "ORIGIN_NOT_ALLOWED")
        metrics = app.instruments.metrics
        assert metrics.door_requests["ag-ui", DoorOutcome.REFUSED] == 13
        assert not list(app.node.sessions)  # none waits for its window, and counts for its user


async def test_a_text_of_the_longest_size(autojump_clock: MockClock) -> None:
    async with opened(Demo()) as app:
        text = "hello " + "x" * 10_000
        assert text_of(await run_events(app, run_input(text=text))) == "Hello!"


async def test_a_pre_flight(autojump_clock: MockClock) -> None:
    async with opened(Demo()) as app:
        origin = {"origin": "http://localhost:3000"}
        for path in (PATH, f"{PATH}/stop"):
            async with request(app, "OPTIONS", path, headers=origin) as answer:
                assert answer.status == 204
                allowed = answer.headers["access-control-allow-headers"].split(", ")
                assert {"authorization", "content-type", "last-event-id"} <= set(allowed)
                assert "POST" in answer.headers["access-control-allow-methods"]
        async with request(app, "POST", PATH, json=run_input(), headers=origin) as answer:
            assert answer.headers["access-control-allow-origin"] == origin["origin"]
            await answer.text()


async def test_a_full_rate(autojump_clock: MockClock) -> None:
    async with opened(Demo(), max_message_rate=1, burst_queue=0) as app:
        await run_events(app, run_input("m-1"))
        async with request(app, "POST", PATH, json=run_input("m-2")) as answer:
            assert answer.status == 429
            assert (await answer.json())["code"] == "RATE_LIMIT_EXCEEDED"
            assert int(answer.headers["retry-after"]) > 0
        assert text_of(await run_events(app, run_input("m-1"))) == "Hello!"  # a retry


async def test_a_reader_that_stalls(autojump_clock: MockClock) -> None:
    demo = Demo()
    async with opened(demo) as app:
        async with request(app, "POST", PATH, json=run_input(text="long")) as answer:
            answer.pause()
            await wait_all_tasks_blocked()
            await trio.sleep(30)
            await wait_all_tasks_blocked()
        metrics = app.instruments.metrics
        assert metrics.door_requests["ag-ui", DoorOutcome.STALLED] == 1
        assert text_of(await run_events(app, run_input(text="long"))).startswith("x" * 1024)
        assert demo.runs == 1


async def test_a_quiet_run_is_kept_alive(autojump_clock: MockClock) -> None:
    demo = Demo()
    async with opened(demo) as app:
        async with request(app, "POST", PATH, json=run_input(text="wait")) as answer:
            await Stream(answer).until("TEXT_MESSAGE_CONTENT")
            await trio.sleep(100)
            demo.go_on.set()
            rest = await answer.text()
        assert rest.count(": keep-alive") == 3
        assert "RUN_FINISHED" in rest


async def test_a_drain(autojump_clock: MockClock) -> None:
    demo = Demo()
    async with opened(demo) as app:
        async with request(app, "POST", PATH, json=run_input(text="wait")) as answer:
            stream = Stream(answer)
            had = await stream.until("TEXT_MESSAGE_CONTENT")
            await app.node.drain()
            rest = await stream.rest()
        check(had + rest)
        assert rest[-1]["type"] == "RUN_ERROR"
        assert rest[-1]["code"] in {"INTERRUPTED", "SERVER_DRAINING"}
        fault = await refused(app, run_input("m-2"))
        assert (fault["status"], fault["code"]) == (503, "SERVER_DRAINING")
