"""Echo servers for the Autobahn cases: our WebSocket transport, and Hypercorn as we patch it.

python tests/autobahn/echo_servers.py own 9001
python tests/autobahn/echo_servers.py stock 9002
"""

import socket
import sys
from functools import partial
from typing import Any, cast

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from netra_trio.errors import MessageTooBig, TransportClosed
from netra_trio.protocol.binary import BinaryFrame
from netra_trio.server.hypercorn.install import install
from netra_trio.server.hypercorn.limits import Limits
from netra_trio.server.listener import Listener
from netra_trio.server.request_head import read_head
from netra_trio.transports.byte_stream import SocketByteStream
from netra_trio.transports.deflate import Compression
from netra_trio.transports.handshake import accepting
from netra_trio.transports.headers import by_name
from netra_trio.transports.pacing import Turns
from netra_trio.transports.websocket import WebSocketTransport

HOST = "127.0.0.1"
MAX_BYTES = 16 * 1024 * 1024  # the longest message of the cases
SEND_TIMEOUT = 30.0  # seconds

_turns = Turns()
_compression = Compression(lambda _direction, _plain, _compressed: None)


async def echo_socket(sock: socket.socket, _peer: str) -> None:
    """Serve one connection of the listener."""
    stream = SocketByteStream(sock, send_timeout=SEND_TIMEOUT)
    head = await read_head(stream)
    if head is None or not head.is_upgrade:
        return
    headers = by_name(head.headers)
    deflate = _compression.agree(headers)
    extension = None if deflate is None else deflate.response
    transport = WebSocketTransport(
        stream,
        response=accepting(headers[b"sec-websocket-key"][0], None, extension),
        max_bytes=MAX_BYTES,
        before=head.rest,
        turns=_turns,
        deflate=deflate,
    )
    await transport.accept()
    while True:
        try:
            message = await transport.receive()
        except MessageTooBig:
            await transport.close(1009, "")
            continue
        except TransportClosed:
            return
        if isinstance(message, str):
            await transport.send([message.encode()])
        elif message is not None:
            await transport.send([BinaryFrame(message)])


async def own(port: int) -> None:
    """Serve echoes with our listener and transport."""
    with socket.create_server((HOST, port)) as sock:
        await Listener(sock, echo_socket, lambda _: None).serve()


async def echo_app(scope: Any, receive: Any, send: Any) -> None:
    """Serve echoes as an ASGI application."""
    if scope["type"] == "lifespan":
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] != "websocket.disconnect":
        if message["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})
        elif message["type"] == "netra_trio.too_big":
            await send({"type": "websocket.close", "code": 1009})


async def stock(port: int) -> None:
    """Serve echoes with Hypercorn."""
    limits = Limits(
        send_timeout=SEND_TIMEOUT,
        max_message_bytes=MAX_BYTES,
        drain_timeout=1.0,
        compression=_compression,
    )
    install(limits)
    config = Config()
    config.bind = [f"{HOST}:{port}"]
    config.errorlog = None
    await serve(cast("Any", echo_app), config, mode="asgi")


if __name__ == "__main__":
    host, port = sys.argv[1:]
    trio.run(partial({"own": own, "stock": stock}[host], int(port)))
