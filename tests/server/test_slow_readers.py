"""Slow but steady readers: progress is what leaves the kernel, with TLS and without.

The kernel asks for more data only when a third of its buffer is free, which takes many send
timeouts at the reader's rate. The reader's window opens by 64 KiB at a time, which takes less.
"""

import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from support.server import (
    Server,
    bearer,
    open_line,
    serving,
    sign,
    stock_serving,
    upgrade_request,
    write_agents,
)
from support.wire import TEXT, client_frame

pytestmark = pytest.mark.unmeasured

SEND_TIMEOUT = 5.0  # seconds: three times what the window takes to open at the rate
RATE = 40_000  # bytes a second
SECONDS = 12.0
AGENTS = """
async def flood(run):
    while True:
        await run.emit("x" * 10_000)
"""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module", params=["own", "own over TLS", "stock", "stock over TLS"])
def place(
    request: pytest.FixtureRequest, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, ssl.SSLContext | None]]:
    """Start a server whose agent never stops; yield it, and how to speak TLS with it."""
    folder: Path = tmp_path_factory.mktemp("server")
    write_agents(folder, AGENTS)
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "all.pem")
    tls, host = "TLS" in request.param, request.param.split()[0]
    settings = {"WEBSOCKET_SEND_TIMEOUT": str(int(SEND_TIMEOUT * 1000))}
    context = None
    arguments: list[str] = []
    if tls:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        arguments = ["--certfile", str(folder / "all.pem")]
        if host == "stock":
            arguments += ["--keyfile", str(folder / "all.pem")]
    if host == "own":
        run = serving(folder, "--agent", "outside_agents:flood", *arguments, **settings)
    else:
        (folder / "app.py").write_text(
            "from outside_agents import flood\n"
            "from netra_trio import create_app\n"
            "from netra_trio.telemetry.logs import configure\n"
            "from netra_trio.server.hypercorn.install import prepare_host, use_our_log\n"
            "configure()\n"
            "app = create_app(agents={'flood': flood})\n"
            "prepare_host(app.settings)\n"
            "use_our_log()\n"
        )
        run = stock_serving(folder, *arguments, app="app:app", **settings)
    with run as server:
        yield server, context


def connected(server: Server, context: ssl.SSLContext | None) -> socket.socket:
    """Open a WebSocket, and start the agent."""
    sock = open_line(server.address)
    sock.settimeout(10)
    if context is not None:
        sock = context.wrap_socket(sock, server_hostname="localhost")
    head = upgrade_request("localhost", "/ws", [bearer(sign("slow"))])
    say = b'{"type": "user_message", "payload": {"content": "go"}}'
    sock.sendall(head + client_frame(TEXT, say))
    return sock


def test_a_slow_but_steady_reader_is_kept(place: tuple[Server, ssl.SSLContext | None]) -> None:
    server, context = place
    with connected(server, context) as sock:
        begun, taken = time.monotonic(), 0
        while (passed := time.monotonic() - begun) < SECONDS:
            if taken < RATE * passed:
                data = sock.recv(4096)
                assert data, "the server closed"
                taken += len(data)
            else:
                time.sleep(0.01)
    assert not [
        line for line in server.process.logs("connection_ended") if line["reason"] == "send_timeout"
    ]


def test_a_reader_that_stops_is_given_up(place: tuple[Server, ssl.SSLContext | None]) -> None:
    server, context = place
    with connected(server, context) as sock:
        sock.recv(1000)
        ended = server.process.err.wait_for(
            lambda _: [
                line
                for line in server.process.logs("connection_ended")
                if line["reason"] == "send_timeout"
            ]
        )
    assert ended
