"""The Python client and the real server: connections are cut, servers killed and drained.

The agents append to a file at their start, so that a message that ran twice is noticed. An agent
emits the content of its message, so that missing text is noticed.
"""

import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import trio
from support.ports import kept_port
from support.relay import Relay, relaying
from support.server import PATIENCE, serving, sign, write_agents

from netra_trio.client import Client, ConnectionClosed, Event, Run, RunFailed, connect

pytestmark = pytest.mark.unmeasured

TEXTS = 3  # concurrent runs
DROPS = 8  # of the connection, while they stream
EVERY = 150  # characters that are read between two drops
KILLS = 3  # of the server, while messages are sent
SENDERS = 3  # concurrent, each in a thread of its own
MESSAGES = 15  # of each sender
LIFE = (0.05, 0.5)  # seconds of a server from a connection to its kill
BEYOND = 0.5  # seconds after the expiry of a token: by then the server would have closed
VALID_SECONDS = 6  # of a token that expires during a test: a busy machine connects in time
LONG = 4 * PATIENCE  # seconds: several servers start in one test, and other tests may run
LIMITS = {"WEBSOCKET_MAX_MESSAGE_RATE": "100000"}

AGENTS = '''
import os
import random
from pathlib import Path

import trio

RAN = os.open("ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(run):
    os.write(RAN, f"{run.correlation_id}\\n".encode())


async def repeat(run):
    """Emit the content of the message in small pieces."""
    note(run)
    chance, rest = random.Random(run.content), run.content
    while rest:
        size = chance.randint(1, 3)
        piece, rest = rest[:size], rest[size:]
        await run.emit(piece)
        if not chance.randrange(8):
            await trio.sleep(0.003)


async def until_file(run):
    """Wait for the file that the message names."""
    note(run)
    await run.emit("begun ")
    while not Path(run.content).exists():
        await trio.sleep(0.01)
    await run.emit("ended")
'''
WITH_AGENTS = ("--agent=outside_agents:repeat", "--agent=outside_agents:until_file")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_agents(tmp_path, AGENTS)
    return tmp_path


def no_jitter() -> float:
    """Keep the pauses between attempts short."""
    return 0.02


def through(relay: Relay) -> str:
    """Return the url of the server behind a relay."""
    return f"ws://{relay.address}/ws"


def ran(folder: Path) -> Counter[str]:
    """Return how many times each message ran, by its key."""
    return Counter((folder / "ran").read_text().split())


async def begin(run: Run) -> None:
    """Read a run up to its first text; another loop continues from there."""
    async for event in run:
        if event.type == "partial_result":
            return


class Trace:
    """All events of a client, recorded in a task of its own."""

    def __init__(self, client: Client) -> None:
        self.events: list[Event] = []
        self._client = client
        self._changed = trio.Event()

    async def record(self) -> None:
        """Record events until cancelled."""
        async for event in self._client.events():
            self.events.append(event)
            self._changed.set()
            self._changed = trio.Event()

    async def wait_for(self, kind: str, count: int = 1) -> Event:
        """Wait for so many events of a type, and return the last one of them."""
        while len(found := self.of(kind)) < count:
            await self._changed.wait()
        return found[count - 1]

    def of(self, kind: str) -> list[Event]:
        """Return the events of a type that were recorded."""
        return [event for event in self.events if event.type == kind]

    @property
    def verdicts(self) -> list[str]:
        """The verdict of each connection."""
        return [event.payload["verdict"] for event in self.of("connected")]

    def check_numbers(self) -> None:
        """Check that the numbers of each session are in order, each once, none missing."""
        last = 0
        for event in self.events:
            if event.type == "connected" and event.payload["verdict"] in {"new", "reset"}:
                last = 0
            elif event.seq is not None:
                assert event.first == last + 1, event
                last = event.seq


