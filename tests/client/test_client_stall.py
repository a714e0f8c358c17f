"""The client in a process that stalls, with a real server that goes on."""

import threading
import time

import orjson
import trio
from support.faulty import PATIENCE, stranger
from support.scripted import EPOCH, LIMITS
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

from netra_trio.client import Network, connect

HEARTBEAT_SECONDS = 0.1
SILENCE = 2.5 * HEARTBEAT_SECONDS  # after which the client drops a connection
STALLS = 4


class WithoutDiscovery(Network):
    """The network, with a server that has no discovery document."""

    async def discover(self, url: str) -> dict[str, object]:
        del url
        await trio.lowlevel.checkpoint()
        return {}


def beat(line: ServerConnection) -> None:
    """Send a first frame, and heartbeats until the client closes; pongs are read and ignored."""
    hello = {
        "connection_id": "conn_1",
        "session_id": "sess_1",
        "user_id": "alice",
        "server_time": EPOCH,
        "heartbeat_interval": int(HEARTBEAT_SECONDS * 1000),
        "features": {},
        "limits": LIMITS,
        "resume": {"verdict": "new", "last_seq": 0, "replayed": 0, "runs": []},
    }
    line.send(orjson.dumps({"type": "connection_established", "payload": hello}).decode())
    reader = threading.Thread(target=drain, args=(line,), daemon=True)
    reader.start()
    try:
        while True:
            line.send('{"type": "heartbeat", "payload": {}}')
            time.sleep(HEARTBEAT_SECONDS)
    except ConnectionClosed:
        reader.join(PATIENCE)


def drain(line: ServerConnection) -> None:
    for _ in line:
        pass


async def test_a_blocked_loop_does_not_drop_the_connection() -> None:
    with stranger(beat) as address, trio.fail_after(PATIENCE):
        async with connect(
            f"ws://{address}/ws", token="t", dialer=WithoutDiscovery(), random=lambda: 0.0
        ) as client:
            for _ in range(STALLS):
                await trio.sleep(HEARTBEAT_SECONDS)
                time.sleep(4 * SILENCE)  # noqa: ASYNC251 - the stall
            stalled_until = time.time()
            await trio.sleep(HEARTBEAT_SECONDS)
            assert client.stats.reconnections == 0
            assert client.stats.errors_encountered == 0
            assert client.stats.last_activity is not None
            assert client.stats.last_activity >= stalled_until  # it reads and answers again
