"""The heartbeat: beats on time, and ends the connection for silence, for its token or its user."""

import trio

from netra_trio.connections.connection import CLOSE_WAIT, Connection, check_user
from netra_trio.errors import StoreUnavailable
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.keepalive import LivenessStatus
from netra_trio.protocol.messages import AuthExpiring, Heartbeat
from netra_trio.protocol.problem import problem

USER_CHECK = 60.0  # seconds between two looks at the user, section 6 of the contract


async def watch(connection: Connection) -> None:
    """Watch the clock until the connection ends."""
    user_check = trio.current_time() + USER_CHECK
    while connection.reason is None:
        await _wait(connection, user_check)
        _look_at_token(connection)
        _look_at_line(connection)
        now = trio.current_time()
        if now >= user_check:
            user_check = now + USER_CHECK
            await _look_at_user(connection)
    # What is left to write is on its way; a peer that takes it by the drop is not waited for.
    await trio.sleep(connection.settings.send_timeout_ms / 1000 + CLOSE_WAIT)
    connection.abort()


async def _wait(connection: Connection, user_check: float) -> None:
    """Wait until there may be something to do; a new token or the end changes when that is."""
    with trio.move_on_at(min(_next_look(connection), user_check)):
        await connection.changed.wait()


def _next_look(connection: Connection) -> float:
    """Return when to look at the line or at the token, at the latest."""
    token_look = connection.token.seconds_to_look(connection.wall_clock())
    return min(connection.liveness.next_look, trio.current_time() + token_look)


async def _look_at_user(connection: Connection) -> None:
    """Look at the user, but not longer than line and token can wait.

    Nobody is put out because the store is down or does not answer; the next look will tell.
    """
    with trio.move_on_at(_next_look(connection)):
        try:
            await check_user(connection)
        except StoreUnavailable:
            return


def _look_at_token(connection: Connection) -> None:
    token, now = connection.token, connection.wall_clock()
    if token.has_ended(now):
        fault = problem(ErrorCode.TOKEN_EXPIRED, "The token has expired.")
        connection.end(EndReason.TOKEN_EXPIRED, fault)
    elif token.warn(now):
        connection.tell(AuthExpiring(token.expires_at))


def _look_at_line(connection: Connection) -> None:
    sign = connection.liveness.look(trio.current_time())
    if sign is LivenessStatus.LOST:
        connection.end(EndReason.HEARTBEAT_MISSED)
    elif sign is LivenessStatus.BEAT and connection.reason is None:
        connection.ping_due = True
        connection.tell(Heartbeat(connection.wall_clock()))
