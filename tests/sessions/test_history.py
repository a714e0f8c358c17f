"""The history of a thread: its messages, its pages, and access to it."""

from typing import Any

import orjson
import pytest
import trio
from structlog.testing import capture_logs
from support.memory import EPOCH, Client, Frame, kinds, open_server
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.errors import StoreUnavailable, ToolError
from netra_trio.ids import MessageId, ThreadId, UserId
from netra_trio.protocol.messages import HistoryMessage
from netra_trio.stores.memory import MemoryStore

NO_HEARTBEAT: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000, "max_message_rate": 10_000}


async def answer(run: Run) -> str:
    await run.emit("about ")
    await run.emit(run.content)
    return "the result is not what history shows"


async def return_nothing(run: Run) -> str:
    return run.content


async def one_second(run: Run) -> None:
    await run.emit("part")
    await trio.sleep(1)


async def broken(run: Run) -> None:
    await run.emit("as far as it got")
    raise ValueError


async def page(client: Client, thread_id: str = "t", **payload: Any) -> Frame:
    """Request a page and return its payload."""
    await client.send("get_thread_history", {"thread_id": thread_id, **payload}, "h")
    frame = (await client.until("thread_history"))[-1]
    assert frame["correlation_id"] == "h"
    assert "seq" not in frame
    result: Frame = frame["payload"]
    assert set(result) == {"thread_id", "messages", "has_more"}
    assert result["thread_id"] == thread_id
    return result


async def expect_refusal(client: Client, payload: dict[str, Any]) -> Frame:
    await client.send("get_thread_history", payload, "h")
    frame = await client.expect("error")
    assert frame["correlation_id"] == "h"
    error: Frame = frame["payload"]
    assert error["recoverable"] is True
    return error


async def converse(client: Client, *contents: str, **payload: Any) -> None:
    for content in contents:
        await client.say(content, thread_id="t", **payload)
        await client.until("agent_completed")


def contents(payload: Frame) -> list[str]:
    return [message["content"] for message in payload["messages"]]


async def test_the_history_of_a_conversation(autojump_clock: MockClock) -> None:
    async with open_server(agents={"answer": answer}) as server, server.connect() as client:
        await trio.sleep(1.5)
        await client.say("hello", "k", thread_id="t")
        payload = (await client.until("agent_completed"))[0]["payload"]
        history = await page(client)
        user, agent = history["messages"]
        run = {"run_id": payload["run_id"], "agent_name": "answer", "status": "completed"}
        assert user == {
            "message_id": payload["message_id"],
            "role": "user",
            "content": "hello",
            "created_at": EPOCH + 1.5,
            "correlation_id": "k",
            "run": run,
        }
        assert set(agent) == {"message_id", "role", "content", "created_at", "run", "reply_to"}
        assert agent["run"] == {**run, "duration_ms": 0}
        assert agent["reply_to"] == payload["message_id"]
        assert agent["role"] == "agent"
        assert agent["content"] == "about hello"
        assert agent["created_at"] == EPOCH + 1.5
        assert agent["message_id"] != user["message_id"]
        assert history["has_more"] is False


async def test_an_agent_that_emits_nothing_has_no_message(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"return_nothing": return_nothing}) as server,
        server.connect() as client,
    ):
        await converse(client, "hello")
        assert contents(await page(client)) == ["hello"]


async def test_the_history_has_the_current_status_of_a_run(autojump_clock: MockClock) -> None:
    async def statuses() -> list[tuple[str, str]]:
        messages = (await page(watcher))["messages"]
        return [(m["content"], m["run"]["status"]) for m in messages if m["role"] == "user"]

    async with (
        open_server(agents={"one_second": one_second}) as server,
        server.connect() as client,
        server.connect() as watcher,
    ):
        await client.say("a", thread_id="t")
        await client.until("agent_started")
        await client.say("b", thread_id="t")
        await client.until("message_confirmed")
        assert await statuses() == [("a", "running"), ("b", "queued")]
        await client.until("agent_started")
        assert await statuses() == [("a", "completed"), ("b", "running")]
        await client.until("agent_completed")
        assert await statuses() == [("a", "completed"), ("b", "completed")]
        # Each answer is behind its question, also where the next question came first.
        assert contents(await page(watcher)) == ["a", "part", "b", "part"]


