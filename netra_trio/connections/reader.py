"""The reader: what comes in, decoded; control answered here, work offered to the session.

The reader never waits for the log, for a run or for the store, so a stop is heard whatever else
goes on. What has to ask the store is an errand, done beside it, a few at a time.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from math import ceil
from typing import Any

import trio
from attrs import evolve

from netra_trio.auth.identity import Identity
from netra_trio.connections.connection import Connection, check_user
from netra_trio.errors import MessageNotFound, MessageTooBig, StoreUnavailable
from netra_trio.protocol.codec import BadFrame, Frame, binary_frame, decode, newest_that_fit, show
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.messages import (
    Ack,
    AgentRequest,
    Auth,
    AuthOk,
    GetThreadHistory,
    Inbound,
    Ping,
    Pong,
    StopAgent,
    ThreadHistory,
    UserMessage,
)
from netra_trio.protocol.problem import Problem, Refused, problem, store_unavailable
from netra_trio.protocol.ratelimit import TokenBucket
from netra_trio.stores.base import HISTORY_PAGE_BYTES
from netra_trio.telemetry.metrics import INVALID

BAD_FRAMES = 5  # in a row end the connection, section 5 of the contract
CONTROL_RATE, CONTROL_BURST = 100, 1000  # frames a second, frames; section 6
HISTORY_RATE, HISTORY_BURST = 10, 10  # requests a second, requests; section 6
BACKGROUND_REQUESTS = (
    10  # of a kind, asked of the store at once by one connection: a second's worth
)


class Reader:
    """Reads one connection until it ends.

    Args:
        connection: Whose reader it is.
        nursery: The connection's nursery, for what has to wait for the store.
    """

    def __init__(self, connection: Connection, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        self._connection = connection
        self._nursery = nursery
        self._bad_frames = 0
        self._background: Counter[Callable[[Frame], Awaitable[None]]] = Counter()
        self._renewals = trio.Lock()
        self._control = TokenBucket(rate=CONTROL_RATE, burst=CONTROL_BURST, now=now)
        self._history = TokenBucket(rate=HISTORY_RATE, burst=HISTORY_BURST, now=now)

    async def read(self) -> None:
        """Read until the line is gone; once the connection ends, only to hear the peer's close.

        Raises:
            TransportClosed: When the line is gone.
        """
        connection = self._connection
        while True:
            try:
                data = await connection.transport.receive()
            except MessageTooBig:
                limit = connection.settings.hard_message_size
                text = f"The message has more than {limit} bytes."
                final_error = problem(ErrorCode.MESSAGE_TOO_LARGE, text, recoverable=False)
                connection.end(EndReason.TOO_BIG, final_error)
                continue
            now = trio.current_time()
            connection.liveness.heard(now)
            if data is not None and connection.reason is None:
                connection.frames_in += 1
                await self._frame(data, now)

    async def _frame(self, data: str | bytes, since: float) -> None:
        connection = self._connection
        kind = INVALID
        try:
            if isinstance(data, bytes):
                raise binary_frame()
            frame = decode(data, max_size=connection.settings.max_message_size)
            kind = frame.message.TYPE
            try:
                await _HANDLERS[type(frame.message)](self, frame)
            except Refused as refused:
                await connection.refuse(refused.problem, frame.correlation_id)
        except BadFrame as bad:
            await self._bad(bad)
        else:
            if self._bad_frames:
                connection.metrics.recoveries["frame", "recovered"] += 1
                self._bad_frames = 0
        connection.metrics.note_received(kind, since)

    async def _bad(self, bad: BadFrame) -> None:
        """Answer a bad frame; the fifth in a row ends the connection."""
        self._bad_frames += 1
        try:
            self._take_control()
            fault = bad.problem
        except Refused as refused:
            fault = refused.problem
        await self._connection.refuse(fault, bad.correlation_id)
        if self._bad_frames >= BAD_FRAMES:
            self._connection.metrics.recoveries["frame", "failed"] += 1
            text = f"{BAD_FRAMES} bad frames in a row."
            final_error = problem(ErrorCode.ERROR_LIMIT_EXCEEDED, text)
            self._connection.end(EndReason.ERROR_LIMIT, final_error)

    async def ping(self, frame: Frame) -> None:
        """Answer with the same payload."""
        self._take_control()
        await self._connection.reply(Pong(frame.message.payload), frame.correlation_id)

    async def pong(self, frame: Frame) -> None:
        """Do nothing: that it came is all it says, and never too often."""

    async def ack(self, frame: Frame) -> None:
        """Let the session's log go on."""
        event_stream, seq = self._connection.session.event_stream, frame.message.seq
        try:
            event_stream.acknowledge(seq)
        except ValueError:
            expected = f"at most {event_stream.log.written}, the last number sent"
            text = f"$.payload.seq: expected {expected}, got {seq}"
            fault = problem(ErrorCode.VALIDATION_ERROR, text)
            raise BadFrame(fault, frame.correlation_id) from None

    async def work(self, frame: Frame) -> None:
        """Offer a message to the session, which confirms it."""
        self._connection.session.offer(frame.message, frame.correlation_id)

    async def stop(self, frame: Frame) -> None:
        """Stop a run of this user; its end is the answer."""
        self._take_control()
        if not self._connection.stop_run(frame.message.run_id):
            text = "There is no such run, or it has ended."
            raise Refused(problem(ErrorCode.RUN_NOT_FOUND, text))

    async def auth(self, frame: Frame) -> None:
        """Take a new token of the same user."""
        self._take_control()
        self._start_background(self._renew, frame)

    async def history(self, frame: Frame) -> None:
        """Fetch a page of a thread."""
        self._take_control()
        wait = self._history.take(trio.current_time())
        if wait:
            raise self._too_fast("history", f"{HISTORY_RATE} history requests a second", wait)
        self._start_background(self._fetch_history, frame)

    def _take_control(self) -> None:
        wait = self._control.take(trio.current_time())
        if wait:
            raise self._too_fast("control", f"{CONTROL_RATE} control frames a second", wait)

    def _too_fast(self, limit: str, text: str, wait: float) -> Refused:
        self._connection.metrics.rate_events[limit, "refused"] += 1
        return Refused(_too_fast(text, wait))

    def _start_background(self, request: Callable[[Frame], Awaitable[None]], frame: Frame) -> None:
        """Do beside the reader what waits for the store, a few at a time."""
        if self._background[request] >= BACKGROUND_REQUESTS:
            raise self._too_fast("requests", f"{BACKGROUND_REQUESTS} requests at once", 0.1)
        self._background[request] += 1
        self._nursery.start_soon(self._run_background, request, frame)

    async def _run_background(
        self, request: Callable[[Frame], Awaitable[None]], frame: Frame
    ) -> None:
        try:
            await request(frame)
        except Refused as refused:
            await self._connection.refuse(refused.problem, frame.correlation_id)
        except StoreUnavailable:
            await self._connection.refuse(store_unavailable(), frame.correlation_id)
        finally:
            self._background[request] -= 1

    async def _renew(self, frame: Frame) -> None:
        async with self._renewals:  # in the order they came: the newest token is the one that holds
            identity = await self._identify(frame.message.token)
            if await check_user(self._connection):
                self._connection.renew(identity)
                await self._connection.reply(AuthOk(identity.expires_at), frame.correlation_id)

    async def _identify(self, token: str) -> Identity:
        """Return whose token it is; a refusal, or a key server that is down, ends nothing."""
        connection = self._connection
        try:
            identity = await connection.verifier.verify(token, connection.wall_clock())
        except Refused as refused:
            # The old token still holds, so the connection does too.
            raise Refused(evolve(refused.problem, recoverable=True, help=_OLD_ONE_HOLDS)) from None
        if identity.user_id != connection.session.user.id:
            text = "The token belongs to another user."
            fault = problem(ErrorCode.INVALID_TOKEN, text, recoverable=True, help=_OLD_ONE_HOLDS)
            raise Refused(fault)
        return identity

    async def _fetch_history(self, frame: Frame) -> None:
        connection, request = self._connection, frame.message
        try:
            page = await connection.store.history(
                connection.session.user.id,
                request.thread_id,
                limit=request.limit,
                before=request.before,
            )
        except MessageNotFound:
            text = f"$.payload.before: expected a message of the thread, got {show(request.before)}"
            raise Refused(problem(ErrorCode.VALIDATION_ERROR, text)) from None
        if page is None:
            text = "You have no thread of that id."
            raise Refused(problem(ErrorCode.THREAD_NOT_FOUND, text))
        messages, has_more = page
        fitting = newest_that_fit(messages, HISTORY_PAGE_BYTES)
        has_more = has_more or len(fitting) < len(messages)
        history = ThreadHistory(request.thread_id, tuple(fitting), has_more)
        await connection.reply(history, frame.correlation_id)


_OLD_ONE_HOLDS = "The connection goes on with the old token; send another one before it ends."

_HANDLERS: dict[type[Inbound], Callable[[Reader, Any], Awaitable[None]]] = {
    Ping: Reader.ping,
    Pong: Reader.pong,
    Auth: Reader.auth,
    Ack: Reader.ack,
    UserMessage: Reader.work,
    AgentRequest: Reader.work,
    StopAgent: Reader.stop,
    GetThreadHistory: Reader.history,
}


def _too_fast(limit: str, wait: float) -> Problem:
    return problem(
        ErrorCode.RATE_LIMIT_EXCEEDED,
        f"Too fast: at most {limit}.",
        help=f"Wait {wait:.2g} s and send again.",
        retry_after_ms=ceil(wait * 1000),
    )
