"""The nursery of a connection, from the reply to its upgrade until its transport is closed.

The nursery has three tasks: the reader, the writer and the heartbeat. The task that ends the
connection calls `Connection.end`, which closes the channels to the writer. Then the writer sends
the remaining frames and the close frame, and the nursery is cancelled when the peer has sent its
close frame. No task of a connection outlives `serve_connection`; its session may.
"""

import structlog
import trio

from netra_trio.connections.answers import Answers
from netra_trio.connections.connection import CLOSE_WAIT, Connection
from netra_trio.connections.dispatch import CommandDispatcher
from netra_trio.connections.heartbeat import watch
from netra_trio.connections.reader import Reader
from netra_trio.connections.room_commands import RoomCommands
from netra_trio.connections.writer import finish, write
from netra_trio.errors import TransportClosed
from netra_trio.ids import new_error_id
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.problem import problem
from netra_trio.telemetry.events import ConnectionEnded, TelemetryEvent
from netra_trio.telemetry.log_context import set_log_context

_log = structlog.get_logger(__name__)


async def serve_connection(connection: Connection, opened: TelemetryEvent) -> EndReason:
    """Serve one connection until it ends, and return the reason; raises no exception.

    Cancelling aborts the connection: no close frame is sent.

    Args:
        connection: The connection.
        opened: The telemetry event about its start.
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
    """Read until the transport is closed; this ends the connection."""
    services = connection.services
    dispatcher = CommandDispatcher(
        connection.session,
        connection,
        store=services.store,
        verifier=services.verifier,
        metrics=services.instruments.metrics,
        wall_clock=services.wall_clock,
        nursery=nursery,
        threads=services.threads,
        rooms=RoomCommands(connection.session, connection, services=services, nursery=nursery),
        answers=Answers(connection.session, services),
        other_nodes=services.other_nodes,
    )
    try:
        await Reader(connection, dispatcher).read()
    except TransportClosed as closed:
        connection.closed_by(closed)
        nursery.cancel_scope.cancel()


async def _write(connection: Connection) -> None:
    """Write until the connection ends, and wait for the peer's close frame."""
    try:
        await write(connection)
        # The reader receives the peer's close frame, or its end of file, and cancels the nursery.
        await trio.sleep(CLOSE_WAIT)
    except TransportClosed as closed:
        connection.closed_by(closed)


async def _fail(connection: Connection, faults: ExceptionGroup) -> None:
    """Send `INTERNAL_ERROR` and the close frame, if the transport is still open."""
    error_id = new_error_id()
    _log.error("connection_failed", error_id=error_id, exc_info=faults)
    fault = problem(ErrorCode.INTERNAL_ERROR, "The server failed.", error_id=error_id)
    connection.end(EndReason.INTERNAL, fault)
    with trio.move_on_after(CLOSE_WAIT):
        try:
            await finish(connection)
        except TransportClosed:
            return
        except Exception:  # raised by the transport itself
            _log.exception("close_failed", error_id=error_id)
