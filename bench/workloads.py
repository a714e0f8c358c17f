"""The workloads, and their amounts in a quick and in a full pass.

workload = WORKLOADS["stream"]
workload.parameters(full=False)["connections"]  # 50
"""

from collections.abc import Mapping, Sequence

from attrs import field, frozen

Amount = Mapping[str, float | str]

UNLIMITED = "1000000000"  # messages per minute: the rate limit must not be measured
HEARTBEAT = 30.0  # seconds, the default of the protocol

FASTAPI, FLOOR = "fastapi", "floor"
"""The servers that ratios refer to."""

NETRA, BROKER, WORKERS = "netra", "netra-broker", "netra-workers"
"""This project with one process, with one and a Valkey, and with two."""


@frozen
class Workload:
    """One kind of work.

    Attributes:
        about: A line that describes it.
        scenario: The name of the load's function, see `bench.load`.
        unit: The unit that figures refer to.
        figure: The main figure, by its name in `bench.figures`.
        quick: Parameters of the quick pass.
        full: Parameters of the full pass.
        always: Parameters of both passes.
        bases: The servers that ratios refer to.
        unlimited: Whether the rate limit of messages is raised.
        resumes: Whether it needs a server with sessions that a client can resume.
        rooms: Whether it needs a server with rooms.
        pinned: Whether the server runs on one CPU, and the load on the others.
        compares: The kinds of servers that it compares, if two of them are measured; empty for all.
    """

    about: str
    scenario: str
    unit: str
    figure: str
    quick: Amount
    full: Amount
    always: Amount = field(factory=dict)
    bases: Sequence[str] = (FASTAPI,)
    unlimited: bool = True
    resumes: bool = False
    rooms: bool = False
    pinned: bool = False
    compares: Sequence[str] = ()

    def parameters(self, *, full: bool) -> dict[str, float | str]:
        """Return all parameters of a pass; `heartbeat` is for the server."""
        amount = self.full if full else self.quick
        return {"unit": self.unit, "heartbeat": HEARTBEAT, **self.always, **amount}


_QUICK: Amount = {"connections": 50, "warm_up": 0.5, "seconds": 1.5}
_FULL: Amount = {"connections": 50, "warm_up": 3, "seconds": 10}

