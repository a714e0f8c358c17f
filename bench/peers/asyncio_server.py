"""The settings of uvicorn that the peers share: its fastest components, on a free port.

serve(app, heartbeat=30.0)
"""

import os
import socket
from typing import Any

import uvicorn

BACKLOG = 1024  # connections that may wait to be accepted


def serve(app: Any, *, heartbeat: float) -> None:
    """Serve until SIGTERM; the variable BENCH_UVICORN_WS selects another WebSocket implementation.

    As with this project, per-message deflate and the access log are off, and a protocol ping goes
    with every heartbeat.
    """
    sock = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        # Its type lists the known values; without uvicorn, mypy has no type to check.
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
