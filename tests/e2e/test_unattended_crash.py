"""Runs without a session, and the webhook, of real servers that are killed and drained."""

import signal
from pathlib import Path
from typing import Any

import pytest
import trio
from support.receiver import SILENT, Receiver, free_port, receiving
from support.server import PATIENCE, Server, serving, write_agents

pytestmark = pytest.mark.unmeasured

AGENTS = """
import trio
from netra_trio import agent


async def sleep(run):
    await run.emit("I sleep. ")
    await trio.sleep(float(run.content))
    await run.emit("I slept.")
    return "slept"


async def ask(run):
    await trio.sleep(float(run.content))
    return await run.ask("Well?")


sleeper = agent(sleep, unattended="continue")
asker = agent(ask, unattended="continue")
"""
ARGUMENTS = ["--agent", "outside_agents:sleeper", "--agent", "outside_agents:asker"]
FAST = """
from netra_trio.webhook import endpoint, notifier
notifier.UNFINISHED_SECONDS = notifier.POLL_SECONDS = 0.3
notifier.TAKEN_SECONDS = 1.5
endpoint.ANSWER_SECONDS = endpoint.Endpoint.__init__.__kwdefaults__["seconds"] = 0.5
"""


def settings(receiver: Receiver, url: str, window: int = 200) -> dict[str, str]:
    return {**receiver.environ, "WEBSOCKET_RESUME_WINDOW": str(window), "DATABASE_URL": url}


async def leave(server: Server, content: str, agent: str, thread: str) -> str:
    """Start a run and leave; return its id."""
    async with server.connect() as client:
        await client.say(content, f"k-{thread}", agent=agent, thread_id=thread)
        started = await client.until("agent_started")
    run_id: str = started[-1]["payload"]["run_id"]
    return run_id


async def notification_of(receiver: Receiver, run_id: str, kind: str) -> dict[str, Any]:
    """Wait until the receiver has accepted a notification of a run; return it."""
    with trio.fail_after(PATIENCE):
        while True:  # another thread, without an event
            for each in list(receiver.accepted.values()):
                if (each["run_id"], each["type"]) == (run_id, kind):
                    return each
            await trio.sleep(0.05)


async def test_ends_and_questions_are_sent_despite_failures_and_kills(
    tmp_path: Path, url: str
) -> None:
    write_agents(tmp_path, AGENTS)
    receiver = Receiver(free_port())  # nothing listens there yet
    with serving(tmp_path, *ARGUMENTS, before=FAST, **settings(receiver, url)) as server:
        ends = await leave(server, "1", "sleeper", "ends")
        asks = await leave(server, "1", "asker", "asks")
        goes_on = await leave(server, "1000", "sleeper", "goes-on")
        await trio.to_thread.run_sync(server.process.wait_log, "notification_failed", 2)
        receiver.script = [500, SILENT]
        with receiving(receiver):
            assert (await notification_of(receiver, ends, "agent_completed"))[
                "status"
            ] == "completed"
            question_id = (await notification_of(receiver, asks, "agent_asking"))["question_id"]
        assert len(receiver.accepted) == 2
        async with server.connect() as client:  # a third device: the announced data exists
            asked, answered = await client.history("ends")
            assert asked["run"]["status"] == "completed"
            assert answered["content"] == "I sleep. I slept."
            await client.send("answer", {"question_id": question_id, "answer": "yes"})
            await client.expect("agent_answered")
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with (
        receiving(receiver),
        serving(tmp_path, *ARGUMENTS, before=FAST, **settings(receiver, url)) as server,
    ):
        # The run that was answered may have been killed before its end, and then is told of, too.
        told = await notification_of(receiver, goes_on, "agent_completed")
        assert told["status"] == "interrupted"
        async with server.connect() as client:
            asked, *_ = await client.history("goes-on")
            assert asked["run"]["status"] == "interrupted"
            await client.say("1000", "k-goes-on", agent="sleeper", thread_id="goes-on")
            copies = await client.until("agent_completed")
            assert copies[0]["payload"]["status"] == "duplicate"
    ids = [each.notification["id"] for each in receiver.deliveries if each.status == 200]
    assert len(ids) == len(set(ids))


async def test_the_end_by_a_drain_is_sent_after_the_restart(tmp_path: Path) -> None:
    write_agents(tmp_path, AGENTS)
    url = f"sqlite:///{tmp_path / 'unattended.db'}"
    receiver = Receiver(free_port())
    environ = {**settings(receiver, url), "WEBSOCKET_DRAIN_TIMEOUT": "400"}
    with serving(tmp_path, *ARGUMENTS, before=FAST, **environ) as server:
        run_id = await leave(server, "1000", "sleeper", "t")
        await trio.to_thread.run_sync(server.process.wait_log, "session_ended")
    with receiving(receiver), serving(tmp_path, *ARGUMENTS, before=FAST, **environ):
        told = await notification_of(receiver, run_id, "agent_completed")
    assert told["status"] == "interrupted"
    assert list(receiver.accepted.values()) == [told]
