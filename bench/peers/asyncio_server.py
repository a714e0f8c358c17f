"""How the peers on uvicorn are run: its fastest parts, on a free port.

serve(app, heartbeat=30.0)
"""

import os
import socket
from typing import Any

import uvicorn

BACKLOG = 1024  # connections that may wait to be accepted


def serve(app: Any, *, heartbeat: float) -> None:
    """Serve until SIGTERM; BENCH_UVICORN_WS picks another of uvicorn's WebSocket parts.

    Per-message deflate is off, as with this project, and so is the access log. A protocol ping
    goes with every heartbeat, likewise.
    """
    sock = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws=os.environ.get("BENCH_UVICORN_WS", "auto"),  # type: ignore[arg-type, unused-ignore]
        ws_per_message_deflate=False,
        ws_ping_interval=heartbeat,
        ws_ping_timeout=heartbeat * 1.5,
        lifespan="on",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    print(f"Ready on http://127.0.0.1:{sock.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[sock])