async def test_three_quick_questions_have_their_answers_in_order(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents={"answer": answer}) as server,
        server.connect() as client,
    ):
        for content in ("a", "b", "c"):
            await client.say(content, content, thread_id="t")
        for _ in range(3):
            await client.until("agent_completed")
        messages = (await page(client))["messages"]
        assert contents({"messages": messages}) == [
            "a",
            "about a",
            "b",
            "about b",
            "c",
            "about c",
        ]
        for question, answered in zip(messages[::2], messages[1::2], strict=True):
            assert answered["reply_to"] == question["message_id"]
            assert answered["run"]["run_id"] == question["run"]["run_id"]
        # Pages follow that order: a page may begin between a question and its answer.
        assert contents(await page(client, limit=3)) == ["about b", "c", "about c"]
        before = messages[3]["message_id"]
        assert contents(await page(client, limit=2, before=before)) == ["about a", "b"]


@pytest.mark.parametrize(
    "ending", ["completed", "failed", "timed_out", "cancelled", "abandoned", "interrupted"]
)
async def test_the_steps_are_kept_for_any_status(autojump_clock: MockClock, ending: str) -> None:
    async def act(run: Run) -> None:
        await run.think("first", step=1, total=2)
        async with run.tool("find", path="x") as tool:
            await run.emit("Look: ")
            tool.result = {"found": 1}
        with pytest.raises(ToolError):
            async with run.tool("fail"):
                raise ToolError("no such file")
        async with run.tool("slow"):
            await trio.sleep(1)
            if ending == "failed":
                raise ValueError("broken")
            if ending == "abandoned":
                with trio.CancelScope(shield=True):
                    await trio.sleep(30)
            elif ending != "completed":
                await trio.sleep_forever()

    store = MemoryStore()
    with capture_logs():
        async with (
            open_server(
                agents={"act": act}, agent_timeout_ms=5000, drain_timeout_ms=4000, store=store
            ) as server,
            server.connect() as client,
        ):
            await client.say("x", "k", thread_id="t")
            frames = await client.until("partial_result")
            await trio.sleep(1.5)
            if ending in {"cancelled", "abandoned"}:
                await client.send("stop_agent", {"run_id": frames[0]["payload"]["run_id"]})
            if ending == "interrupted":
                server.nursery.start_soon(server.node.drain)
            end = (await client.until("agent_completed"))[-1]["payload"]
            page_ = await store.history(UserId("alice"), ThreadId("t"), limit=50)
    assert page_ is not None
    question, answered = page_[0]
    status = {"abandoned": "cancelled"}.get(ending, ending)
    assert end["status"] == status
    assert answered.content == "Look: "
    assert answered.run is not None
    assert (answered.run.status, answered.run.duration_ms) == (status, end["duration_ms"])
    assert end["duration_ms"] >= 1000
    assert answered.reply_to == question.message_id
    steps = orjson.loads(orjson.dumps(answered.steps))
    assert steps[0] == {
        "type": "thought",
        "at": 0,
        "thought": "first",
        "step_number": 1,
        "total_steps": 2,
    }
    assert [(step.get("tool_name"), step["at"]) for step in steps[1:]] == [
        ("find", 0),
        ("fail", 6),
        ("slow", 6),
    ]
    assert (steps[1]["success"], steps[1]["result"]) == (True, {"found": 1})
    assert (steps[2]["success"], steps[2]["error"]) == (False, "no such file")
    is_cut_off = ending not in {"completed", "failed"}
    assert ("success" in steps[3]) is not is_cut_off


@pytest.mark.parametrize("ending", ["failed", "timed_out", "cancelled"])
async def test_emitted_text_is_kept_for_any_status(autojump_clock: MockClock, ending: str) -> None:
    async def wait_for_room(run: Run) -> None:
        await run.emit("as far as it got")
        await trio.sleep_forever()

    agents = {"failed": broken, "timed_out": wait_for_room, "cancelled": wait_for_room}
    with capture_logs():
        async with (
            open_server(agents=agents, agent_timeout_ms=1000) as server,
            server.connect() as client,
        ):
            await client.say("x", agent=ending, thread_id="t")
            frames = await client.until("partial_result")
            if ending == "cancelled":
                await client.send("stop_agent", {"run_id": frames[0]["payload"]["run_id"]})
            await client.until("agent_completed")
            messages = (await page(client))["messages"]
    assert messages[0]["run"]["status"] == ending
    assert messages[1]["content"] == "as far as it got"


async def test_a_run_that_never_started_has_no_message_of_an_agent(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"one_second": one_second}) as server, server.connect() as client:
        await client.say("a", thread_id="t")
        await client.say("b", thread_id="t")
        await client.until("message_confirmed")
        run_id = (await client.until("message_confirmed"))[-1]["payload"]["run_id"]
        await client.send("stop_agent", {"run_id": run_id})
        await client.until("agent_completed")
        messages = (await page(client))["messages"]
        assert [(m["content"], m["run"]["status"]) for m in messages] == [
            ("a", "running"),
            ("b", "cancelled"),
        ]


