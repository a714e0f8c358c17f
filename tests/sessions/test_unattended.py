"""Runs that outlive their session: `agent(…, unattended="continue")`."""

from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from support.memory import Client, Frame, Server, kinds, open_server
from support.watching import THREAD, View
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.options import agent
from netra_trio.agents.run import Run
from netra_trio.errors import StoreUnavailable
from netra_trio.ids import ThreadId, UserId
from netra_trio.protocol.messages import RunStatus
from netra_trio.sessions.admission import UNATTENDED_RUNS
from netra_trio.sessions.event_log import NoLog
from netra_trio.stores.memory import MemoryStore

WINDOW = 120.0  # seconds, the default
NO_HEARTBEAT: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}
ALICE = UserId("alice")


async def sleeper(run: Run) -> str:
    """Sleep for the number of seconds in the message."""
    await run.emit("I sleep. ")
    await trio.sleep(float(run.content))
    await run.emit("I slept.")
    return "slept"


async def talker(run: Run) -> str:
    """Emit more than any log keeps, and then report it."""
    for _ in range(3000):
        await run.emit("x" * 1000)
    return "said"


async def asker(run: Run) -> str:
    """Ask, for an hour."""
    return str(await run.ask("Which one?", expires=3600))


AGENTS = {
    "sleeper": agent(sleeper, unattended="continue"),
    "talker": agent(talker, unattended="continue"),
    "asker": agent(asker, unattended="continue"),
    "attended": agent(sleeper),
}


def serving(store: MemoryStore | None = None, **settings: Any) -> Any:
    return open_server(agents=AGENTS, store=store, **{**NO_HEARTBEAT, **settings})


async def start(server: Server, *messages: tuple[str, str], **options: Any) -> list[str]:
    """Send messages, each to an agent and in a thread of its own, and leave; return the runs."""
    runs = []
    async with server.connect(**options) as client:
        for number, (agent_name, content) in enumerate(messages):
            await client.say(content, f"k{number}", agent=agent_name, thread_id=f"t{number}")
            frames = await client.until("message_confirmed")
            runs.append(str(frames[-1]["payload"]["run_id"]))
        await client.sync()
    return runs


async def answers(server: Server, thread: str = "t0") -> list[tuple[str, str]]:
    """Return the texts in the history of a thread, each with its role."""
    page = await server.node.services.store.history(ALICE, ThreadId(thread), limit=100)
    assert page is not None
    return [(message.role, message.content) for message in page[0]]


async def status(server: Server, thread: str = "t0") -> RunStatus:
    """Return the status of the first run of a thread."""
    page = await server.node.services.store.history(ALICE, ThreadId(thread), limit=100)
    assert page is not None
    assert page[0][0].run is not None
    return page[0][0].run.status


def gauges(server: Server) -> dict[Any, int]:
    """Return the gauges of runs and sessions."""
    now = server.node.services.instruments.metrics.read_gauges()
    return {**now.runs, **now.sessions}


def resume_of(client: Client) -> Frame:
    state: Frame = client.hello["payload"]["resume"]
    return state


# The end of the window.


@pytest.mark.parametrize("acknowledging", [False, True])
async def test_a_run_continues_when_the_window_has_passed(
    autojump_clock: MockClock, acknowledging: bool
) -> None:
    async with serving() as server:
        with capture_logs() as logs:
            await start(server, ("sleeper", "200"), acknowledging=acknowledging)
            [session] = server.node.sessions
            await trio.sleep(WINDOW + 1)
        [ended] = [line for line in logs if line["event"] == "session_ended"]
        assert (ended["reason"], ended["unattended"]) == ("window_passed", 1)
        assert list(server.node.sessions) == []
        assert server.node.sessions.left == [session]
        assert gauges(server) == {"active": 1, "waiting": 0, "attached": 0, "detached": 0}
        assert await status(server) is RunStatus.RUNNING
        await trio.sleep(80)
        assert await status(server) is RunStatus.COMPLETED
        assert await answers(server) == [("user", "200"), ("agent", "I sleep. I slept.")]
        assert server.node.sessions.left == []
        assert gauges(server) == {"active": 0, "waiting": 0, "attached": 0, "detached": 0}
        assert session.is_closing