WORKLOADS: Mapping[str, Workload] = {
    "paced": Workload(
        "150 runs side by side, each emits a token every 50 ms, as a model does",
        "paced",
        unit="event",
        figure="cpu_us",
        bases=(FASTAPI, FLOOR),
        quick={"connections": 150, "ramp": 0.5, "warm_up": 0.5, "seconds": 4},
        full={"connections": 150, "ramp": 2, "warm_up": 2, "seconds": 20},
    ),
    "capacity": Workload(
        "as many paced runs as one core serves with a p99 of at most 50 ms",
        "capacity",
        unit="event",
        figure="per_second",
        always={"limit_ms": 50, "most": 4000},
        bases=(FASTAPI, FLOOR),
        pinned=True,
        quick={
            "first": 400,
            "growth": 1.5,
            "precision": 1.5,
            "probes": 6,
            "ramp": 0.75,
            "warm_up": 0.25,
            "seconds": 1,
        },
        full={
            "first": 300,
            "growth": 1.25,
            "precision": 1.03,
            "probes": 20,
            "ramp": 2,
            "warm_up": 2,
            "seconds": 5,
        },
    ),
    "stream": Workload(
        "one message, 200 deltas; the next message when the run has ended",
        "loop",
        unit="event",
        figure="cpu_us",
        always={"agent": "stream", "in_flight": 1},
        bases=(FASTAPI, FLOOR),
        quick=_QUICK,
        full=_FULL,
    ),
    "echo": Workload(
        "one message in flight on each connection, a whole run of four events each",
        "loop",
        unit="message",
        figure="cpu_us",
        always={"agent": "echo", "in_flight": 1},
        bases=(FASTAPI, FLOOR),
        quick=_QUICK,
        full=_FULL,
    ),
    "echo16": Workload(
        "16 messages in flight on each connection, each in a thread of its own",
        "loop",
        unit="message",
        figure="cpu_us",
        always={"agent": "echo", "in_flight": 16},
        bases=(FASTAPI, FLOOR),
        quick=_QUICK,
        full=_FULL,
    ),
    "keyed": Workload(
        "as echo, with a key: confirmed and completed after the commit to the database",
        "loop",
        unit="message",
        figure="confirmed_p99_ms",
        always={"agent": "echo", "in_flight": 1, "keyed": 1},
        quick=_QUICK,
        full=_FULL,
    ),
    "connect": Workload(
        "connections at a steady rate: open with a token, get established, close",
        "connect",
        unit="connection",
        figure="p99_ms",
        quick={"rate": 100, "warm_up": 1, "seconds": 2},
        full={"rate": 150, "warm_up": 2, "seconds": 20},
        unlimited=False,
    ),
    "memory": Workload(
        "10 messages and one stream on each connection, then no traffic",
        "memory",
        unit="connection",
        figure="pss_kib",
        quick={"connections": 200, "seconds": 2},
        full={"connections": 2000, "seconds": 5},
        unlimited=False,
    ),
    "idle": Workload(
        "no traffic but heartbeats",
        "idle",
        unit="connection",
        figure="core_percent",
        quick={"connections": 200, "heartbeat": 1, "warm_up": 1, "seconds": 4},
        full={"connections": 1000, "warm_up": 5, "seconds": 60},
        unlimited=False,
    ),
    "growth": Workload(
        "stream on few connections, then on as many at a time of a large number",
        "growth",
        unit="event",
        figure="growth",
        quick={"few": 50, "connections": 500, "warm_up": 0.5, "seconds": 1.5},
        full={"few": 50, "connections": 5000, "warm_up": 5, "seconds": 15},
    ),
    "resume": Workload(
        "stream; then resume sessions that are 1 000 events behind, repeatedly",
        "resume",
        unit="event",
        figure="replay",
        resumes=True,
        quick={"connections": 10, "warm_up": 0.5, "seconds": 1.5},
        full={"connections": 20, "warm_up": 3, "seconds": 10},
    ),
    "storm": Workload(
        "all connections are lost at once in the middle of a run; all reconnect with full jitter",
        "storm",
        unit="connection",
        figure="p99_ms",
        resumes=True,
        quick={"connections": 200, "seconds": 1},
        full={"connections": 1000, "seconds": 5},
    ),
    "fanout": Workload(
        "one client publishes 20 events a second to a room of 1 000 members",
        "fanout",
        unit="frame",
        figure="cpu_us",
        rooms=True,
        always={"rate": 20},
        quick={"connections": 200, "warm_up": 0.5, "seconds": 2},
        full={"connections": 1000, "warm_up": 3, "seconds": 15},
    ),
    "fanout-slow": Workload(
        "as fanout, with one more member that reads nothing, and one that reads 1 KiB a second",
        "fanout",
        unit="frame",
        figure="p99_ms",
        rooms=True,
        always={"rate": 20, "slow": 2},
        quick={"connections": 200, "warm_up": 0.5, "seconds": 2},
        full={"connections": 1000, "warm_up": 3, "seconds": 15},
    ),
    "workers": Workload(
        "as paced, with more runs: one process and two",
        "paced",
        unit="event",
        figure="cpu_us",
        bases=(),
        compares=(NETRA, BROKER, WORKERS),
        quick={"connections": 300, "ramp": 0.5, "warm_up": 0.5, "seconds": 4},
        full={"connections": 300, "ramp": 2, "warm_up": 2, "seconds": 20},
    ),
}
"""Every workload, in the order in which it is run and shown."""


def shown(name: str, parameters: Mapping[str, float | str]) -> str:
    """Return a workload's name with the parameters that its figures depend on.

    >>> shown("idle", {"connections": 200, "heartbeat": 1})
    'idle: 200 conn., heartbeat 1 s'
    """
    parts = []
    if "rate" in parameters:
        parts.append(f"{parameters['rate']}/s")
    if "limit_ms" in parameters:
        parts.append(f"p99 up to {parameters['limit_ms']} ms")
    if "few" in parameters:
        parts.append(f"{parameters['few']} of")
    if "connections" in parameters:
        parts.append(f"{parameters['connections']} conn.")
    if parameters.get("heartbeat", HEARTBEAT) != HEARTBEAT:
        parts.append(f"heartbeat {parameters['heartbeat']} s")
    return f"{name}: {', '.join(parts)}".replace("of,", "of")
