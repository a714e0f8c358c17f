"""A thread is seen live: by another session of the user, and by users it is shared with."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from support.memory import Client, Server, kinds, open_server
from support.watching import THREAD, WHOLE, WORDS, View, burst, count, say, steps, text_of
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio import agent
from netra_trio.agents.run import Run
from netra_trio.errors import RetryableAgentError, StoreUnavailable, ToolError
from netra_trio.ids import ThreadId, UserId
from netra_trio.node.thread_watch import LINGER_SECONDS, TICK_SECONDS
from netra_trio.protocol.rooms import thread_room
from netra_trio.sessions.transcript import RUNS_BYTES

QUIET: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}
ALICE, ROOM = UserId("alice"), thread_room(UserId("alice"), ThreadId(THREAD))


async def everything(run: Run) -> str:
    """Have each event that a run may have."""
    if run.attempt == 1:
        await run.think("first try")
        raise RetryableAgentError
    await run.think("second try", step=1, total=2)
    async with run.tool("add", one=1) as tool:
        tool.result = 2
    try:
        async with run.tool("fail"):
            raise ToolError("no")  # noqa: TRY301 - as an agent does
    except ToolError:
        await run.emit("failed, ")
    answer = await run.ask("Which?")
    await run.usage(model="m", input_tokens=1, output_tokens=2)
    await run.emit(answer)
    return "done"


async def long(run: Run) -> None:
    """Emit more than a result and a snapshot have."""
    for number in range(40):
        await run.emit(f"{number:04}" * 2048)
    await run.think("nearly done")
    await trio.sleep(1)
    await run.emit("the end")
    await trio.sleep(1)


STEP_TYPES = {"agent_thinking", "tool_executing", "tool_completed"}


AGENTS = {
    "count": count,
    "burst": burst,
    "everything": everything,
    "long": long,
    "steps": steps,
}


@asynccontextmanager
async def two_sessions() -> AsyncIterator[tuple[Server, Client, Client]]:
    """Open a server, and two sessions of one user."""
    async with (
        open_server(agents=AGENTS, **QUIET) as server,
        server.connect() as asking,
        server.connect() as other,
    ):
        yield server, asking, other


async def published(server: Server) -> int:
    """Return how many events were published in the room of the thread."""
    return (await server.node.services.broker.history(ROOM, epoch="", after=0)).offset


def mirrored(server: Server) -> object:
    return server.node._users.watched


# Two sessions of one user.


async def test_another_session_gets_the_whole_run(autojump_clock: MockClock) -> None:
    async with two_sessions() as (_, asking, other):
        view = View()
        joined = await view.watch(other)
        assert joined == {
            "room": ROOM,
            "epoch": joined["epoch"],
            "offset": 0,
            "verdict": "new",
            "replayed": 0,
            "runs": [],
        }
        await say(asking)
        confirmed = (await asking.expect("message_confirmed"))["payload"]
        text = await text_of(asking)
        frames = await view.until(other, "agent_completed")
        assert [frame["offset"] for frame in frames] == list(range(1, WORDS + 4))
        assert view.messages == {
            confirmed["run_id"]: {
                "message_id": confirmed["message_id"],
                "run_id": confirmed["run_id"],
                "user_id": "alice",
                "content": "hello",
            }
        }
        expected = ["user_message", "agent_started", *["partial_result"] * WORDS]
        assert view.events == [*expected, "agent_completed"]
        assert view.texts == {confirmed["run_id"]: text}
        assert view.statuses == {confirmed["run_id"]: "completed"}
        end = frames[-1]["event"]["payload"]
        assert end.items() >= {"result": "counted", "status": "completed"}.items()
        assert not view.gaps


async def test_the_asking_session_gets_nothing_twice(autojump_clock: MockClock) -> None:
    async with two_sessions() as (_, asking, other):
        view = View()
        await view.watch(asking)
        await say(asking, agent="burst", content="3")
        frames = await asking.until("agent_completed")
        assert not {"room_event", "room_gap"} & set(kinds(frames))
        assert await asking.sync() == []
        await say(other, agent="burst", content="2")
        await view.until(asking, "agent_completed")
        # The offsets of its own run are skipped, and that is no loss.
        assert not view.gaps
        assert list(view.texts.values()) == ["0 1 "]


async def test_every_event_of_a_run_is_seen(autojump_clock: MockClock) -> None:
    async with two_sessions() as (server, asking, other):
        view = View()
        await view.watch(other)
        await say(asking, agent="everything")
        (*_, asked) = await view.until(other, "agent_asking")
        question = asked["event"]["payload"]["question_id"]
        late = View()
        async with server.connect() as third:
            (run,) = (await late.watch(third))["runs"]
            assert (run["content"], run["status"]) == ("failed, ", "running")
            (open_question,) = run["questions"]
            assert open_question["question_id"] == question
            assert open_question["prompt"] == "Which?"
            assert late.questions == view.questions
            # Any session of the user answers.
            await third.send("answer", {"question_id": question, "answer": "this one"})
            assert "seq" in await third.expect("agent_answered")  # the reply to its answer
            frames = await asking.until("agent_completed")
            rest = await view.until(other, "agent_completed")
            same = await late.until(third, "agent_answered")
        own = [frame for frame in frames if frame["type"] != "message_confirmed"]
        seen = ["agent_started", "agent_thinking", "agent_started", "agent_thinking"]
        tools = ["tool_executing", "tool_completed"] * 2
        expected = [*seen, *tools, "partial_result", "agent_asking"]
        ending = ["agent_answered", "agent_usage", "partial_result", "agent_completed"]
        assert view.events == ["user_message", *expected, *ending]
        assert kinds(own) == [*expected, *ending]
        assert [each["event"]["payload"] for each in rest] == [
            frame["payload"] for frame in own[-len(rest) :]
        ]
        assert same[-1]["event"] == rest[0]["event"]
        assert view.questions == late.questions == {run["run_id"]: set()}


async def test_messages_that_wait_are_seen(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents=AGENTS, **QUIET) as server,
        server.connect() as one,
        server.connect() as two,
        server.connect() as watching,
    ):
        view = View()
        await say(one, "first")
        await trio.sleep(0.5)
        await say(two, "second")
        await trio.sleep(0.5)
        joined = await view.watch(watching)
        assert [(run["status"], run["content"]) for run in joined["runs"]] == [
            ("running", "0 1 "),
            ("queued", ""),
        ]
        assert [run["agent_name"] for run in joined["runs"]] == ["count", "count"]
        first, second = view.statuses
        await say(two, "third")
        await view.until(watching, "user_message")
        (third,) = view.messages
        assert view.messages[third]["content"] == "third"
        await two.send("stop_agent", {"run_id": second})
        await view.until(watching, "agent_completed")
        assert view.statuses == {first: "running", second: "cancelled", third: "queued"}
        await view.until(watching, "agent_completed")
        await view.until(watching, "agent_completed")
        assert view.texts == {first: WHOLE, second: "", third: WHOLE}
        assert set(view.statuses.values()) == {"completed", "cancelled"}


# Joined in mid-run.


@pytest.mark.parametrize("after", [0, 1, 4, WORDS - 1])
async def test_a_watcher_that_joins_in_mid_run_has_the_text_so_far(
    after: int, autojump_clock: MockClock
) -> None:
    async with (
        open_server(agents=AGENTS, **QUIET) as server,
        server.connect() as asking,
        server.connect() as first,
        server.connect() as second,
    ):
        await say(asking)
        await trio.sleep(after + 0.5)
        views = [View(), View()]
        so_far = "".join(f"{number} " for number in range(after + 1))
        for view, client in zip(views, (first, second), strict=True):
            (run,) = (await view.watch(client))["runs"]
            assert run == {
                "run_id": run["run_id"],
                "message_id": run["message_id"],
                "agent_name": "count",
                "status": "running",
                "content": so_far,
                "questions": [],
            }
        text = await text_of(asking)
        for view, client in zip(views, (first, second), strict=True):
            await view.until(client, "agent_completed")
            assert list(view.texts.values()) == [text]
            assert not view.gaps


@pytest.mark.parametrize("seconds", range(7))
async def test_a_watcher_that_joins_in_mid_run_has_the_steps_so_far(
    seconds: int, autojump_clock: MockClock
) -> None:
    """Each event is either in the listing or follows it, once."""
    async with two_sessions() as (_, asking, other):
        await say(asking, agent="steps")
        await trio.sleep(seconds + 0.5)
        view = View()
        (run,) = (await view.watch(other))["runs"]
        listed = run["steps"]
        assert run["content"] == ["", "a😀 ", "a😀 ", "a😀 b", "a😀 b", "a😀 b", "a😀 bc"][seconds]
        assert [step["at"] for step in listed] == [0, 3, 4][: len(listed)]
        events = [step["type"] for step in listed]
        if any("success" in step for step in listed):
            events.insert(2, "end")
        assert len(events) == [1, 1, 2, 2, 3, 4, 4][seconds]
        await view.until(other, "agent_completed")
        followed = [kind for kind in view.events if kind in STEP_TYPES]
        expected = ["agent_thinking", "tool_executing", "tool_completed", "agent_thinking"]
        assert followed == expected[len(events) :]


async def test_steps_in_a_text_that_is_longer_than_a_result_have_their_places(
    autojump_clock: MockClock,
) -> None:
    async with two_sessions() as (_, asking, other):
        await say(asking, agent="long")
        await trio.sleep(1.5)
        (run,) = (await View().watch(other))["runs"]
        (step,) = run["steps"]
        assert run["truncated"] is True
        assert run["content"][step["at"] :] == "the end"


@pytest.mark.parametrize("burst_of", [1, 30, 300])
async def test_a_watcher_may_join_at_any_moment_of_a_fast_run(
    burst_of: int, autojump_clock: MockClock
) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, server.connect() as asking:
        for steps_before in range(12):
            async with server.connect() as other:
                view = View()
                await say(asking, str(burst_of), agent="burst")
                for _ in range(steps_before):
                    await trio.lowlevel.checkpoint()
                await other.send("watch_thread", {"thread_id": THREAD}, "watch")
                text = await text_of(asking)
                await wait_all_tasks_blocked()
                frames = await other.sync()
                view.join(frames.pop(0))
                for frame in frames:
                    view.take(frame)
                assert set(view.texts.values()) <= {text}
                if "agent_completed" not in view.events:
                    assert not view.events
                assert not view.gaps


async def test_after_the_run_there_is_nothing_to_show(autojump_clock: MockClock) -> None:
    async with two_sessions() as (_, asking, other):
        await say(asking)
        await text_of(asking)
        joined = await View().watch(other)
        assert (joined["runs"], joined["offset"]) == ([], 0)


async def test_a_long_text_is_cut_in_front(autojump_clock: MockClock) -> None:
    async with two_sessions() as (_, asking, other):
        await say(asking, agent="long")
        await asking.until("agent_started")
        text = "".join(
            [(await asking.expect("partial_result"))["payload"]["content"] for _ in range(40)]
        )
        view = View()
        (run,) = (await view.watch(other))["runs"]
        assert run["truncated"] is True
        assert run["content"] == text[-RUNS_BYTES:]
        await view.until(other, "agent_completed")
        assert list(view.texts.values()) == [text[-RUNS_BYTES:] + "the end"]


# A client that reconnects.


@pytest.mark.parametrize("seconds", [0.0, 2.0, 20.0])
@pytest.mark.parametrize("after", range(WORDS + 3))
async def test_a_watcher_reconnects_after_every_event(
    after: int, seconds: float, autojump_clock: MockClock
) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, server.connect() as asking:
        view = View()
        client = server.start()
        await client.expect("connection_established")
        await view.watch(client)
        await say(asking)
        for _ in range(after):
            await view.next(client)
        client.peer.cut()
        await trio.sleep(seconds)
        async with server.connect() as back:
            joined = await view.again(back)
            assert joined["verdict"] == "exact"
            assert joined["offset"] == after
            if view.statuses and after < WORDS + 3:  # also where it has ended meanwhile
                assert [run["run_id"] for run in joined["runs"]] == list(view.statuses)
            text = await text_of(asking)
            if "agent_completed" not in view.events:
                await view.until(back, "agent_completed")
        assert list(view.texts.values()) == [text]
        assert view.place[1] == WORDS + 3
        assert not view.gaps


async def test_a_client_that_reconnects_late_gets_a_gap(autojump_clock: MockClock) -> None:
    """Events without a watcher were not published."""
    async with open_server(agents=AGENTS, **QUIET) as server, server.connect() as asking:
        view = View()
        async with server.connect() as other:
            await view.watch(other)
            await say(asking)
            await text_of(asking)
            await view.until(other, "agent_completed")
        place = view.place
        await trio.sleep(LINGER_SECONDS + 2 * TICK_SECONDS)
        await say(asking, "unseen")
        await text_of(asking)
        async with server.connect() as new:  # which makes the thread watched again
            await View().watch(new)
            async with server.connect() as back:
                joined = await view.again(back)
        assert joined["verdict"] == "gap"
        assert joined["epoch"] != place[0]


async def test_a_client_without_events_gets_a_gap_too(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, server.connect() as asking:
        view = View()
        async with server.connect() as other:
            assert (await view.watch(other))["offset"] == 0
        await trio.sleep(LINGER_SECONDS + 2 * TICK_SECONDS)
        await say(asking, "1", agent="burst")
        await text_of(asking)
        async with server.connect() as back:
            joined = await view.again(back)
        assert (joined["verdict"], joined["offset"], joined["runs"]) == ("gap", 0, [])


async def test_a_thread_is_mirrored_for_a_while_after_its_last_watcher(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, server.connect() as asking:
        async with server.connect() as other:
            view = View()
            await view.watch(other)
            await other.send("unwatch_thread", {"thread_id": THREAD}, "u")
            left = await other.expect("room_left")
            assert (left["payload"], left["correlation_id"]) == ({"room": ROOM}, "u")
            await say(asking, "1", agent="burst")
            await text_of(asking)
            assert await other.sync() == []
            assert await published(server) == 4
            joined = await view.again(other)
            assert (joined["verdict"], joined["replayed"]) == ("exact", 4)
            await view.until(other, "agent_completed")
        assert mirrored(server)
        await trio.sleep(LINGER_SECONDS + 2 * TICK_SECONDS)
        assert not mirrored(server)
        await say(asking, "1", agent="burst")
        await text_of(asking)
        assert await published(server) == 0


async def test_a_thread_without_watchers_has_no_cost(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents=AGENTS, **QUIET) as server,
        server.connect() as asking,
        server.connect() as other,
        server.connect("bob") as bob,
    ):
        await View().watch(other, "another")
        await View().watch(bob, THREAD)  # one of bob, with the same name
        await say(asking)
        await trio.sleep(0.5)
        (run,) = server.node._users.get(ALICE, 0.0).runs.values()
        assert run.execution.output.mirror is None  # type: ignore[attr-defined]
        await text_of(asking)
        assert await published(server) == 0
        assert await other.sync() == []
        assert await bob.sync() == []


async def test_the_mirror_of_a_run_ends_with_the_interest(autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, server.connect() as asking:
        async with server.connect() as other:
            view = View()
            await view.watch(other)
            await say(asking, agent="everything")
            await view.until(other, "agent_asking")
        await trio.sleep(LINGER_SECONDS + 2 * TICK_SECONDS)
        count_before = await published(server)
        (question,) = server.node._users.get(ALICE, 0.0).questions
        await asking.send("answer", {"question_id": question, "answer": "this"})
        await text_of(asking)
        assert await published(server) == count_before


# A slow watcher.


async def test_a_watcher_that_lags_gets_merged_deltas(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents=AGENTS, **QUIET) as server,
        server.connect() as asking,
        server.connect(buffer_bytes=2000) as slow,
    ):
        view = View()
        await view.watch(slow)
        await say(asking, "900", agent="burst")
        text = await text_of(asking)
        frames = await view.until(slow, "agent_completed")
        assert list(view.texts.values()) == [text]
        assert not view.gaps
        merged = [frame for frame in frames if "offset_from" in frame]
        assert merged
        before = 0
        for frame in frames:
            assert frame.get("offset_from", frame["offset"]) == before + 1
            before = frame["offset"]


async def test_a_watcher_that_does_not_read_never_slows_the_run(
    autojump_clock: MockClock,
) -> None:
    async def shout(run: Run) -> None:
        for _ in range(100):
            await run.think("x" * 30_000)

    async with (
        open_server(agents={"shout": shout}, send_timeout_ms=60_000, **QUIET) as server,
        server.connect() as asking,
        server.connect(buffer_bytes=2000) as slow,
    ):
        view = View()
        await view.watch(slow)
        await say(asking)
        start = trio.current_time()
        await asking.until("agent_completed")
        assert trio.current_time() == start
        await view.rest(slow)
        assert view.gaps
        missing = sum(last - first + 1 for first, last in view.gaps)
        assert missing + len(view.events) == await published(server)
        assert view.statuses.popitem()[1] == "completed"


# Permission.


@pytest.mark.parametrize("own_thread", [True, False])
async def test_a_shared_thread_needs_a_permission(
    own_thread: bool, autojump_clock: MockClock
) -> None:
    asked: list[tuple[str, str, str]] = []

    async def may(user: str, room: str, action: str) -> bool:
        asked.append((user, room, action))
        return user == "bob"

    async with (
        open_server(agents=AGENTS, users=("alice", "bob", "carol"), may=may, **QUIET) as server,
        server.connect() as alice,
        server.connect("bob") as bob,
        server.connect("carol") as carol,
    ):
        await say(alice)
        await trio.sleep(0.5)
        view = View()
        if own_thread:
            await view.watch(alice, owner="alice")
            assert not asked
            return
        (run,) = (await view.watch(bob, owner="alice"))["runs"]
        assert run["content"] == "0 "
        assert asked == [("bob", ROOM, "join")]
        await carol.send("watch_thread", {"thread_id": THREAD, "owner": "alice"}, "w")
        assert (await carol.error())["code"] == "FORBIDDEN"
        await carol.send("watch_thread", {"thread_id": "unknown", "owner": "alice"}, "w")
        assert (await carol.error())["code"] == "FORBIDDEN"
        text = await text_of(alice)
        await view.until(bob, "agent_completed")
        assert list(view.texts.values()) == [text]
        await bob.send("unwatch_thread", {"thread_id": THREAD, "owner": "alice"}, "u")
        assert (await bob.expect("room_left"))["payload"] == {"room": ROOM}


async def test_a_refused_watcher_changes_nothing(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents=AGENTS, **QUIET) as server,
        server.connect() as alice,
        server.connect() as other,
        server.connect("bob") as bob,
    ):
        view = View()
        epoch = (await view.watch(other))["epoch"]
        await bob.send("watch_thread", {"thread_id": THREAD, "owner": "alice"}, "w")
        assert (await bob.error())["code"] == "FORBIDDEN"
        await say(alice, "1", agent="burst")
        await view.until(other, "agent_completed")
        assert view.place == (epoch, 4)


@pytest.mark.parametrize("owner", ["bob", "alice"])
async def test_a_thread_does_not_have_to_exist(owner: str, autojump_clock: MockClock) -> None:
    async with open_server(agents=AGENTS, **QUIET) as server, server.connect() as client:
        await client.send("watch_thread", {"thread_id": "new", "owner": owner}, "w")
        if owner == "bob":
            assert (await client.error())["code"] == "FORBIDDEN"
        else:
            assert (await client.expect("room_joined"))["payload"]["runs"] == []


async def test_a_room_of_a_thread_that_is_joined_by_its_name_is_mirrored_too(
    autojump_clock: MockClock,
) -> None:
    async with two_sessions() as (_, asking, other):
        await say(asking)
        await asking.expect("message_confirmed")
        await other.send("join_room", {"room": ROOM}, "j")
        joined = (await other.expect("room_joined"))["payload"]
        assert "runs" not in joined
        gap = await other.expect("room_gap")  # of what it has not seen
        assert gap["payload"] == {"room": ROOM, "from": 1, "to": 1}
        text = await text_of(asking)
        view = View(ROOM, (joined["epoch"], 1))
        await view.until(other, "agent_completed")
        assert text.endswith(view.texts.popitem()[1])


@pytest.mark.parametrize("how", ["down at first", "deleted", "left"])
async def test_a_room_that_is_joined_by_its_name_while_the_store_fails(
    how: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_sessions() as (server, asking, other):
        await say(asking, "1", agent="burst")
        await text_of(asking)
        watch, calls = server.node.watch, 0
        find = watch._find_room

        async def find_room(room: str) -> Any:
            nonlocal calls
            calls += 1
            if calls == 1 and how != "deleted":
                raise StoreUnavailable("down")
            return None if how == "deleted" else await find(room)

        monkeypatch.setattr(watch, "_find_room", find_room)
        await other.send("join_room", {"room": ROOM})
        await other.expect("room_joined")
        if how == "left":
            await other.send("leave_room", {"room": ROOM})
            await other.expect("room_left")
        await trio.sleep(2 * TICK_SECONDS)
        assert bool(mirrored(server)) == (how == "down at first")
        assert calls == (1 if how == "deleted" else 2)


# Sessions that end.


async def test_a_run_that_has_left_its_session_is_seen(autojump_clock: MockClock) -> None:
    agents = {"count": agent(count, unattended="continue")}
    async with (
        open_server(agents=agents, resume_window_ms=2000, **QUIET) as server,
        server.connect() as other,
    ):
        view = View()
        await view.watch(other)
        client = server.start()
        await client.expect("connection_established")
        await say(client)
        await client.until("partial_result")
        client.peer.cut()
        await view.until(other, "agent_completed")
        assert list(view.texts.values()) == [WHOLE]
        assert list(view.statuses.values()) == ["completed"]


async def test_the_end_of_a_session_ends_its_runs_for_watchers_too(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents=AGENTS, resume_window_ms=2000, **QUIET) as server,
        server.connect() as other,
    ):
        view = View()
        await view.watch(other)
        client = server.start()
        await client.expect("connection_established")
        await say(client, agent="everything")
        await client.until("agent_asking")
        client.peer.cut()
        await view.until(other, "agent_completed")
        assert list(view.statuses.values()) == ["cancelled"]
        assert view.events[-2:] == ["agent_answered", "agent_completed"]


async def test_a_refused_message_is_not_seen(autojump_clock: MockClock) -> None:
    async with two_sessions() as (server, asking, other):
        view = View()
        await view.watch(other)
        await say(asking, "1", agent="burst", correlation_id="k")
        await view.until(other, "agent_completed")
        await text_of(asking)
        await say(asking, "1", agent="burst", correlation_id="k")  # a duplicate
        await asking.until("agent_completed")
        await say(asking, "2", agent="burst", correlation_id="k")
        assert (await asking.error())["code"] == "VALIDATION_ERROR"
        assert await other.sync() == []
        (thread,) = server.node._users.watched.values()
        assert not thread._mirrors
