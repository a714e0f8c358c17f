"""One RESP3 connection: commands without waiting, and their replies in the order of the commands.

async with trio.open_nursery() as nursery:
    nursery.start_soon(connection.run)
    first = connection.submit([("XADD", ...)])  # on the wire in the order of these calls
    second = connection.submit([("XADD", ...)])
    await second
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

import hiredis
import structlog
import trio
from attrs import define, field

from netra_trio.broker.base import ANSWER_SECONDS
from netra_trio.broker.valkey.replies import code_of, text_of
from netra_trio.errors import BrokerUnavailable, place_of

OUTSTANDING_BYTES = 8 * 1024 * 1024
"""Of commands without a reply: a server that is slower must not fill the memory of this process."""

RESERVE_BYTES = 1024 * 1024
"""Beyond those, for small commands: a lease is renewed while logs fill the rest."""

RECEIVE_BYTES = 64 * 1024
WATCH_SECONDS = 0.02  # the accuracy of deadlines: bounds the work for many late replies

Command = Sequence[bytes | str | int]

MORE = object()  # hiredis returns it until a reply is complete
_log = structlog.get_logger(__name__)


def packed(command: Command) -> bytes:
    """Return a command as it is sent."""
    return hiredis.pack_command(tuple(command))  # type: ignore[no-any-return, arg-type]


def new_reader() -> hiredis.Reader:
    """Return a parser for the replies of one connection."""
    return hiredis.Reader(notEnoughData=MORE)


@define(eq=False)
class Reply:
    """The replies to the commands of one `submit`. One task may await it; it need not be awaited.

    Cancelling the wait is safe: the replies are discarded when they arrive.

    Attributes:
        count: How many there will be; 0 if `last` tells.
        size: Of the commands, in bytes.
        deadline: When it fails.
        last: The last one, where their number is not known.
        values: Those that have arrived.
        fault: Why it failed.
    """

    count: int
    size: int
    deadline: float
    last: bytes | None = None
    values: list[Any] = field(factory=list)
    fault: str | None = None
    _done: trio.Event | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all replies are there."""
        if self.last is not None:
            return bool(self.values) and self.values[-1] == self.last
        return len(self.values) == self.count

    @property
    def is_pending(self) -> bool:
        """Whether there may still be more replies."""
        return self.fault is None and not self.is_complete

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self._wait().__await__()

    async def _wait(self) -> list[Any]:
        if self.is_pending:
            self._done = trio.Event()
            await self._done.wait()
        else:
            await trio.lowlevel.checkpoint()
        if self.fault is not None:
            raise BrokerUnavailable(self.fault)
        return self.values

    def fail(self, fault: str) -> None:
        """Raise `BrokerUnavailable` with this text in the task that waits."""
        self.fault = self.fault or fault
        self.wake()

    def wake(self) -> None:
        """Continue the task that waits."""
        if self._done is not None:
            self._done.set()


def failed(fault: str) -> Reply:
    """Return a reply that raises `BrokerUnavailable`."""
    return Reply(0, 0, 0.0, fault=fault)


