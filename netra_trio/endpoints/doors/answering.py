"""How a door answers with the events of a run: the same for every protocol.

outcome = await stream_run(responder, connection, runs.events(started), translator)

A translator writes the events in the format of its protocol, and does no I/O.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Protocol

from attrs import define

from netra_trio.endpoints.call import Call
from netra_trio.endpoints.doors.connection import DoorConnection
from netra_trio.endpoints.doors.runs import ConnectionEnded, Frame
from netra_trio.endpoints.responder import Responder
from netra_trio.errors import TransportClosed
from netra_trio.protocol.codes import CloseCode, ErrorCode
from netra_trio.protocol.messages import Heartbeat
from netra_trio.protocol.problem import Problem, Refused, problem
from netra_trio.telemetry.events import DoorAnswered, DoorOutcome

BODY_BYTES = 1024 * 1024  # of a request: clients send their whole history
WRITE_BYTES = 16 * 1024  # of translated events in one write


@define
class Noted:
    """How a request was answered; an endpoint sets it when its answer was no complete one."""

    outcome: DoorOutcome = DoorOutcome.COMPLETED


@contextmanager
def noting(call: Call, door: str) -> Iterator[Noted]:
    """Note once how the request of the block was answered.

    Raises:
        Refused: As the block does, or if the connection has ended before the answer was begun.
    """
    noted = Noted()
    try:
        yield noted
    except (Refused, ConnectionEnded) as error:
        noted.outcome = DoorOutcome.REFUSED
        raise Refused(fault_of(error)) from None
    except BaseException:
        noted.outcome = DoorOutcome.LEFT
        raise
    finally:
        call.services.instruments.note(DoorAnswered(door, noted.outcome))


_FAULTS: Mapping[int, tuple[ErrorCode, str]] = {
    CloseCode.RESTART: (ErrorCode.SERVER_DRAINING, "The server is about to restart."),
    CloseCode.TOKEN_EXPIRED: (ErrorCode.TOKEN_EXPIRED, "The token has expired."),
    CloseCode.USER_DISABLED: (ErrorCode.USER_DISABLED, "The user is disabled."),
    CloseCode.EVICTED: (
        ErrorCode.CONNECTION_LIMIT_EXCEEDED,
        "A newer connection of the user exceeded the connection limit.",
    ),
}
_UNKNOWN = (ErrorCode.SERVICE_UNAVAILABLE, "The connection to the run has ended.")


class Translator(Protocol):
    """Writes the events of one run in the format of a protocol.

    Attributes:
        keep_alive: Sent when there is no event for a heartbeat interval.
        is_complete: Whether the answer is complete: after the end of the run, or where the protocol
            ends an answer before that.
    """

    keep_alive: bytes
    is_complete: bool

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the answer."""
        ...

    def begin(self) -> bytes:
        """Return what comes before the first event."""
        ...

    def event(self, frame: Frame) -> bytes:
        """Return an event; empty if the protocol has nothing for it."""
        ...

    def lost(self, fault: Problem) -> bytes:
        """Return the end of an answer whose run was lost, or goes on without it."""
        ...


async def stream_run(
    responder: Responder,
    connection: DoorConnection,
    frames: AsyncGenerator[Frame, None],
    translator: Translator,
) -> DoorOutcome:
    """Send the events of a run as a stream. Cancelling cuts the answer.

    Args:
        responder: Sends the answer.
        connection: The connection that the events come from.
        frames: The events.
        translator: Writes them.
    """
    outcome = DoorOutcome.LEFT
    try:
        async with responder.until_gone():
            await responder.start(translator.headers)
            data = translator.begin()
            if data and not connection.has_pending:  # a run that waits has no event for long
                await responder.send(data)
                data = b""
            try:
                async with aclosing(frames):
                    async for frame in frames:
                        data += translator.event(frame)
                        if frame["type"] == Heartbeat.TYPE:
                            data = data or translator.keep_alive
                        if translator.is_complete:
                            break
                        if data and (len(data) >= WRITE_BYTES or not connection.has_pending):
                            await responder.send(data)
                            await connection.note_alive()
                            data = b""
            except (ConnectionEnded, Refused) as ended:
                await responder.end(data + translator.lost(fault_of(ended)))
                return DoorOutcome.LOST
            await responder.end(data)
            outcome = DoorOutcome.COMPLETED  # even if the client leaves at this moment
    except TransportClosed as closed:
        return DoorOutcome.STALLED if closed.timed_out else DoorOutcome.LEFT
    return outcome


async def collect_run(
    responder: Responder,
    connection: DoorConnection,
    frames: AsyncGenerator[Frame, None],
    add: Callable[[Frame], bool],
) -> DoorOutcome:
    """Collect the events of a run for an answer that is no stream. Cancelling is safe.

    Args:
        responder: Notices that the client has left.
        connection: The connection that the events come from.
        frames: The events.
        add: Adds an event to the answer; returns whether the answer is complete.

    Raises:
        Refused: The connection has ended with an error.
        ConnectionEnded: The connection has ended before the answer was complete.
    """
    async with responder.until_gone(), aclosing(frames):
        async for frame in frames:
            if frame["type"] == Heartbeat.TYPE:
                await connection.note_alive()
            if add(frame):
                break
    return DoorOutcome.LEFT if responder.is_gone else DoorOutcome.COMPLETED


def fault_of(ended: ConnectionEnded | Refused) -> Problem:
    """Return the error that a client is told when the connection of its answer has ended."""
    if isinstance(ended, Refused):
        return ended.problem
    return problem(*_FAULTS.get(ended.code, _UNKNOWN))