async def test_the_connection_is_cut_during_streams(folder: Path) -> None:
    chance = random.Random(5)  # noqa: S311 - no secret
    texts = ["".join(chance.choices("abc äöü€ 🙂\n", k=1500)) + "." for _ in range(TEXTS)]
    with (
        serving(folder, *WITH_AGENTS, **LIMITS) as server,
        relaying(server.address) as relay,
        trio.fail_after(LONG),
    ):
        async with (
            connect(through(relay), token=sign(), random=no_jitter) as client,
            trio.open_nursery() as nursery,
        ):
            trace = Trace(client)
            nursery.start_soon(trace.record)
            read = [""] * TEXTS
            drops = 0

            async def talk(number: int) -> None:
                nonlocal drops
                run = await client.send(texts[number], correlation_id=f"c-{number}")
                async for event in run:
                    if event.type != "partial_result":
                        continue
                    read[number] += event.payload["content"]
                    if drops < DROPS and sum(map(len, read)) >= EVERY * (drops + 1):
                        drops += 1
                        if drops % 2:
                            relay.drop()
                        else:
                            relay.cut()
                            nursery.start_soon(restore_later)
                assert await run.result() == texts[number]

            async def restore_later() -> None:
                await trace.wait_for("disconnected", len(trace.of("connected")))
                relay.restore()

            async with trio.open_nursery() as talks:
                for number in range(TEXTS):
                    talks.start_soon(talk, number)
            assert read == texts
            assert drops == DROPS  # some of them of a connection that was lost already
            assert client.stats.reconnections >= 1
            nursery.cancel_scope.cancel()
        assert trace.verdicts == ["new"] + ["exact"] * client.stats.reconnections
        assert not [*trace.of("gap"), *trace.of("reset"), *trace.of("lost"), *trace.of("lagged")]
        trace.check_numbers()
        assert ran(folder) == {f"c-{number}": 1 for number in range(TEXTS)}


async def test_a_silent_connection(folder: Path) -> None:
    text = "word after word " * 300
    with (
        serving(folder, *WITH_AGENTS, WEBSOCKET_HEARTBEAT_INTERVAL="1000") as server,
        relaying(server.address) as relay,
        trio.fail_after(LONG),
    ):
        async with (
            connect(through(relay), token=sign(), random=no_jitter) as client,
            trio.open_nursery() as nursery,
        ):
            trace = Trace(client)
            nursery.start_soon(trace.record)
            run = await client.send(text, correlation_id="c-1")
            read = ""
            async for event in run:
                if event.type == "partial_result":
                    before, read = len(read), read + event.payload["content"]
                    if before < EVERY <= len(read):
                        relay.freeze()
            assert read == text
            assert (await trace.wait_for("disconnected")).payload["code"] == 1006
            assert trace.verdicts == ["new", "exact"]
            nursery.cancel_scope.cancel()
        trace.check_numbers()
        assert ran(folder) == {"c-1": 1}


