"""A connection's nursery: one socket, from the answer to the upgrade until it is closed.

Three tasks share it: the reader decodes what comes in and answers control itself, the writer is a
cursor over the session's log, the heartbeat watches the clock. Whoever finds that the connection
has to end says so with `Connection.end`: the outbox closes, the writer writes what is left and the
close frame, and the nursery is cancelled once the peer has closed too. Nothing of a connection
outlives this function; its session may.
"""

from collections.abc import Callable

import structlog
import trio
from structlog.contextvars import bind_contextvars

from netra_trio.connections.connection import CLOSE_WAIT, Connection
from netra_trio.connections.heartbeat import watch
from netra_trio.connections.reader import Reader
from netra_trio.connections.writer import finish, write
from netra_trio.errors import TransportClosed
from netra_trio.ids import new_error_id
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.problem import problem
from netra_trio.telemetry.events import ConnectionEnded, TelemetryEvent

_log = structlog.get_logger(__name__)


async def serve_connection(
    connection: Connection, opened: TelemetryEvent, note: Callable[[TelemetryEvent], None]
) -> EndReason:
    """Serve one connection to its end and say why it ended; no exception of it comes out.

    Cancelling aborts it: no close frame is sent.

    Args:
        connection: The connection.
        opened: How it begins.
        note: Is told how it begins and ends.
    """
    session = connection.session
    bind_contextvars(connection_id=connection.id, session_id=session.id, user_id=session.user.id)
    note(opened)
    started = trio.current_time()
    try:
        with connection.scope:
            await _run(connection)
    finally:
        connection.end(EndReason.ABORTED)
        connection.ended.set()
        reason = connection.reason or EndReason.ABORTED
        note(
            ConnectionEnded(
                reason=reason.label,
                peer_code=connection.peer_code,
                seconds=round(trio.current_time() - started, 3),
                frames_in=connection.frames_in,
                frames_out=connection.frames_out,
            )
        )
    return reason


async def _run(connection: Connection) -> None:
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read, connection, nursery)
            nursery.start_soon(watch, connection)
            await _write(connection)
            nursery.cancel_scope.cancel()
    except* Exception as faults:
        await _fail(connection, faults)


async def _read(connection: Connection, nursery: trio.Nursery) -> None:
    """Read to the end of the line, which is the end of everything here."""
    try:
        await Reader(connection, nursery).read()
    except TransportClosed as gone:
        connection.lost(gone)
        nursery.cancel_scope.cancel()


async def _write(connection: Connection) -> None:
    """Write to the end; a line that is given up is named here, before the reader misses it."""
    try:
        await write(connection)
        # The reader hears the peer's close, or the end of the line, and cancels the nursery.
        await trio.sleep(CLOSE_WAIT)
    except TransportClosed as gone:
        connection.lost(gone)


async def _fail(connection: Connection, faults: ExceptionGroup) -> None:
    """Tell the peer that the fault is ours, if the line still takes it."""
    error_id = new_error_id()
    _log.error("connection_failed", error_id=error_id, exc_info=faults)
    fault = problem(ErrorCode.INTERNAL_ERROR, "The server failed.", error_id=error_id)
    connection.end(EndReason.INTERNAL, fault)
    with trio.move_on_after(CLOSE_WAIT):
        try:
            await finish(connection)
        except TransportClosed:
            return
        except Exception:  # of a transport that is at fault itself
            _log.exception("close_failed", error_id=error_id)