async def test_all_other_runs_end_cancelled(autojump_clock: MockClock) -> None:
    async with serving() as server:
        await start(server, ("attended", "200"), ("sleeper", "200"), ("attended", "1"))
        await trio.sleep(WINDOW + 1)
        statuses = [await status(server, f"t{number}") for number in range(3)]
        assert statuses == [RunStatus.CANCELLED, RunStatus.RUNNING, RunStatus.COMPLETED]
        await trio.sleep(100)
        assert await status(server, "t1") is RunStatus.COMPLETED


async def test_a_session_without_such_a_run_ends_as_before(autojump_clock: MockClock) -> None:
    async with serving() as server:
        with capture_logs() as logs:
            await start(server, ("attended", "200"), ("sleeper", "1"))
            await trio.sleep(WINDOW + 1)
        [ended] = [line for line in logs if line["event"] == "session_ended"]
        assert ended["unattended"] == 0
        assert server.node.sessions.left == []
        assert await status(server) is RunStatus.CANCELLED


async def test_waiting_runs_start_without_the_session(autojump_clock: MockClock) -> None:
    async with serving() as server:
        async with server.connect() as client:
            for number, name in enumerate(("attended", "sleeper", "attended", "sleeper")):
                await client.say("200", f"k{number}", agent=name, thread_id="t0")
            await client.sync()
        await trio.sleep(WINDOW + 1)
        assert gauges(server) == {"active": 1, "waiting": 1, "attached": 0, "detached": 0}
        await trio.sleep(405)
        page = await server.node.services.store.history(ALICE, ThreadId("t0"), limit=100)
        assert page is not None
        runs = [message.run.status for message in page[0] if message.role == "user" and message.run]
        assert runs == [RunStatus.CANCELLED, RunStatus.COMPLETED] * 2
        assert server.node.sessions.left == []


async def test_a_run_that_waits_for_room_continues_and_keeps_nothing(
    autojump_clock: MockClock,
) -> None:
    async with serving() as server:
        await start(server, ("talker", "go"), acknowledging=True)
        [session] = server.node.sessions
        await trio.sleep(WINDOW - 1)
        assert await status(server) is RunStatus.RUNNING  # the log is full
        assert session.statistics()["log_events"] > 10
        await trio.sleep(2)
        assert await status(server) is RunStatus.COMPLETED
        assert session.statistics()["log_events"] == 0
        assert session.events._transcript is None


async def test_without_a_window_a_run_leaves_with_the_connection(
    autojump_clock: MockClock,
) -> None:
    async with serving(resume_window_ms=0) as server:
        await start(server, ("sleeper", "10"))
        assert gauges(server) == {"active": 1, "waiting": 0, "attached": 0, "detached": 0}
        await trio.sleep(11)
        assert await status(server) is RunStatus.COMPLETED


async def test_a_session_beyond_the_limit_leaves_its_runs(autojump_clock: MockClock) -> None:
    async with serving(max_sessions_per_user=1) as server:
        with capture_logs() as logs:
            await start(server, ("sleeper", "10"), ("attended", "10"))
            async with server.connect():
                pass
        [ended] = [line for line in logs if line["event"] == "session_ended"]
        assert (ended["reason"], ended["unattended"]) == ("too_many_sessions", 1)
        await trio.sleep(11)
        assert await status(server) is RunStatus.COMPLETED
        assert await status(server, "t1") is RunStatus.CANCELLED


async def test_a_disabled_user_loses_such_runs_too(autojump_clock: MockClock) -> None:
    async with serving() as server:
        client = server.start()
        client.hello = await client.expect("connection_established")
        await client.say("1000", agent="sleeper", thread_id="t0")
        await client.until("partial_result")
        await server.node.services.store.set_user_enabled(ALICE, enabled=False)
        await client.done.wait()
        await wait_all_tasks_blocked()
        assert await status(server) is RunStatus.CANCELLED


async def test_the_session_cannot_be_resumed(autojump_clock: MockClock) -> None:
    async with serving() as server:
        async with server.connect() as client:
            await client.say("300", "k", agent="sleeper")
            await client.until("partial_result")
        await trio.sleep(WINDOW + 1)
        session_id = client.hello["payload"]["session_id"]
        async with server.connect(session_id=session_id, last_seq=1) as again:
            assert (resume_of(again)["verdict"], resume_of(again)["reason"]) == ("reset", "unknown")
            assert again.hello["payload"]["session_id"] != session_id
        assert len(list(server.node.sessions)) == 1


