"""Resuming a session: each event is received once, in order; missing events are reported."""

import math
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from support.memory import SECRET, Client, Frame, Server, kinds, open_server, token
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.ids import UserId
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.stores.base import RunEnd
from netra_trio.stores.memory import MemoryStore

NO_HEARTBEAT: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}
KINDS = pytest.mark.parametrize("acknowledging", [False, True], ids=["plain", "acknowledging"])
WORDS = [f"wörd{number} " for number in range(12)]


async def scripted_agent(run: Run) -> str:
    """Think, use a tool, and answer in words: some at once, some a second apart."""
    await run.think("hm", step=1, total=2)
    for word in WORDS[:4]:
        await run.emit(word)
    async with run.tool("look", up="it") as tool:
        await trio.sleep(1)
        tool.result = 42
    for word in WORDS[4:8]:
        await run.emit(word)
        await trio.sleep(1)
    await run.think("more")
    for word in WORDS[8:]:
        await run.emit(word)
    return "done"


async def wait_forever(run: Run) -> None:
    await run.emit("I wait")
    await trio.sleep_forever()


class StepAgent:
    """An agent that emits each word that is sent to `offer`, until the word is "end"."""

    def __init__(self) -> None:
        self.offer, self._orders = trio.open_memory_channel[str](1000)
        self.ended: list[str] = []

    async def __call__(self, run: Run) -> str:
        try:
            async with trio.open_nursery():
                async for word in self._orders:
                    if word == "end":
                        break
                    await run.emit(word)
        except BaseException:
            self.ended.append("cancelled")
            raise
        self.ended.append("ended")
        return "done"


@asynccontextmanager
async def resume(server: Server, lost: Client, last_seq: int, **more: Any) -> AsyncIterator[Client]:
    """Resume the session of a client that lost its connection."""
    session_id = lost.hello["payload"]["session_id"]
    async with server.connect(session_id=session_id, last_seq=last_seq, **more) as client:
        yield client


def resume_of(client: Client) -> Frame:
    state: Frame = client.hello["payload"]["resume"]
    return state


def verdict(client: Client) -> str:
    return str(resume_of(client)["verdict"])


def same_session(one: Client, other: Client) -> bool:
    return bool(one.hello["payload"]["session_id"] == other.hello["payload"]["session_id"])


def deltas(frames: list[Frame]) -> str:
    return "".join(f["payload"]["content"] for f in frames if f["type"] == "partial_result")


def covered_numbers(frames: list[Frame]) -> list[int]:
    """Return all numbers of these frames, in the order of arrival."""
    return [
        number
        for frame in frames
        if "seq" in frame
        for number in range(int(frame.get("seq_from") or frame["seq"]), frame["seq"] + 1)
    ]


def events_without_deltas(frames: list[Frame]) -> list[tuple[int, str, Any]]:
    """Return the events except deltas, without fields that are different in each run."""
    chosen = ("status", "thought", "tool_name", "result", "success")
    return [
        (f["seq"], f["type"], {k: v for k, v in f["payload"].items() if k in chosen})
        for f in frames
        if "seq" in f and f["type"] != "partial_result"
    ]


async def read(client: Client, count: int) -> list[Frame]:
    return [await client.next() for _ in range(count)]


async def cut_connection(client: Client) -> None:
    client.peer.cut()
    await client.done.wait()


async def recorded(acknowledging: bool) -> list[Frame]:
    async with (
        open_server(agents={"scripted_agent": scripted_agent}, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=acknowledging) as client,
    ):
        await client.say("x", "k")
        return await client.until("agent_completed")


FRAMES = 1 + 1 + 2 + len(WORDS) + 2 + 1


# Exact resumes.


@KINDS
async def test_the_recorded_run_has_the_expected_number_of_frames(
    autojump_clock: MockClock, acknowledging: bool
) -> None:
    frames = await recorded(acknowledging)
    assert covered_numbers(frames) == list(range(1, FRAMES + 1))
    assert deltas(frames) == "".join(WORDS)


