"""A client for Trio programs: it reconnects, resumes, and repeats unconfirmed messages.

from netra_trio.client import connect

async with connect("ws://localhost:8000/ws", token=token) as client:
    run = await client.send("hello")
    print(await run.text())
"""

from netra_trio.client.client import Client, connect
from netra_trio.client.errors import (
    BudgetExceeded,
    ClientClosed,
    ClientError,
    ConnectionClosed,
    ConnectionRefused,
    GaveUp,
    MessageRefused,
    MessageUncertain,
    OutboxFull,
    OutboxUnusable,
    RunFailed,
    RunLost,
    TokenFailed,
    TokenUnavailable,
    TransferFailed,
)
from netra_trio.client.event import Event
from netra_trio.client.fallback import Transport
from netra_trio.client.feed import Events
from netra_trio.client.files import Download, File
from netra_trio.client.network import Network
from netra_trio.client.rooms import Published, Room
from netra_trio.client.run import Run
from netra_trio.client.sockets import Dialer, NoAnswer, OpeningRefused, Socket, SocketClosed
from netra_trio.client.stats import Stats, Status
from netra_trio.client.threads import Threads
from netra_trio.client.watch import Watch

__all__ = [
    "BudgetExceeded",
    "Client",
    "ClientClosed",
    "ClientError",
    "ConnectionClosed",
    "ConnectionRefused",
    "Dialer",
    "Download",
    "Event",
    "Events",
    "File",
    "GaveUp",
    "MessageRefused",
    "MessageUncertain",
    "Network",
    "NoAnswer",
    "OpeningRefused",
    "OutboxFull",
    "OutboxUnusable",
    "Published",
    "Room",
    "Run",
    "RunFailed",
    "RunLost",
    "Socket",
    "SocketClosed",
    "Stats",
    "Status",
    "Threads",
    "TokenFailed",
    "TokenUnavailable",
    "TransferFailed",
    "Transport",
    "Watch",
    "connect",
]