async def test_a_message_that_is_being_recorded_continues(autojump_clock: MockClock) -> None:
    store = SlowStore()
    async with serving(store, resume_window_ms=0) as server:
        client = server.start()
        await client.expect("connection_established")
        await client.say("1", "k0", agent="sleeper", thread_id="t0")
        await client.say("1", "k1", agent="sleeper", thread_id="t1")  # it is in the inbox
        await wait_all_tasks_blocked()
        client.peer.close()
        await client.done.wait()
        assert len(server.node.sessions.left) == 1
        await trio.sleep(3)
        assert await status(server) is RunStatus.COMPLETED
        assert await server.node.services.store.history(ALICE, ThreadId("t1"), limit=1) is None
        assert server.node.sessions.left == []


async def test_a_message_of_another_agent_that_is_being_recorded_ends_cancelled(
    autojump_clock: MockClock,
) -> None:
    store = SlowStore()
    async with serving(store, resume_window_ms=0) as server:
        client = server.start()
        await client.expect("connection_established")
        await client.say("10", "k0", agent="sleeper", thread_id="t0")
        await client.until("partial_result")
        await client.say("1", "k1", agent="attended", thread_id="t1")
        await wait_all_tasks_blocked()
        client.peer.close()
        await client.done.wait()
        await trio.sleep(3)
        assert await status(server, "t1") is RunStatus.CANCELLED
        await trio.sleep(10)
        assert await status(server) is RunStatus.COMPLETED


class SlowStore(MemoryStore):
    """A store that takes a second to record a message."""

    async def record(self, message: Any) -> Any:
        """Record a message."""
        await trio.sleep(1)
        return await super().record(message)


# From other sessions.


async def test_the_finished_answer_is_in_the_history_of_a_third_session(
    autojump_clock: MockClock,
) -> None:
    async with serving() as server:
        await start(server, ("sleeper", "200"))
        async with server.connect():  # a second device, which leaves too
            pass
        await trio.sleep(300)
        async with server.connect() as third:
            await third.send("get_thread_history", {"thread_id": "t0"}, "h")
            [asked, answered] = (await third.expect("thread_history"))["payload"]["messages"]
            assert asked["run"]["status"] == "completed"
            assert answered["content"] == "I sleep. I slept."


async def test_the_live_run_is_seen_by_a_third_session(autojump_clock: MockClock) -> None:
    async with serving() as server:
        async with server.connect() as client, server.connect() as other:
            await client.say("200", "k", agent="sleeper", thread_id=THREAD)
            await client.until("partial_result")
            await View().watch(other)  # a second device, which leaves too
        await trio.sleep(WINDOW + 1)
        assert server.node.sessions.left
        async with server.connect() as third:
            view = View()
            [run] = (await view.watch(third))["runs"]
            assert (run["status"], run["content"]) == ("running", "I sleep. ")
            await view.until(third, "agent_completed")
            assert view.texts == {run["run_id"]: "I sleep. I slept."}
            assert not view.gaps


async def test_a_watcher_gets_the_run_before_and_after_it_leaves(
    autojump_clock: MockClock,
) -> None:
    async with serving() as server, server.connect() as other:
        view = View()
        async with server.connect() as client:
            await client.say(f"{WINDOW + 5}", "k", agent="sleeper", thread_id=THREAD)
            await client.until("partial_result")
            await view.watch(other)
        await view.until(other, "agent_completed")
        assert trio.current_time() > WINDOW
        assert list(view.texts.values()) == ["I sleep. I slept."]


async def test_it_is_stopped_from_another_session(autojump_clock: MockClock) -> None:
    async with serving() as server:
        [first, waiting] = await start(server, ("sleeper", "1000"), ("sleeper", "1000"))
        await trio.sleep(WINDOW + 1)
        async with server.connect() as client:
            await client.send("stop_agent", {"run_id": first})
            await client.send("stop_agent", {"run_id": waiting})
            assert await client.sync() == []
            await wait_all_tasks_blocked()
            assert await status(server) is RunStatus.CANCELLED
            await client.send("stop_agent", {"run_id": first}, "again")
            assert (await client.error())["code"] == "RUN_NOT_FOUND"
        assert server.node.sessions.left == []