@KINDS
@pytest.mark.parametrize("pause", [0.0, 2.5, 60.0])
@pytest.mark.parametrize("cut", range(FRAMES + 1))
async def test_a_resume_is_exact_after_a_cut_at_every_frame(
    autojump_clock: MockClock, acknowledging: bool, pause: float, cut: int
) -> None:
    whole = await recorded(acknowledging)
    async with open_server(agents={"scripted_agent": scripted_agent}, **NO_HEARTBEAT) as server:
        client = server.start(acknowledging=acknowledging)
        client.hello = await client.expect("connection_established")
        await client.say("x", "k")
        await wait_all_tasks_blocked()
        frames = await read(client, cut)
        if acknowledging and cut > 3:
            await client.send("ack", {"seq": cut - 2})
            await wait_all_tasks_blocked()
        await cut_connection(client)
        await trio.sleep(pause)
        async with resume(server, client, cut, acknowledging=acknowledging) as again:
            state = resume_of(again)
            assert same_session(client, again)
            assert (state["verdict"], state["last_seq"]) == ("exact", cut)
            if cut == FRAMES:
                assert (state.get("runs", []), state["replayed"]) == ([], 0)
                assert await again.sync() == []
                return
            [run] = state["runs"]
            assert run["correlation_id"] == "k"
            assert "truncated" not in run
            assert run["content"] == deltas(frames)
            assert run["status"] == (
                "completed" if cut >= 14 or pause == 60 or (pause and cut >= 12) else "running"
            )
            more = await again.until("agent_completed")
            assert await again.sync() == []
        if pause == 60:
            assert state["replayed"] == FRAMES - cut
    assert run["content"] + deltas(more) == "".join(WORDS)
    assert covered_numbers(frames + more) == list(range(1, FRAMES + 1))
    assert events_without_deltas(frames + more) == events_without_deltas(whole)
    assert {frame["payload"]["run_id"] for frame in frames + more} == {run["run_id"]}


@KINDS
async def test_a_resume_before_the_first_event_is_exact(
    autojump_clock: MockClock, acknowledging: bool
) -> None:
    async with open_server(**NO_HEARTBEAT) as server:
        async with server.connect(acknowledging=acknowledging) as client:
            assert verdict(client) == "new"
        async with resume(server, client, 0, acknowledging=acknowledging) as again:
            assert same_session(client, again)
            state = resume_of(again)
            assert (state["verdict"], state["last_seq"], state["replayed"]) == ("exact", 0, 0)
            await again.say("hello")
            assert covered_numbers(await again.until("agent_completed")) == [1, 2, 3, 4]


@KINDS
async def test_a_resume_twice_in_a_row_and_again_with_the_same_number(
    autojump_clock: MockClock, acknowledging: bool
) -> None:
    more: dict[str, Any] = {"acknowledging": acknowledging}
    async with open_server(agents={"scripted_agent": scripted_agent}, **NO_HEARTBEAT) as server:
        async with server.connect(**more) as client:
            await client.say("x", "k")
            frames = await read(client, 5)
        async with resume(server, client, 5, **more) as second:
            assert resume_of(second)["runs"][0]["content"] == deltas(frames)
        async with resume(server, client, 5, **more) as third:
            assert resume_of(third)["runs"][0]["content"] == deltas(frames)
            frames += await read(third, 2)
        last = frames[-1]["seq"]
        async with resume(server, client, last, **more) as fourth:
            assert verdict(fourth) == "exact"
            assert resume_of(fourth)["runs"][0]["content"] == deltas(frames)
            frames += await fourth.until("agent_completed")
    assert covered_numbers(frames) == list(range(1, FRAMES + 1))
    assert deltas(frames) == "".join(WORDS)


