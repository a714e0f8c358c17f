"""The Socket.IO peer: python-socketio on uvicorn, with the same work behind it.

    python -m bench.peers.socketio

It uses its own protocol, over WebSocket only, and its own queue, writer and pings for each
connection. The token is checked when the namespace is connected: Socket.IO has no hook before the
upgrade. The JSON library is orjson, which is faster than the default.
"""

import time
from contextlib import ExitStack
from typing import Any
from urllib.parse import parse_qs

import orjson
import socketio

from bench.peers.asyncio_server import serve
from bench.peers.guide import Connection, Core, Payload, Settings, configure_log

PING_TIMEOUT = 1.5  # heartbeats, for a client to answer a ping

settings = Settings.load()


class Json:
    """Orjson with the interface of the standard library, which python-socketio requires."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> str:
        """Return the JSON of a value."""
        return orjson.dumps(value).decode()

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        """Return the value of a JSON text."""
        return orjson.loads(text)


sio = socketio.AsyncServer(
    async_mode="asgi",
    json=Json,
    always_connect=True,
    transports=["websocket"],
    http_compression=False,
    ping_interval=settings.heartbeat,
    ping_timeout=settings.heartbeat * PING_TIMEOUT,
    cors_allowed_origins=[],
    logger=False,
    engineio_logger=False,
)
cores: list[Core] = []
connections: dict[str, tuple[Connection, ExitStack]] = {}


async def connect(sid: str, environ: dict[str, Any], _auth: Any = None) -> bool:
    """Accept the connection of a user."""
    (core,) = cores
    token = parse_qs(environ.get("QUERY_STRING", "")).get("token", [None])[0]
    user_id = await core.authenticate(token)
    if user_id is None:
        return False

    async def send(kind: str, payload: Payload, key: str | None) -> None:
        event: Payload = {"payload": payload, "timestamp": time.time()}
        if key is not None:
            event["correlation_id"] = key
        connection.sent += 1
        await sio.emit(kind, event, to=sid)

    async def evict() -> None:
        await sio.disconnect(sid)

    async def join(room: str) -> None:
        await sio.enter_room(sid, room)

    async def broadcast(room: str, kind: str, payload: Payload) -> None:
        await sio.emit(kind, {"payload": payload, "timestamp": time.time()}, room=room)

    connection = Connection(core, user_id, send, evict, join, broadcast)
    stack = ExitStack()
    for one in stack.enter_context(core.registered(connection)):
        await one.evict()
    connections[sid] = (connection, stack)
    await connection.hello()
    return True


async def receive(sid: str, message: Any) -> None:
    """Handle a message; it is validated from bytes, which is the fastest way of pydantic."""
    await connections[sid][0].handle(orjson.dumps(message))


async def disconnect(sid: str, _reason: str = "") -> None:
    """Release the connection of a user."""
    found = connections.pop(sid, None)
    if found is not None:
        connection, stack = found
        with stack:
            await connection.end()


sio.on("connect", connect)
sio.on("disconnect", disconnect)
sio.on("user_message", receive)
sio.on("ping", receive)
sio.on("pong", receive)
sio.on("join_room", receive)
sio.on("room_message", receive)


async def start() -> None:
    """Open the store."""
    cores.append(Core(settings))


async def stop() -> None:
    """Write all pending rows."""
    await cores.pop().store.close()


app = socketio.ASGIApp(sio, on_startup=start, on_shutdown=stop)


if __name__ == "__main__":
    configure_log()
    serve(app, heartbeat=settings.heartbeat)
