"""Messages, runs and events of the client against a scripted server, in virtual time."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from support.scripted import LIMITS, Frame, Peer, ScriptedNetwork, opened
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.client import (
    Client,
    ClientClosed,
    ConnectionClosed,
    Event,
    MessageRefused,
    OutboxFull,
    Run,
    RunFailed,
    RunLost,
)
from netra_trio.client.outbox import MESSAGES
from netra_trio.client.requests import REQUESTS


@pytest.fixture
def network() -> ScriptedNetwork:
    return ScriptedNetwork()


class Later:
    """The outcome of an async call that a test does not wait for yet."""

    def __init__(self, nursery: trio.Nursery, call: Callable[[], Awaitable[Any]]) -> None:
        self.value: Any = None
        self.error: Exception | None = None
        self.done = trio.Event()
        self.scope = trio.CancelScope()
        nursery.start_soon(self._run, call)

    async def _run(self, call: Callable[[], Awaitable[Any]]) -> None:
        with self.scope:
            try:
                self.value = await call()
            except Exception as error:
                self.error = error
        self.done.set()

    async def wait(self) -> Any:
        await self.done.wait()
        if self.error is not None:
            raise self.error
        return self.value


async def sent(client: Client, peer: Peer, run_id: str = "run_1", **options: Any) -> Run:
    """Send a message that is confirmed at once."""
    async with trio.open_nursery() as nursery:
        later = Later(nursery, lambda: client.send("hello", **options))
        peer.confirm(await peer.expect("user_message"), run_id)
    run: Run = await later.wait()
    return run


async def remaining(run: Run) -> list[Event]:
    return [event async for event in run]


def types(events: list[Event]) -> list[str]:
    return [event.type for event in events]


async def test_a_message_becomes_a_run(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer):
        async with trio.open_nursery() as nursery:
            later = Later(
                nursery,
                lambda: client.send(
                    "hello",
                    thread_id="main",
                    agent="demo",
                    on_busy="reject",
                    deadline_ms=5,
                    correlation_id="c-1",
                ),
            )
            message = await peer.expect("user_message")
            assert message["correlation_id"] == "c-1"
            assert message["payload"] == {
                "content": "hello",
                "thread_id": "main",
                "agent": "demo",
                "on_busy": "reject",
                "deadline_ms": 5,
            }
            await wait_all_tasks_blocked()
            assert not later.done.is_set()
            assert client.stats.queued == 1
            peer.confirm(message, status="queued")
        run = await later.wait()
        assert (run.run_id, run.message_id, run.thread_id) == ("run_1", "msg_1", "main")
        assert (run.status, run.correlation_id) == ("queued", "c-1")
        assert (client.stats.queued, client.stats.messages_sent) == (0, 1)
        peer.event("agent_started", {"run_id": "run_1", "agent_name": "demo", "attempt": 1})
        peer.delta("Hel")
        peer.delta("lo", merged=3)
        peer.event("agent_thinking", {"run_id": "run_2", "thought": "of another run"})
        peer.complete(result="Hello")
        async for event in run:
            assert event.type == "agent_started"
            break
        await wait_all_tasks_blocked()
        events = await remaining(run)
        assert types(events) == ["partial_result", "agent_completed"]
        assert events[0].payload["content"] == "Hello"  # no task read, so they are merged
        assert (events[0].seq_from, events[0].seq) == (3, 6)
        assert run.end == events[-1]
        assert await remaining(run) == []
        await run.stop()  # does nothing after the end
        everything = client.events()
        found = [await anext(everything) for _ in range(6)]
        assert types(found) == [
            "connected",
            "message_confirmed",
            "agent_started",
            "partial_result",
            "agent_thinking",
            "agent_completed",
        ]


async def test_a_request(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        later = Later(nursery, lambda: client.request("weather", {"city": "Oslo"}))
        message = await peer.expect("agent_request")
        assert message["payload"] == {"agent": "weather", "input": {"city": "Oslo"}}
        assert 1 <= len(message["correlation_id"]) <= 128
        peer.confirm(message, status="duplicate")
        peer.complete(result={"temperature": 5})
        run = await later.wait()
        assert run.status == "duplicate"
        assert await run.result() == {"temperature": 5}
        assert await run.text() == ""


async def test_the_text_of_a_duplicate_is_its_result(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    """Its first deltas may have gone to a session that has ended."""
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        later = Later(nursery, lambda: client.send("hi"))
        peer.confirm(await peer.expect("user_message"), status="duplicate")
        peer.delta("lo")
        peer.complete(result="Hello")
        run = await later.wait()
        assert await run.text() == "Hello"


async def test_text_and_result(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer):
        run = await sent(client, peer)
        peer.delta("Hel")
        peer.delta("lo")
        peer.complete(status="failed", error={"code": "AGENT_ERROR", "error": "E.", "help": "H."})
        assert await run.text() == "Hello"
        with pytest.raises(RunFailed, match=r"failed: E\. H\.") as caught:
            await run.result()
        assert caught.value.status == "failed"


@pytest.mark.parametrize(
    ("code", "key"),
    [("AGENT_BUSY", "c-1"), ("VALIDATION_ERROR", "c-1"), ("JSON_PARSE_ERROR", None)],
)
async def test_a_refusal_raises(
    autojump_clock: MockClock, network: ScriptedNetwork, code: str, key: str | None
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        later = Later(nursery, lambda: client.send("hello", correlation_id="c-1"))
        await peer.expect("user_message")
        peer.error(code, key, retry_after_ms=50)
        with pytest.raises(MessageRefused, match=rf"{code}: No\. Don't\.") as caught:
            await later.wait()
        assert (caught.value.code, caught.value.retry_after_ms) == (code, 50)
        assert client.stats.queued == 0
        assert client.stats.errors_encountered == 1


@pytest.mark.parametrize("code", ["RATE_LIMIT_EXCEEDED", "QUEUE_FULL", "SERVICE_UNAVAILABLE"])
async def test_a_repeated_message_holds_back_the_others(
    autojump_clock: MockClock, network: ScriptedNetwork, code: str
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        laters = []
        for number in range(3):
            laters.append(Later(nursery, lambda n=number: client.send(f"{n}")))  # type: ignore[misc]
            await wait_all_tasks_blocked()
        first = await peer.expect("user_message")
        peer.error(code, first["correlation_id"], retry_after_ms=12_000)
        again = await peer.expect("user_message")
        assert trio.current_time() == 12.0
        assert again == first
        peer.error(code, first["correlation_id"])
        assert await peer.expect("user_message") == first
        assert trio.current_time() == 13.0
        for number, later in enumerate(laters):
            peer.confirm(first, f"run_{number}")
            assert (await later.wait()).run_id == f"run_{number}"
            if number < 2:
                first = await peer.expect("user_message")
                assert first["payload"]["content"] == f"{number + 1}"


async def test_a_message_for_a_draining_server_waits_for_the_next_connection(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, line), trio.open_nursery() as nursery:
        peer = line
        later = Later(nursery, lambda: client.send("hello"))
        first = await peer.expect("user_message")
        peer.error("SERVER_DRAINING", first["correlation_id"], retry_after_ms=10)
        await trio.sleep(60)
        assert not peer.received
        peer.close(1012)
        peer = await network.accept()
        peer.hello("reset", session_id="sess_2", reason="unknown")
        assert await peer.expect("user_message") == first
        peer.confirm(first)
        await later.wait()


async def test_a_message_that_is_too_large_is_refused_by_the_client(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer):
        with pytest.raises(MessageRefused, match="MESSAGE_TOO_LARGE"):
            await client.send("é" * 5_100)
        assert client.stats.queued == 0
        with pytest.raises(ValueError, match="correlation_id"):
            await client.send("hello", correlation_id="c" * 129)
        async with trio.open_nursery() as nursery:
            later = Later(nursery, lambda: client.send("x" * 500))
            await peer.expect("user_message")
            peer.close(1006)
            smaller = await network.accept()
            smaller.hello("exact", limits={**LIMITS, "max_message_size": 400})
            with pytest.raises(MessageRefused, match="at most 400 bytes"):
                await later.wait()
        await wait_all_tasks_blocked()
        assert not smaller.received


async def test_unconfirmed_messages_are_sent_again_in_order(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, line), trio.open_nursery() as nursery:
        peer = line
        laters = []
        for number in range(3):
            laters.append(Later(nursery, lambda n=number: client.send(f"{n}")))  # type: ignore[misc]
            await wait_all_tasks_blocked()
        first = await peer.expect("user_message")
        peer.close(1006)
        for verdict in ("exact", "gap", "reset"):
            peer = await network.accept()
            peer.hello(verdict)
            assert await peer.expect("user_message") == first
            peer.close(1006)
        peer = await network.accept()
        peer.hello("exact")
        for number, later in enumerate(laters):
            message = await peer.expect("user_message")
            assert message["payload"]["content"] == f"{number}"
            peer.confirm(message, f"run_{number}")
            await later.wait()


async def test_a_confirmation_in_the_replay_is_enough(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, line), trio.open_nursery() as nursery:
        peer = line
        later = Later(nursery, lambda: client.send("hello"))
        message = await peer.expect("user_message")
        peer.close(1006)
        peer = await network.accept()
        peer.hello("exact", replayed=2)
        await wait_all_tasks_blocked()
        peer.confirm(message)
        peer.delta("Hi")
        run = await later.wait()
        peer.complete()
        assert await run.text() == "Hi"
        assert [frame for frame in peer.received if frame["type"] != "ack"] == []


async def test_a_missing_replay_holds_messages_back_for_five_seconds(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, line), trio.open_nursery() as nursery:
        peer = line
        later = Later(nursery, lambda: client.send("hello"))
        message = await peer.expect("user_message")
        peer.close(1006)
        peer = await network.accept()
        peer.hello("exact", replayed=2)
        assert await peer.expect("user_message") == message
        assert trio.current_time() == 5.0
        peer.confirm(message, status="duplicate")
        await later.wait()


async def test_an_event_that_comes_twice_is_delivered_once(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, line):
        peer = line
        run = await sent(client, peer)
        events = aiter(run)
        peer.delta("a")
        assert (await anext(events)).payload["content"] == "a"
        peer.write(
            '{"type": "partial_result", "payload": {"run_id": "run_1", "content": "a"}, "seq": 2}'
        )
        peer.delta("b")
        assert (await anext(events)).payload["content"] == "b"
        peer.close(1006)
        peer = await network.accept()
        runs = [{"run_id": "run_1", "thread_id": "main", "status": "running", "content": "ab"}]
        peer.hello("exact", last_seq=3, replayed=1, runs=runs)
        peer.delta("c")
        assert (await anext(events)).payload["content"] == "c"
        peer.complete()
        assert (await anext(events)).type == "agent_completed"
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_a_gap_in_a_run(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, line):
        peer = line
        run = await sent(client, peer)
        other = await sent(client, peer, "run_2", correlation_id="c-2")
        peer.delta("a")
        await wait_all_tasks_blocked()
        peer.close(1006)
        peer = await network.accept()
        known = {"run_id": "run_1", "thread_id": "main", "status": "running", "content": "abcd"}
        peer.hello("gap", last_seq=9, runs=[known])
        peer.delta("e")
        peer.complete()
        events = await remaining(run)
        assert types(events) == ["partial_result", "gap", "partial_result", "agent_completed"]
        assert events[1].payload == known
        # The other one has ended in the gap: its end is looked up by its key.
        again = await peer.expect("user_message")
        assert again["correlation_id"] == "c-2"
        peer.confirm(again, "run_2", "duplicate")
        peer.complete("run_2", "failed", error={"code": "AGENT_ERROR"})
        assert types(await remaining(other)) == ["gap", "agent_completed"]
        everything = client.events()
        while (event := await anext(everything)).type != "gap":
            pass
        assert event.payload == {"last_seq": 9, "runs": [known]}


async def test_the_text_after_a_gap(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, line):
        peer = line
        run = await sent(client, peer)
        peer.delta("a")
        await wait_all_tasks_blocked()
        peer.close(1006)
        peer = await network.accept()
        peer.hello("gap", last_seq=9, runs=[{"run_id": "run_1", "content": "abcd"}])
        peer.delta("e")
        peer.complete(result="something else")
        assert await run.text() == "abcde"


async def test_missing_numbers_are_reported(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer):
        peer.delta("a")
        peer.seq = 5
        peer.delta("b")
        peer.seq = 3
        peer.delta("torn", merged=5)
        found = [event async for event in Taking(client, 5)]
        assert [event.payload for event in found if event.type == "gap"] == [
            {"from": 2, "to": 5},
            {"from": 7, "to": 8},
        ]
        assert "torn" not in str(found)


class Taking:
    """The first few of all events."""

    def __init__(self, client: Client, count: int) -> None:
        self.events = client.events()
        self.count = count

    def __aiter__(self) -> "Taking":
        return self

    async def __anext__(self) -> Event:
        if not self.count:
            self.events.close()
            raise StopAsyncIteration
        self.count -= 1
        return await anext(self.events)


async def test_after_a_reset_the_ends_of_runs_are_looked_up(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, line):
        peer = line
        first = await sent(client, peer, "run_1", correlation_id="c-1")
        second = await sent(client, peer, "run_2", correlation_id="c-2")
        async with trio.open_nursery() as nursery:
            third = Later(nursery, lambda: client.send("hello", correlation_id="c-3"))
            await peer.expect("user_message")
            peer.delta("a")
            await wait_all_tasks_blocked()
            peer.close(1006)
            peer = await network.accept()
            peer.hello("reset", session_id="sess_2", reason="unknown")
            for run_id, key in (("run_1", "c-1"), ("run_2", "c-2")):
                again = await peer.expect("user_message")
                assert again["correlation_id"] == key
                peer.confirm(again, run_id, "duplicate")
            peer.confirm(await peer.expect("user_message"), "run_3")
            assert (await third.wait()).run_id == "run_3"
        peer.complete("run_1", "interrupted")
        peer.complete("run_2", "completed", result="the whole answer")
        events = await remaining(first)
        assert types(events) == ["partial_result", "reset", "agent_completed"]
        assert events[1].payload == {"run_id": "run_1", "reason": "unknown"}
        assert events[2].payload["status"] == "interrupted"
        assert await second.text() == "the whole answer"
        assert client.stats.last_resume_verdict == "reset"


async def test_a_run_that_a_forgotten_key_started_is_stopped(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, line):
        peer = line
        run = await sent(client, peer, correlation_id="c-1")
        peer.close(1006)
        peer = await network.accept()
        peer.hello("reset", session_id="sess_2", reason="unknown")
        peer.confirm(await peer.expect("user_message"), "run_9")
        assert (await peer.expect("stop_agent"))["payload"] == {"run_id": "run_9"}
        with pytest.raises(RunLost, match="forgotten"):
            await run.result()


async def test_a_run_that_cannot_be_looked_up_is_lost(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, line):
        peer = line
        run = await sent(client, peer, correlation_id="c-1")
        peer.close(1006)
        peer = await network.accept()
        peer.hello("reset", session_id="sess_2", reason="unknown")
        peer.error("VALIDATION_ERROR", (await peer.expect("user_message"))["correlation_id"])
        assert types(await remaining(run)) == ["reset", "lost"]
        run = await sent(client, peer, correlation_id="c-2")
        await trio.sleep(60)
        for _ in range(24 * 120):
            peer.control("heartbeat", {})
            await trio.sleep(30)
        peer.close(1006)
        peer = await network.accept()
        peer.hello("reset", session_id="sess_3", reason="unknown")
        assert types(await remaining(run)) == ["reset", "lost"]
        assert not peer.received


async def test_two_resets_look_a_run_up_once(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, line):
        peer = line
        run = await sent(client, peer, correlation_id="c-1")
        for number in range(2, 5):
            peer.close(1006)
            peer = await network.accept()
            peer.hello("reset", session_id=f"sess_{number}", reason="unknown")
            again = await peer.expect("user_message")
        await wait_all_tasks_blocked()
        assert not peer.received
        peer.confirm(again, status="duplicate")
        peer.complete()
        assert types(await remaining(run))[-1] == "agent_completed"


async def test_acknowledgements(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (_, peer):
        peer.delta("a")
        await wait_all_tasks_blocked()
        assert peer.acks() == [1]
        for _ in range(31):
            peer.delta("a")
        await wait_all_tasks_blocked()
        assert peer.acks() == [1]
        await trio.sleep(0.99)
        assert peer.acks() == [1]
        await trio.sleep(0.02)
        assert peer.acks() == [1, 32]
        peer.delta("many", merged=32)
        await wait_all_tasks_blocked()
        assert peer.acks() == [1, 32, 64]
        await trio.sleep(60)
        assert peer.acks() == [1, 32, 64]


async def test_only_an_iteration_that_has_begun_holds_acknowledgements(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer):
        run = await sent(client, peer)
        for number in range(50):
            peer.delta(f"{number} ")
        await trio.sleep(2)
        assert peer.acks()[-1] == 51
        events = aiter(run)
        text = (await anext(events)).payload["content"]
        assert text == "".join(f"{number} " for number in range(50))
        for _ in range(50):
            peer.delta("x", merged=2)
        await trio.sleep(60)
        assert peer.acks()[-1] == 51
        for _ in range(10):
            assert (await anext(events)).payload["content"] == "x"
        await trio.sleep(2)
        assert peer.acks()[-1] == 71
        peer.complete()
        await trio.sleep(2)
        assert peer.acks()[-1] == 71  # the end was not read either
        del events
        await trio.sleep(2)
        assert peer.acks()[-1] == 152
        left = await remaining(run)
        assert types(left) == ["partial_result", "agent_completed"]
        assert left[0].payload["content"] == "x" * 40


async def test_one_reader_at_a_time(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer):
        run = await sent(client, peer)
        peer.delta("a")
        peer.delta("b")
        async for _ in run:
            with pytest.raises(trio.BusyResourceError):
                await anext(aiter(run))
            break
        assert (await anext(aiter(run))).payload["content"] == "b"


async def test_events_that_no_task_reads_are_bounded(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer):
        run = await sent(client, peer)
        for number in range(1005):
            peer.event("agent_thinking", {"run_id": "run_1", "thought": f"{number}"})
        peer.delta("é" * 200_000)
        peer.complete()
        while run.end is None:
            await wait_all_tasks_blocked()
        events = await remaining(run)
        assert events[0].type == "lagged"
        assert events[0].payload == {"dropped": 6, "cut_bytes": 400_000 - 256 * 1024}
        assert events[1].payload["thought"] == "6"
        assert len(events) == 1 + 1000 + 1
        assert events[-2].payload["content"] == "é" * 131_072


async def test_stop(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, line):
        peer = line
        run = await sent(client, peer)
        async with trio.open_nursery() as nursery:
            later = Later(nursery, run.stop)
            assert (await peer.expect("stop_agent"))["payload"] == {"run_id": "run_1"}
            peer.close(1006)
            peer = await network.accept()
            peer.hello("exact", last_seq=1)
            await peer.expect("stop_agent")
            await wait_all_tasks_blocked()
            assert not later.done.is_set()
            peer.complete(status="cancelled")
            await later.wait()
        assert run.end is not None
        run = await sent(client, peer, "run_2")
        async with trio.open_nursery() as nursery:
            later = Later(nursery, run.stop)
            stop = await peer.expect("stop_agent")
            peer.error("RUN_NOT_FOUND", stop["correlation_id"])
            await later.wait()
            later = Later(nursery, run.stop)
            stop = await peer.expect("stop_agent")
            peer.error("RATE_LIMIT_EXCEEDED", stop["correlation_id"])
            with pytest.raises(MessageRefused):
                await later.wait()


async def test_history(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, line), trio.open_nursery() as nursery:
        peer = line
        later = Later(nursery, lambda: client.history("main", 10, "msg_9"))
        question = await peer.expect("get_thread_history")
        assert question["payload"] == {"thread_id": "main", "limit": 10, "before": "msg_9"}
        peer.close(1006)
        peer = await network.accept()
        peer.hello("exact")
        question = await peer.expect("get_thread_history")
        page: Frame = {"thread_id": "main", "messages": [], "has_more": False}
        peer.control("thread_history", page, question["correlation_id"])
        assert await later.wait() == page
        later = Later(nursery, lambda: client.history("nowhere"))
        question = await peer.expect("get_thread_history")
        peer.error("THREAD_NOT_FOUND", question["correlation_id"])
        with pytest.raises(MessageRefused, match="THREAD_NOT_FOUND"):
            await later.wait()


async def test_requests_are_bounded(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer):
        async with trio.open_nursery() as nursery:
            laters = [Later(nursery, lambda: client.history("main")) for _ in range(REQUESTS)]
            await wait_all_tasks_blocked()
            assert len(peer.received) == REQUESTS
            first_key = peer.received[0]["correlation_id"]
            late = [Later(nursery, lambda: client.history("late")) for _ in range(2)]
            await wait_all_tasks_blocked()
            assert len(peer.received) == REQUESTS
            peer.control("thread_history", {"messages": []}, first_key)
            await wait_all_tasks_blocked()
            assert len(peer.received) == REQUESTS + 1
            peer.close(4403)
        failed = [later for later in (*laters, *late) if later.error is not None]
        assert len(failed) == REQUESTS + 1
        assert {type(later.error) for later in failed} == {ConnectionClosed}


async def test_a_message_that_is_cancelled_before_it_is_written_is_not_sent(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, line), trio.open_nursery() as nursery:
        peer = line
        first = Later(nursery, lambda: client.send("first"))
        await wait_all_tasks_blocked()
        second = Later(nursery, lambda: client.send("second"))
        await wait_all_tasks_blocked()
        assert client.stats.queued == 2
        second.scope.cancel()
        first.scope.cancel()
        await wait_all_tasks_blocked()
        message = await peer.expect("user_message")
        peer.confirm(message)
        await wait_all_tasks_blocked()
        assert client.stats.queued == 0
        assert [frame for frame in peer.received if frame["type"] != "ack"] == []
        stop = Later(nursery, lambda: client.history("main"))
        await wait_all_tasks_blocked()
        stop.scope.cancel()
        await wait_all_tasks_blocked()
        peer.close(1006)
        peer = await network.accept()
        peer.hello("exact", last_seq=1)
        await wait_all_tasks_blocked()
        assert not peer.received


async def test_a_full_outbox(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer):
        peer.close(1006)
        async with trio.open_nursery() as nursery:
            for number in range(MESSAGES):
                nursery.start_soon(client.send, f"{number}")
            await wait_all_tasks_blocked()
            with pytest.raises(OutboxFull):
                await client.send("one more")
            nursery.cancel_scope.cancel()
        assert client.stats.queued == 0


async def test_the_run_of_a_client_that_fails_and_ends(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, line):
        peer = line
        run = await sent(client, peer)
        peer.delta("a")
        await wait_all_tasks_blocked()
        peer.close(4409)
        events = aiter(run)
        assert (await anext(events)).type == "partial_result"
        with pytest.raises(ConnectionClosed):
            await anext(events)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.reconnect)
            peer = await network.accept()
            peer.hello("exact", last_seq=2)
        peer.delta("b")
        assert (await anext(aiter(run))).payload["content"] == "b"
        everything = client.events()
    with pytest.raises(ClientClosed):
        await remaining(run)
    with pytest.raises(ClientClosed):
        await run.stop()
    assert types([event async for event in everything])[-1] == "partial_result"


async def test_the_same_key_twice(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer):
        first = await sent(client, peer, correlation_id="c-1")
        async with trio.open_nursery() as nursery:
            later = Later(nursery, lambda: client.send("hello", correlation_id="c-1"))
            peer.confirm(await peer.expect("user_message"), status="duplicate")
            second = await later.wait()
        peer.complete()
        peer.complete()  # the copy after the duplicate
        for run in (first, second):
            assert types(await remaining(run)) == ["agent_completed"]