@KINDS
async def test_a_run_ends_while_the_session_has_no_connection(
    autojump_clock: MockClock, acknowledging: bool
) -> None:
    steps = StepAgent()
    async with open_server(agents={"steps": steps}, **NO_HEARTBEAT) as server:
        async with server.connect(acknowledging=acknowledging) as client:
            await client.say("x", "k")
            await client.until("agent_started")
        for word in ("a", "b", "end"):
            steps.offer.send_nowait(word)
        await trio.sleep(10)
        async with resume(server, client, 2, acknowledging=acknowledging) as again:
            state = resume_of(again)
            assert [(run["status"], run["content"]) for run in state["runs"]] == [("completed", "")]
            frames = await again.until("agent_completed")
            assert covered_numbers(frames) == [3, 4, 5]
            assert deltas(frames) == "ab"
            assert frames[0]["seq_from"] == 3  # replayed deltas are merged
            assert frames[-1]["payload"]["result"] == "done"


async def test_resume_runs_has_the_status_queued_or_running(autojump_clock: MockClock) -> None:
    async with open_server(agents={"wait_forever": wait_forever}, **NO_HEARTBEAT) as server:
        async with server.connect() as client:
            for key in ("k1", "k2"):
                await client.say("x", key, thread_id="t")
            frames = await read(client, 4)
        async with resume(server, client, frames[-1]["seq"]) as again:
            runs = resume_of(again)["runs"]
            assert [(run["correlation_id"], run["status"]) for run in runs] == [
                ("k1", "running"),
                ("k2", "queued"),
            ]
            assert [run["content"] for run in runs] == ["I wait", ""]
            assert {run["thread_id"] for run in runs} == {"t"}


# Two connections.


@KINDS
async def test_the_newest_connection_replaces_the_older_one(
    autojump_clock: MockClock, acknowledging: bool
) -> None:
    steps = StepAgent()
    async with open_server(agents={"steps": steps}, **NO_HEARTBEAT) as server:
        async with server.connect(acknowledging=acknowledging) as old:
            await old.say("x", "k")
            await old.until("agent_started")
            async with resume(server, old, 2, acknowledging=acknowledging) as new:
                assert verdict(new) == "exact"
                for word in ("a", "end"):
                    steps.offer.send_nowait(word)
                frames, code = await old.rest()
                assert (kinds([f for f in frames if "seq" in f]), code) == ([], 4409)
                await old.done.wait()
                assert old.ended is EndReason.TAKEN_OVER
                assert covered_numbers(await new.until("agent_completed")) == [3, 4]
        assert server.node.statistics()["sessions"] == 1


async def test_a_takeover_does_not_count_as_an_additional_connection(
    autojump_clock: MockClock,
) -> None:
    policy: dict[str, Any] = {
        "max_connections_per_user": 1,
        "connection_limit_policy": "reject",
    }
    async with (
        open_server(**policy, **NO_HEARTBEAT) as server,
        server.connect() as old,
        resume(server, old, 0) as new,
    ):
        assert same_session(old, new)
        await old.done.wait()
        assert old.ended is EndReason.TAKEN_OVER


@KINDS
async def test_a_resume_with_another_wire_format_is_refused(
    autojump_clock: MockClock, acknowledging: bool
) -> None:
    async with open_server(**NO_HEARTBEAT) as server:
        async with server.connect(acknowledging=acknowledging) as client:
            session_id = client.hello["payload"]["session_id"]
            other = server.start(session_id=session_id, acknowledging=not acknowledging)
            await other.done.wait()
            assert other.refused is not None
            assert other.refused.problem.code is ErrorCode.BAD_REQUEST
            assert not other.transport.accepted.is_set()
            await client.say("still here")
            await client.until("agent_completed")
        async with resume(server, client, 4, acknowledging=acknowledging) as again:
            assert verdict(again) == "exact"


# Reset and gap.


async def check_reset(client: Client, reason: str) -> None:
    state = resume_of(client)
    assert (state["verdict"], state["reason"], state["last_seq"]) == ("reset", reason, 0)
    assert (state["replayed"], state.get("runs", [])) == (0, [])
    await client.say("hello")
    assert covered_numbers(await client.until("agent_completed")) == [1, 2, 3, 4]