@pytest.mark.parametrize(
    ("length", "kept", "truncated"), [(65_536, 65_536, False), (65_537, 65_536, True)]
)
async def test_the_text_of_an_agent_has_at_most_64_kib(
    autojump_clock: MockClock, length: int, kept: int, truncated: bool
) -> None:
    async def agent(run: Run) -> None:
        await run.emit("x" * length)

    async with open_server(agents={"agent": agent}) as server, server.connect() as client:
        await converse(client, "hello")
        message = (await page(client))["messages"][1]
        assert len(message["content"]) == kept
        assert message.get("truncated") is (True if truncated else None)


async def test_a_text_is_cut_between_characters(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        await run.emit("x" + "€" * 30_000)

    async with open_server(agents={"agent": agent}) as server, server.connect() as client:
        await converse(client, "hello")
        message = (await page(client))["messages"][1]
        assert message["content"] == "x" + "€" * (65_535 // 3)
        assert message["truncated"] is True


# Pages.


async def test_pages_have_no_gap_and_no_repetition(autojump_clock: MockClock) -> None:
    async with open_server(agents={"answer": answer}) as server, server.connect() as client:
        await converse(client, *(f"m{number}" for number in range(11)))
        everything = contents(await page(client, limit=100))
        assert len(everything) == 22
        pages = [await page(client, limit=5)]
        while pages[-1]["has_more"]:
            oldest = pages[-1]["messages"][0]["message_id"]
            pages.append(await page(client, limit=5, before=oldest))
        assert [len(payload["messages"]) for payload in pages] == [5, 5, 5, 5, 2]
        joined = [content for payload in reversed(pages) for content in contents(payload)]
        assert joined == everything
        assert everything[:2] == ["m0", "about m0"]
        first = pages[-1]["messages"][0]["message_id"]
        assert await page(client, before=first) == {
            "thread_id": "t",
            "messages": [],
            "has_more": False,
        }


async def test_a_page_has_fifty_messages_by_default_and_at_most_a_hundred(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents={"return_nothing": return_nothing}, **NO_HEARTBEAT) as server,
        server.connect() as client,
    ):
        await converse(client, *(f"m{number}" for number in range(50)))
        payload = await page(client)
        assert (len(payload["messages"]), payload["has_more"]) == (50, False)
        await converse(client, *(f"m{number}" for number in range(50, 101)))
        for limit, count in (({}, 50), ({"limit": 1}, 1), ({"limit": 100}, 100)):
            payload = await page(client, "t", **limit)
            assert contents(payload) == [f"m{number}" for number in range(101 - count, 101)]
            assert payload["has_more"] is True


@pytest.mark.parametrize("limit", [0, 101, -1, "5", 5.0, True])
async def test_an_invalid_limit_is_refused(autojump_clock: MockClock, limit: Any) -> None:
    async with (
        open_server(agents={"return_nothing": return_nothing}) as server,
        server.connect() as client,
    ):
        await converse(client, "hello")
        payload = await expect_refusal(client, {"thread_id": "t", "limit": limit})
        assert payload["code"] == "VALIDATION_ERROR"
        assert payload["error"].startswith("$.payload.limit: ")


async def test_a_page_has_at_most_256_kib(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        await run.emit("x" * 60_000)

    async with open_server(agents={"agent": agent}) as server, server.connect() as client:
        await converse(client, *"abcdef")
        await client.send("get_thread_history", {"thread_id": "t", "limit": 100})
        data = await client.peer.receive()
        assert len(data) <= 256 * 1024
        payload = await page(client, limit=100)
        assert payload["has_more"] is True
        assert 2 * 4 - 1 <= len(payload["messages"]) <= 2 * 4
        older = await page(client, before=payload["messages"][0]["message_id"])
        assert older["has_more"] is False
        assert len(older["messages"]) + len(payload["messages"]) == 12


# Access.


async def test_an_unknown_thread_and_the_thread_of_another_user_are_not_found(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents={"return_nothing": return_nothing}) as server,
        server.connect("alice") as alice,
        server.connect("bob") as bob,
    ):
        await converse(alice, "hers")
        hers = (await page(alice))["messages"][0]["message_id"]
        for payload in (
            {"thread_id": "t"},
            {"thread_id": "t", "before": hers},
            {"thread_id": "never"},
        ):
            assert (await expect_refusal(bob, payload))["code"] == "THREAD_NOT_FOUND"
        await converse(bob, "his")
        assert contents(await page(bob)) == ["his"]
        assert contents(await page(alice)) == ["hers"]
        # The error does not show whether a message of another user exists.
        payload = await expect_refusal(bob, {"thread_id": "t", "before": hers})
        assert payload["code"] == "VALIDATION_ERROR"
        assert payload["error"].startswith("$.payload.before: ")


async def test_a_refused_message_creates_no_thread(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"return_nothing": return_nothing}) as server,
        server.connect() as client,
    ):
        await client.say("x", thread_id="t", agent="nobody")
        assert (await client.error())["code"] == "AGENT_NOT_FOUND"
        assert (await expect_refusal(client, {"thread_id": "t"}))["code"] == "THREAD_NOT_FOUND"


