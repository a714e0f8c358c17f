"""Tests of an agent, or of a program that talks to one, over a network with scripted faults.

    async with open_network({"shout": shout}, [Every(3, Drop())]) as network:
        async with network.connect() as client:
            run = await client.send("hello")
            assert await run.text() == "HELLO"
    assert_nothing_lost(network.trace)

The real client talks to the real server, in one process and without a socket; on a virtual clock a
day of faults takes a moment. See `docs/testing.md`.
"""

from netra_trio.testing.faults import (
    After,
    At,
    Crash,
    Delay,
    Drop,
    DuplicateConnect,
    Every,
    Fault,
    HalfOpen,
    Step,
    Throttle,
)
from netra_trio.testing.losses import assert_nothing_lost, losses
from netra_trio.testing.network import MemoryNetwork, open_network
from netra_trio.testing.server import wall_clock
from netra_trio.testing.trace import Trace

__all__ = [
    "After",
    "At",
    "Crash",
    "Delay",
    "Drop",
    "DuplicateConnect",
    "Every",
    "Fault",
    "HalfOpen",
    "MemoryNetwork",
    "Step",
    "Throttle",
    "Trace",
    "assert_nothing_lost",
    "losses",
    "open_network",
    "wall_clock",
]
