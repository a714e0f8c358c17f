"""The floor: the cost of Trio, a socket and JSON without any feature of a server.

    python -m bench.peers.floor

Raw Trio over TCP. Each connection has an agent task and a writer task, joined by one memory
channel; the handshake and the frames are made by hand, and the JSON by orjson. The agent task
reads a message, emits the events of its run into the channel, and reads the next message. The
writer task sends everything that is in the channel with one write. There is no token, no user, no
limit, no heartbeat, no history and no log, so a real server cannot be this cheap. The floor shows
how much of a figure belongs to Python, Trio and the kernel.
"""

import re
import signal
import time
from typing import Any

import orjson
import trio

from bench.frames import CLOSE, PING, PONG, accept_of, masked, server_frame
from bench.peers.work import TOKENS, paced_tokens, seconds_until

READ_BYTES = 65_536  # in one read
BACKLOG = 1024  # connections that may wait to be accepted
CHANNEL_EVENTS = 256  # from the agent to the writer: a whole stream fits in

_KEY = re.compile(rb"sec-websocket-key: *(\S+)", re.IGNORECASE)

Events = trio.MemorySendChannel[bytes]


async def serve(stream: trio.SocketStream) -> None:
    """Serve one connection: the agent in this task, the writer in another."""
    head = await _read_head(stream)
    if head is None:
        return
    await stream.send_all(_hello(head))
    events, pending = trio.open_memory_channel[bytes](CHANNEL_EVENTS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_write, stream, pending)
        async with events:
            await _run_agent(stream, events)


async def _write(stream: trio.SocketStream, pending: trio.MemoryReceiveChannel[bytes]) -> None:
    """Send frames until the channel is closed, with one write for all that are ready."""
    async for frame in pending:
        frames = [frame]
        try:
            while True:
                frames.append(pending.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            await stream.send_all(b"".join(frames))


async def _run_agent(stream: trio.SocketStream, events: Events) -> None:
    """Answer each message with a run, until the client closes."""
    data = b""
    while more := await stream.receive_some(READ_BYTES):
        data += more
        position = 0
        while (found := frame_of(data, position)) is not None:
            opcode, payload, position = found
            if opcode == CLOSE:
                await _emit(events, server_frame(payload, CLOSE))
                return
            if opcode == PING:
                await _emit(events, server_frame(payload, PONG))
            elif payload:
                await _run(orjson.loads(payload), events)
        data = data[position:]


async def _emit(events: Events, frame: bytes) -> None:
    """Put a frame into the channel, without a checkpoint where there is room."""
    try:
        events.send_nowait(frame)
    except trio.WouldBlock:
        await events.send(frame)


async def _run(message: dict[str, Any], events: Events) -> None:
    """Emit the events of a whole run."""
    if message["type"] != "user_message":
        return
    payload = message["payload"]
    content, agent = payload["content"], payload["agent"]
    run = {"run_id": "run_1", "agent_name": agent, "thread_id": "thread_1"}
    confirmed = {**run, "message_id": "msg_1", "status": "accepted"}
    await _emit(events, _event("message_confirmed", confirmed))
    await _emit(events, _event("agent_started", {**run, "attempt": 1}))
    if agent == "paced":
        for due, token in paced_tokens(content):
            await trio.sleep(seconds_until(due))
            await _emit(events, _delta(token))
    else:
        for token in TOKENS if agent == "stream" else (content,):
            await _emit(events, _delta(token))
    end = {"run_id": "run_1", "status": "completed", "result": content}
    await _emit(events, _event("agent_completed", end))


def _delta(content: str) -> bytes:
    return _event("partial_result", {"run_id": "run_1", "content": content})


def _event(kind: str, payload: dict[str, Any]) -> bytes:
    event = {"type": kind, "payload": payload, "timestamp": time.time()}
    return server_frame(orjson.dumps(event))


def frame_of(data: bytes, position: int) -> tuple[int, bytes, int] | None:
    """Return opcode and payload of a client's frame, and the position of the next frame.

    None if the frame is not complete.
    """
    size = len(data) - position
    if size < 6:
        return None
    length = data[position + 1] & 0x7F
    start = position + 2
    if length > 125:
        start += 2 if length == 126 else 8
        length = int.from_bytes(data[position + 2 : start], "big")
    end = start + 4 + length
    if end > len(data):
        return None
    return data[position] & 0x0F, masked(data[start + 4 : end], data[start : start + 4]), end


async def _read_head(stream: trio.SocketStream) -> bytes | None:
    head = b""
    while b"\r\n\r\n" not in head:
        more = await stream.receive_some(READ_BYTES)
        if not more:
            return None
        head += more
    return head


def _hello(head: bytes) -> bytes:
    key = _KEY.search(head)
    if key is None:
        return b"HTTP/1.1 400 Bad Request\r\n\r\n"
    lines = (
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept_of(key[1]),
    )
    hello = _event("connection_established", {"connection_id": "conn_1"})
    return b"\r\n".join(lines) + b"\r\n\r\n" + hello


async def _contain(stream: trio.SocketStream) -> None:
    """Serve a connection; an end that the client causes must not end the server."""
    try:
        async with stream:
            await serve(stream)
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def main() -> None:
    """Serve until SIGTERM."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=BACKLOG)
    port = listeners[0].socket.getsockname()[1]
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, _contain, listeners)
            print(f"Ready on http://127.0.0.1:{port}", flush=True)
            async for _ in signals:
                nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