async def test_a_server_that_is_killed_repeatedly(folder: Path) -> None:
    chance = random.Random(7)  # noqa: S311 - no secret
    contents = {
        f"{sender}-{number}": f"{sender}-{number} " + "word " * chance.randint(1, 60)
        for sender in range(SENDERS)
        for number in range(MESSAGES)
    }
    ends: dict[str, str] = {}
    with kept_port() as port, trio.fail_after(LONG):
        async with trio.open_nursery() as nursery:
            done = trio.Event()
            first_is_up = trio.Event()
            killed = [trio.Event() for _ in range(KILLS)]

            async def keep_serving() -> None:
                for was_killed in killed:
                    with serving(folder, *WITH_AGENTS, port=str(port), **LIMITS) as server:
                        first_is_up.set()
                        ran_before = len(ends)
                        while len(ends) == ran_before:  # noqa: ASYNC110 - set by another task
                            await trio.sleep(0.01)
                        await trio.sleep(chance.uniform(*LIFE))
                        server.process.end(signal.SIGKILL)
                    was_killed.set()
                with serving(folder, *WITH_AGENTS, port=str(port), **LIMITS):
                    await done.wait()

            nursery.start_soon(keep_serving)
            await first_is_up.wait()
            url = f"ws://127.0.0.1:{port}/ws"
            async with (
                connect(url, token=sign(), random=no_jitter) as client,
                trio.open_nursery() as gathering,
            ):
                trace = Trace(client)
                gathering.start_soon(trace.record)

                async def talk(sender: int) -> None:
                    for number in range(MESSAGES):
                        if number >= MESSAGES - KILLS:  # each server gets at least one message
                            await killed[number - MESSAGES + KILLS].wait()
                        key = f"{sender}-{number}"
                        run = await client.send(
                            contents[key], thread_id=f"thread-{sender}", correlation_id=key
                        )
                        try:
                            assert await run.result() == contents[key]
                            ends[key] = "completed"
                        except RunFailed as failed:
                            ends[key] = failed.status

                async with trio.open_nursery() as talks:
                    for sender in range(SENDERS):
                        talks.start_soon(talk, sender)
                pages = {
                    sender: await client.history(f"thread-{sender}", limit=100)
                    for sender in range(SENDERS)
                }
                gathering.cancel_scope.cancel()
            done.set()
    assert trace.verdicts == ["new"] + ["reset"] * KILLS
    assert [event.payload["reason"] for event in trace.of("reset")] == ["unknown"] * KILLS
    assert not trace.of("lost")
    assert ends.keys() == contents.keys()
    assert set(ends.values()) <= {"completed", "interrupted"}
    for sender, page in pages.items():  # each message is stored once, in order
        asked = [each["content"] for each in page["messages"] if each["role"] == "user"]
        assert asked == [contents[f"{sender}-{number}"] for number in range(MESSAGES)]
    times = ran(folder)
    assert max(times.values()) == 1
    assert {key for key, end in ends.items() if end == "completed"} <= set(times)


async def test_messages_in_flight_when_the_server_is_killed(folder: Path) -> None:
    with (
        kept_port() as port,
        serving(folder, *WITH_AGENTS, port=str(port)) as first,
        trio.fail_after(LONG),
    ):
        async with connect(first.url, token=sign(), random=no_jitter) as client:
            run = await client.send("never", agent="until_file", correlation_id="c-1")
            await begin(run)
            first.process.end(signal.SIGKILL)
            async with trio.open_nursery() as nursery:
                runs: list[Run] = []

                async def say(number: int) -> None:
                    key = f"c-{number}"
                    runs.append(await client.send("hello", correlation_id=key))

                for number in (2, 3):
                    nursery.start_soon(say, number)
                    while client.stats.queued < number - 1:  # noqa: ASYNC110 - a counter
                        await trio.sleep(0.01)
                nursery.start_soon(serve_until, folder, port, done := trio.Event())
                while len(runs) < 2:  # noqa: ASYNC110 - set by another task
                    await trio.sleep(0.01)
                assert [each.correlation_id for each in runs] == ["c-2", "c-3"]
                assert [await each.text() for each in runs] == ["hello", "hello"]
                left = [event async for event in run]
                assert [event.type for event in left] == ["reset", "agent_completed"]
                assert left[0].payload["reason"] == "unknown"
                assert left[1].payload["status"] == "interrupted"
                done.set()
    assert ran(folder) == {"c-1": 1, "c-2": 1, "c-3": 1}


async def serve_until(folder: Path, port: int, done: trio.Event) -> None:
    """Run a server until `done` is set."""
    with serving(folder, *WITH_AGENTS, port=str(port)):
        await done.wait()


async def test_an_expiring_token_is_renewed_in_place(folder: Path) -> None:
    expires_at = 0.0
    asked = 0

    async def get_token() -> str:
        nonlocal expires_at, asked
        await trio.lowlevel.checkpoint()
        asked += 1
        if asked > 1:
            return sign()
        expires_at = int(time.time()) + VALID_SECONDS
        return sign(exp=expires_at)

    with serving(folder, *WITH_AGENTS) as server, trio.fail_after(LONG):
        async with connect(server.url, get_token=get_token) as client:
            run = await client.send("go", agent="until_file")
            await begin(run)
            await trio.sleep(expires_at + BEYOND - time.time())
            (folder / "go").touch()
            assert await run.text() == "ended"
            assert (client.stats.reconnections, asked) == (0, 2)
            assert client.stats.errors_encountered == 0