@define(eq=False)
class Connection:
    """A connection whose handshake is done.

    Attributes:
        on_push: Called with each push message: its kind, and the rest.
        on_error: Called with the code of each error reply.
        number: Counts the connections of a `LastingConnection`: what an earlier one has sent may
            arrive later.
        fault: Why it ended; None while it works.
    """

    stream: trio.abc.Stream
    reader: hiredis.Reader
    number: int = 0
    on_push: Callable[[list[Any]], None] = lambda _: None
    on_error: Callable[[str], None] = lambda _: None
    fault: str | None = None
    outstanding_bytes: int = 0
    _marks: int = 0
    _pending: deque[Reply] = field(factory=deque)
    _unsent: list[bytes] = field(factory=list)
    _submitted: trio.Event = field(factory=trio.Event)
    _has_pending: trio.Event = field(factory=trio.Event)
    _ended: trio.Event = field(factory=trio.Event)
    _heard: float = field(factory=trio.current_time)

    def submit(
        self,
        commands: Sequence[Command],
        *,
        seconds: float = ANSWER_SECONDS,
        is_bulk: bool = False,
    ) -> Reply:
        """Send commands; return their replies, which can be awaited.

        The replies are values, or `hiredis.ReplyError`. Awaiting raises `BrokerUnavailable` if the
        connection ends first, if the replies are not there in `seconds`, or, at once, if too much
        is outstanding.

        Args:
            commands: The commands, each with its arguments.
            seconds: How long the server may take.
            is_bulk: Whether they leave the reserve for small commands alone.
        """
        if self.fault is not None:
            return failed(self.fault)
        parts = [packed(command) for command in commands]
        size = sum(map(len, parts))
        limit = OUTSTANDING_BYTES + (0 if is_bulk else RESERVE_BYTES)
        if self.outstanding_bytes + size > limit:
            return failed(f"more than {limit} bytes wait for the server")
        reply = Reply(len(parts), size, trio.current_time() + seconds)
        if parts:
            self._enqueue(reply, parts)
        return reply

    def subscribe(self, command: Command) -> Reply:
        """Send a command that has no reply but push messages, or an error.

        The reply is complete when these have arrived.
        """
        if self.fault is not None:
            return failed(self.fault)
        self._marks += 1
        mark = b"mark %d" % self._marks
        parts = [packed(command), packed(("PING", mark))]
        size = sum(map(len, parts))
        reply = Reply(0, size, trio.current_time() + ANSWER_SECONDS, mark)
        self._enqueue(reply, parts)
        return reply

    def _enqueue(self, reply: Reply, parts: list[bytes]) -> None:
        if not self._pending:
            self._has_pending.set()
        self._pending.append(reply)
        self._unsent += parts
        self.outstanding_bytes += reply.size
        self._submitted.set()

    def close(self, fault: str) -> None:
        """End the connection; everything outstanding raises `BrokerUnavailable` with this text."""
        if self.fault is None:
            self.fault = fault
            self._ended.set()
            while self._pending:
                self._pending.popleft().fail(fault)
            self.outstanding_bytes = 0
            self._unsent.clear()

    async def run(self) -> str:
        """Send and receive until the connection ends; return why it ended."""
        try:
            async with trio.open_nursery() as nursery:
                for part in (self._send, self._receive, self._watch):
                    nursery.start_soon(self._until_it_fails, part)
                await self._ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            self.close("the connection is closed")
            await trio.aclose_forcefully(self.stream)
        return self.fault or ""

    async def _until_it_fails(self, part: Callable[[], Any]) -> None:
        try:
            await part()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.close("the connection is lost")
        except hiredis.ProtocolError:
            self.close("the server sent what is not RESP3")
        except Exception as error:
            _log.error("broker_failed", fault=type(error).__name__, where=place_of(error))
            self.close("the connection failed")

    async def _send(self) -> None:
        while True:
            await self._submitted.wait()
            self._submitted = trio.Event()
            data = b"".join(self._unsent)
            self._unsent.clear()
            await self.stream.send_all(data)

    async def _receive(self) -> None:
        while True:
            data = await self.stream.receive_some(RECEIVE_BYTES)
            if not data:
                self.close("the server has closed the connection")
                return
            self._heard = trio.current_time()
            self.reader.feed(bytes(data))
            while (value := self.reader.gets()) is not MORE:
                self._take(value)

    def _take(self, value: Any) -> None:
        if isinstance(value, hiredis.PushNotification):
            self.on_push(value)
            return
        if not self._pending:
            self.close(self.fault or "the server sent a reply without a command")
            return
        reply = self._pending[0]
        reply.values.append(value)
        if reply.is_complete:
            self._pending.popleft()
            self.outstanding_bytes -= reply.size
            reply.wake()
        if isinstance(value, hiredis.ReplyError):
            code = code_of(value)
            if code in {"READONLY", "MASTERDOWN"}:  # after a fail-over: another one is the primary
                self.close(text_of(value))
            self.on_error(code)

    async def _watch(self) -> None:
        """Fail what has no reply in time; end the connection when the server is silent."""
        while True:
            if not self._pending:
                self._has_pending = trio.Event()
                await self._has_pending.wait()
            now = trio.current_time()
            text = "the server does not answer"
            late = [reply for reply in self._pending if reply.deadline <= now]
            for reply in late:
                reply.fail(text)
            if late and self._heard + ANSWER_SECONDS <= now:
                self.close(text)
                return
            waiting = [reply.deadline for reply in self._pending if reply.fault is None]
            silent = [self._heard + ANSWER_SECONDS] if late else []
            await trio.sleep_until(max(min(waiting + silent), now + WATCH_SECONDS))
