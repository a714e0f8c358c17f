"""The real server, killed during conversations: confirmed messages are stored and ran once.

The clients keep a trace of all messages and answers, which is compared with the state of the server
after its next start. Each agent writes a line into a file when it starts, which shows messages that
ran twice.
"""

import math
import os
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
import trio
import trio_websocket
from attrs import define, field, frozen
from support.server import Client, Frame, Server, serving, servings, write_agents

pytestmark = pytest.mark.unmeasured

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "10"))  # `nox -s crashes`: fifty
FIRST_KILL, LAST_KILL = 0.003, 0.150  # seconds after the first message
USERS = ["ann", "bob", "cyd"]
CLIENTS = 2  # connections of each user
THREADS = ["one", "two", "three"]
ENDED = {"completed", "interrupted"}
CHUNK = 25  # messages that are sent again together: fewer than a session queues
# Bounds on a hang, in seconds.
FOLLOWED_SECONDS = 100.0  # until the end of another server's run is sent: the longest pause is 10 s
LOOK_SECONDS = 150.0  # until expired leases are found: each 10 s, but 30 s after a start

LIMITS = {"WEBSOCKET_MAX_MESSAGE_RATE": "100000"}

MODULE = "crash_agents"
AGENTS = '''
import os
from pathlib import Path

import trio

LINES = os.open("ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(run):
    os.write(LINES, f"{run.correlation_id} {run.id}\\n".encode())


async def quick(run):
    note(run)
    await run.emit(run.content)


async def slow(run):
    note(run)
    for word in run.content.split():
        await run.emit(word + " ")
        await trio.sleep(0.012)


async def tools(run):
    note(run)
    await run.think("I look it up.")
    async with run.tool("look", text=run.content) as tool:
        await trio.sleep(0.005)
        tool.result = len(run.content)
    await run.emit(run.content)
    async with run.tool("look again") as tool:
        await trio.sleep(0.005)


async def until_told(run):
    """Run until the file that the message names exists."""
    note(run)
    await run.emit("begun ")
    while not Path(run.content).exists():
        await trio.sleep(0.01)
    await run.emit("ended")
'''
SPOKEN: dict[str, Callable[[str], str]] = {
    "quick": lambda content: content,
    "slow": lambda content: content + " ",
    "tools": lambda content: content,
}
"""The answer of each agent to a content."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_agents(tmp_path, AGENTS, MODULE)
    return tmp_path


def with_agents(*names: str) -> list[str]:
    return [part for name in names for part in ("--agent", f"{MODULE}:{name}")]


def change(url: str, statement: LiteralString) -> int:
    """Change rows without the server; return how many."""
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as file:
            count = file.execute(statement).rowcount
        file.close()
        return count
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement).rowcount


def kill(server: Server) -> None:
    """Kill a server, which has logged no error until then."""
    server.process.send_signal(signal.SIGKILL)
    assert server.process.wait() == -signal.SIGKILL
    complaints = [line for line in server.process.logs() if line["level"] not in {"debug", "info"}]
    assert all(line["event"] == "runs_interrupted" for line in complaints), complaints


# --- the trace


@frozen
class Said:
    """A message that is sent once or several times."""

    user: str
    thread: str
    agent: str
    content: str
    key: str | None

    @property
    def answer(self) -> str:
        """The text of its agent."""
        return SPOKEN[self.agent](self.content)

    async def say(self, client: Client) -> None:
        """Send it."""
        await client.say(self.content, self.key, thread_id=self.thread, agent=self.agent)


@define(eq=False)
class Trace:
    """The messages and answers of the clients, over all rounds.

    Attributes:
        said: The messages by their keys.
        keyless: The contents of the messages without a key.
        confirmed: The confirmation of each key.
        accepted: The keys that were confirmed as new on one connection.
        ended: The `agent_completed` of each key.
        orders: The keys that were accepted on a connection, in order.
        outcomes: The number of messages of each outcome.
    """

    said: dict[str, Said] = field(factory=dict)
    keyless: set[str] = field(factory=set)
    confirmed: dict[str, Frame] = field(factory=dict)
    accepted: set[str] = field(factory=set)
    ended: dict[str, Frame] = field(factory=dict)
    orders: list[list[str]] = field(factory=list)
    outcomes: Counter[str] = field(factory=Counter)

    def confirm(self, key: str, payload: Frame, order: list[str]) -> None:
        """Record a confirmation: all but one are duplicates, in any order."""
        earlier = self.confirmed.setdefault(key, payload)
        for name in ("message_id", "run_id", "thread_id"):
            assert earlier[name] == payload[name], (key, earlier, payload)
        assert payload["thread_id"] == self.said[key].thread
        if payload["status"] == "duplicate":
            self.outcomes["duplicate"] += 1
        else:
            assert key not in self.accepted, f"accepted twice: {payload}"
            self.accepted.add(key)
            order.append(key)

    def end(self, key: str, payload: Frame) -> None:
        """Record an end: every client gets the same one."""
        first = key not in self.ended
        assert self.ended.setdefault(key, payload) == payload, (key, self.ended[key], payload)
        assert payload["run_id"] == self.confirmed[key]["run_id"]
        assert payload["status"] in ENDED, payload
        if payload["status"] == "completed":
            assert payload["result"] == self.said[key].answer
        if first:
            self.outcomes[payload["status"]] += 1

    def of(self, user: str, keys: Iterator[str]) -> list[Said]:
        """Return the user's messages among these."""
        return [self.said[key] for key in keys if self.said[key].user == user]


