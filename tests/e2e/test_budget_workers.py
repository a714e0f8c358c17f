"""A budget on a server of two workers: the sum of both counts, and no restart resets it."""

import os
import signal
import sqlite3
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest
import trio
from support.server import PATIENCE, Client, Server, serving, write_agents

pytestmark = pytest.mark.unmeasured

AGENT = """
import os

import trio


async def spend(run):
    tokens, _, more = run.content.partition(" ")
    await run.usage(model="m", input_tokens=int(tokens), output_tokens=0)
    await run.emit(str(os.getpid()))
    if more:
        await trio.sleep_forever()
"""
LIMIT = 1000
SETTINGS = {
    "WEBSOCKET_MAX_CONNECTIONS_PER_USER": "100",
    "WEBSOCKET_DRAIN_TIMEOUT": "1500",
    "USAGE_LIMIT_TOKENS": str(LIMIT),
}


async def spend(client: Client, content: str) -> tuple[str, str]:
    """Return how the run ended, and the process id of its worker."""
    await client.say(content)
    payload = (await client.until("agent_completed"))[-1]["payload"]
    code = payload.get("error", {}).get("code", "")
    return code or payload["status"], str(payload.get("result"))


async def by_worker(stack: AsyncExitStack, server: Server) -> tuple[dict[str, Client], int]:
    """Return a client at each of two workers, and the tokens that it took to find them."""
    found: dict[str, Client] = {}
    used = 0
    while len(found) < 2:
        async with AsyncExitStack() as own:
            client = await own.enter_async_context(server.connect("alice"))
            status, worker = await spend(client, "1")
            assert status == "completed"
            used += 1
            if worker not in found:
                found[worker] = client
                stack.push_async_exit(own.pop_all())
    return found, used


async def stored(directory: Path, tokens: int) -> None:
    """Wait until the database has reports of so many tokens."""
    while True:
        with closing(sqlite3.connect(directory / ".netra" / "netra.db")) as database:
            [[found]] = database.execute("SELECT sum(input_tokens) FROM usage").fetchall()
        if found == tokens:
            return
        await trio.sleep(0.05)


async def test_two_workers_and_a_restart_have_one_budget(tmp_path: Path) -> None:
    write_agents(tmp_path, AGENT)
    options = ("--agent=outside_agents:spend", "--workers", "2")
    with serving(tmp_path, *options, **SETTINGS) as server, trio.fail_after(PATIENCE):
        async with AsyncExitStack() as stack:
            clients, used = await by_worker(stack, server)
            (killed, first), (_, second) = clients.items()
            await second.say("1 and waits", thread_id="waiting")
            await second.until("partial_result")
            # One worker reaches the limit, with a warning for the sessions of both.
            status, _ = await spend(first, str(LIMIT - used - 1))
            assert status == "completed"
            warning = (await second.until("usage_warning"))[-1]["payload"]
            assert (warning["limit"], warning["used"]) == (LIMIT, LIMIT)
            # A worker that is killed takes nothing with it that is stored.
            await stored(tmp_path, LIMIT)
            os.kill(int(killed), signal.SIGKILL)
            await second.say("1")
            # The run that waits ends with the one that has gone beyond the limit.
            for _ in range(2):
                end = (await second.until("agent_completed"))[-1]["payload"]
                assert (end["status"], end["error"]["code"]) == ("cancelled", "BUDGET_EXCEEDED")
            await second.say("1")
            error = (await second.until("error"))[-1]["payload"]
            assert error["code"] == "BUDGET_EXCEEDED"
    # The private broker has ended with the server; the sum is in the database.
    with serving(tmp_path, options[0], **SETTINGS) as server, trio.fail_after(PATIENCE):
        async with server.connect("alice") as client:
            await client.say("1")
            error = (await client.until("error"))[-1]["payload"]
            assert error["code"] == "BUDGET_EXCEEDED"
            assert f"{LIMIT + 1} of {LIMIT} tokens" in error["error"]
