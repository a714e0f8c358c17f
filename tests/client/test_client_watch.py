"""Watched threads of the client, with a scripted server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from orjson import dumps
from support.scripted import Frame, Peer, ScriptedNetwork, opened
from support.scripted_rooms import THREAD_ROOM, Desk, run_state, user_message
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.client import Client, Event, MessageRefused, Run, Watch
from netra_trio.client.run_states import TEXT_CHARACTERS
from netra_trio.client.run_steps import STEPS_BYTES


@pytest.fixture
def network() -> ScriptedNetwork:
    return ScriptedNetwork()


@asynccontextmanager
async def watched(
    client: Client, desk: Desk, *, owner: str | None = None, **answer: Any
) -> AsyncIterator[Watch]:
    """Watch a thread, whose server answers the leave as well."""

    async def join() -> None:
        asked = await desk.join(**{"runs": [], **answer})
        wanted = {"thread_id": "main"}
        assert asked == (wanted if owner in {None, "alice"} else {**wanted, "owner": owner})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(join)
        async with client.watch("main", owner=owner) as thread:
            yield thread
            nursery.start_soon(desk.leave)


@asynccontextmanager
async def watching(
    network: ScriptedNetwork, **answer: Any
) -> AsyncIterator[tuple[Client, Desk, Watch]]:
    """Open a client that watches a thread."""
    async with opened(network) as (client, peer):
        desk = Desk(peer, THREAD_ROOM)
        async with watched(client, desk, **answer) as thread:
            yield client, desk, thread


async def taken(thread: Watch, count: int) -> list[Event]:
    """Take so many events."""
    events = []
    async for event in thread:
        events.append(event)
        if len(events) == count:
            break
    return events


def kinds(events: list[Event]) -> list[str]:
    return [event.type for event in events]


def texts(runs: list[dict[str, Any]]) -> dict[str, str]:
    """Return the text of each run."""
    return {run["run_id"]: run["content"] for run in runs}


async def reconnected(network: ScriptedNetwork, peer: Peer, **hello: Any) -> Peer:
    peer.close(1006)
    again = await network.accept()
    again.hello(**{"verdict": "exact", **hello})
    return again


async def ask(client: Client, peer: Peer, content: str = "hi", **options: Any) -> Run:
    """Send a message of the own session, and confirm it."""
    runs: list[Run] = []

    async def send() -> None:
        runs.append(await client.send(content, thread_id="main", **options))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        peer.confirm(await peer.expect("user_message"))
    return runs[0]


def start(peer: Peer) -> None:
    started = {"run_id": "run_1", "agent_name": "echo", "thread_id": "main", "attempt": 1}
    peer.event("agent_started", started)


async def test_a_run_of_another_session(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with watching(network, offset=4, runs=[run_state("Hel")]) as (_, desk, thread):
        assert (thread.thread_id, thread.room) == ("main", THREAD_ROOM)
        assert repr(thread) == "<Watch main>"
        assert thread.runs == [run_state("Hel")]
        desk.delta(5, "lo")
        desk.event(6, "agent_completed", {"run_id": "run_9", "status": "completed"})
        desk.event(7, "user_message", user_message("run_10"))
        begin, delta, end, message = await taken(thread, 4)
        assert (begin.type, begin.offset, begin.epoch) == ("room_joined", 4, "e1")
        assert begin.payload["runs"] == [run_state("Hel")]
        assert (delta.payload["content"], delta.offset, end.type) == (
            "lo",
            5,
            "agent_completed",
        )
        assert message.payload["content"] == "hi"


async def test_a_thread_of_another_user(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer):
        desk = Desk(peer, THREAD_ROOM)
        async with watched(client, desk, owner="bob", offset=4) as thread:
            start(peer)  # of the own session, in a thread of the same name
            desk.delta(5, "hello")
            begin, delta = await taken(thread, 2)
            assert (begin.payload["runs"], delta.payload["content"]) == ([], "hello")
            desk.peer = await reconnected(network, peer, last_seq=1)
            asked = await desk.join(verdict="exact", offset=5, runs=[])
            assert asked == {"thread_id": "main", "owner": "bob", "after": 5, "epoch": "e1"}
        async with watched(client, desk, owner="alice"):
            pass


async def test_a_refusal(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:

        async def refuse() -> None:
            request = await peer.expect("watch_thread")
            peer.error("FORBIDDEN", request["correlation_id"])

        nursery.start_soon(refuse)
        with pytest.raises(MessageRefused, match="FORBIDDEN"):
            async with client.watch("main", owner="bob"):
                pass
        with pytest.raises(MessageRefused, match="MESSAGE_TOO_LARGE"):
            async with client.watch("x" * 10_240):
                pass


# --- gaps


async def test_exact_after_a_reconnection(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with watching(network, offset=4, runs=[run_state("a")]) as (_, desk, thread):
        desk.delta(5, "b")
        await wait_all_tasks_blocked()
        desk.peer = await reconnected(network, desk.peer)
        asked = await desk.join(verdict="exact", offset=5, runs=[run_state("ab")])
        assert asked == {"thread_id": "main", "after": 5, "epoch": "e1"}
        desk.delta(6, "c")
        events = await taken(thread, 3)
        assert [event.payload.get("content") for event in events] == [None, "b", "c"]


async def test_a_gap_after_a_reconnection(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with watching(network, offset=4, runs=[run_state("a")]) as (_, desk, thread):
        await taken(thread, 1)
        desk.peer, desk.epoch = await reconnected(network, desk.peer), "e2"
        await desk.join(verdict="gap", offset=0, runs=[run_state("abc")])
        desk.delta(1, "d")
        gap, delta = await taken(thread, 2)
        assert (gap.type, gap.offset, gap.epoch) == ("gap", 0, "e2")
        assert gap.payload == {"room": THREAD_ROOM, "runs": [run_state("abc")]}
        assert thread.runs == [run_state("abc")]
        assert delta.payload["content"] == "d"


@pytest.mark.parametrize("cause", ["gap", "restart", "epoch", "merged"])
async def test_it_watches_again_by_itself(
    autojump_clock: MockClock, network: ScriptedNetwork, cause: str
) -> None:
    async with watching(network, offset=4, runs=[run_state("a")]) as (_, desk, thread):
        desk.gap(3, 4)  # it has that
        desk.delta(4, "a")
        desk.delta(5, "b")
        if cause == "gap":
            desk.gap(6, 7)
        elif cause == "restart":
            desk.gap(1, 2)
        elif cause == "merged":
            desk.delta(7, "bcd", offset_from=5)
        else:
            desk.epoch = "e2"
            desk.delta(1, "x")
        desk.delta(8, "not before the runs are known")
        desk.gap(9, 9)
        asked = await desk.join(offset=9, runs=[run_state("abcdef")])
        assert asked == {"thread_id": "main"}
        desk.delta(9, "f")
        desk.delta(10, "g")
        events = await taken(thread, 4)
        assert kinds(events) == ["room_joined", "partial_result", "gap", "partial_result"]
        assert [event.payload.get("content") for event in events] == [None, "b", None, "g"]
        assert texts(thread.runs) == {"run_9": "abcdef"}


async def test_events_are_lost_while_it_watches_again(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with watching(network, offset=4, runs=[run_state("a")]) as (_, desk, thread):
        desk.peer = await reconnected(network, desk.peer)
        request = await desk.peer.expect("watch_thread")
        desk.gap(5, 6)
        desk.joined(request, verdict="exact", offset=4, runs=[run_state("a")])
        # `exact` is valid for the requested position, and not for this one.
        assert await desk.join(offset=7, runs=[run_state("abc")]) == {"thread_id": "main"}
        assert kinds(await taken(thread, 2)) == ["room_joined", "gap"]
        assert texts(thread.runs) == {"run_9": "abc"}


async def test_a_reader_far_behind(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with watching(network, runs=[run_state("a")]) as (_, desk, thread):
        desk.delta(1, "b")
        for offset in range(2, 1003):
            desk.event(offset, "agent_thinking", {"run_id": "run_9", "thought": "hm"})
        desk.delta(1003, "c")
        await wait_all_tasks_blocked()
        lagged, gap = await taken(thread, 2)
        assert (lagged.type, lagged.payload["dropped"]) == ("lagged", 2)
        assert (gap.type, gap.offset, texts(thread.runs)) == ("gap", 1003, {"run_9": "abc"})
        desk.delta(1004, "d")
        assert (await taken(thread, 1))[0].payload["content"] == "d"


async def test_a_reader_far_behind_at_the_end(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer, THREAD_ROOM)
        nursery.start_soon(desk.join_once, {"runs": []})
        async with client.watch("main") as thread:
            for offset in range(1, 1001):
                desk.event(offset, "agent_thinking", {"run_id": "run_9", "thought": "hm"})
            peer.control("room_left", {"room": THREAD_ROOM})
            await wait_all_tasks_blocked()
            events = [event.type async for event in thread]
            assert (events[0], events[-1], len(events)) == ("lagged", "room_left", 1001)


async def test_a_reader_far_behind_while_it_watches_again(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with watching(network) as (_, desk, thread):
        for offset in range(1, 1002):
            desk.event(offset, "agent_thinking", {"run_id": "run_9", "thought": "hm"})
        desk.gap(1002, 1003)
        request = await desk.peer.expect("watch_thread")
        assert kinds(await taken(thread, 1)) == ["lagged"]
        desk.joined(request, offset=1005, runs=[run_state("x")])
        (gap,) = await taken(thread, 1)
        assert (gap.type, gap.offset) == ("gap", 1005)


# --- runs of the own session


async def test_a_run_of_the_own_session(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with watching(network, offset=4) as (client, desk, thread):
        run = await ask(client, desk.peer, replaces="msg_0")
        start(desk.peer)
        desk.peer.delta("Hel")
        desk.peer.delta("lo")
        desk.peer.complete()
        desk.event(9, "user_message", user_message())
        events = await taken(thread, 7)
        assert kinds(events) == [
            *("room_joined", "user_message", "agent_started", "partial_result"),
            *("partial_result", "agent_completed", "user_message"),
        ]
        assert events[1].payload == {
            "message_id": "msg_1",
            "run_id": "run_1",
            "user_id": "alice",
            "content": "hi",
            "replaces": "msg_0",
        }
        assert [event.seq for event in events] == [None, 1, 2, 3, 4, 5, None]
        assert await run.text() == "Hello"


@pytest.mark.parametrize(("given", "shown"), [("hi", "hi"), ({"city": "Oslo"}, '{"city":"Oslo"}')])
async def test_a_request_of_the_own_session(
    autojump_clock: MockClock, network: ScriptedNetwork, given: Any, shown: str
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer, THREAD_ROOM)
        async with watched(client, desk) as thread:

            async def request() -> None:
                await client.request("echo", given, thread_id="main")

            nursery.start_soon(request)
            peer.confirm(await peer.expect("agent_request"))
            _, message = await taken(thread, 2)
            assert message.payload["content"] == shown


async def test_a_reader_of_a_thread_holds_no_acknowledgement_back(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with watching(network) as (client, desk, thread):
        iteration = aiter(thread)
        await anext(iteration)
        await ask(client, desk.peer)
        for _ in range(40):
            desk.peer.delta("x")
        await trio.sleep(2)
        assert max(desk.peer.acks()) == 41
        desk.peer.received.clear()


async def test_watched_in_the_middle_of_an_own_run(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer):
        desk = Desk(peer, THREAD_ROOM)
        await ask(client, peer)
        start(peer)
        peer.delta("Hel")
        asked = {"question_id": "q_1", "kind": "question", "prompt": "?", "expires_at": 5.0}
        peer.event("agent_asking", {"run_id": "run_1", **asked})
        # The server's listing may be older or newer than the received events.
        async with watched(client, desk, runs=[run_state("He", "run_1")]) as thread:
            (run,) = thread.runs
            assert (run["content"], run["questions"]) == ("Hel", [asked])
            assert (run["agent_name"], run["status"]) == ("echo", "running")
            peer.delta("lo")
            peer.event("agent_answered", {"run_id": "run_1", "question_id": "q_1"})
            events = await taken(thread, 3)
            assert kinds(events) == ["room_joined", "partial_result", "agent_answered"]
            assert events[1].payload["content"] == "lo"
            async with client.watch("main") as second:
                assert (second.runs[0]["content"], second.runs[0]["questions"]) == ("Hello", [])


@pytest.mark.parametrize("text", ["", "He"])
async def test_listed_before_its_confirmation_came(
    autojump_clock: MockClock, network: ScriptedNetwork, text: str
) -> None:
    async with watching(network, runs=[run_state(text, "run_1")]) as (client, desk, thread):
        await ask(client, desk.peer)
        desk.peer.delta("He")
        events = await taken(thread, 3)
        second = "gap" if text else "user_message"
        assert kinds(events) == ["room_joined", second, "partial_result"]
        assert texts(thread.runs) == {"run_1": ""}


@pytest.mark.parametrize("is_complete", [True, False])
async def test_watched_again_after_the_replay(
    autojump_clock: MockClock, network: ScriptedNetwork, is_complete: bool
) -> None:
    """The server lists runs of the own session, whose beginning is in the replay."""
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer, THREAD_ROOM)
        async with watched(client, desk, offset=4) as thread:
            nursery.start_soon(partial(client.send, "hi", thread_id="main"))
            message = await peer.expect("user_message")
            desk.peer = again = await reconnected(network, peer, replayed=2)
            again.confirm(message)
            await trio.sleep(4.9)
            assert not [frame for frame in again.received if frame["type"] == "watch_thread"]
            if is_complete:
                start(again)
            await desk.join(verdict="exact", offset=4, runs=[run_state("Hel", "run_1")])
            expected = ["room_joined", "user_message", "agent_started"][: 3 if is_complete else 2]
            assert kinds(await taken(thread, len(expected))) == expected


async def test_a_duplicate_is_no_run_of_the_own_session(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer, THREAD_ROOM)
        async with watched(client, desk, offset=4, runs=[run_state("a", "run_1")]) as thread:

            async def send() -> None:
                await client.send("hi", thread_id="main")

            nursery.start_soon(send)
            peer.confirm(await peer.expect("user_message"), status="duplicate")
            desk.delta(5, "b", "run_1")
            peer.complete()  # the copy
            desk.event(6, "agent_completed", {"run_id": "run_1", "status": "completed"})
            events = await taken(thread, 3)
            assert kinds(events) == ["room_joined", "partial_result", "agent_completed"]
            assert events[2].seq is None


async def test_events_of_the_session_are_lost(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with watching(network, offset=4, runs=[run_state("x")]) as (client, desk, thread):
        await ask(client, desk.peer)
        state = {"run_id": "run_1", "thread_id": "main", "status": "running", "content": "Hel"}
        desk.peer = again = await reconnected(
            network, desk.peer, verdict="gap", last_seq=7, runs=[state]
        )
        await desk.join(verdict="exact", offset=4, runs=[run_state("x"), run_state("H")])
        again.delta("lo")
        events = await taken(thread, 4)
        assert kinds(events) == ["room_joined", "user_message", "gap", "partial_result"]
        assert texts(thread.runs) == {"run_9": "x", "run_1": "Hel"}
        assert thread.runs[1]["message_id"] == "msg_1"


async def test_the_session_is_lost(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with watching(network, offset=4) as (client, desk, thread):
        await ask(client, desk.peer)
        await taken(thread, 2)
        again = await reconnected(
            network, desk.peer, verdict="reset", session_id="sess_2", reason="unknown"
        )
        desk.peer = again
        requests: dict[str, Frame] = {}
        for _ in range(2):
            request = await again.next()
            requests[request["type"]] = request
        assert requests["watch_thread"]["payload"] == {"thread_id": "main"}
        desk.joined(requests["watch_thread"], offset=9, runs=[run_state("He", "run_1")])
        desk.delta(10, "llo", "run_1")
        gap, delta = await taken(thread, 2)
        assert (texts(gap.payload["runs"]), delta.payload["content"]) == (
            {"run_1": "He"},
            "llo",
        )


async def test_a_long_text_is_cut_at_its_front(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with watching(network, runs=[run_state("a" * 300_000)]) as (client, desk, _):
        desk.delta(1, "b" * 100_000)
        desk.delta(2, "c" * 200_000)
        await wait_all_tasks_blocked()
        async with client.watch("main") as second:
            (run,) = second.runs
            assert run["content"] == "b" * (256 * 1024 - 200_000) + "c" * 200_000
            assert run["truncated"] is True


async def test_the_steps_go_on_after_the_listing(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    thought = {"type": "thought", "at": 2, "thought": "hm"}
    async with watching(network, runs=[{**run_state("Hel"), "steps": [thought]}]) as (
        client,
        desk,
        first,
    ):
        assert first.runs[0]["steps"] == [thought]
        call = {"tool_call_id": "c", "tool_name": "add", "arguments": {"n": 1}}
        ended = {"tool_call_id": "c", "success": True, "duration_ms": 5, "result": [2]}
        desk.delta(1, "lo")
        desk.event(2, "tool_executing", {"run_id": "run_9", **call})
        desk.delta(3, "!")
        desk.event(4, "agent_asking", {"run_id": "run_9", "question_id": "q", "prompt": "Which?"})
        desk.event(5, "tool_completed", {"run_id": "run_9", "tool_name": "add", **ended})
        desk.event(6, "agent_thinking", {"run_id": "run_9", "thought": "so", "step_number": 2})
        await wait_all_tasks_blocked()
        async with client.watch("main") as second:
            assert second.runs[0]["steps"] == [
                thought,
                {"type": "tool", "at": 5, **call, **ended},
                {"type": "question", "at": 6, "question_id": "q"},
                {"type": "thought", "at": 6, "thought": "so", "step_number": 2},
            ]
        desk.delta(7, "a" * TEXT_CHARACTERS)
        await wait_all_tasks_blocked()
        async with client.watch("main") as third:
            assert [step["at"] for step in third.runs[0]["steps"]] == [0, 0, 0, 0]


@pytest.mark.parametrize("beyond", [0, 1])
async def test_the_steps_of_a_client_have_a_limit(
    beyond: int, autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with watching(network, runs=[run_state("")]) as (client, desk, _):
        call = {"tool_call_id": "c", "tool_name": "add", "arguments": 1}
        ended = {"success": True, "result": ""}
        used = len(dumps({"type": "tool", "at": 0, **call})) + len(dumps(ended))
        ended["result"] = "x" * (STEPS_BYTES - used + beyond)
        desk.event(1, "tool_executing", {"run_id": "run_9", **call})
        desk.event(2, "tool_completed", {"run_id": "run_9", "tool_call_id": "c", **ended})
        await wait_all_tasks_blocked()
        async with client.watch("main") as second:
            (step,) = second.runs[0]["steps"]
            assert ("result" in step, "truncated" in step) == (beyond == 0, beyond == 1)
            assert step["success"] is True
        desk.event(3, "agent_thinking", {"run_id": "run_9", "thought": "x" * STEPS_BYTES})
        await wait_all_tasks_blocked()
        async with client.watch("main") as third:
            assert len(third.runs[0]["steps"]) == 1


# --- several blocks


async def test_two_blocks_for_one_thread(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with watching(network, offset=4, runs=[run_state("a")]) as (client, desk, first):
        desk.event(5, "user_message", user_message("run_10"))
        started = {"run_id": "run_10", "agent_name": "echo", "thread_id": "main"}
        desk.event(6, "agent_started", started)
        desk.delta(7, "b")
        await wait_all_tasks_blocked()
        async with client.watch("main") as second:
            assert texts(second.runs) == {"run_9": "ab", "run_10": ""}
            assert [run["status"] for run in second.runs] == ["running", "running"]
            desk.delta(8, "c")
            begin, delta = await taken(second, 2)
            assert (begin.type, begin.offset, begin.payload["verdict"]) == (
                *("room_joined", 7),
                "new",
            )
            assert delta.payload["content"] == "c"
            assert (await taken(first, 4))[-1].payload["content"] == "bc"
        assert not desk.peer.received


async def test_a_block_that_begins_while_events_are_lost(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer, THREAD_ROOM)
        async with watched(client, desk, offset=4, runs=[run_state("a")]):
            desk.gap(5, 6)
            request = await peer.expect("watch_thread")
            got: list[Watch] = []

            async def watch() -> None:
                async with client.watch("main") as thread:
                    got.append(thread)

            nursery.start_soon(watch)
            await wait_all_tasks_blocked()
            assert not got
            desk.joined(request, offset=6, runs=[run_state("abc")])
            await wait_all_tasks_blocked()
            assert texts(got[0].runs) == {"run_9": "abc"}


async def test_a_thread_that_is_watched_and_joined_as_a_room(
    autojump_clock: MockClock, network: ScriptedNetwork
) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer, THREAD_ROOM)
        async with watched(client, desk, offset=4) as thread:
            nursery.start_soon(desk.join_once, {"verdict": "new", "offset": 6})
            async with client.room(THREAD_ROOM) as room:
                # The connection has begun anew at 6: the thread needs 5 and 6.
                asked = await desk.join(verdict="exact", offset=4, runs=[])
                assert asked == {"thread_id": "main", "after": 4, "epoch": "e1"}
                for offset in (5, 6, 7):
                    desk.delta(offset, str(offset))
                _, *deltas = await taken(thread, 4)
                assert [event.payload["content"] for event in deltas] == ["5", "6", "7"]
                async for event in room:
                    assert event.payload["content"] == "7"
                    break
            await wait_all_tasks_blocked()
            assert not peer.received  # the thread needs the room


async def test_removed_by_the_server(autojump_clock: MockClock, network: ScriptedNetwork) -> None:
    async with opened(network) as (client, peer), trio.open_nursery() as nursery:
        desk = Desk(peer, THREAD_ROOM)
        nursery.start_soon(desk.join_once, {"runs": []})
        async with client.watch("main") as thread:
            peer.control("room_left", {"room": THREAD_ROOM})
            assert [event.type async for event in thread] == ["room_joined", "room_left"]
