"""Whatever users, networks and servers do, in whatever order: the promises of a session hold.

Real clients, a real server that is killed now and then, and a store that stays. Each step is
followed by a look at what came; the last one mends everything, and asks for the end of each run.
"""

from collections import defaultdict
from typing import Any

import trio
from attrs import define, field
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from support.clients import Plain
from support.steps import Program

from netra_trio.client import Client, ClientError, Event, Run, Status
from netra_trio.protocol.log import RESERVED_PLACES
from netra_trio.runs import Run as AgentRun
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

WINDOW = 60.0  # seconds that a session waits for its client
REPLAY_EVENTS, REPLAY_BYTES = 24, 4096
LIMITS: dict[str, Any] = {
    "resume_window_ms": int(WINDOW * 1000),
    "replay_events": REPLAY_EVENTS,
    "replay_bytes": REPLAY_BYTES,
    "heartbeat_interval_ms": 5000,
    "max_message_rate": 100,
}
BUFFER_BYTES = 2048  # of a line: small, so that peers are slow
SETTLED = 30_000.0  # seconds of virtual time in which everything comes to its end
THREADS = ["one", "two", None]
# How many words, seconds between them; none for a run that goes on until it is stopped.
CONTENTS = ["3 0", "40 0", "40 0.3", "400 0", "10 20", "0 0"]
FAULTS: list[Fault] = [
    Drop(),
    HalfOpen(),
    Crash(0.0),
    Crash(3.0),
    DuplicateConnect(),
    Delay(0.0),
    Delay(0.4),
    Throttle(2000),
    Throttle(1e9),
]


async def agent(run: AgentRun) -> str:
    count, pause = run.content.split()
    await run.think("hm")
    for number in range(int(count)):
        await run.emit(f"{run.correlation_id}:{number} ")
        await trio.sleep(float(pause))
        if number % 30 == 7:
            async with run.tool("look", at=number) as tool:
                tool.result = "x" * 50
    if not int(count):
        await run.emit("going on")
        await trio.sleep_forever()
    return run.content


@define(eq=False)
class Said:
    """A message, and what came of it."""

    key: str
    payload: dict[str, Any]
    runs: list[Run] = field(factory=list)
    read: list[list[Event]] = field(factory=list)


@define(eq=False)
class User:
    """A client, and when to leave it."""

    client: Client
    leave: trio.Event = field(factory=trio.Event)
    left: trio.Event = field(factory=trio.Event)