# --- a round


@define(eq=False)
class Talk:
    """The messages of one connection before the server is killed.

    Attributes:
        again: The messages confirmed in the previous round, which are sent first.
        lines: New and unconfirmed messages, with the seconds before each.
    """

    user: str
    again: list[Said]
    lines: list[tuple[float, Said]]


@define(eq=False)
class Start:
    """A barrier, so that the first message of each connection is in the round."""

    missing: int
    reached: trio.Event = field(factory=trio.Event)

    async def wait(self) -> None:
        """Wait for all connections."""
        self.missing -= 1
        if not self.missing:
            self.reached.set()
        await self.reached.wait()


def plan(number: int, trace: Trace, again: Sequence[str], chance: random.Random) -> list[Talk]:
    """Return the messages of each connection in a round; some are sent twice."""
    talks = []
    for user in USERS:
        lost = trace.of(user, iter([key for key in trace.said if key not in trace.confirmed]))
        own = [Talk(user, [], []) for _ in range(CLIENTS)]
        own[0].again += trace.of(user, iter(again))
        for said in lost:
            chance.choice(own).lines.append((0.0, said))
        for place, talk in enumerate(own):
            # On a slow machine few messages are confirmed in a round: the old ones are sent first.
            for count in range(chance.randint(3, 6) - len(talk.lines)):
                said = invent(f"k{number}-{user}-{place}-{count}", user, chance)
                pause = chance.choice([0.0, 0.0, chance.uniform(0, 0.03)])
                talk.lines.append((pause, said))
                if said.key is None:
                    trace.keyless.add(said.content)
                    continue
                trace.said[said.key] = said
                if chance.random() < 0.25:
                    chance.choice(own).lines.append((chance.uniform(0, 0.02), said))
        talks += own
    return talks


def invent(name: str, user: str, chance: random.Random) -> Said:
    """Return a new message, in one case of eight without a key."""
    words = [f"w{chance.randrange(1000)}" for _ in range(chance.randint(1, 7))]
    return Said(
        user=user,
        thread=chance.choice(THREADS),
        agent=chance.choice(list(SPOKEN)),
        content=" ".join([name, *words]),
        key=None if chance.random() < 0.125 else name,
    )


