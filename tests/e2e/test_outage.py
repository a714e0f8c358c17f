"""The real server during outages of its database: clients stay connected, nothing is lost.

Clients send messages with and without keys all the time, and send rejected ones again, as every
client of the protocol does. Each agent writes a line into a file when it starts, which shows
messages that ran twice.
"""

import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from attrs import define, field, frozen
from support.postgres import postgres_server
from support.server import (
    Answer,
    Client,
    Frame,
    Server,
    bearer,
    run,
    serving,
    sign,
    write_agents,
)

pytestmark = pytest.mark.unmeasured

PASSWORD = "the-password-of-the-database"
DISK_MB = 48
PAUSED_SECONDS = 5.0
# Bounds on a hang, in seconds. Answers that must be in time must arrive before the outage ends.
NOTICED = 60.0  # until health reports an outage: a call may hang for 3 s, twice
RECOVERED = 100.0  # until the server has recovered: a killed database replays its log first
ANSWERED = 50.0  # for an answer to a message, which waits 3 s for the database
TOLD = 50.0  # from a run's end to its agent_completed during an outage
EXIT_SECONDS = 10.0
BUSY_SECONDS = 6.0  # more on a busy machine: less than a second drain would take
PAUSE = 0.02  # seconds between two messages of a client
FILLING = 4000  # random bytes in each message, as hexadecimal digits: the table has to grow

LIMITS = {"WEBSOCKET_MAX_MESSAGE_RATE": "100000"}