async def test_an_unknown_session_and_the_session_of_another_user_are_reset(
    autojump_clock: MockClock,
) -> None:
    async with open_server(**NO_HEARTBEAT) as server, server.connect("alice") as alice:
        await alice.say("mine")
        await alice.until("agent_completed")
        async with server.connect("bob", session_id="s_nobody", last_seq=3) as client:
            await check_reset(client, "unknown")
        async with resume(server, alice, 2, user="bob") as bob:
            assert not same_session(alice, bob)
            await check_reset(bob, "unknown")
        assert await alice.sync() == []


@KINDS
async def test_a_number_that_was_never_sent_is_a_reset(
    autojump_clock: MockClock, acknowledging: bool
) -> None:
    async with open_server(**NO_HEARTBEAT) as server:
        async with server.connect(acknowledging=acknowledging) as client:
            await client.say("x")
            await client.until("agent_completed")
        async with resume(server, client, 5, acknowledging=acknowledging) as other:
            assert not same_session(client, other)
            await check_reset(other, "ahead")
        async with resume(server, client, 4, acknowledging=acknowledging) as again:
            assert same_session(client, again)
            assert verdict(again) == "exact"


async def test_a_resume_has_a_gap_if_the_ring_is_too_short(autojump_clock: MockClock) -> None:
    steps = StepAgent()
    async with open_server(agents={"steps": steps}, replay_events=5, **NO_HEARTBEAT) as server:
        async with server.connect() as client:
            await client.say("x", "k")
            frames = await client.until("agent_started")
            for number in range(20):
                steps.offer.send_nowait(f"{number} ")
                frames.append(await client.expect("partial_result"))
        async with resume(server, client, 4) as again:
            state = resume_of(again)
            assert (state["verdict"], state["last_seq"], state["replayed"]) == ("gap", 17, 5)
            assert state["runs"][0]["content"] == deltas(frames[:17])
            steps.offer.send_nowait("end")
            more = await again.until("agent_completed")
    assert covered_numbers(more) == list(range(18, 24))
    assert state["runs"][0]["content"] + deltas(more) == deltas(frames)


async def test_a_resume_before_acknowledged_events_has_a_gap(autojump_clock: MockClock) -> None:
    async with open_server(agents={"scripted_agent": scripted_agent}, **NO_HEARTBEAT) as server:
        async with server.connect(acknowledging=True) as client:
            await client.say("x", "k")
            frames = await client.until("agent_completed")
            await client.send("ack", {"seq": 8})
            await client.sync()
        async with resume(server, client, 5, acknowledging=True) as again:
            state = resume_of(again)
            assert (state["verdict"], state["last_seq"]) == ("gap", 8)
            assert state["replayed"] == FRAMES - 8
            assert state["runs"][0]["content"] == deltas(frames[:8])
            more = await again.until("agent_completed")
    assert covered_numbers(more) == list(range(9, FRAMES + 1))
    assert state["runs"][0]["content"] + deltas(more) == "".join(WORDS)


# The end of a session.


@KINDS
async def test_a_session_ends_when_the_resume_window_has_passed(
    autojump_clock: MockClock, acknowledging: bool
) -> None:
    steps, store = StepAgent(), MemoryStore()
    window: dict[str, Any] = {"resume_window_ms": 5000}
    more: dict[str, Any] = {"acknowledging": acknowledging}
    async with open_server(
        agents={"steps": steps}, store=store, **window, **NO_HEARTBEAT
    ) as server:
        async with server.connect(**more) as client:
            thread = "t"
            await client.say("x", "k", thread_id=thread)
            await client.until("agent_started")
        await trio.sleep(4.9)
        async with resume(server, client, 2, **more) as again:
            assert verdict(again) == "exact"
            await trio.sleep(20)  # the window does not run while there is a connection
            assert steps.ended == []
        await trio.sleep(4.9)
        assert steps.ended == []
        await trio.sleep(0.2)
        assert steps.ended == ["cancelled"]
        assert server.node.statistics()["sessions"] == 0
        async with resume(server, client, 2, **more) as late:
            assert resume_of(late)["reason"] == "unknown"
            await late.send("get_thread_history", {"thread_id": thread})
            history = await late.expect("thread_history")
            assert history["payload"]["messages"][0]["run"]["status"] == "cancelled"


