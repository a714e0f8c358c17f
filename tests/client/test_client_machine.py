"""Random steps of users, networks and servers: the guarantees of a session hold.

Real clients, a real server that is killed now and then, and a store that remains. After each step
the trace is checked; the last step restores the network, and asks for the end of each run.
"""

from typing import Any

import pytest
import trio
from attrs import define, field
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from support.clients import Plain
from support.steps import Program

from netra_trio.agents.run import Run as AgentRun
from netra_trio.client import Client, ClientError, Event, Run
from netra_trio.sessions.event_log import RESERVED_PLACES
from netra_trio.testing import (
    Crash,
    Delay,
    Drop,
    DuplicateConnect,
    Fault,
    HalfOpen,
    MemoryNetwork,
    Throttle,
    assert_nothing_lost,
    open_network,
)

pytestmark = pytest.mark.unmeasured

WINDOW = 60.0  # seconds that a session waits for its client
REPLAY_EVENTS, REPLAY_BYTES = 12, 2048
LIMITS: dict[str, Any] = {
    "resume_window_ms": int(WINDOW * 1000),
    "replay_events": REPLAY_EVENTS,
    "replay_bytes": REPLAY_BYTES,
    "heartbeat_interval_ms": 5000,
    "max_message_rate": 100,
}
BUFFER_BYTES = 6000  # of a connection: more than a log keeps, and few enough to fill
WHICH = st.integers(0, 1)  # the acknowledging client or the plain one
BACK = st.integers(0, 3)  # messages ago
SECONDS = st.sampled_from([0.0, 0.01, 0.3, 3.0, 15.0])  # until the next step
PADDING = "." * 20  # of a word, so that few of them fill a connection and a log
ENDLESS = "0 0"
CONTENTS = [
    "3 0",
    "40 0",
    "40 0.3",
    "300 0",
    "10 2",
    ENDLESS,
]  # the number of words, the seconds between two
PAYLOADS = st.fixed_dictionaries(
    {
        "content": st.sampled_from(CONTENTS),
        "thread_id": st.sampled_from(["one", "two", None]),
        "on_busy": st.sampled_from([None, "interrupt"]),
    }
)
READERS = st.sampled_from(["all", "none", "some"])  # of the events of a run
LONGEST_DELAY = 0.4
DIAL_SECONDS = 3 * LONGEST_DELAY  # to open a connection: there and back, and half of that again
FAULTS: list[Fault] = [
    Drop(),
    HalfOpen(),
    Crash(0.0),
    Crash(3.0),
    DuplicateConnect(),
    Delay(0.0),
    Delay(LONGEST_DELAY),
    Throttle(2000),
    Throttle(1e9),
]


async def agent(run: AgentRun) -> str:
    count, pause = run.content.split()
    await run.think("hm")
    for number in range(int(count)):
        await run.emit(f"{run.correlation_id}:{number}{PADDING} ")
        await trio.sleep(float(pause))
        if number % 30 == 7:
            async with run.tool("look", at=number) as tool:
                tool.result = "x" * 50
    if not int(count):
        await run.emit("going on")
        await trio.sleep_forever()
    return run.content


@define(eq=False)
class Message:
    """A message, its runs, and the events that were read of them."""

    key: str
    payload: dict[str, Any]
    runs: list[Run] = field(factory=list)
    read: list[list[Event]] = field(factory=list)


@define(eq=False)
class User:
    """A client, and the notification to leave it."""

    client: Client
    leave: trio.Event = field(factory=trio.Event)
    left: trio.Event = field(factory=trio.Event)


