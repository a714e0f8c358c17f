"""The FastAPI peer: the server that the guide describes, as good as an ordinary one gets.

    python -m bench.peers.fastapi

FastAPI on uvicorn with uvloop, httptools and its default WebSocket part on `websockets`. The token
comes in the query and is checked before the upgrade is accepted. Each connection has a bounded
queue, a task that writes, and a task for heartbeats. Messages are validated by pydantic from the
bytes, events are written by orjson: `send_json` would cost more. What it does with a message is in
`bench.peers.guide`, and how it stores in `bench.peers.store`. Events have no numbers, nothing is
acknowledged, and nothing can be resumed: the guide asks for none of it.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from bench.peers.asyncio_server import serve
from bench.peers.guide import QUEUE, Core, Link, Payload, Settings, configure_log

SILENCE = 2.5  # heartbeats without a sign of life, after which a connection ends
FORBIDDEN, EVICTED, SILENT = 4401, 4429, 4408

settings = Settings.load()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the store, and write what is left of it in the end."""
    app.state.core = Core(settings)
    yield
    await app.state.core.store.close()


app = FastAPI(lifespan=lifespan)


@app.get("/ws/config")
async def config() -> dict[str, Any]:
    """Say how to connect."""
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
    queue: asyncio.Queue[Payload] = asyncio.Queue(QUEUE)

    async def say(kind: str, payload: Payload, key: str | None) -> None:
        event: Payload = {"type": kind, "payload": payload, "timestamp": time.time()}
        if key is not None:
            event["correlation_id"] = key
        await queue.put(event)

    async def evict() -> None:
        await websocket.close(EVICTED)

    link = Link(core, user_id, say, evict)
    with core.joined(link) as too_many:
        for one in too_many:
            await one.evict()
        await _converse(websocket, link, queue)


async def _converse(websocket: WebSocket, link: Link, queue: "asyncio.Queue[Payload]") -> None:
    """Read, write and beat until one side ends."""
    tasks = [
        asyncio.create_task(_write(websocket, link, queue)),
        asyncio.create_task(_beat(websocket, link)),
    ]
    try:
        await link.welcome()
        while True:
            await link.handle(await websocket.receive_text())
    except (WebSocketDisconnect, RuntimeError):  # the latter where we have closed it ourselves
        pass
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await link.end()


async def _write(websocket: WebSocket, link: Link, queue: "asyncio.Queue[Payload]") -> None:
    """Write what is in the queue."""
    while True:
        event = await queue.get()
        await websocket.send_text(orjson.dumps(event).decode())
        link.sent += 1


async def _beat(websocket: WebSocket, link: Link) -> None:
    """Say from time to time that the server is there, and look whether the client is."""
    while True:
        await asyncio.sleep(settings.heartbeat)
        if time.monotonic() - link.last_seen > SILENCE * settings.heartbeat:
            await websocket.close(SILENT)
            return
        await link.say("heartbeat", {"server_time": time.time()}, None)


if __name__ == "__main__":
    configure_log()
    serve(app, heartbeat=settings.heartbeat)