async def test_a_session_without_a_resume_window_ends_with_its_connection(
    autojump_clock: MockClock,
) -> None:
    steps = StepAgent()
    async with open_server(agents={"steps": steps}, resume_window_ms=0, **NO_HEARTBEAT) as server:
        async with server.connect() as client:
            await client.say("x", "k")
            await client.until("agent_started")
        await wait_all_tasks_blocked()
        assert steps.ended == ["cancelled"]
        async with resume(server, client, 2) as again:
            assert resume_of(again)["reason"] == "unknown"


async def test_the_oldest_detached_session_is_ended_beyond_the_limit_idle_ones_first(
    autojump_clock: MockClock,
) -> None:
    limit: dict[str, Any] = {"max_sessions_per_user": 3}
    async with open_server(
        agents={"wait_forever": wait_forever}, **limit, **NO_HEARTBEAT
    ) as server:
        lost = []
        for number in range(3):
            async with server.connect() as client:
                if number != 1:
                    await client.say("x", f"k{number}")
                    await client.until("partial_result")
            lost.append(client)
            await trio.sleep(1)

        async def is_there(client: Client) -> bool:
            session_id = client.hello["payload"]["session_id"]
            return any(session.id == session_id for session in server.node.sessions)

        async with server.connect(), server.connect("bob"):
            assert [await is_there(client) for client in lost] == [True, False, True]
            async with server.connect():
                assert [await is_there(client) for client in lost] == [False, False, True]
                async with server.connect() as third, server.connect() as fourth:
                    assert not any([await is_there(client) for client in lost])
                    # Four with a connection: none of them ends.
                    assert len(await third.sync() + await fourth.sync()) == 0
                    assert server.node.statistics()["sessions"] == 5


async def test_a_disabled_user_cannot_resume(autojump_clock: MockClock) -> None:
    steps, store = StepAgent(), MemoryStore()
    async with open_server(agents={"steps": steps}, store=store, **NO_HEARTBEAT) as server:
        client = server.start()
        client.hello = await client.expect("connection_established")
        await client.say("x", "k")
        await client.until("agent_started")
        await store.set_user_enabled(UserId("alice"), enabled=False)
        await client.send("auth", {"token": token()})
        _, code = await client.rest()
        assert code == 4403
        await client.done.wait()
        await wait_all_tasks_blocked()
        assert steps.ended == ["cancelled"]
        assert server.node.statistics()["sessions"] == 0
    assert SECRET


async def test_the_rate_is_kept_over_a_resume(autojump_clock: MockClock) -> None:
    limits: dict[str, Any] = {"max_message_rate": 2, "burst_queue": 0}
    async with open_server(**limits, **NO_HEARTBEAT) as server:
        async with server.connect() as client:
            for key in ("k1", "k2"):
                await client.say("x", key)
                await client.until("agent_completed")
        for _ in range(5):
            async with server.connect("bob"):
                pass
        async with resume(server, client, 8) as again:
            await again.say("x", "k3")
            assert (await again.error())["code"] == "RATE_LIMIT_EXCEEDED"


# Merging and a full log.


@KINDS
async def test_a_client_that_keeps_up_gets_every_delta(
    autojump_clock: MockClock, acknowledging: bool
) -> None:
    async with (
        open_server(agents={"scripted_agent": scripted_agent}, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=acknowledging) as client,
    ):
        await client.say("x", "k")
        frames = await client.until("agent_completed")
    assert kinds(frames).count("partial_result") == len(WORDS)
    assert not any("seq_from" in frame for frame in frames)


