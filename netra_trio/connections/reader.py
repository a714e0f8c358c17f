"""The reader: receives frames, decodes them, and gives each command to the dispatcher.

The reader waits for frames of its peer, and for room for a reply if the peer does not read. It
never waits for the log, for a run or for the store.
"""

import trio

from netra_trio.connections.connection import Connection
from netra_trio.connections.dispatch import CommandDispatcher
from netra_trio.errors import MessageTooBig
from netra_trio.protocol.codec import BadFrame
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.problem import Refused, problem
from netra_trio.telemetry.metrics import INVALID

BAD_FRAMES = 5  # in a row end the connection: docs/protocol.md, Limits


class Reader:
    """Reads the frames of one connection.

    Args:
        connection: The connection.
        dispatcher: Handles the commands.
    """

    __slots__ = (
        "_bad_frames",
        "_connection",
        "_dispatcher",
    )

    def __init__(self, connection: Connection, dispatcher: CommandDispatcher) -> None:
        self._connection = connection
        self._dispatcher = dispatcher
        self._bad_frames = 0

    async def read(self) -> None:
        """Read until the transport is closed.

        After the end of the connection, frames are read and dropped until the peer's close frame.

        Raises:
            TransportClosed: When the transport is closed.
        """
        connection = self._connection
        while True:
            try:
                data = await connection.transport.receive()
            except MessageTooBig:
                limit = connection.settings.hard_message_size
                text = f"The message has more than {limit} bytes."
                fault = problem(ErrorCode.MESSAGE_TOO_LARGE, text, recoverable=False)
                connection.end(EndReason.TOO_BIG, fault)
                continue
            now = trio.current_time()
            connection.liveness.note_frame(now)
            if data is not None and connection.reason is None:
                connection.frames_in += 1
                await self._handle(data, now)

    async def _handle(self, data: str | bytes, since: float) -> None:
        connection = self._connection
        kind = INVALID
        try:
            frame = connection.wire.decode(data, max_size=connection.settings.max_message_size)
            kind = frame.message.TYPE
            await self._dispatcher.dispatch(frame)
        except BadFrame as bad:
            await self._refuse(bad)
        else:
            if self._bad_frames:
                connection.metrics.recoveries["frame", "recovered"] += 1
                self._bad_frames = 0
        connection.metrics.note_received(kind, since)

    async def _refuse(self, bad: BadFrame) -> None:
        """Reply to a bad frame with an error; the fifth in a row ends the connection."""
        self._bad_frames += 1
        try:
            self._dispatcher.take_control()
            fault = bad.problem
        except Refused as refused:
            fault = refused.problem
        await self._connection.send_error(fault, bad.correlation_id)
        if self._bad_frames >= BAD_FRAMES:
            self._connection.metrics.recoveries["frame", "failed"] += 1
            text = f"{BAD_FRAMES} bad frames in a row."
            fault = problem(ErrorCode.ERROR_LIMIT_EXCEEDED, text)
            self._connection.end(EndReason.ERROR_LIMIT, fault)
