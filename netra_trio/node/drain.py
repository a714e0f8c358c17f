"""The drain: waits for runs to end, cancels the others, and closes all connections.

await drain(sessions, newest, seconds=8.0, reason="restart")

On several nodes, a session is released to the other nodes, with its waiting runs, as soon as no run
of it is active. Clients then open their next connection while this one is open. They don't all come
at once, because each is told another time, from 0 to half of the time of the drain. An idle
connection is closed a quarter of that time later at the earliest.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping

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
SPREAD_SHARE = 0.5  # of the time of a drain, over which clients go to other nodes
CONNECT_SHARE = 0.25  # of it for each of them to connect there, before the closing


@frozen
class _Plan:
    """The ends of the phases of a drain, on Trio's clock, and what clients are told.

    Attributes:
        reason: The `reason` of `server_draining`.
        connecting: The seconds that each client has to connect to another node.
        give: Releases a session that has no active run; returns whether it was released. None if
            there are no other nodes, now or later.
    """

    grace: float
    cancelling: float
    end: float
    reason: str
    connecting: float
    give: Callable[[Session], Awaitable[bool]] | None


async def drain(
    sessions: Sessions,
    newest: Mapping[SessionId, Connection],
    *,
    seconds: float,
    reason: str,
    has_peers: bool,
    random: Callable[[], float],
    give: Callable[[Session], Awaitable[bool]] | None = None,
) -> None:
    """Drain the sessions of a node.

    Args:
        sessions: The sessions.
        newest: The newest connection of each attached session.
        seconds: The time limit of the whole drain.
        reason: The `reason` of `server_draining`.
        has_peers: Whether other nodes accept the clients meanwhile.
        random: Returns a number from 0 to 1.
        give: Releases a session that has no active run, and returns whether it was released; None
            if no other node can take it.
    """
    end = trio.current_time() + seconds
    closing = min(CLOSING_SECONDS, seconds * CLOSING_SHARE)
    plan = _Plan(
        grace=end - closing,
        cancelling=end - closing / 2,
        end=end,
        reason=reason,
        connecting=seconds * CONNECT_SHARE,
        give=give,
    )
    with trio.move_on_at(plan.end):
        async with trio.open_nursery() as nursery:
            each: Iterable[Session] = sessions
            for session in each:
                connection = newest.get(session.id)
                wait = round(seconds * SPREAD_SHARE * random() * 1000) if has_peers else None
                if give is None:
                    nursery.start_soon(_drain_session, sessions, session, connection, plan, wait)
                else:
                    nursery.start_soon(_move_session, sessions, session, newest, plan, wait)
            for session in sessions.left:  # no client can resume them: they stay here
                nursery.start_soon(_drain_session, sessions, session, None, plan, None)


async def _move_session(
    sessions: Sessions,
    session: Session,
    newest: Mapping[SessionId, Connection],
    plan: _Plan,
    wait_ms: int | None,
) -> None:
    """Release a session to the other nodes, as soon as no run of it is active.

    While a run is active, another node relays the connection of a client that is there already.
    """
    session.hold()
    told, told_at = newest.get(session.id), trio.current_time()
    is_given = False
    with trio.move_on_at(plan.grace):
        if told is not None:
            wait = RECONNECT_AFTER_MS if wait_ms is None else wait_ms
            await told.send(ServerDraining(plan.reason, wait))
        await session.wait_idle()
        is_given = await _give(session, plan)
        connection = newest.get(session.id)
        if is_given and connection is not None and wait_ms is not None:
            if connection is not told:  # relayed: the other node can have the session now
                told_at, wait_ms = trio.current_time(), 0
                await connection.send(ServerDraining(plan.reason, wait_ms))
            with trio.move_on_at(told_at + wait_ms / 1000 + plan.connecting):
                await connection.ended.wait()  # by the client, which is connected elsewhere
    if not is_given:
        await _interrupt(session, plan)
        is_given = await _give(session, plan)
    connection = newest.get(session.id)
    if not is_given:
        session.drain()  # the runs that wait end here
        await session.abandon()
        await _close(sessions, session, connection)
    elif connection is not None:
        await _end(connection)


async def _give(session: Session, plan: _Plan) -> bool:
    """Return whether a session is released, or has ended."""
    assert plan.give is not None  # noqa: S101 - for mypy
    return await plan.give(session) or session.is_closing


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
                with trio.move_on_after(wait / 1000 + plan.connecting):
                    await connection.ended.wait()  # by the client, which is connected elsewhere
        await session.wait_idle()
    await _interrupt(session, plan)
    await _close(sessions, session, connection)


async def _interrupt(session: Session, plan: _Plan) -> None:
    """Cancel the active runs of a session, and finish them."""
    session.interrupt()
    with trio.move_on_at(plan.cancelling):
        await session.wait_idle()
    await session.abandon()


async def _close(sessions: Sessions, session: Session, connection: Connection | None) -> None:
    """Send what is left to the client of a session without runs, and end the session."""
    await session.events.flush()  # the ends of runs are held until they are copied
    if connection is not None:
        await _end(connection)
    sessions.close(session, "drained", RunStatus.INTERRUPTED)


async def _end(connection: Connection) -> None:
    connection.end(EndReason.DRAINED)
    await connection.ended.wait()