@pytest.mark.parametrize("before", ["", "msg_unknown", "x" * 5000, 5])
async def test_an_unknown_message_is_refused_with_its_path(
    autojump_clock: MockClock, before: Any
) -> None:
    async with (
        open_server(agents={"return_nothing": return_nothing}) as server,
        server.connect() as client,
    ):
        await converse(client, "hello")
        payload = await expect_refusal(client, {"thread_id": "t", "before": before})
        assert payload["code"] == "VALIDATION_ERROR"
        assert payload["error"].startswith("$.payload.before: ")
        assert len(payload["error"]) < 500


async def test_all_sessions_of_a_user_read_the_same_history(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"answer": answer}) as server:
        async with server.connect() as client:
            await converse(client, "hello")
            payload = await page(client)
        async with server.connect() as client:
            assert await page(client) == payload


# The rate, and an unavailable store.


async def test_ten_pages_a_second_and_one_more(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"return_nothing": return_nothing}) as server,
        server.connect() as client,
    ):
        await converse(client, "hello")
        for _ in range(10):
            await page(client)
        payload = await expect_refusal(client, {"thread_id": "t"})
        assert payload["code"] == "RATE_LIMIT_EXCEEDED"
        assert payload["retry_after_ms"] == 100
        await trio.sleep(0.099)
        assert (await expect_refusal(client, {"thread_id": "t"}))["code"] == "RATE_LIMIT_EXCEEDED"
        await trio.sleep(0.002)
        await page(client)
        assert (await expect_refusal(client, {"thread_id": "t"}))["code"] == "RATE_LIMIT_EXCEEDED"
        # Other frames are not delayed.
        await client.send("ping", {})
        await client.expect("pong")
        await trio.sleep(1)
        for _ in range(10):
            await page(client)


async def test_each_connection_has_a_separate_history_rate(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"return_nothing": return_nothing}) as server,
        server.connect() as one,
        server.connect() as two,
    ):
        await converse(one, "hello")
        for client in (one, two):
            for _ in range(10):
                await page(client)


class SlowStore(MemoryStore):
    """A store that can be slow or unavailable."""

    takes = 0.0
    is_down = False

    async def history(
        self,
        user_id: UserId,
        thread_id: ThreadId,
        *,
        limit: int,
        before: MessageId | None = None,
    ) -> tuple[Any, bool] | None:
        await trio.sleep(self.takes)
        if self.is_down:
            raise StoreUnavailable
        return await super().history(user_id, thread_id, limit=limit, before=before)


async def test_history_gets_an_error_while_the_store_is_unavailable(
    autojump_clock: MockClock,
) -> None:
    store = SlowStore()
    async with (
        open_server(agents={"return_nothing": return_nothing}, store=store) as server,
        server.connect() as client,
    ):
        await converse(client, "hello")
        store.is_down = True
        payload = await expect_refusal(client, {"thread_id": "t"})
        assert payload["code"] == "SERVICE_UNAVAILABLE"
        assert payload["retry_after_ms"] > 0
        store.is_down = False
        await page(client)


async def test_a_slow_store_does_not_delay_control_frames_and_runs(
    autojump_clock: MockClock,
) -> None:
    store = SlowStore()
    async with (
        open_server(agents={"return_nothing": return_nothing}, store=store) as server,
        server.connect() as client,
    ):
        await converse(client, "hello")
        store.takes = 2
        await client.send("get_thread_history", {"thread_id": "t"})
        await client.send("ping", {})
        await client.say("hello")
        frames = await client.until("agent_completed")
        assert "pong" in kinds(frames)
        assert trio.current_time() == 0
        await client.expect("thread_history")
        assert trio.current_time() == 2


async def test_the_history_of_a_run_raises_while_the_store_is_unavailable(
    autojump_clock: MockClock,
) -> None:
    seen: list[HistoryMessage] = []

    async def agent(run: Run) -> str:
        try:
            seen.extend(await run.history())
        except StoreUnavailable:
            return "no history now"
        return "history"

    store = SlowStore()
    async with (
        open_server(agents={"agent": agent}, store=store) as server,
        server.connect() as client,
    ):
        store.is_down = True
        await client.say("x")
        end = (await client.until("agent_completed"))[-1]
        assert end["payload"]["result"] == "no history now"
        assert seen == []