MODULE = "outage_agents"
AGENTS = '''
import os
from pathlib import Path

import trio

LINES = os.open("ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


async def quick(run):
    name, *_ = run.content.split()
    os.write(LINES, f"{name}\\n".encode())
    await run.emit(f"{name} done")


async def until_told(run):
    """Run until the file that the message names exists."""
    while not Path(run.content).exists():
        await run.emit(".")
        await trio.sleep(0.02)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_agents(tmp_path, AGENTS, MODULE)
    return tmp_path


def serving_on(folder: Path, url: str) -> AbstractContextManager[Server]:
    """Run a server with the agents on a database."""
    agents = [part for name in ("quick", "until_told") for part in ("--agent", f"{MODULE}:{name}")]
    return serving(folder, *agents, DATABASE_URL=url, **LIMITS)


def lines_of(name: str) -> str:
    """Return a message that no database compresses."""
    return f"{name} {random.Random(name).randbytes(FILLING).hex()}"  # noqa: S311 - no secret


def with_password(url: str) -> str:
    """Return the url with a password, which the database does not require."""
    return url.replace("postgres@", f"postgres:{PASSWORD}@")


def check_log(server: Server) -> None:
    """Check that no line contains the password or a traceback."""
    text = server.process.out.text + server.process.err.text
    assert PASSWORD not in text
    assert "Traceback" not in text
    assert not [line for line in server.process.logs() if line["level"] in {"error", "critical"}]


# --- requests from outside


async def health(server: Server) -> Frame:
    """Return the body of /ws/health, whose status is 200 unless the server drains."""
    answer = await trio.to_thread.run_sync(server.http, "GET", "/ws/health")
    assert answer.status_code == 200, answer.text
    body: Frame = answer.json()
    return body


async def wait_health(server: Server, status: str, seconds: float) -> Frame:
    """Return the body of /ws/health once it has this status."""
    with trio.fail_after(seconds):
        while True:
            body = await health(server)
            if body["status"] == status:
                return body
            await trio.sleep(0.05)


async def wait_until(happened: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition holds."""
    with trio.fail_after(seconds):
        while not happened():  # noqa: ASYNC110 - in another process, or of several clients
            await trio.sleep(0.02)


async def wait_degraded(server: Server) -> None:
    """Wait until health reports that the store fails."""
    body = await wait_health(server, "degraded", NOTICED)
    assert body["checks"].keys() == {"store", "files"}
    assert body["checks"]["store"] in {"unavailable", "no answer"}


async def upgrade(server: Server, user: str) -> Answer:
    """Request a WebSocket."""
    return await trio.to_thread.run_sync(server.upgrade, "", bearer(user))


async def ask_ticket(server: Server, user: str) -> Answer:
    """Request a ticket."""
    found = await trio.to_thread.run_sync(server.http, "POST", "/ws/ticket", [bearer(user)])
    headers = {name.lower(): value for name, value in found.headers.items()}
    return Answer(found.status_code, headers, found.json())


AcceptedUpgrade = Callable[[Server, str], Awaitable[Answer]]
OPENINGS: list[AcceptedUpgrade] = [upgrade, ask_ticket]


def check_refused(answer: Answer) -> None:
    """Check the response to an upgrade request during an outage."""
    error = answer.refuses(503, "SERVICE_UNAVAILABLE")
    assert error["recoverable"] is True
    assert error["retry_after_ms"] > 0
    assert int(answer.headers["retry-after"]) >= 1


async def check_openings(server: Server, *users: str) -> None:
    """Check that known and unknown users are rejected with the reason."""
    for user in users:
        for opening in OPENINGS:
            check_refused(await opening(server, user))


async def check_goes(server: Server, user: str, name: str) -> None:
    """Check that a user can connect, gets an answer, and finds it in history."""
    async with server.connect(user) as client:
        await client.say(name, name, thread_id="check", agent="quick")
        end = (await client.until("agent_completed"))[-1]["payload"]
        assert (end["status"], end["result"]) == ("completed", f"{name} done")
        assert (await client.history("check"))[-1]["content"] == f"{name} done"
    for opening in OPENINGS:
        assert (await opening(server, user)).status in {101, 200}


def check_unavailable(frame: Frame) -> None:
    """Check the answer to a message during an outage."""
    assert frame["type"] == "error", frame
    payload = frame["payload"]
    assert payload["code"] == "SERVICE_UNAVAILABLE", payload
    assert payload["recoverable"] is True
    assert payload["retry_after_ms"] > 0


# --- clients that send all the time


@define(eq=False)
class Talker:
    """A client that sends one message after the other, and rejected ones again.

    Attributes:
        completed: The names of the answered messages, with their confirmations.
        refused: How many messages were rejected because of the outage.
    """

    user: str
    keyed: bool
    completed: dict[str, Frame] = field(factory=dict)
    refused: int = 0
    is_over: bool = False

    async def talk(self, server: Server) -> None:
        """Send until the outage is over, on one connection."""
        async with server.connect(self.user) as client:
            number = 0
            while not self.is_over:
                name = f"{self.user}-{number}"
                await self._say(client, name)
                number += 1
                await trio.sleep(PAUSE)
            await client.answers()
            await self._ask_again(client)
            await self._check_history(client)

    async def _say(self, client: Client, name: str) -> None:
        key = name if self.keyed else None
        while True:
            await client.say(lines_of(name), key, thread_id=self.user, agent="quick")
            with trio.fail_after(ANSWERED):
                answer = await client.next()
            if answer["type"] != "error":
                break
            check_unavailable(answer)
            if self.keyed:
                assert answer["correlation_id"] == name
            self.refused += 1
            await trio.sleep(answer["payload"]["retry_after_ms"] / 1000)
        # A rejected message left its key free: it is no duplicate.
        assert (answer["type"], answer["payload"]["status"]) == ("message_confirmed", "accepted")
        with trio.fail_after(ANSWERED):
            end = (await client.until("agent_completed"))[-1]["payload"]
        assert (end["status"], end["result"]) == ("completed", f"{name} done")
        self.completed[name] = answer["payload"]

    async def _ask_again(self, client: Client) -> None:
        """Send confirmed messages again: each is a duplicate of a completed run."""
        for name, confirmed in list(self.completed.items())[-20:] if self.keyed else ():
            await client.say(lines_of(name), name, thread_id=self.user, agent="quick")
            told = (await client.expect("message_confirmed"))["payload"]
            assert told == {**confirmed, "status": "duplicate", "run_status": "completed"}
            await client.expect("agent_completed")

    async def _check_history(self, client: Client) -> None:
        """Check that history has each confirmed message once, in order."""
        messages = await client.history(self.user)
        said = [message for message in messages if message["role"] == "user"]
        assert [message["content"].split()[0] for message in said] == list(self.completed)
        assert {message["run"]["status"] for message in said} == {"completed"}
        answers = [message["content"] for message in messages if message["role"] == "agent"]
        assert answers == [f"{name} done" for name in self.completed]
        ids = [message["message_id"] for message in said]
        assert ids == [confirmed["message_id"] for confirmed in self.completed.values()]


@define(eq=False)
class LongRun:
    """A run that streams during an outage and ends in it.

    Attributes:
        pieces: The number of deltas received.
        over: Set when the end of the run was received.
    """

    folder: Path
    user: str = "long"
    pieces: int = 0
    over: trio.Event = field(factory=trio.Event)
    _may_leave: trio.Event = field(factory=trio.Event)

    async def hold(self, server: Server) -> None:
        """Start the run and follow it to its end; close on request."""
        async with server.connect(self.user) as client:
            await client.say("go", "long-1", thread_id="long", agent="until_told")
            frames = await client.until("partial_result")
            assert frames[0]["type"] == "message_confirmed"
            self.pieces = 1
            while (frame := await client.next())["type"] == "partial_result":
                self.pieces += 1
            assert frame["type"] == "agent_completed", frame
            assert frame["payload"]["status"] == "completed"
            self.over.set()
            await self._may_leave.wait()
            await client.answers()
            question, answer = await client.history("long")
            assert question["run"]["status"] == "completed"
            assert answer["content"] == frame["payload"]["result"]

    async def check_streams(self) -> None:
        """Check that the run continues."""
        seen = self.pieces
        await wait_until(lambda: self.pieces >= seen + 5, ANSWERED)

    async def end(self) -> None:
        """End the run; its client is told in time, also during the outage."""
        (self.folder / "go").touch()
        with trio.fail_after(TOLD):
            await self.over.wait()

    def leave(self) -> None:
        """Let the client check history and close."""
        self._may_leave.set()


@define(eq=False)
class Crowd:
    """The clients that are connected during an outage."""

    long: LongRun
    talkers: list[Talker]

    async def wait_refused(self) -> None:
        """Wait until every client got an error about the outage."""
        await wait_until(lambda: all(talker.refused for talker in self.talkers), 2 * ANSWERED)

    async def wait_progress(self) -> None:
        """Wait until every client got another answer."""
        seen = [len(talker.completed) for talker in self.talkers]

        def have_more() -> bool:
            now = [len(talker.completed) for talker in self.talkers]
            return all(more > before for more, before in zip(now, seen, strict=True))

        await wait_until(have_more, 2 * ANSWERED)

    def finish(self) -> None:
        """Let the clients check their messages, and close."""
        self.long.leave()
        for talker in self.talkers:
            talker.is_over = True


@asynccontextmanager
async def crowd(server: Server, folder: Path) -> AsyncIterator[Crowd]:
    """Run clients and connection attempts; on leaving, all clients have checked their messages."""
    talkers = [Talker("ann", keyed=True), Talker("bob", keyed=True), Talker("cyd", keyed=False)]
    those = Crowd(LongRun(folder), talkers)
    async with trio.open_nursery() as strangers:
        for opening in OPENINGS:
            strangers.start_soon(knock, server, opening)
        async with trio.open_nursery() as clients:
            clients.start_soon(those.long.hold, server)
            for talker in those.talkers:
                clients.start_soon(talker.talk, server)
            await wait_until(lambda: those.long.pieces > 0, ANSWERED)
            await those.wait_progress()
            yield those
            those.finish()
        strangers.cancel_scope.cancel()


async def knock(server: Server, opening: AcceptedUpgrade) -> None:
    """Connect again and again: each attempt succeeds, or reports the outage."""
    while True:
        answer = await opening(server, "stranger")
        if answer.status not in {101, 200}:
            check_refused(answer)
        await trio.sleep(0.1)


# --- outages


@frozen
class Outage:
    """A database, with functions that start and end an outage; both block.

    Attributes:
        seconds: The minimum length of the outage.
    """

    url: str
    begin: Callable[[], object]
    end: Callable[[], object]
    seconds: float = 0.0


@contextmanager
def stopped(folder: Path) -> Iterator[Outage]:
    """Return a PostgreSQL that is shut down and started."""
    with postgres_server() as database:
        yield Outage(with_password(database.create_database()), database.stop, database.start)


@contextmanager
def killed(folder: Path) -> Iterator[Outage]:
    """Return a PostgreSQL that is killed and started."""
    with postgres_server() as database:
        yield Outage(with_password(database.create_database()), database.kill, database.start)


@contextmanager
def paused(folder: Path) -> Iterator[Outage]:
    """Return a PostgreSQL that does not answer for a while."""
    with postgres_server() as database:
        url = with_password(database.create_database())
        yield Outage(url, database.pause, database.resume, PAUSED_SECONDS)


@contextmanager
def full(folder: Path) -> Iterator[Outage]:
    """Return a PostgreSQL whose disk is full for a while."""
    with postgres_server(disk_mb=DISK_MB) as database:
        url = with_password(database.create_database())
        yield Outage(url, database.fill_disk, database.free_disk)


@contextmanager
def locked(folder: Path) -> Iterator[Outage]:
    """Return an SQLite file that another connection locks for a while."""
    path = folder / "conversations.db"
    lock = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    with closing(lock):
        url = f"sqlite:///{path}"
        yield Outage(url, lambda: lock.execute("BEGIN EXCLUSIVE"), lock.rollback, PAUSED_SECONDS)


in_thread = trio.to_thread.run_sync


@pytest.mark.parametrize("kind", [stopped, killed, paused, full, locked])
async def test_clients_survive_an_outage(
    folder: Path, kind: Callable[[Path], AbstractContextManager[Outage]]
) -> None:
    with kind(folder) as outage, serving_on(folder, outage.url) as server:
        async with crowd(server, folder) as those:
            await wait_health(server, "healthy", ANSWERED)
            until = trio.current_time() + outage.seconds
            await in_thread(outage.begin)
            await wait_degraded(server)
            await check_openings(server, "ann", "newcomer")
            await those.wait_refused()
            await those.long.check_streams()
            await those.long.end()
            await wait_degraded(server)
            await trio.sleep_until(until)
            await in_thread(outage.end)
            await wait_health(server, "healthy", RECOVERED)
            await those.wait_progress()
        await check_goes(server, "newcomer", "after")
        assert server.process.running
        lost = server.process.logs("connection_ended")
        assert {line["reason"] for line in lost} <= {"peer_closed", "peer_lost"}
    check_log(server)
    names = Counter((folder / "ran").read_text().split())
    assert set(names.values()) == {1}, names.most_common(3)
    assert names.keys() == {name for talker in those.talkers for name in talker.completed} | {
        "after"
    }


async def test_a_message_stored_after_its_rejection_is_deleted(folder: Path) -> None:
    with paused(folder) as outage, serving_on(folder, outage.url) as server:
        async with server.connect() as client:
            await client.say("before", "before", thread_id="t", agent="quick")
            await client.until("agent_completed")
            assert len(await client.history("t")) == 2  # no write is queued
            await in_thread(outage.begin)
            # The database has received this statement, and executes it after the pause.
            await client.say("late", "late", thread_id="t", agent="quick")
            check_unavailable(await client.next())
            await in_thread(outage.end)
            await wait_health(server, "healthy", RECOVERED)
            said = [message["content"] for message in await client.history("t")]
            assert said == ["before", "before done"]
            await client.say("late", "late", thread_id="t", agent="quick")
            confirmed = await client.expect("message_confirmed")
            assert confirmed["payload"]["status"] == "accepted"
            await client.until("agent_completed")
            said = [message["content"] for message in await client.history("t")]
            assert said == ["before", "before done", "late", "late done"]
    check_log(server)
    assert (folder / "ran").read_text().split() == ["before", "late"]


@pytest.mark.parametrize("kind", [stopped, paused])
async def test_the_database_may_start_later_than_the_server(
    folder: Path, kind: Callable[[Path], AbstractContextManager[Outage]]
) -> None:
    with kind(folder) as outage:
        await in_thread(outage.begin)
        with serving_on(folder, outage.url) as server:
            server.process.wait_log("store_unavailable")
            await wait_degraded(server)
            await check_openings(server, "ann")
            await in_thread(outage.end)
            await wait_health(server, "healthy", RECOVERED)
            await check_goes(server, "ann", "first")
        # Start and end of the outage are logged once, for any number of attempts.
        assert len(server.process.logs("store_unavailable")) == 1
        assert len(server.process.logs("store_available")) == 1
    check_log(server)


@pytest.mark.parametrize("kind", [stopped, paused])
async def test_a_server_stops_without_its_database(
    folder: Path, kind: Callable[[Path], AbstractContextManager[Outage]]
) -> None:
    with kind(folder) as outage, serving_on(folder, outage.url) as server:
        async with server.connect() as client:
            await client.say("never", "long", agent="until_told", thread_id="long")
            await client.until("partial_result")
            await in_thread(outage.begin)
            await client.say("more", "k", agent="quick")
            check_unavailable(await not_streamed(client))
            told_at = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            frames, code = await client.rest()
            assert code == 1012
            ends = [frame["payload"] for frame in frames if frame["type"] == "agent_completed"]
            assert [end["status"] for end in ends] == ["interrupted"]
        assert await in_thread(server.process.wait) == 0
        assert time.monotonic() - told_at <= EXIT_SECONDS + BUSY_SECONDS
    text = server.process.err.text
    assert PASSWORD not in text
    assert "Traceback" not in text


async def not_streamed(client: Client) -> Frame:
    """Return the next frame that is no delta."""
    with trio.fail_after(ANSWERED):
        while (frame := await client.next())["type"] == "partial_result":
            pass
    return frame


async def test_a_user_disabled_by_the_operator_is_disconnected(folder: Path) -> None:
    url = f"sqlite:///{folder / 'conversations.db'}"
    with serving_on(folder, url) as server:
        async with server.connect("ann") as client, server.connect("bob") as other:
            command = ["-m", "netra_trio", "user", "disable", "ann"]
            environ = {"DATABASE_URL": url}
            outcome = await in_thread(partial(run, command, directory=folder, environ=environ))
            assert outcome == (0, "ann: disabled", "")
            # The server reads the changes of users every second.
            error = await client.error("USER_DISABLED")
            assert error["recoverable"] is False
            assert await client.rest() == ([], 4403)
            await other.send("auth", {"token": sign("bob", seconds=7200)})
            await other.expect("auth_ok")
        for opening in OPENINGS:
            (await opening(server, "ann")).refuses(403, "USER_DISABLED")
    check_log(server)
