"""The drain: waits for runs to end, cancels the others, and closes all connections.

await drain(sessions, newest, seconds=8.0, reason="restart")

If there are other nodes, clients open their next connection while this one is open. So that they
don't all come at once, each is told another time; and an idle connection is not closed before the
last of them had time to connect.
"""

import random as random_module
from collections.abc import Callable, Iterable, Mapping

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
SPREAD_SHARE = 0.5  # of the time of a drain: the last client has another quarter of it to connect


@frozen
class _Plan:
    """The ends of the phases of a drain, on Trio's clock, and what clients are told.

    Attributes:
        reason: The `reason` of `server_draining`.
    """

    grace: float
    cancelling: float
    end: float
    reason: str


async def drain(
    sessions: Sessions,
    newest: Mapping[SessionId, Connection],
    *,
    seconds: float,
    reason: str,
    has_peers: bool = False,
    random: Callable[[], float] = random_module.random,
) -> None:
    """Drain the sessions of a node.

    Args:
        sessions: The sessions.
        newest: The newest connection of each attached session.
        seconds: The time limit of the whole drain.
        reason: The `reason` of `server_draining`.
        has_peers: Whether other nodes accept the clients meanwhile.
        random: Returns a number from 0 to 1.
    """
    end = trio.current_time() + seconds
    closing = min(CLOSING_SECONDS, seconds * CLOSING_SHARE)
    plan = _Plan(grace=end - closing, cancelling=end - closing / 2, end=end, reason=reason)
    with trio.move_on_at(plan.end):
        async with trio.open_nursery() as nursery:
            each: Iterable[Session] = sessions
            for session in each:
                connection = newest.get(session.id)
                wait = round(seconds * SPREAD_SHARE * random() * 1000) if has_peers else None
                nursery.start_soon(_drain_session, sessions, session, connection, plan, wait)


async def _drain_session(
    sessions: Sessions,
    session: Session,
    connection: Connection | None,
    plan: _Plan,
    wait_ms: int | None,
) -> None:
    """Drain a session; `wait_ms` is None if its client has no other node to go to."""
    session.drain()
    with trio.move_on_at(plan.grace):
        if connection is not None:
            wait = RECONNECT_AFTER_MS if wait_ms is None else wait_ms
            await connection.send(ServerDraining(plan.reason, wait))
            if wait_ms is not None:
                await connection.ended.wait()  # by the client, which is connected elsewhere
        await session.wait_idle()
    session.interrupt()
    with trio.move_on_at(plan.cancelling):
        await session.wait_idle()
    await session.abandon()
    if connection is not None:
        connection.end(EndReason.DRAINED)
        await connection.ended.wait()
    sessions.close(session, "drained", RunStatus.INTERRUPTED)
