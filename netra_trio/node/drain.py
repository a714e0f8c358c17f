"""The drain: waits for runs to end, cancels the others, and closes all connections.

await drain(sessions, newest, seconds=8.0, reason="restart")
"""

from collections.abc import Iterable, Mapping

import trio
from attrs import frozen

from netra_trio.connections.connection import Connection
from netra_trio.ids import SessionId
from netra_trio.node.registry import Sessions
from netra_trio.protocol.codes import EndReason
from netra_trio.protocol.messages import RunStatus, ServerDraining
from netra_trio.sessions.refusals import RECONNECT_AFTER_MS
from netra_trio.sessions.session import Session

CLOSING_SHARE = 0.25  # of the time of a drain, for cancelling runs and closing connections
CLOSING_SECONDS = 2.0  # at most, of it


@frozen
class _Times:
    """The ends of the phases of a drain, on Trio's clock."""

    grace: float
    cancelling: float
    end: float


async def drain(
    sessions: Sessions,
    newest: Mapping[SessionId, Connection],
    *,
    seconds: float,
    reason: str,
) -> None:
    """Drain the sessions of a node.

    Args:
        sessions: The sessions.
        newest: The newest connection of each attached session.
        seconds: The time limit of the whole drain.
        reason: The `reason` of `server_draining`.
    """
    end = trio.current_time() + seconds
    closing = min(CLOSING_SECONDS, seconds * CLOSING_SHARE)
    times = _Times(grace=end - closing, cancelling=end - closing / 2, end=end)
    with trio.move_on_at(times.end):
        async with trio.open_nursery() as nursery:
            each: Iterable[Session] = sessions
            for session in each:
                connection = newest.get(session.id)
                nursery.start_soon(_drain_session, sessions, session, connection, times, reason)


async def _drain_session(
    sessions: Sessions,
    session: Session,
    connection: Connection | None,
    times: _Times,
    reason: str,
) -> None:
    session.drain()
    with trio.move_on_at(times.grace):
        if connection is not None:
            await connection.send(ServerDraining(reason, RECONNECT_AFTER_MS))
        await session.wait_idle()
    session.interrupt()
    with trio.move_on_at(times.cancelling):
        await session.wait_idle()
    await session.abandon()
    if connection is not None:
        connection.end(EndReason.DRAINED)
        await connection.ended.wait()
    sessions.close(session, "drained", RunStatus.INTERRUPTED)
