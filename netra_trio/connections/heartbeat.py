"""The heartbeat: sends heartbeats; ends the connection on silence, token expiry, disabled user."""

import trio

from netra_trio.connections.connection import CLOSE_WAIT, Connection
from netra_trio.connections.dispatch import check_user
from netra_trio.errors import StoreUnavailable
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.keepalive import LivenessStatus
from netra_trio.protocol.messages import AuthExpiring, Heartbeat
from netra_trio.protocol.problem import problem

USER_CHECK = 60.0  # seconds between two checks of the user: docs/protocol.md, Limits


async def watch(connection: Connection) -> None:
    """Run the heartbeat until the connection ends; then limit the time of its last write."""
    user_check = trio.current_time() + USER_CHECK
    while connection.reason is None:
        with trio.move_on_at(min(_next_poll(connection), user_check)):
            await connection.changed.wait()  # set by a new token, or by the end
        _check_token(connection)
        _poll_peer(connection)
        now = trio.current_time()
        if now >= user_check:
            user_check = now + USER_CHECK
            await _check_user(connection)
    # A slow reader must not delay the close.
    await trio.sleep(connection.settings.send_timeout_ms / 1000 + CLOSE_WAIT)
    connection.abort()


def _next_poll(connection: Connection) -> float:
    """Return the latest time of the next check of the peer and the token."""
    token_seconds = connection.token.seconds_to_poll(connection.services.wall_clock())
    return min(connection.liveness.next_poll, trio.current_time() + token_seconds)


async def _check_user(connection: Connection) -> None:
    """Check the user; give up when the next check of the peer or the token is due.

    If the store cannot answer, the connection stays open, and the user is checked again later.
    """
    with trio.move_on_at(_next_poll(connection)):
        try:
            await check_user(connection, connection.session, connection.services.store)
        except StoreUnavailable:
            return


def _check_token(connection: Connection) -> None:
    token, now = connection.token, connection.services.wall_clock()
    if token.has_ended(now):
        fault = problem(ErrorCode.TOKEN_EXPIRED, "The token has expired.")
        connection.end(EndReason.TOKEN_EXPIRED, fault)
    elif token.warn(now):
        connection.try_send(AuthExpiring(token.expires_at))


def _poll_peer(connection: Connection) -> None:
    status = connection.liveness.poll(trio.current_time())
    if status is LivenessStatus.LOST:
        connection.end(EndReason.HEARTBEAT_MISSED)
    elif status is LivenessStatus.HEARTBEAT_DUE and connection.reason is None:
        connection.ping_due = True
        connection.try_send(Heartbeat(connection.services.wall_clock()))
