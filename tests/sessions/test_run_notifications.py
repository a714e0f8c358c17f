"""The requests to the webhook for runs that have left their session, of one server and of two."""

from typing import Any

import pytest
import trio
from support.memory import Server, open_server
from support.shared_nodes import LinkedNode, open_nodes
from support.webhooks import ScriptedWebhook
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.options import agent
from netra_trio.agents.run import Run
from netra_trio.broker.base import LEASE_SECONDS
from netra_trio.ids import UserId
from netra_trio.node import unattended
from netra_trio.node.shared_limits import SharedLimits
from netra_trio.stores.memory import MemoryStore

WINDOW = 10.0  # seconds
ALICE = UserId("alice")
SETTINGS: dict[str, Any] = {
    "heartbeat_interval_ms": 3_600_000,
    "resume_window_ms": int(WINDOW * 1000),
    "notify_webhook": "https://app.example.com/hook",
    "notify_webhook_secret": "w" * 32,
}


async def sleeper(run: Run) -> str:
    """Sleep for the number of seconds in the message."""
    await run.emit("I sleep. ")
    await trio.sleep(float(run.content))
    return "slept"


async def asker(run: Run) -> str:
    """Ask a question after the number of seconds in the message."""
    await run.emit("I wait. ")
    await trio.sleep(float(run.content))
    return str(await run.ask("Which one?", expires=3600))


AGENTS = {
    "sleeper": agent(sleeper, unattended="continue"),
    "asker": agent(asker, unattended="continue"),
    "attached": agent(sleeper),
}


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> ScriptedWebhook:
    """Replace the webhook's endpoint."""
    scripted = ScriptedWebhook()
    monkeypatch.setattr(unattended, "Endpoint", scripted)
    return scripted


def serving(**options: Any) -> Any:
    return open_server(agents=AGENTS, **{**SETTINGS, **options})


async def leave_run(server: Server | LinkedNode, name: str, content: str, **more: Any) -> str:
    """Start a run of alice, and leave; return its id."""
    async with server.connect() as client:
        await client.say(content, agent=name, **more)
        frames = await client.until("partial_result")
    run_id: str = frames[-1]["payload"]["run_id"]
    return run_id


async def test_the_end_of_a_run_is_sent(
    autojump_clock: MockClock, webhook: ScriptedWebhook
) -> None:
    async with serving() as server:
        run_id = await leave_run(server, "sleeper", "20", thread_id="t")
        await trio.sleep(19.9)
        assert webhook.attempts == []
        await trio.sleep(0.3)
        [notification] = webhook.accepted
        assert (notification.type, notification.status) == ("agent_completed", "completed")
        assert (notification.user_id, notification.thread_id, notification.run_id) == (
            "alice",
            "t",
            run_id,
        )
        await trio.sleep(100)
        assert len(webhook.attempts) == 1


async def test_the_end_of_a_run_with_a_key_is_sent(
    autojump_clock: MockClock, webhook: ScriptedWebhook
) -> None:
    async with serving() as server:
        async with server.connect() as client:
            await client.say("20", "k", agent="sleeper")
            await client.until("partial_result")
        await trio.sleep(21)
        assert webhook.results == [("agent_completed", "completed")]


@pytest.mark.parametrize("name", ["attached", "sleeper"])
async def test_a_run_that_ends_in_its_session_sends_nothing(
    autojump_clock: MockClock, webhook: ScriptedWebhook, name: str
) -> None:
    async with serving() as server:
        await leave_run(server, name, "5" if name == "sleeper" else "20")
        await trio.sleep(200)
        assert webhook.attempts == []


async def test_a_question_of_a_run_is_sent(
    autojump_clock: MockClock, webhook: ScriptedWebhook
) -> None:
    async with serving() as server:
        await leave_run(server, "asker", "20", thread_id="t")
        await trio.sleep(21)
        [notification] = webhook.accepted
        assert (notification.type, notification.thread_id, notification.status) == (
            "agent_asking",
            "t",
            None,
        )
        async with server.connect() as client:
            assert notification.question_id is not None
            await client.send("answer", {"question_id": notification.question_id, "answer": "this"})
            await client.expect("agent_answered")
            await trio.sleep(5)
        assert len(webhook.attempts) == 1  # the user had a connection when the run ended