async def test_its_question_is_answered_from_another_session(autojump_clock: MockClock) -> None:
    async with serving() as server:
        async with server.connect() as client:
            await client.say("go", agent="asker", thread_id="t0")
            asking = (await client.until("agent_asking"))[-1]["payload"]
        await trio.sleep(WINDOW + 1)
        async with server.connect() as other:
            question_id = asking["question_id"]
            await other.send("answer", {"question_id": question_id, "answer": "this one"}, "a")
            closed = await other.expect("agent_answered")
            assert closed["correlation_id"] == "a"
            assert closed["payload"]["answer"] == "this one"
        await wait_all_tasks_blocked()
        assert (await answers(server))[0] == ("user", "go")
        assert await status(server) is RunStatus.COMPLETED


async def test_a_question_opens_and_expires_without_a_session(
    autojump_clock: MockClock,
) -> None:
    async def late(run: Run) -> None:
        await trio.sleep(WINDOW + 10)
        await run.ask("Still there?", expires=50)

    agents = {"late": agent(late, unattended="continue")}
    async with open_server(agents=agents, **NO_HEARTBEAT) as server:
        await start(server, ("late", "go"))
        await trio.sleep(WINDOW + 11)
        user = server.node._users.find(ALICE)
        assert user is not None
        assert len(user.questions) == 1
        await trio.sleep(50)
        assert await status(server) is RunStatus.FAILED
        assert not user.questions


async def test_a_duplicate_gets_the_end_of_the_run(autojump_clock: MockClock) -> None:
    async with serving() as server:
        [run_id] = await start(server, ("sleeper", "200"))
        await trio.sleep(WINDOW + 1)
        async with server.connect() as client:
            await client.say("200", "k0", agent="sleeper", thread_id="t0")
            confirmed = (await client.expect("message_confirmed"))["payload"]
            assert (confirmed["status"], confirmed["run_status"]) == ("duplicate", "running")
            assert confirmed["run_id"] == run_id
            completed = (await client.expect("agent_completed"))["payload"]
            assert (completed["run_id"], completed["status"]) == (run_id, "completed")


async def test_its_thread_stays_busy(autojump_clock: MockClock) -> None:
    async with serving() as server:
        await start(server, ("sleeper", "200"))
        await trio.sleep(WINDOW + 1)
        async with server.connect() as client:
            await client.say("1", "n", agent="attended", thread_id="t0")
            confirmed = (await client.expect("message_confirmed"))["payload"]
            assert (confirmed["status"], confirmed["position"]) == ("queued", 1)
            await client.until("agent_completed")
            assert trio.current_time() > 200


async def test_a_session_that_leaves_gets_no_end_of_another_ones_run(
    autojump_clock: MockClock,
) -> None:
    async with serving() as server, server.connect() as owner:
        await owner.say("500", "shared", agent="sleeper", thread_id="t0")
        await owner.until("partial_result")
        async with server.connect() as other:
            await other.say("500", "shared", agent="sleeper", thread_id="t0")
            await other.until("message_confirmed")
            await other.say("500", "own", agent="sleeper", thread_id="t1")
            await other.until("partial_result")
        await trio.sleep(WINDOW + 1)
        [left] = server.node.sessions.left
        user = server.node._users.find(ALICE)
        assert user is not None
        assert all(not run.watchers for run in user.runs.values())
        assert left.id == other.hello["payload"]["session_id"]


# Limits.


async def test_the_ninth_run_is_refused(autojump_clock: MockClock) -> None:
    async with serving() as server:
        runs = await start(server, *[("sleeper", "1000")] * UNATTENDED_RUNS)
        async with server.connect() as client:
            await client.say("1", "n", agent="sleeper", thread_id="n")
            refused = await client.error()
            assert (refused["code"], refused["recoverable"]) == ("QUEUE_FULL", True)
            await client.say("1000", "k7", agent="sleeper", thread_id="t7")
            again = (await client.expect("message_confirmed"))["payload"]
            assert (again["status"], again["run_id"]) == ("duplicate", runs[7])
            await client.say("1", "a", agent="attended", thread_id="a")
            assert kinds(await client.until("agent_completed"))[0] == "message_confirmed"
            await client.send("stop_agent", {"run_id": runs[0]})
            await client.sync()
            await client.say("1", "n", agent="sleeper", thread_id="n")
            confirmed = [
                frame
                for frame in await client.until("agent_completed")
                if frame["type"] == "message_confirmed"
            ]
            assert len(confirmed) == 1  # its key was free


