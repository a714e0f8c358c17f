"""Replaces a connection while it is open, when its server is about to close it.

    await replace(line, …)      # among the tasks of the line's connection; ends with it

After `server_draining` the client opens the next socket first ("make before break"), so that
another server can continue the session at once. Nothing is lost, doubled or reordered, because at
each moment events are taken from one socket only:

- From the upgrade request on, events of the old socket are held back. Its `last_seq` is the last
  number that was taken. The request acknowledges up to there and no further, so the server keeps
  what comes later, and sends it again on the new socket. Events that were taken after the request
  would come twice, or inside a merged event, which cannot be taken apart.
- Control frames have no number and no order. The old socket goes on with them, so heartbeats are
  answered, and requests, stops and tokens are sent. An acknowledgement there is never above
  `last_seq`, because nothing above it was taken.
- The first frame on the new socket decides. In one step, without a checkpoint, the old connection
  ends, what was held back is dropped, and the session begins on the new one. Unanswered messages
  and requests are sent again there, under the same keys, as after every reconnection.
- If the attempt is refused, or there is no answer, what was held back is taken in order, and the
  old connection goes on as if nothing had happened. The next attempt follows after a back-off.
- If the old socket is closed meanwhile, what was held back is dropped, and the attempt goes on: it
  is the ordinary reconnection then.

The server tells its clients different times, so that they don't all come at once. A message that it
does not accept would wait as long, so it starts the first attempt at once. That happens once for a
connection, and not while pauses are due: neither refusals nor servers that drain one after the
other drive a loop.

An attempt without an answer may have reached the server. Then the old socket is closed as taken
over (4409), by this client's own doing: the client reconnects, as after any other loss.

A server that does not know the session answers `reset`, for instance a new process that shares
nothing with the old one. That ends no run of the old server: while a run is not over, the client
stays where it is, until the old server closes the connection.
"""

from collections.abc import Awaitable, Callable
from math import inf

import trio

from netra_trio.client.errors import TokenFailed
from netra_trio.client.event import InvalidEvent
from netra_trio.client.line import Line
from netra_trio.client.retry import BackOff, Next, after_refusal
from netra_trio.client.session import ClientSession
from netra_trio.client.sockets import NoAnswer, OpeningRefused
from netra_trio.client.tokens import Tokens


async def replace(
    line: Line,
    session: ClientSession,
    tokens: Tokens,
    open_next: Callable[[], Awaitable[Line]],
    *,
    back_off: BackOff,
    random: Callable[[], float],
) -> None:
    """Wait until the server of a line drains, and then open lines until one takes its place.

    Cancelling is safe: the caller takes over the attempt in `line.successor`.

    Args:
        line: The line; this runs among the tasks of its connection.
        session: The session.
        tokens: The token.
        open_next: Returns a new line, and lets the session hold back events; may raise `NoAnswer`
            and `TokenFailed`.
        back_off: The pauses after failed attempts, also after those of earlier lines.
        random: Returns a number from 0 to 1.
    """
    state = session.connection
    await state.draining.wait()
    wait = state.reconnect_after(trio.current_time())
    if back_off.failures:
        await trio.sleep(back_off.pause(chance=random(), at_least=wait))
    else:
        with trio.move_on_after(wait):
            await state.is_urgent.wait()
    while True:
        at_least = 0.0
        try:
            successor = line.successor = await open_next()
        except NoAnswer:  # there is no token now
            pass
        except TokenFailed:
            return  # the ordinary reconnection reports it
        else:
            await successor.settled.wait()
            # If this connection has ended meanwhile, what was held back is not taken.
            await trio.lowlevel.checkpoint_if_cancelled()
            line.successor = None
            at_least = _go_on(line, successor, session, tokens)
        if at_least == inf:
            return
        back_off.failed()
        at_least = max(at_least, state.reconnect_after(trio.current_time()))
        await trio.sleep(back_off.pause(chance=random(), at_least=at_least))


def _go_on(line: Line, failed: Line, session: ClientSession, tokens: Tokens) -> float:
    """Go on with a line; return the seconds to the next attempt at least, infinity for none."""
    try:
        session.release()
    except InvalidEvent:
        line.drop()
        return inf
    if failed.is_declined:
        return inf
    refused = failed.failure
    if not isinstance(refused, OpeningRefused):
        line.may_be_taken_over = True
        return 0.0
    if after_refusal(refused.status) is Next.RENEW:
        tokens.forget()
    return refused.retry_after or 0.0