async def test_an_open_question_is_sent_when_its_run_leaves(
    autojump_clock: MockClock, webhook: ScriptedWebhook
) -> None:
    async with serving() as server:
        await leave_run(server, "asker", "1")
        await trio.sleep(WINDOW - 1)
        assert webhook.attempts == []
        await trio.sleep(1.1)
        assert [kind for kind, _ in webhook.results] == ["agent_asking"]
        await trio.sleep(3600)
        assert [kind for kind, _ in webhook.results] == ["agent_asking", "agent_completed"]
        assert webhook.results[1][1] == "failed"  # the question has expired


async def test_a_question_that_is_being_stored_when_its_run_leaves_is_sent(
    autojump_clock: MockClock, webhook: ScriptedWebhook
) -> None:
    class SlowStore(MemoryStore):
        async def record_question(self, question: Any) -> None:
            await trio.sleep(2)
            await super().record_question(question)

    async with serving(store=SlowStore()) as server:
        await leave_run(server, "asker", f"{WINDOW - 1}")
        await trio.sleep(WINDOW + 5)
        assert [kind for kind, _ in webhook.results] == ["agent_asking"]


async def test_the_user_has_a_connection(
    autojump_clock: MockClock, webhook: ScriptedWebhook
) -> None:
    async with serving() as server:
        await leave_run(server, "sleeper", "20")
        await leave_run(server, "asker", "20", thread_id="t")
        await trio.sleep(WINDOW + 1)
        async with server.connect():
            await trio.sleep(20)
        await trio.sleep(100)
        assert webhook.attempts == []


async def test_another_user_has_a_connection(
    autojump_clock: MockClock, webhook: ScriptedWebhook
) -> None:
    async with serving() as server, server.connect("bob"):
        await leave_run(server, "sleeper", "20")
        await trio.sleep(21)
        assert webhook.results == [("agent_completed", "completed")]


async def test_a_drain_and_a_restart(autojump_clock: MockClock, webhook: ScriptedWebhook) -> None:
    store = MemoryStore()
    async with serving(store=store) as server:
        await leave_run(server, "sleeper", "1000")
        await trio.sleep(WINDOW + 1)
        webhook.default = "status 500"
        await server.node.drain()
    webhook.default = None
    async with serving(store=store):
        await trio.sleep(60)
    assert webhook.results == [("agent_completed", "interrupted")]


async def test_without_a_webhook_nothing_is_stored(autojump_clock: MockClock) -> None:
    async with serving(notify_webhook=None) as server:
        await leave_run(server, "sleeper", "20")
        await leave_run(server, "asker", "1", thread_id="t")
        await trio.sleep(100)
        assert server.node.services.notifier is None
        assert await server.node.services.store.take_notifications(limit=10, seconds=1) == []


# Two nodes.


@pytest.mark.parametrize("is_relayed", [False, True])
async def test_a_connection_at_another_node_counts(
    autojump_clock: MockClock, webhook: ScriptedWebhook, is_relayed: bool
) -> None:
    async with open_nodes(2, agents=AGENTS, **SETTINGS) as (one, other):
        await leave_run(one, "sleeper", "20")
        await trio.sleep(WINDOW + 1)
        if is_relayed:  # its session is at the other node, and its socket at the first one
            async with other.connect() as before:
                await before.say("1000", agent="attached", thread_id="t")
                await before.until("partial_result")
            session_id = before.hello["payload"]["session_id"]
            await trio.sleep(0.1)
            async with one.connect(session_id=session_id):
                await trio.sleep(20)
        else:
            async with other.connect():
                await trio.sleep(20)
        await trio.sleep(100)
        assert webhook.attempts == []


async def test_a_session_without_a_connection_at_another_node_does_not_count(
    autojump_clock: MockClock, webhook: ScriptedWebhook
) -> None:
    async with open_nodes(2, agents=AGENTS, **SETTINGS) as (one, other):
        await leave_run(one, "sleeper", "20")
        await trio.sleep(WINDOW + 1)
        async with other.connect():
            pass
        await trio.sleep(11)
        assert webhook.results == [("agent_completed", "completed")]