class Sessions(RuleBasedStateMachine):
    """One user with two clients, one of them plain, in random steps."""

    def __init__(self) -> None:
        super().__init__()
        self.program = Program()
        self.network: MemoryNetwork
        self.over = trio.Event()
        self.read_on = trio.Event()
        self.users: list[User] = []
        self.messages: list[Message] = []
        self.was_away = False
        self.reading = 0

    @initialize(conditions=st.sampled_from([Throttle(1500), Delay(LONGEST_DELAY), Delay(0.0)]))
    def begin(self, conditions: Fault) -> None:
        self.program.do(self._begin, conditions)

    async def _begin(self, conditions: Fault) -> None:
        self.network = await self.program.nursery.start(self._hold)
        self.network.inject(conditions)
        for is_plain in (False, True):
            self.users.append(await self.program.nursery.start(self._use, is_plain))

    async def _hold(self, task_status: trio.TaskStatus[MemoryNetwork]) -> None:
        options = {"buffer_bytes": BUFFER_BYTES, **LIMITS}
        async with open_network({"agent": agent}, **options) as network:
            task_status.started(network)
            await self.over.wait()

    async def _use(self, is_plain: bool, task_status: trio.TaskStatus[User]) -> None:
        options: dict[str, Any] = {"dialer": Plain(self.network)} if is_plain else {}
        async with self.network.connect(**options) as client:
            user = User(client)
            task_status.started(user)
            await user.leave.wait()
        user.left.set()

    # Steps of users.

    @precondition(lambda self: self.messages)
    @rule(which=WHICH)
    def leave_and_open_again(self, which: int) -> None:
        self.program.do(self._leave_and_open_again, which)

    async def _leave_and_open_again(self, which: int) -> None:
        await self._leave(self.users[which])
        self.users[which] = await self.program.nursery.start(self._use, bool(which))

    async def _leave(self, user: User) -> None:
        user.leave.set()
        await user.left.wait()

    @rule(which=WHICH, payload=PAYLOADS, reader=READERS, seconds=SECONDS)
    def say(self, which: int, payload: dict[str, Any], reader: str, seconds: float) -> None:
        self.messages.append(Message(f"k{len(self.messages)}", payload))
        self.program.do(self._start, self.users[which], self.messages[-1], reader, seconds)

    @rule(which=WHICH, payload=PAYLOADS, reader=READERS, fault=st.sampled_from(FAULTS))
    def say_and_fail(self, which: int, payload: dict[str, Any], reader: str, fault: Fault) -> None:
        self.say(which, payload, reader, 1.0)
        self.happen(fault, 1.0)

    @precondition(lambda self: self.messages)
    @rule(which=WHICH, back=BACK, reader=READERS, seconds=SECONDS)
    def say_again(self, which: int, back: int, reader: str, seconds: float) -> None:
        self.program.do(self._start, self.users[which], self._earlier(back), reader, seconds)

    async def _start(self, user: User, message: Message, reader: str, seconds: float) -> None:
        self.program.nursery.start_soon(self._say, user, message, reader)
        await trio.sleep(seconds)

    async def _say(self, user: User, message: Message, reader: str) -> None:
        try:
            run = await user.client.send(**message.payload, correlation_id=message.key)
            message.runs.append(run)
            if reader != "none":
                self.reading += 1
                await self._read(user, run, message, pause_at=3 if reader == "some" else 0)
                self.reading -= 1
        except ClientError:
            return  # the client was left, or does not reconnect by itself

    async def _read(self, user: User, run: Run, message: Message, *, pause_at: int) -> None:
        """Read a run to its end, perhaps with a pause until the network is restored."""
        events: list[Event] = []
        while not events or events[-1] is not run.end:
            try:
                async for event in run:
                    events.append(event)
                    if len(events) == pause_at:
                        await self.read_on.wait()
            except ClientError:
                if user.leave.is_set():
                    return
                await trio.sleep(5)  # until a later step reconnects
        if run.status != "duplicate":  # its first events may have gone to another client
            message.read.append(events)

    @precondition(lambda self: self.messages)
    @rule(back=BACK)
    def stop(self, back: int) -> None:
        runs = self._earlier(back).runs
        if runs:
            self.program.do(self._stop, runs[-1])

    async def _stop(self, run: Run) -> None:
        async def stop() -> None:
            try:
                await run.stop()
            except ClientError:
                return

        self.program.nursery.start_soon(stop)
        await trio.sleep(0.01)

    @rule(which=WHICH)
    def reconnect(self, which: int) -> None:
        self.program.do(self._reconnect, self.users[which])

    async def _reconnect(self, user: User) -> None:
        with trio.move_on_after(30):
            try:
                await user.client.reconnect()
            except ClientError:
                return

    def _earlier(self, count: int) -> Message:
        return self.messages[-1 - count % len(self.messages)]

    # Faults.

    @rule(fault=st.sampled_from(FAULTS), seconds=SECONDS)
    def happen(self, fault: Fault, seconds: float) -> None:
        self.program.do(self._happen, fault, seconds)

    async def _happen(self, fault: Fault, seconds: float) -> None:
        self.network.inject(fault)
        await trio.sleep(seconds)

    @precondition(lambda self: not self.was_away)
    @rule()
    def stay_away(self) -> None:
        """Have no network for so long that sessions end; at most once."""
        self.was_away = True
        self.program.do(self._stay_away)

    async def _stay_away(self) -> None:
        self.network.inject(Delay(WINDOW))
        self.network.inject(Drop())
        await trio.sleep(WINDOW + 1)
        self.network.inject(Delay(0.0))

    # Invariants.

    @invariant()
    def nothing_is_lost(self) -> None:
        assert_nothing_lost(self.network.trace, is_over=False)

    @invariant()
    def the_bounds_hold(self) -> None:
        running = self.network.server.app and self.network.server.app._open
        for session in running.node.sessions if running else []:
            log = session.events._log
            entries = [*log._kept, *log._pending]
            ordinary = sum(not entry.reserved for entry in entries)
            assert ordinary <= REPLAY_EVENTS
            assert sum(entry.reserved for entry in entries) <= RESERVED_PLACES
            assert 0 <= log._reserved_count <= RESERVED_PLACES

    # The end.

    def teardown(self) -> None:
        try:
            if hasattr(self, "network"):
                self.program.do(self._settle)
        finally:
            self.program.end()

    async def _settle(self) -> None:
        """Restore the network, and ask for the end of each message."""
        self.network.inject(Delay(0.0))
        self.network.inject(Throttle(1e9))
        # A connection that a `DuplicateConnect` began to open before takes its session over when
        # it is open. A client that reconnects before that gets the 4409 afterwards, and stays away.
        await trio.sleep(DIAL_SECONDS)
        self.read_on.set()
        for user in self.users:
            await self._reconnect(user)
        async with self.network.connect() as auditor:
            for message in self.messages:
                run = await auditor.send(**message.payload, correlation_id=message.key)
                if message.payload["content"] == ENDLESS:
                    await run.stop()
                else:
                    await run.text()
                assert run.end is not None
                assert run.end.type == "agent_completed"
                assert {each.run_id for each in message.runs} <= {run.run_id}, "a message ran twice"
                message.runs.append(run)
        with trio.fail_after(1000):  # each reader reaches an end too
            while self.reading:  # noqa: ASYNC110 - there is no notification
                await trio.sleep(1)
        for user in self.users:
            await self._leave(user)
        self.check_texts()
        assert_nothing_lost(self.network.trace)
        self.over.set()

    def check_texts(self) -> None:
        """Compare the text that each reader got with the text that its agent emitted."""
        for message in self.messages:
            for events in message.read:
                run_id = message.runs[0].run_id
                emitted = self.network.trace.emitted.get(run_id, "")
                kinds = {event.type for event in events}
                text = "".join(e.payload["content"] for e in events if e.type == "partial_result")
                if not kinds & {"gap", "reset", "lagged"}:
                    assert text == emitted


Sessions.TestCase.settings = settings(
    max_examples=30,  # some ten seconds
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestSessions = Sessions.TestCase


def test_a_session_is_taken_over_while_the_network_recovers() -> None:
    """A client that reconnects is taken over by a connection that began to open before."""
    state = Sessions()
    state.begin(conditions=Throttle(1500))
    state.stay_away()
    state.reconnect(which=0)
    state.reconnect(which=0)
    state.say(0, {"content": "40 0", "thread_id": "one", "on_busy": None}, "all", 0.0)
    state.happen(Delay(LONGEST_DELAY), 0.0)
    state.happen(DuplicateConnect(), 0.0)
    state.teardown()