async def converse(server: Server, talk: Talk, trace: Trace, start: Start) -> None:
    """Check the result of the previous round, then send until the connection is lost."""
    async with server.connect(talk.user) as client:
        await ask_again(client, talk.again, trace)
        if talk.again:
            await check_newest(client, talk.again, trace)
        await start.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, client, trace, nursery.cancel_scope)
            with suppress(trio_websocket.ConnectionClosed):
                for pause, said in talk.lines:
                    await trio.sleep(pause)
                    await said.say(client)
                await trio.sleep_forever()


async def listen(client: Client, trace: Trace, scope: trio.CancelScope) -> None:
    """Record the answers until the connection is lost.

    Each confirmation has at most one end, and no event of a run follows its end.
    """
    order: list[str] = []
    trace.orders.append(order)
    confirmed: Counter[str] = Counter()
    over: Counter[str] = Counter()
    with suppress(trio_websocket.ConnectionClosed):
        while True:
            frame = await client.next()
            key, payload = frame.get("correlation_id"), frame["payload"]
            assert frame["type"] != "error", frame
            run_id = payload["run_id"]
            if frame["type"] == "message_confirmed":
                confirmed[run_id] += 1
                if key in trace.said:
                    trace.confirm(key, payload, order)
            elif frame["type"] == "agent_completed":
                over[run_id] += 1
                assert over[run_id] <= confirmed[run_id], frame
                if key in trace.said:
                    trace.end(key, payload)
            else:
                assert not over[run_id], frame
    scope.cancel()


async def ask_again(client: Client, again: Sequence[Said], trace: Trace) -> None:
    """Send confirmed messages again: each is a duplicate, and its end follows."""
    for first in range(0, len(again), CHUNK):
        waiting = {said.key: said for said in again[first : first + CHUNK]}
        for said in waiting.values():
            await said.say(client)
        statuses: dict[str, str] = {}
        while waiting:
            frame = await client.next()
            key, payload = frame["correlation_id"], frame["payload"]
            if frame["type"] == "message_confirmed":
                assert payload["status"] == "duplicate", (frame, trace.confirmed[key])
                assert payload["run_status"] in ENDED, frame
                assert key not in statuses
                statuses[key] = payload["run_status"]
                trace.confirm(key, payload, [])
            else:
                assert frame["type"] == "agent_completed", frame
                assert payload["status"] == statuses[key]
                trace.end(key, payload)
                del waiting[key]


async def check_newest(client: Client, again: Sequence[Said], trace: Trace) -> None:
    """Check that history has all confirmed messages, and no unfinished run."""
    for thread in sorted({said.thread for said in again}):
        messages = (await client.page(thread))["messages"]
        check_messages(messages, trace)
        listed = {message.get("correlation_id") for message in messages}
        missing = {said.key for said in again if said.thread == thread} - listed
        assert not missing, f"confirmed, and not in history: {missing}"


def check_messages(messages: Sequence[Frame], trace: Trace) -> None:
    """Compare the messages of one thread with those that the clients know."""
    answers = Counter(said["content"] for said in messages if said["role"] == "agent")
    asked: Counter[str] = Counter()
    for message in messages:
        if message["role"] == "agent":
            assert "truncated" not in message
            continue
        key, run = message["correlation_id"], message["run"]
        assert run["status"] in ENDED, message
        asked[message["content"]] += 1
        if key not in trace.said:
            assert message["content"] in trace.keyless
            continue
        said, confirmed = trace.said[key], trace.confirmed.get(key)
        assert (message["content"], run["agent_name"]) == (said.content, said.agent)
        if confirmed is not None:
            assert message["message_id"] == confirmed["message_id"]
            assert run["run_id"] == confirmed["run_id"]
        if key in trace.ended:
            assert run["status"] == trace.ended[key]["status"], (message, trace.ended[key])
        # An interrupted run has no text; each completed run has one.
        assert answers[said.answer] == (run["status"] == "completed"), message
    assert set(asked.values()) <= {1}, asked.most_common(3)


