"""A thread is seen live over the workers of one server, and while one of them is killed."""

import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from support.server import PATIENCE, Client, Server, serving, write_agents
from support.watching import THREAD, View, text_of

pytestmark = pytest.mark.unmeasured

WORDS = 40
WHOLE = "".join(f"{number} " for number in range(WORDS))
SOURCE = f"""
import os

import trio


async def count(run):
    await run.think(str(os.getpid()))
    for number in range({WORDS}):
        await run.emit(f"{{number}} ")
        await trio.sleep(0.02)
    if run.content == "stay":
        await trio.sleep_forever()
"""


async def connect_to_both(server: Server, stack: AsyncExitStack) -> list[Client]:
    """Open connections until each worker has one; return one of each."""
    clients: dict[str, Client] = {}
    while len(clients) < 2:
        client = await stack.enter_async_context(server.connect())
        worker = client.hello["payload"]["connection_id"][-8:]  # ids of a process end alike
        clients.setdefault(worker, client)
    return list(clients.values())


async def test_a_thread_is_seen_live_over_two_workers(tmp_path: Path) -> None:
    write_agents(tmp_path, SOURCE)
    limits = {"WEBSOCKET_MAX_CONNECTIONS_PER_USER": "50"}
    with serving(tmp_path, "--agent=outside_agents:count", "--workers", "2", **limits) as server:
        with trio.fail_after(PATIENCE):
            async with AsyncExitStack() as stack:
                asking, other = await connect_to_both(server, stack)
                near, far = await connect_to_both(server, stack)
                early, late, own = View(), View(), View()
                await early.watch(other)
                await asking.say("hello", thread_id=THREAD)
                await early.until(other, "partial_result")
                for view, client in ((late, far), (own, near)):
                    joined = await view.watch(client)
                    assert [run["status"] for run in joined["runs"]] == ["running"]
                assert await text_of(asking) == WHOLE
                for view, client in ((early, other), (late, far), (own, near)):
                    await view.until(client, "agent_completed")
                    assert list(view.texts.values()) == [WHOLE]
                    assert list(view.statuses.values()) == ["completed"]
                    assert not view.gaps

                # The worker that has the run is killed.
                await asking.say("stay", thread_id=THREAD)
                thought = (await early.until(other, "agent_thinking"))[-1]
                os.kill(int(thought["event"]["payload"]["thought"]), signal.SIGKILL)
                while not early.gaps:
                    await early.next(other)
                assert (await early.watch(other))["runs"] == []
