"""The floor: what Trio, a socket and JSON cost by themselves, without a single feature.

    python -m bench.peers.floor

The handshake and the frames are made by hand. A message is parsed, and answered with as many
frames as a run has events, in one write. There is no token, no user, no limit, no task per
connection but its reader, no heartbeat, no history and no log. No real server can be this cheap:
it is here to show how much of a figure is the stack's, and how much the server's.
"""

import re
import signal
import time
from contextlib import suppress
from typing import Any

import orjson
import trio

from bench.frames import CLOSE, PING, PONG, accept_of, masked, server_frame
from bench.peers.work import TOKENS

READ_BYTES = 65_536  # at once
BACKLOG = 1024  # connections that may wait to be accepted

_KEY = re.compile(rb"sec-websocket-key: *(\S+)", re.IGNORECASE)


async def serve(stream: trio.SocketStream) -> None:
    """Serve one connection."""
    async with stream:
        head = await _read_head(stream)
        if head is None:
            return
        await stream.send_all(_welcome(head))
        data = b""
        while True:
            more = await stream.receive_some(READ_BYTES)
            if not more:
                return
            answer, data, is_closed = answer_of(data + more)
            if answer:
                await stream.send_all(answer)
            if is_closed:
                return


def answer_of(data: bytes) -> tuple[bytes, bytes, bool]:
    """Return what to say to what came in, what is left of it, and whether that is all."""
    answers: list[bytes] = []
    position = 0
    while (found := _frame(data, position)) is not None:
        opcode, payload, position = found
        if opcode == CLOSE:
            return b"".join([*answers, server_frame(payload, CLOSE)]), b"", True
        if opcode == PING:
            answers.append(server_frame(payload, PONG))
        elif payload:
            answers += run_of(orjson.loads(payload))
    return b"".join(answers), data[position:], False


def run_of(message: dict[str, Any]) -> list[bytes]:
    """Return the frames of a whole run."""
    if message["type"] != "user_message":
        return []
    payload = message["payload"]
    content, agent = payload["content"], payload["agent"]
    run = {"run_id": "run_1", "agent_name": agent, "thread_id": "thread_1"}
    pieces = TOKENS if agent == "stream" else (content,)
    return [
        _event("message_confirmed", {**run, "message_id": "msg_1", "status": "accepted"}),
        _event("agent_started", {**run, "attempt": 1}),
        *(_event("partial_result", {"run_id": "run_1", "content": piece}) for piece in pieces),
        _event("agent_completed", {"run_id": "run_1", "status": "completed", "result": content}),
    ]


def _event(kind: str, payload: dict[str, Any]) -> bytes:
    event = {"type": kind, "payload": payload, "timestamp": time.time()}
    return server_frame(orjson.dumps(event))


def _frame(data: bytes, position: int) -> tuple[int, bytes, int] | None:
    """Return the opcode and the payload of a client's frame, and where the next one begins."""
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


def _welcome(head: bytes) -> bytes:
    key = _KEY.search(head)
    if key is None:
        return b"HTTP/1.1 400 Bad Request\r\n\r\n"
    lines = (
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept_of(key[1]),
    )
    welcome = _event("connection_established", {"connection_id": "conn_1"})
    return b"\r\n".join(lines) + b"\r\n\r\n" + welcome


async def _contain(stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # it left
        await serve(stream)


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
