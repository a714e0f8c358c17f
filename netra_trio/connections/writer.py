"""The writer: a cursor over the session's log, with control frames ahead of it.

Everything that is ready goes out in one write. A peer that stops reading stops the writer here;
the log fills behind it, and the agents wait.
"""

import trio

from netra_trio.connections.connection import Connection
from netra_trio.protocol.codes import EndReason

WRITE_BYTES = 64 * 1024  # of events in one write: what a control frame may have to wait for


async def write(connection: Connection) -> None:
    """Answer the upgrade, then write until the connection ends, and close the line.

    Raises:
        TransportClosed: If the line is gone before that.
    """
    transport, outbox = connection.transport, connection.outbox
    event_stream, lags = connection.session.event_stream, False
    await transport.accept()
    while True:
        try:
            frames = await outbox.wait()
        except trio.EndOfChannel:
            break
        frames += event_stream.take(outbox, max_bytes=WRITE_BYTES, lags=lags)
        ping, connection.ping_due = connection.ping_due, False
        if frames or ping:
            connection.frames_out += len(frames)
            lags = await transport.send(frames, ping=ping)
            frames = []  # while it waits for the next ones, nobody needs these
        if event_stream.has_pending(outbox):
            outbox.ring()
    await finish(connection)


async def finish(connection: Connection) -> None:
    """Write what a drained connection still has to say, the last words, and the close frame.

    Once; a second call does nothing.

    Raises:
        TransportClosed: If the line is gone before that.
    """
    if connection.is_finishing:
        return
    connection.is_finishing = True
    transport, reason = connection.transport, connection.reason
    if reason is EndReason.DRAINED:
        event_stream = connection.session.event_stream
        while frames := event_stream.take(connection.outbox, max_bytes=WRITE_BYTES):
            connection.frames_out += len(frames)
            await transport.send(frames)
    if connection.final_error is not None:
        connection.frames_out += 1
        await transport.send([connection.final_error])
    if reason is not None and reason.close_code is not None:
        await transport.close(reason.close_code, reason.label)
