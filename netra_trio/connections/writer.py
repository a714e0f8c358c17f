"""The writer: sends control frames first, then events, then room frames, in one write.

If the peer stops reading, the writer waits in `send`. Then the feed fills, and the agents wait.
"""

import trio

from netra_trio.connections.binary_data import add_data
from netra_trio.connections.connection import Connection
from netra_trio.protocol.codes import EndReason

WRITE_BYTES = 64 * 1024  # of events, and of room frames, in one write, which delays control frames


async def write(connection: Connection) -> None:
    """Accept the upgrade, write until the connection ends, and send the close frame.

    Raises:
        TransportClosed: If the transport is closed before that.
    """
    transport, outgoing = connection.transport, connection.outgoing
    feed, encoder = outgoing.feed, connection.encoder
    encode_event = encoder.encode_event
    lags = False
    await transport.accept()
    while True:
        try:
            await outgoing.wait()
        except trio.EndOfChannel:
            break
        frames = outgoing.take_control()
        frames += [encode_event(e) for e in feed.take(max_bytes=WRITE_BYTES, lags=lags)]
        if encoder.references:
            await _add_data(connection, frames)
        frames += outgoing.take_rooms(max_bytes=WRITE_BYTES, lags=lags)
        ping, connection.ping_due = connection.ping_due, False
        has_rest = outgoing.take_rest()
        if frames or ping or has_rest:
            connection.frames_out += len(frames)
            lags = await transport.send(frames, ping=ping)
            frames = []  # frees their memory while it waits for the next ones
    await finish(connection)


async def finish(connection: Connection) -> None:
    """Write the remaining frames, the final error and the close frame.

    Only the first call has an effect.

    Raises:
        TransportClosed: If the transport is closed before that.
    """
    if connection.is_finishing:
        return
    connection.is_finishing = True
    transport, outgoing = connection.transport, connection.outgoing
    encoder = connection.encoder
    await _send(connection, outgoing.take_control())
    if connection.reason is EndReason.DRAINED:
        while entries := outgoing.feed.take(max_bytes=WRITE_BYTES):
            events = [encoder.encode_event(entry) for entry in entries]
            if encoder.references:
                await _add_data(connection, events)
            await _send(connection, events)
    if connection.final_error is not None:
        await _send(connection, [connection.final_error])
    reason = connection.reason
    if reason is not None and reason.close_code is not None:
        await transport.close(reason.close_code, reason.label)


async def _add_data(connection: Connection, frames: list[bytes]) -> None:
    """Add the data of events of another node, unless that was too slow before."""
    references = connection.encoder.references
    if connection.reads_data:
        files = connection.services.files
        connection.reads_data = await add_data(frames, references, files)
    else:
        references.clear()


async def _send(connection: Connection, frames: list[bytes]) -> None:
    if frames:
        connection.frames_out += len(frames)
        await connection.transport.send(frames)
