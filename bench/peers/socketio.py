"""The Socket.IO peer: python-socketio on uvicorn, with the same work behind it.

    python -m bench.peers.socketio

It speaks its own protocol, over WebSocket alone, and has its own queue, writer and pings for each
connection, so it is given none. The token is checked when the namespace is connected: Socket.IO
has no hook before the upgrade. JSON is orjson's, which is faster than its default.
"""

import time
from contextlib import ExitStack
from typing import Any
from urllib.parse import parse_qs

import orjson
import socketio

from bench.peers.asyncio_server import serve
from bench.peers.guide import Core, Link, Payload, Settings, configure_log

PATIENCE = 1.5  # heartbeats that a client may take to answer a ping

settings = Settings.load()


class Json:
    """Orjson in the shape of the standard library, as python-socketio wants it."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> str:
        """Return the JSON of a value."""
        return orjson.dumps(value).decode()

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        """Return the value of a JSON."""
        return orjson.loads(text)


sio = socketio.AsyncServer(
    async_mode="asgi",
    json=Json,
    always_connect=True,
    transports=["websocket"],
    http_compression=False,
    ping_interval=settings.heartbeat,
    ping_timeout=settings.heartbeat * PATIENCE,
    cors_allowed_origins=[],
    logger=False,
    engineio_logger=False,
)
cores: list[Core] = []
links: dict[str, tuple[Link, ExitStack]] = {}


async def connect(sid: str, environ: dict[str, Any], _auth: Any = None) -> bool:
    """Let a user in."""
    (core,) = cores
    token = parse_qs(environ.get("QUERY_STRING", "")).get("token", [None])[0]
    user_id = await core.authenticate(token)
    if user_id is None:
        return False

    async def say(kind: str, payload: Payload, key: str | None) -> None:
        event: Payload = {"payload": payload, "timestamp": time.time()}
        if key is not None:
            event["correlation_id"] = key
        link.sent += 1
        await sio.emit(kind, event, to=sid)

    async def evict() -> None:
        await sio.disconnect(sid)

    link = Link(core, user_id, say, evict)
    joined = ExitStack()
    for one in joined.enter_context(core.joined(link)):
        await one.evict()
    links[sid] = (link, joined)
    await link.welcome()
    return True


async def receive(sid: str, message: Any) -> None:
    """Take a message; it is validated from its bytes, as pydantic does it fastest."""
    await links[sid][0].handle(orjson.dumps(message))


async def disconnect(sid: str, _reason: str = "") -> None:
    """Let a user go."""
    found = links.pop(sid, None)
    if found is not None:
        link, joined = found
        with joined:
            await link.end()


sio.on("connect", connect)
sio.on("disconnect", disconnect)
sio.on("user_message", receive)
sio.on("ping", receive)
sio.on("pong", receive)


async def start() -> None:
    """Open the store."""
    cores.append(Core(settings))


async def stop() -> None:
    """Write what is left in the store."""
    await cores.pop().store.close()


app = socketio.ASGIApp(sio, on_startup=start, on_shutdown=stop)


if __name__ == "__main__":
    configure_log()
    serve(app, heartbeat=settings.heartbeat)
