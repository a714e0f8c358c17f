"""The FastAPI peer: the server that the guide describes, in its best ordinary configuration.

    python -m bench.peers.fastapi

FastAPI on uvicorn with uvloop, httptools and its default WebSocket implementation, which uses
`websockets`. The token is in the query and is checked before the upgrade is accepted. Each
connection has a bounded queue, a writer task and a heartbeat task. Messages are validated by
pydantic from their bytes, and events are encoded by orjson: `send_json` would cost more.
`bench.peers.guide` has the handling of a message, `bench.peers.store` the storage. Events have no
numbers and are not acknowledged, and sessions cannot be resumed: the guide does not require it.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from bench.peers.asyncio_server import serve
from bench.peers.guide import QUEUE, Connection, Core, Payload, Settings, configure_log

SILENCE = 2.5  # heartbeats without a message, after which a connection ends
FORBIDDEN, EVICTED, SILENT = 4401, 4429, 4408

settings = Settings.load()

Queue = asyncio.Queue[Payload | str]
"""The output that waits for a connection: events, and texts that several connections share."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the store, and write all pending rows in the end."""
    app.state.core = Core(settings)
    app.state.rooms = {}
    yield
    await app.state.core.store.close()


app = FastAPI(lifespan=lifespan)


@app.get("/ws/config")
async def config() -> dict[str, Any]:
    """Return how to connect."""
    limits = {"max_message_rate": settings.message_rate}
    return {"websocket_config": {"endpoints": {"websocket": "/ws"}, "connection_limits": limits}}


@app.websocket("/ws")
async def endpoint(websocket: WebSocket) -> None:
    """Serve one connection."""
    core: Core = websocket.app.state.core
    user_id = await core.authenticate(websocket.query_params.get("token"))
    if user_id is None:
        await websocket.close(FORBIDDEN)  # before the upgrade: the client gets a 403
        return
    await websocket.accept()
    queue: Queue = asyncio.Queue(QUEUE)
    rooms: dict[str, set[Queue]] = websocket.app.state.rooms

    async def send(kind: str, payload: Payload, key: str | None) -> None:
        event: Payload = {"type": kind, "payload": payload, "timestamp": time.time()}
        if key is not None:
            event["correlation_id"] = key
        await queue.put(event)

    async def evict() -> None:
        await websocket.close(EVICTED)

    async def join(room: str) -> None:
        rooms.setdefault(room, set()).add(queue)

    async def broadcast(room: str, kind: str, payload: Payload) -> None:
        event = {"type": kind, "payload": payload, "timestamp": time.time()}
        text = orjson.dumps(event).decode()  # once for all members
        for member in list(rooms.get(room, ())):
            await member.put(text)

    connection = Connection(core, user_id, send, evict, join, broadcast)
    with core.registered(connection) as surplus:
        for one in surplus:
            await one.evict()
        await _run(websocket, connection, queue)


async def _run(websocket: WebSocket, connection: Connection, queue: Queue) -> None:
    """Read, write and send heartbeats until one side ends."""
    tasks = [
        asyncio.create_task(_write(websocket, connection, queue)),
        asyncio.create_task(_send_heartbeats(websocket, connection)),
    ]
    try:
        await connection.hello()
        while True:
            await connection.handle(await websocket.receive_text())
    except (WebSocketDisconnect, RuntimeError):  # the latter if this side has closed
        pass
    finally:
        for task in tasks:
            task.cancel()
        for members in websocket.app.state.rooms.values():
            members.discard(queue)
        await asyncio.gather(*tasks, return_exceptions=True)
        await connection.end()


async def _write(websocket: WebSocket, connection: Connection, queue: Queue) -> None:
    """Send the events in the queue."""
    while True:
        event = await queue.get()
        text = event if isinstance(event, str) else orjson.dumps(event).decode()
        await websocket.send_text(text)
        connection.sent += 1


async def _send_heartbeats(websocket: WebSocket, connection: Connection) -> None:
    """Send heartbeats, and close a connection whose client is silent."""
    while True:
        await asyncio.sleep(settings.heartbeat)
        if time.monotonic() - connection.last_seen > SILENCE * settings.heartbeat:
            await websocket.close(SILENT)
            return
        await connection.send("heartbeat", {"server_time": time.time()}, None)


if __name__ == "__main__":
    configure_log()
    serve(app, heartbeat=settings.heartbeat)