@KINDS
async def test_a_client_that_lags_gets_merged_deltas(
    autojump_clock: MockClock, acknowledging: bool
) -> None:
    words = [f"wörd{number} " for number in range(5000)]

    async def emit_much(run: Run) -> None:
        for word in words:
            await run.emit(word)

    async with (
        open_server(agents={"emit_much": emit_much}, **NO_HEARTBEAT) as server,
        server.connect(acknowledging=acknowledging, buffer_bytes=4096) as client,
    ):
        await client.say("x", "k")
        await wait_all_tasks_blocked()
        frames: list[Frame] = []
        while not frames or frames[-1]["type"] != "agent_completed":
            frames.append(await client.next())
            if acknowledging:
                await client.send("ack", {"seq": frames[-1]["seq"]})
    assert any("seq_from" in frame for frame in frames)
    assert deltas(frames) == "".join(words)
    assert covered_numbers(frames) == list(range(1, len(words) + 4))
    assert len(frames) < len(words)


@KINDS
async def test_an_agent_waits_for_a_full_log_without_a_connection(
    autojump_clock: MockClock, acknowledging: bool
) -> None:
    said: list[int] = []

    async def think_often(run: Run) -> None:
        for number in range(100):
            await run.think(f"{number}")
            said.append(number)

    more: dict[str, Any] = {"acknowledging": acknowledging}
    async with open_server(
        agents={"think_often": think_often}, replay_events=10, **NO_HEARTBEAT
    ) as server:
        client = server.start(**more)
        client.hello = await client.expect("connection_established")
        await client.say("x", "k")
        frames = await read(client, 1)
        await cut_connection(client)
        await trio.sleep(60)
        held_up = len(said)
        assert held_up < 100
        await trio.sleep(30)
        assert len(said) == held_up
        async with resume(server, client, 1, **more) as again:
            gone = resume_of(again)["last_seq"]
            while frames[-1]["type"] != "agent_completed":
                frames.append(await again.next())
                if acknowledging:
                    await again.send("ack", {"seq": frames[-1]["seq"]})
    if acknowledging:
        assert verdict(again) == "exact"
    assert covered_numbers(frames[1:]) == list(range(gone + 1, 104))


async def test_deltas_are_merged_in_a_full_log_without_a_connection(
    autojump_clock: MockClock,
) -> None:
    steps = StepAgent()
    async with open_server(agents={"steps": steps}, replay_events=10, **NO_HEARTBEAT) as server:
        async with server.connect(acknowledging=True) as client:
            await client.say("x", "k")
            await client.until("agent_started")
        words = [f"{number} " for number in range(500)]
        for word in [*words, "end"]:
            steps.offer.send_nowait(word)
        await trio.sleep(10)
        assert steps.ended == ["ended"]  # merged text uses only bytes
        async with resume(server, client, 2, acknowledging=True) as again:
            frames = await again.until("agent_completed")
    assert deltas(frames) == "".join(words)
    assert covered_numbers(frames) == list(range(3, 504))


# Agents that ignore their cancellation.


async def test_a_run_that_ignores_its_cancellation_is_abandoned(autojump_clock: MockClock) -> None:
    release = trio.Event()

    async def ignore_cancellation(run: Run) -> str:
        await run.emit("no")
        with trio.CancelScope(shield=True):
            await release.wait()
            await run.emit("behind the end")
        return "late"

    async with (
        open_server(
            agents={"ignore_cancellation": ignore_cancellation, "scripted_agent": scripted_agent},
            **NO_HEARTBEAT,
        ) as server,
        server.connect() as client,
    ):
        await client.say("x", "k", thread_id="t")
        frames = await client.until("partial_result")
        run_id = frames[0]["payload"]["run_id"]
        before = trio.current_time()
        await client.send("stop_agent", {"run_id": run_id})
        end = (await client.expect("agent_completed"))["payload"]
        assert 2 <= trio.current_time() - before <= 3
        assert (end["status"], end["abandoned"]) == ("cancelled", True)
        await client.say("y", "k2", thread_id="t", agent="scripted_agent")
        more = await client.until("agent_completed")
        assert more[-1]["payload"]["status"] == "completed"
        assert "abandoned" not in more[-1]["payload"]
        release.set()
        await trio.sleep(5)
        assert await client.sync() == []  # the run has one end
        await client.say("z", "k3", thread_id="t", agent="scripted_agent")
        assert (await client.until("agent_completed"))[-1]["payload"]["status"] == "completed"