async def test_an_unknown_state_is_no_connection(
    autojump_clock: MockClock, webhook: ScriptedWebhook
) -> None:
    async with open_nodes(2, agents=AGENTS, **SETTINGS) as (one, other), other.connect():
        await trio.sleep(0.1)
        limits = one.node.connection_limit
        assert isinstance(limits, SharedLimits)
        attached = unattended.AttachedUsers(one.node._users, limits)
        assert await attached.is_attached(ALICE)
        assert not await attached.is_attached(UserId("bob"))
        one.link.is_cut = True
        assert not await attached.is_attached(ALICE)
        assert not limits.is_counting
        assert not await attached.is_attached(ALICE)  # without another request


async def test_a_connection_at_a_dead_node_does_not_count(
    autojump_clock: MockClock, webhook: ScriptedWebhook
) -> None:
    async with open_nodes(2, agents=AGENTS, **SETTINGS) as (one, other):
        await leave_run(one, "sleeper", "20")
        await trio.sleep(WINDOW + 1)
        client = other.start()
        await client.expect("connection_established")
        await trio.sleep(0.1)
        other.link.is_cut = True  # as if it were killed: its lease ends
        await trio.sleep(2 * LEASE_SECONDS + 10)
        assert webhook.results == [("agent_completed", "completed")]


async def test_two_nodes_tell_it_once(autojump_clock: MockClock, webhook: ScriptedWebhook) -> None:
    webhook.seconds = 1.0
    async with open_nodes(2, agents=AGENTS, **SETTINGS) as (one, other):
        for number in range(4):
            await leave_run(one, "sleeper", "20", thread_id=f"a{number}")
            await leave_run(other, "sleeper", "20", thread_id=f"b{number}")
        await trio.sleep(100)
        assert len(webhook.attempts) == 8
        assert {each.run_id for each in webhook.accepted} == {
            each.run_id for _, each in webhook.attempts
        }


async def test_a_question_is_answered_from_another_node(
    autojump_clock: MockClock, webhook: ScriptedWebhook
) -> None:
    async with open_nodes(2, agents=AGENTS, **SETTINGS) as (one, other):
        run_id = await leave_run(one, "asker", "20")
        await trio.sleep(21)
        [notification] = webhook.accepted
        async with other.connect() as client:
            await client.send(
                "answer", {"question_id": notification.question_id, "answer": "this"}, "a"
            )
            answered = await client.expect("agent_answered")
            assert answered["payload"]["run_id"] == run_id
            assert answered["correlation_id"] == "a"


async def test_a_run_is_stopped_from_another_node(
    autojump_clock: MockClock, webhook: ScriptedWebhook
) -> None:
    async with open_nodes(2, agents=AGENTS, **SETTINGS) as (one, other):
        run_id = await leave_run(one, "sleeper", "1000")
        await trio.sleep(WINDOW + 1)
        async with other.connect() as client:
            await client.send("stop_agent", {"run_id": run_id})
            await client.sync()
            await trio.sleep(1)
        await wait_all_tasks_blocked()
        user = one.node._users.find(ALICE)
        assert user is None or not user.runs


async def test_the_copy_of_a_session_that_was_left_is_dropped(
    autojump_clock: MockClock, webhook: ScriptedWebhook
) -> None:
    async with open_nodes(2, agents=AGENTS, **SETTINGS) as (one, other):
        async with one.connect() as client:
            await client.say("1000", agent="sleeper")
            await client.until("partial_result")
        await trio.sleep(WINDOW + 1)
        assert one.node.sessions.left
        async with other.connect(session_id=client.hello["payload"]["session_id"]) as again:
            assert again.hello["payload"]["resume"]["verdict"] == "reset"
        assert one.node.sessions.left


async def test_the_limit_holds_over_nodes(
    autojump_clock: MockClock, webhook: ScriptedWebhook
) -> None:
    async with open_nodes(2, agents=AGENTS, **SETTINGS) as (one, other):
        for number in range(4):
            await leave_run(one, "sleeper", "1000", thread_id=f"a{number}")
            await leave_run(other, "sleeper", "1000", thread_id=f"b{number}")
        async with other.connect() as client:
            await client.say("1", agent="sleeper", thread_id="n")
            assert (await client.error())["code"] == "QUEUE_FULL"