async def test_a_token_that_expires_before_there_is_another(folder: Path) -> None:
    expires_at = 0.0

    async def get_token() -> str:
        nonlocal expires_at
        await trio.lowlevel.checkpoint()
        if expires_at and time.time() < expires_at:
            raise OSError("the login server is down")
        if expires_at:
            return sign()
        expires_at = int(time.time()) + VALID_SECONDS
        return sign(exp=expires_at)

    with serving(folder, *WITH_AGENTS) as server, trio.fail_after(LONG):
        async with (
            connect(server.url, get_token=get_token, random=no_jitter) as client,
            trio.open_nursery() as nursery,
        ):
            trace = Trace(client)
            nursery.start_soon(trace.record)
            run = await client.send("go", agent="until_file")
            await trace.wait_for("connected", 2)
            (folder / "go").touch()
            assert await run.text() == "begun ended"
            assert trace.verdicts == ["new", "exact"]
            assert (await trace.wait_for("disconnected")).payload["code"] == 4401
            nursery.cancel_scope.cancel()


async def test_a_session_that_is_taken_over_and_taken_back(folder: Path) -> None:
    with serving(folder, *WITH_AGENTS) as server, trio.fail_after(LONG):
        async with connect(server.url, token=sign()) as client:
            run = await client.send("go", agent="until_file")
            await begin(run)
            query = f"?session_id={client.stats.session_id}&last_seq=0"
            async with server.connect(query=query, subprotocols=["netra.v1"]) as other:
                assert other.hello["payload"]["session_id"] == client.stats.session_id
                with pytest.raises(ConnectionClosed, match="taken the session over") as caught:
                    await run.text()
                assert caught.value.code == 4409
                assert str(client.status) == "ERROR"
                with pytest.raises(ConnectionClosed):
                    await client.send("hello")
                await client.reconnect()
                assert (await other.rest())[1] == 4409
            (folder / "go").touch()
            assert await run.text() == "ended"
            assert client.stats.last_resume_verdict == "exact"
            assert (str(client.status), client.stats.reconnections) == ("CONNECTED", 1)


async def test_a_server_that_drains(folder: Path) -> None:
    with (
        kept_port() as port,
        trio.fail_after(LONG),
        serving(folder, *WITH_AGENTS, port=str(port), WEBSOCKET_DRAIN_TIMEOUT="8000") as server,
    ):
        async with (
            connect(server.url, token=sign(), random=no_jitter) as client,
            trio.open_nursery() as nursery,
        ):
            trace = Trace(client)
            nursery.start_soon(trace.record)
            short = await client.send("go", agent="until_file", correlation_id="c-1")
            long = await client.send(
                "never", agent="until_file", thread_id="long", correlation_id="c-2"
            )
            await begin(short)
            await begin(long)
            server.process.send_signal(signal.SIGTERM)
            await trace.wait_for("server_draining")
            late: list[Run] = []

            async def say_late() -> None:
                late.append(await client.send("hello", correlation_id="c-3"))

            nursery.start_soon(say_late)
            (folder / "go").touch()
            assert await short.text() == "ended"
            with pytest.raises(RunFailed, match="interrupted"):
                await long.result()
            assert (await trace.wait_for("disconnected")).payload["code"] == 1012
            assert server.process.wait() == 0
            nursery.start_soon(serve_until, folder, port, done := trio.Event())
            await trace.wait_for("connected", 2)
            while not late:  # noqa: ASYNC110 - set by another task
                await trio.sleep(0.01)
            assert await late[0].text() == "hello"
            assert trace.verdicts == ["new", "reset"]
            assert not trace.of("lost")
            done.set()
            await trace.wait_for("disconnected", 2)
            nursery.cancel_scope.cancel()
    assert ran(folder) == {"c-1": 1, "c-2": 1, "c-3": 1}