def check_order(messages: Sequence[Frame], thread: str, trace: Trace) -> None:
    """Check that history is in the order of confirmations, with answers after their messages."""
    places = {
        message["correlation_id"]: place
        for place, message in enumerate(messages)
        if message["role"] == "user"
    }
    for order in trace.orders:
        listed = [
            places[key] for key in order if trace.said[key].thread == thread and key in places
        ]
        assert listed == sorted(listed)
    answered = {m["content"]: place for place, m in enumerate(messages) if m["role"] == "agent"}
    for key in places.keys() & trace.said.keys():
        assert answered.get(trace.said[key].answer, math.inf) > places[key]


def check_lines(folder: Path, trace: Trace) -> None:
    """Check with the agents' own records that no key and no run was executed twice."""
    lines = [line.split() for line in (folder / "ran").read_text().splitlines()]
    for count in (Counter(key for key, _ in lines), Counter(run_id for _, run_id in lines)):
        assert set(count.values()) <= {1}, count.most_common(3)
    ran = dict(lines)
    for key, payload in trace.ended.items():
        if payload["status"] == "completed":
            assert ran[key] == payload["run_id"]
    for key in ran.keys() & trace.confirmed.keys():
        assert ran[key] == trace.confirmed[key]["run_id"]


async def compare_all(server: Server, trace: Trace) -> None:
    """Check at the end that every message is known, has ended, and is in history once."""

    async def compare(user: str) -> None:
        async with server.connect(user) as client:
            await ask_again(client, trace.of(user, iter(trace.said)), trace)
            for thread in THREADS:
                messages = await client.history(thread)
                check_messages(messages, trace)
                check_order(messages, thread, trace)
                listed = {m["correlation_id"] for m in messages if m["role"] == "user"}
                said = {each.key for each in trace.of(user, iter(trace.said))}
                own = {key for key in said if key and trace.said[key].thread == thread}
                assert listed & trace.said.keys() == own

    async with trio.open_nursery() as nursery:
        for user in USERS:
            nursery.start_soon(compare, user)


@contextmanager
def seeded() -> Iterator[random.Random]:
    """Return a random generator whose seed a failure shows; CRASH_SEED repeats it."""
    seed = int(os.environ.get("CRASH_SEED", random.randrange(2**32)))  # noqa: S311 - no secret
    try:
        yield random.Random(seed)  # noqa: S311 - no secret
    except BaseException as error:
        error.add_note(f"CRASH_SEED={seed}")
        raise


async def test_kills_lose_nothing_and_repeat_nothing(folder: Path, url: str) -> None:
    trace = Trace()
    agents = with_agents(*SPOKEN)
    again: list[str] = []
    with seeded() as chance, servings(folder, *agents, DATABASE_URL=url, **LIMITS) as start_server:
        for number in range(ROUNDS):
            server = start_server()
            assert server.http("GET", "/ws/health").json()["status"] == "healthy"
            known = set(trace.confirmed)
            talks = plan(number, trace, again, chance)
            start = Start(len(talks) + 1)
            async with trio.open_nursery() as nursery:
                for talk in talks:
                    nursery.start_soon(converse, server, talk, trace, start)
                await start.wait()
                await trio.sleep(chance.uniform(FIRST_KILL, LAST_KILL))
                server.process.send_signal(signal.SIGKILL)
            kill(server)
            check_lines(folder, trace)
            again = [key for key in trace.confirmed if key not in known]

        server = start_server()
        for user in USERS:
            await settle(server, user, trace)
        await compare_all(server, trace)
        check_lines(folder, trace)
        assert server.process.end() == 0
    # The test covers every possible outcome of a message.
    assert trace.outcomes.keys() >= {*ENDED, "duplicate"}
    assert trace.said.keys() >= trace.accepted


async def settle(server: Server, user: str, trace: Trace) -> None:
    """Send unconfirmed messages again, until their runs have ended."""
    async with server.connect(user) as client:
        for key in [key for key in trace.said if key not in trace.confirmed]:
            if trace.said[key].user == user:
                await trace.said[key].say(client)
                *_, confirmed = await client.until("message_confirmed")
                trace.confirm(key, confirmed["payload"], [])
                *_, end = await client.until("agent_completed")
                trace.end(key, end["payload"])