async def test_messages_of_two_sessions_at_once_do_not_exceed_the_limit(
    autojump_clock: MockClock,
) -> None:
    async with serving(SlowStore()) as server:
        await start(server, *[("sleeper", "1000")] * (UNATTENDED_RUNS - 1))
        async with server.connect() as one, server.connect() as two:
            await one.say("1000", "a", agent="sleeper", thread_id="a")
            await two.say("1000", "b", agent="sleeper", thread_id="b")
            assert (await two.error())["code"] == "QUEUE_FULL"
            await one.until("partial_result")


async def test_without_an_answer_of_the_store_a_message_is_refused(
    autojump_clock: MockClock,
) -> None:
    class DownStore(MemoryStore):
        async def count_unattended(self, *_: Any) -> int:
            raise StoreUnavailable("down")

    async with serving(DownStore()) as server, server.connect() as client:
        await client.say("1", "k", agent="sleeper")
        assert (await client.error())["code"] == "SERVICE_UNAVAILABLE"
        await client.say("1", "k", agent="attended")
        await client.until("agent_completed")


async def test_the_deadline_holds(autojump_clock: MockClock) -> None:
    async with serving(agent_timeout_ms=200_000) as server:
        await start(server, ("sleeper", "1000"))
        await trio.sleep(199)
        assert await status(server) is RunStatus.RUNNING
        await trio.sleep(2)
        assert await status(server) is RunStatus.TIMED_OUT


async def test_a_run_that_ignores_its_cancellation_is_abandoned(autojump_clock: MockClock) -> None:
    async def stubborn(run: Run) -> None:
        await run.emit("…")
        with trio.CancelScope(shield=True):
            await trio.sleep(1000)

    agents = {"stubborn": agent(stubborn, unattended="continue")}
    async with open_server(agents=agents, **NO_HEARTBEAT) as server:
        [run_id] = await start(server, ("stubborn", "go"))
        await trio.sleep(WINDOW + 1)
        async with server.connect() as client:
            await client.send("stop_agent", {"run_id": run_id})
            await client.sync()
            await trio.sleep(5)
            assert await status(server) is RunStatus.CANCELLED
        await trio.sleep(1000)
        assert server.node.sessions.left == []


# The end of the server.


async def test_a_drain_waits_for_it_and_then_interrupts_it(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    async with serving(store) as server:
        await start(server, ("sleeper", f"{WINDOW + 5}"), ("sleeper", "1000"), ("asker", "go"))
        async with server.connect() as client:
            await client.say("1000", agent="sleeper", thread_id="t1")  # it waits
            await client.until("message_confirmed")
        await trio.sleep(WINDOW + 1)
        begun = trio.current_time()
        await server.node.drain()
        assert 6 <= trio.current_time() - begun <= 8
        statuses = [await status(server, f"t{number}") for number in range(3)]
        assert statuses == [RunStatus.COMPLETED, RunStatus.INTERRUPTED, RunStatus.INTERRUPTED]
        await wait_all_tasks_blocked()
        assert server.node.sessions.left == []


async def test_a_session_leaves_while_the_server_drains(autojump_clock: MockClock) -> None:
    async with serving() as server:
        await start(server, ("sleeper", f"{WINDOW + 2}"), ("sleeper", "1000"))
        await trio.sleep(WINDOW - 1)
        await server.node.drain()
        statuses = [await status(server, f"t{number}") for number in range(2)]
        assert statuses == [RunStatus.COMPLETED, RunStatus.INTERRUPTED]


async def test_closing_the_server_interrupts_it(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    async with serving(store) as server:
        await start(server, ("sleeper", "1000"))
        await trio.sleep(WINDOW + 1)
    page = await store.history(ALICE, ThreadId("t0"), limit=10)
    assert page is not None
    assert page[0][0].run is not None
    assert page[0][0].run.status is RunStatus.INTERRUPTED


async def test_a_session_that_has_ended_is_polled_no_longer(autojump_clock: MockClock) -> None:
    async with serving() as server:
        await start(server, ("attended", "1000"), ("sleeper", "200"))
        await trio.sleep(WINDOW + 100)
        assert not server.node.sessions._busy


def test_a_log_that_keeps_nothing_has_room() -> None:
    log = NoLog()
    assert log.has_room(10**9)
    assert [log.append(name, 10**9).seq for name in "ab"] == [1, 2]
    assert (log.depth, log.is_over_bytes, log.has_pending(), log.entries()) == (0, False, False, [])
    log.merge()
    assert log.trim() == []
    assert log.reserve()
