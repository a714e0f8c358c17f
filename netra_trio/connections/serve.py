"""The nursery of a connection: one socket, from the answer to its upgrade until it is closed.

Three tasks share it: the reader, the writer and the heartbeat. A task that finds that the
connection has to end calls `Connection.end`: the channels to the writer are closed, the writer
sends what is left and the close frame, and the nursery is cancelled once the peer has closed too.
Nothing of a connection outlives this function; its session may.
"""

import structlog
import trio

from netra_trio.connections.connection import CLOSE_WAIT, Connection
from netra_trio.connections.dispatch import CommandDispatcher
from netra_trio.connections.heartbeat import watch
from netra_trio.connections.reader import Reader
from netra_trio.connections.writer import finish, write
from netra_trio.errors import TransportClosed
from netra_trio.ids import new_error_id
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.problem import problem
from netra_trio.telemetry.events import ConnectionEnded, TelemetryEvent
from netra_trio.telemetry.log_context import set_log_context

_log = structlog.get_logger(__name__)


async def serve_connection(connection: Connection, opened: TelemetryEvent) -> EndReason:
    """Serve one connection to its end and return why it ended; it raises no exception.

    Cancelling aborts it: no close frame is sent.

    Args:
        connection: The connection.
        opened: The telemetry event of its opening.
    """
    session, note = connection.session, connection.services.instruments.note
    set_log_context(connection_id=connection.id, session_id=session.id, user_id=session.user.id)
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
    """Read until the transport is closed, which ends the connection."""
    services = connection.services
    dispatcher = CommandDispatcher(
        connection.session,
        connection,
        store=services.store,
        verifier=services.verifier,
        metrics=services.instruments.metrics,
        wall_clock=services.wall_clock,
        nursery=nursery,
    )
    try:
        await Reader(connection, dispatcher).read()
    except TransportClosed as closed:
        connection.closed_by(closed)
        nursery.cancel_scope.cancel()


async def _write(connection: Connection) -> None:
    """Write to the end, and wait a moment for the peer's close frame."""
    try:
        await write(connection)
        # The reader receives the peer's close frame, or its end of file, and cancels the nursery.
        await trio.sleep(CLOSE_WAIT)
    except TransportClosed as closed:
        connection.closed_by(closed)


async def _fail(connection: Connection, faults: ExceptionGroup) -> None:
    """Tell the peer that the server failed, if the transport still takes it."""
    error_id = new_error_id()
    _log.error("connection_failed", error_id=error_id, exc_info=faults)
    fault = problem(ErrorCode.INTERNAL_ERROR, "The server failed.", error_id=error_id)
    connection.end(EndReason.INTERNAL, fault)
    with trio.move_on_after(CLOSE_WAIT):
        try:
            await finish(connection)
        except TransportClosed:
            return
        except Exception:  # the transport itself is at fault
            _log.exception("close_failed", error_id=error_id)
