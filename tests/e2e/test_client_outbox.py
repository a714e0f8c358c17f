"""The outbox of the Python client on the disk: its process is killed, and no message is lost.

The client is a process of its own, which reports to its output. No message runs twice.
"""

import json
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from support.relay import relaying
from support.server import PATIENCE, STARTING, Process, Server, serving, sign, write_agents

pytestmark = pytest.mark.unmeasured

ROUNDS = 5  # of a process that is killed while it sends
MANY = 1000  # messages, more than it can send
LIFE = (0.0, 0.3)  # seconds from its first confirmation to its kill
LIMITS = {"WEBSOCKET_MAX_MESSAGE_RATE": "100000"}
AGENT = '''
import os

RAN = os.open("ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


async def note(run):
    """Record the message, and answer with its content."""
    os.write(RAN, f"{run.content}\\n".encode())
    await run.emit(run.content)
'''
CLIENT = """
import sys

import trio

from netra_trio.client import connect


async def listen(client):
    async for event in client.events():
        if event.type == "message_confirmed":
            print("confirmed", event.correlation_id, flush=True)


async def main(url, token, first, last):
    connecting = connect(url, token=token, outbox="outbox.jsonl", random=lambda: 0.02)
    async with connecting as client, trio.open_nursery() as nursery:
        nursery.start_soon(listen, client)
        print("connected", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        async with trio.open_nursery() as sending:
            for number in range(int(first), int(last)):
                print("trying", f"m-{number}", flush=True)
                before = client.stats.queued, client.stats.messages_sent
                sending.start_soon(send, client, f"m-{number}")
                while (client.stats.queued, client.stats.messages_sent) == before:
                    await trio.sleep(0.001)
                print("queued", f"m-{number}", flush=True)
        while client.stats.queued:
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def send(client, key):
    await client.send(key, thread_id="main", correlation_id=key)


trio.run(main, *sys.argv[1:])
"""
"""The client: it waits for a line of input, then sends the messages of a range of numbers."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_agents(tmp_path, AGENT)
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "client.py").write_text(CLIENT)
    return tmp_path


@contextmanager
def server_of(folder: Path) -> Iterator[Server]:
    with serving(folder, "--agent=outside_agents:note", **LIMITS) as server:
        yield server


@contextmanager
def client_of(folder: Path, url: str, first: int, last: int) -> Iterator[Process]:
    # A killed process writes no coverage data; the last one is run in the same way.
    arguments = ["client.py", url, sign(), str(first), str(last)]
    with Process(
        arguments, directory=folder / "client", environ={}, typed=True, measured=False
    ) as client:
        client.out.wait_for(lambda lines: "connected" in lines, STARTING)
        yield client


def reported(client: Process, word: str) -> list[str]:
    """Return the keys that a client reported with this word."""
    return [line.split()[1] for line in client.out.lines if line.startswith(f"{word} ")]


def unsettled(folder: Path) -> list[str]:
    """Return the keys that are left in the file; its last line may be incomplete."""
    left: list[str] = []
    for line in (folder / "client" / "outbox.jsonl").read_text().split("\n")[:-1]:
        change = json.loads(line)
        if "add" in change:
            left.append(change["add"])
        else:
            left.remove(change["done"])
    return left


async def history(server: Server) -> list[tuple[str, str]]:
    """Return role and content of each message of the thread, from its beginning."""
    async with server.connect() as client:
        return [(each["role"], each["content"]) for each in await client.history("main")]


async def check(server: Server, folder: Path, expected: set[str]) -> None:
    """Check that the server has each message once, in their order, and answered it once."""
    with trio.fail_after(PATIENCE):
        while True:
            found = await history(server)
            asked = [content for role, content in found if role == "user"]
            if len(found) == 2 * len(asked):  # every run has ended
                break
    assert expected <= set(asked)
    assert asked == [f"m-{number}" for number in sorted(int(key[2:]) for key in set(asked))]
    assert Counter(content for role, content in found if role == "agent") == Counter(asked)
    assert Counter((folder / "ran").read_text().split()) == Counter(asked)


async def test_messages_of_a_disconnected_client_survive_it(folder: Path) -> None:
    with server_of(folder) as server, relaying(server.address) as relay:
        url = f"ws://{relay.address}/ws"
        with client_of(folder, url, 0, 5) as client:
            relay.cut()
            client.type("")
            client.out.wait_for(lambda lines: "queued m-4" in lines)
            assert client.end(signal.SIGKILL) == -signal.SIGKILL
            assert not reported(client, "confirmed")
        assert unsettled(folder) == [f"m-{number}" for number in range(5)]
        relay.restore()
        with client_of(folder, url, 5, 6) as client:
            client.type("")
            assert client.wait() == 0, client.err.text
            assert reported(client, "confirmed") == [f"m-{number}" for number in range(6)]
        assert not unsettled(folder)
        await check(server, folder, {f"m-{number}" for number in range(6)})


async def test_a_client_that_is_killed_while_it_sends(folder: Path) -> None:
    chance = random.Random(11)  # noqa: S311 - no secret
    first, promised = 0, set[str]()
    with server_of(folder) as server:
        for _ in range(ROUNDS):
            with client_of(folder, server.url, first, first + MANY) as client:
                client.type("")
                client.out.wait_for(lambda lines: any("confirmed" in line for line in lines))
                await trio.sleep(chance.uniform(*LIFE))
                client.end(signal.SIGKILL)
                promised |= {*reported(client, "confirmed"), *unsettled(folder)}
                first += len(reported(client, "trying"))
        with client_of(folder, server.url, first, first + 1) as client:
            client.type("")
            assert client.wait() == 0, client.err.text
        assert not unsettled(folder)
        await check(server, folder, promised | {f"m-{first}"})