# --- several servers


async def say_until_told(client: Client, key: str, file: str) -> Frame:
    """Start a run that lasts until a file exists; return its confirmation."""
    await client.say(file, key, thread_id=f"thread-{key}", agent="until_told")
    confirmed = (await client.expect("message_confirmed"))["payload"]
    await client.until("partial_result")
    return dict(confirmed)


async def listed_run(client: Client, key: str) -> tuple[str, list[str]]:
    """Return a run's status in history, and the text of its agent."""
    question, *answers = await client.history(f"thread-{key}")
    assert question["correlation_id"] == key
    return question["run"]["status"], [answer["content"] for answer in answers]


async def test_a_killed_server_ends_no_run_of_another_server(folder: Path, url: str) -> None:
    options = {"DATABASE_URL": url}
    agents = with_agents("until_told")
    with (
        servings(folder, *agents, **options) as start_server,
        serving(folder, *agents, **options) as staying,
    ):
        dying = start_server()
        async with staying.connect() as here:
            going_on = await say_until_told(here, "on", "go")
            async with dying.connect() as there:
                broken_off = await say_until_told(there, "off", "never")
                dying.process.send_signal(signal.SIGKILL)
                await there.rest()
            kill(dying)
            restarted = start_server()
            async with restarted.connect() as asker:
                # The runs of the killed server have ended, those of the other one continue.
                assert await listed_run(asker, "off") == ("interrupted", [])
                assert await listed_run(asker, "on") == ("running", [])
                assert await listed_run(here, "off") == ("interrupted", [])
                await here.say("never", "off", thread_id="thread-off", agent="until_told")
                told = (await here.expect("message_confirmed"))["payload"]
                assert told == {**broken_off, "status": "duplicate", "run_status": "interrupted"}
                end = (await here.expect("agent_completed"))["payload"]
                assert (end["run_id"], end["status"]) == (told["run_id"], "interrupted")

                await asker.say("go", "on", thread_id="thread-on", agent="until_told")
                told = (await asker.expect("message_confirmed"))["payload"]
                assert told == {**going_on, "status": "duplicate", "run_status": "running"}
                (folder / "go").touch()
                end = (await here.until("agent_completed"))[-1]["payload"]
                assert (end["status"], end["result"]) == ("completed", "begun ended")
                with trio.fail_after(FOLLOWED_SECONDS):
                    copy = await asker.expect("agent_completed")
                assert (copy["correlation_id"], copy["payload"]) == ("on", end)
                assert await listed_run(asker, "on") == ("completed", ["begun ended"])
        assert restarted.process.end() == 0
    lines = (folder / "ran").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["on", "off"]


async def test_runs_of_another_machine_are_ended_when_the_lease_expires(
    folder: Path, url: str
) -> None:
    agents = with_agents("until_told")
    with servings(folder, *agents, DATABASE_URL=url) as start_server:
        dying = start_server()
        async with dying.connect() as client:
            await say_until_told(client, "k", "never")
            assert await listed_run(client, "k") == ("running", [])  # and this is stored
            dying.process.send_signal(signal.SIGKILL)
            await client.rest()
        kill(dying)
        assert change(url, "UPDATE owners SET machine = 'elsewhere'") == 1

        server = start_server()
        async with server.connect() as client:
            assert await listed_run(client, "k") == ("running", [])
            assert not server.process.logs("runs_interrupted")
            assert change(url, "UPDATE owners SET lease_until = 1 WHERE machine = 'elsewhere'") == 1

        def interrupted(lines: list[str]) -> bool:
            return any("runs_interrupted" in line for line in lines)

        await trio.to_thread.run_sync(server.process.err.wait_for, interrupted, LOOK_SECONDS)
        async with server.connect() as client:
            assert await listed_run(client, "k") == ("interrupted", [])
        assert server.process.end() == 0