class Sessions(RuleBasedStateMachine):
    """One user with a few clients, in random steps."""

    users = Bundle("users")
    messages = Bundle("messages")

    def __init__(self) -> None:
        super().__init__()
        self.program = Program()
        self.network: MemoryNetwork
        self.over = trio.Event()
        self.said: dict[str, Said] = {}
        self.open: list[User] = []
        self.crashes: list[float] = []

    @initialize()
    def begin(self) -> None:
        self.program.do(self._begin)

    async def _begin(self) -> None:
        self.network = await self.program.nursery.start(self._hold)
        self.read_on = trio.Event()

    async def _hold(self, task_status: trio.TaskStatus[MemoryNetwork]) -> None:
        options = {"buffer_bytes": BUFFER_BYTES, **LIMITS}
        async with open_network({"agent": agent}, **options) as network:
            task_status.started(network)
            await self.over.wait()

    # What users do.

    @precondition(lambda self: len(self.open) < 2)
    @rule(target=users, is_plain=st.booleans())
    def enter(self, is_plain: bool) -> Any:
        return self.program.do(self._enter, is_plain)

    async def _enter(self, is_plain: bool) -> Any:
        user = None
        with trio.move_on_after(60):
            user = await self.program.nursery.start(self._use, is_plain)
        return multiple() if user is None else user

    async def _use(self, is_plain: bool, task_status: trio.TaskStatus[User]) -> None:
        options = {"dialer": Plain(self.network)} if is_plain else {}
        async with self.network.connect(**options) as client:
            user = User(client)
            self.open.append(user)
            task_status.started(user)
            await user.leave.wait()
        user.left.set()

    @rule(user=consumes(users))
    def leave(self, user: User) -> None:
        self.program.do(self._leave, user)

    async def _leave(self, user: User) -> None:
        self.open.remove(user)
        user.leave.set()
        await user.left.wait()

    @rule(
        target=messages,
        user=users,
        content=st.sampled_from(CONTENTS),
        thread_id=st.sampled_from(THREADS),
        on_busy=st.sampled_from([None, "interrupt"]),
        reader=st.sampled_from(["all", "none", "some"]),
    )
    def say(
        self, user: User, content: str, thread_id: str | None, on_busy: str | None, reader: str
    ) -> Said:
        key = f"k{len(self.said)}"
        payload = {"content": content, "thread_id": thread_id, "on_busy": on_busy}
        said = self.said[key] = Said(key, payload)
        self.program.do(self._start, user, said, reader)
        return said

    @rule(user=users, said=messages, reader=st.sampled_from(["all", "none"]))
    def say_again(self, user: User, said: Said, reader: str) -> None:
        self.program.do(self._start, user, said, reader)

    async def _start(self, user: User, said: Said, reader: str) -> None:
        self.program.nursery.start_soon(self._say, user, said, reader)
        await trio.sleep(0.01)

    async def _say(self, user: User, said: Said, reader: str) -> None:
        try:
            run = await user.client.send(**said.payload, correlation_id=said.key)
            said.runs.append(run)
            if reader != "none":
                await self._read(run, said, 3 if reader == "some" else 0)
        except ClientError:
            return  # the client was left, or may not come back by itself

    async def _read(self, run: Run, said: Said, pause_at: int) -> None:
        """Read a run to its end, perhaps with a pause that lasts until everything is mended."""
        events: list[Event] = []
        while run.end is None or not events or events[-1] is not run.end:
            try:
                async for event in run:
                    events.append(event)
                    if len(events) == pause_at:
                        await self.read_on.wait()
            except ClientError:
                if self.over.is_set() or all(each.left.is_set() for each in self.open):
                    return
                await trio.sleep(5)
        said.read.append(events)

    @rule(said=messages)
    def stop(self, said: Said) -> None:
        if said.runs:
            self.program.do(self._stop, said.runs[-1])

    async def _stop(self, run: Run) -> None:
        async def stop() -> None:
            try:
                await run.stop()
            except ClientError:
                return

        self.program.nursery.start_soon(stop)
        await trio.sleep(0.01)

    @rule(user=users)
    def reconnect(self, user: User) -> None:
        self.program.do(self._reconnect, user)

    async def _reconnect(self, user: User) -> None:
        with trio.move_on_after(30):
            try:
                await user.client.reconnect()
            except ClientError:
                return

    # What happens to them.

    @rule(fault=st.sampled_from(FAULTS))
    def inject(self, fault: Fault) -> None:
        self.program.do(self._inject, fault)

    async def _inject(self, fault: Fault) -> None:
        self.network.inject(fault)
        if isinstance(fault, Crash):
            self.crashes.append(trio.current_time())
        await trio.sleep(0)

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.5, 2.0, 20.0, WINDOW + 40.0]))
    def wait(self, seconds: float) -> None:
        self.program.do(trio.sleep, seconds)

    # What holds all the time.

    @invariant()
    def nothing_is_lost(self) -> None:
        assert_nothing_lost(self.network.trace, is_over=False)

    @invariant()
    def the_bounds_hold(self) -> None:
        process = self.network._process
        for session in [] if process is None else process.app._hub.sessions:
            log = session.journal.log
            assert log._ordinary <= REPLAY_EVENTS
            assert 0 <= log._reserved <= RESERVED_PLACES

    # The end.

    def teardown(self) -> None:
        try:
            if hasattr(self, "network"):
                self.program.do(self._settle)
        finally:
            self.program.end()

    async def _settle(self) -> None:
        """Mend everything, and ask for the end of each message."""
        self.network.inject(Delay(0.0))
        self.network.inject(Throttle(1e9))
        self.read_on.set()
        for user in self.open:
            await self._reconnect(user)
        ends: dict[str, str] = {}
        async with self.network.connect() as auditor:
            for said in self.said.values():
                run = await auditor.send(**said.payload, correlation_id=said.key)
                with trio.move_on_after(SETTLED / 10):
                    await run.text()
                if run.end is None:
                    await run.stop()
                assert run.end is not None
                assert run.end.type == "agent_completed"
                ends[run.run_id] = run.end.payload["status"]
                assert {each.run_id for each in said.runs} <= {run.run_id}, "a message ran twice"
                said.runs.append(run)
        await trio.sleep(100)
        for user in list(self.open):
            await self._leave(user)
        self.check_texts()
        assert_nothing_lost(self.network.trace)
        self.over.set()

    def check_texts(self) -> None:
        """Compare what each reader of a run got with what its agent emitted."""
        for said in self.said.values():
            for events in said.read:
                run_id = said.runs[0].run_id
                emitted = self.network.trace.emitted.get(run_id, "")
                kinds = {event.type for event in events}
                text = "".join(e.payload["content"] for e in events if e.type == "partial_result")
                if not kinds & {"gap", "reset", "lagged"}:
                    assert text in {emitted, ""}


Sessions.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestSessions = Sessions.TestCase