async def test_a_run_that_waits_for_a_thread_is_abandoned(autojump_clock: MockClock) -> None:
    release, over = threading.Event(), trio.Event()

    async def wait_in_thread(run: Run) -> str:
        await run.emit("off it goes")
        try:
            await trio.to_thread.run_sync(release.wait)
        finally:
            over.set()
        return "late"

    async with (
        open_server(
            agents={"wait_in_thread": wait_in_thread, "scripted_agent": scripted_agent},
            **NO_HEARTBEAT,
        ) as server,
        server.connect() as client,
    ):
        try:
            await client.say("x", "k", thread_id="t")
            run_id = (await client.until("partial_result"))[-1]["payload"]["run_id"]
            await client.send("stop_agent", {"run_id": run_id})
            end = (await client.expect("agent_completed"))["payload"]
            assert (end["status"], end["abandoned"]) == ("cancelled", True)
            await client.say("y", "k2", thread_id="t", agent="scripted_agent")
            assert (await client.until("agent_completed"))[-1]["payload"]["status"] == "completed"
        finally:
            autojump_clock.autojump_threshold = math.inf  # a thread runs in real time
            release.set()
            await over.wait()
            autojump_clock.autojump_threshold = 0
        assert await client.sync() == []


# Stops without a connection, and during the end of a run.


@KINDS
async def test_a_run_of_a_session_without_a_connection_can_be_stopped(
    autojump_clock: MockClock, acknowledging: bool
) -> None:
    async with open_server(agents={"wait_forever": wait_forever}, **NO_HEARTBEAT) as server:
        async with server.connect(acknowledging=acknowledging) as client:
            await client.say("x", "k")
            frames = await client.until("partial_result")
        run_id = frames[0]["payload"]["run_id"]
        async with server.connect() as other:
            await other.send("stop_agent", {"run_id": run_id})
            assert await other.sync() == []
        more = {"acknowledging": acknowledging}
        async with resume(server, client, frames[-1]["seq"], **more) as again:
            assert verdict(again) == "exact"
            end = await again.expect("agent_completed")
            assert (end["payload"]["status"], end["seq"]) == ("cancelled", frames[-1]["seq"] + 1)
            await again.send("stop_agent", {"run_id": run_id})
            assert (await again.error())["code"] == "RUN_NOT_FOUND"


async def test_a_stop_while_the_end_is_stored_has_no_effect(
    autojump_clock: MockClock,
) -> None:
    class SlowToEnd(MemoryStore):
        async def end_run(self, end: RunEnd) -> None:
            await trio.sleep(1)
            await super().end_run(end)

    async with (
        open_server(
            agents={"scripted_agent": scripted_agent}, store=SlowToEnd(), **NO_HEARTBEAT
        ) as server,
        server.connect() as client,
    ):
        await client.say("x", "k")
        while (frame := await client.next())["type"] != "partial_result" or (
            frame["payload"]["content"] != WORDS[-1]
        ):
            pass
        await client.send("stop_agent", {"run_id": frame["payload"]["run_id"]})
        end = await client.expect("agent_completed")
        assert (end["payload"]["status"], end["payload"]["result"]) == ("completed", "done")
        assert end["seq"] == frame["seq"] + 1
        assert await client.sync() == []


async def test_a_reset_counts_as_an_additional_connection(autojump_clock: MockClock) -> None:
    policy: dict[str, Any] = {
        "max_connections_per_user": 1,
        "connection_limit_policy": "reject",
    }
    async with open_server(**policy, **NO_HEARTBEAT) as server, server.connect() as client:
        session_id = client.hello["payload"]["session_id"]
        other = server.start(session_id=session_id, last_seq=99)
        with trio.move_on_after(1):
            await other.done.wait()
        assert other.refused is not None
        assert other.refused.problem.code is ErrorCode.CONNECTION_LIMIT_EXCEEDED
