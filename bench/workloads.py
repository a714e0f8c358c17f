"""The workloads: what each one is, and how much of it makes a quick or a full pass.

workload = WORKLOADS["stream"]
workload.parameters(full=False)["connections"]  # 50
"""

from collections.abc import Mapping

from attrs import field, frozen

Amount = Mapping[str, float | str]

UNLIMITED = "1000000000"  # messages per minute: what is measured is not the limit
HEARTBEAT = 30.0  # seconds, the default of the contract


@frozen
class Workload:
    """One kind of work.

    Attributes:
        about: What happens, in a line.
        scenario: Which function of `bench.scenarios` does it.
        unit: What it is counted in.
        figure: The one that the workload is about, by its name in `bench.figures`.
        always: Parameters of both passes.
        quick: Parameters of the quick pass.
        full: Parameters of the full pass.
        unlimited: Whether the rate of messages must not be what is measured.
        resumes: Whether it is for servers alone on which a client can go on with its session.
    """

    about: str
    scenario: str
    unit: str
    figure: str
    quick: Amount
    full: Amount
    always: Amount = field(factory=dict)
    unlimited: bool = True
    resumes: bool = False

    def parameters(self, *, full: bool) -> dict[str, float | str]:
        """Return all of a pass; `heartbeat` is for the server."""
        amount = self.full if full else self.quick
        return {"unit": self.unit, "heartbeat": HEARTBEAT, **self.always, **amount}


_QUICK: Amount = {"connections": 50, "warm_up": 0.5, "seconds": 1.5}
_FULL: Amount = {"connections": 50, "warm_up": 3, "seconds": 10}

WORKLOADS: Mapping[str, Workload] = {
    "stream": Workload(
        "one message, 200 deltas; the next one when the run has ended",
        "loop",
        unit="event",
        figure="cpu_us",
        always={"agent": "stream", "in_flight": 1},
        quick=_QUICK,
        full=_FULL,
    ),
    "echo": Workload(
        "one message in flight on each connection, a whole run of four events each",
        "loop",
        unit="message",
        figure="cpu_us",
        always={"agent": "echo", "in_flight": 1},
        quick=_QUICK,
        full=_FULL,
    ),
    "echo16": Workload(
        "16 messages in flight on each connection, each in a thread of its own",
        "loop",
        unit="message",
        figure="cpu_us",
        always={"agent": "echo", "in_flight": 16},
        quick=_QUICK,
        full=_FULL,
    ),
    "keyed": Workload(
        "as echo, with a key: confirmed and completed when the database has committed it",
        "loop",
        unit="message",
        figure="confirmed_p99_ms",
        always={"agent": "echo", "in_flight": 1, "keyed": 1},
        quick=_QUICK,
        full=_FULL,
    ),
    "connect": Workload(
        "open at a steady rate with a token, be welcomed, and close",
        "connect",
        unit="connection",
        figure="p99_ms",
        quick={"rate": 100, "warm_up": 1, "seconds": 2},
        full={"rate": 150, "warm_up": 2, "seconds": 20},
        unlimited=False,
    ),
    "memory": Workload(
        "10 messages and one stream on each connection, then silence",
        "rest",
        unit="connection",
        figure="pss_kib",
        quick={"connections": 200, "seconds": 2},
        full={"connections": 2000, "seconds": 5},
        unlimited=False,
    ),
    "idle": Workload(
        "silence but for heartbeats",
        "idle",
        unit="connection",
        figure="core_percent",
        quick={"connections": 200, "heartbeat": 1, "warm_up": 1, "seconds": 4},
        full={"connections": 1000, "warm_up": 5, "seconds": 60},
        unlimited=False,
    ),
    "growth": Workload(
        "stream on few connections, then as many at a time of very many, in turn",
        "growth",
        unit="event",
        figure="growth",
        quick={"few": 50, "connections": 500, "warm_up": 0.5, "seconds": 1.5},
        full={"few": 50, "connections": 5000, "warm_up": 5, "seconds": 15},
    ),
    "resume": Workload(
        "stream; then come back to a session 1 000 events behind, again and again",
        "resume",
        unit="event",
        figure="replay",
        resumes=True,
        quick={"connections": 10, "warm_up": 0.5, "seconds": 1.5},
        full={"connections": 20, "warm_up": 3, "seconds": 10},
    ),
    "storm": Workload(
        "every line is lost at once in the middle of a run; all come back, with full jitter",
        "storm",
        unit="connection",
        figure="p99_ms",
        resumes=True,
        quick={"connections": 200, "seconds": 1},
        full={"connections": 1000, "seconds": 5},
    ),
}
"""Every workload, in the order in which it is run and shown."""


def shown(name: str, parameters: Mapping[str, float | str]) -> str:
    """Return a workload's name with what its figures depend on.

    >>> shown("idle", {"connections": 200, "heartbeat": 1})
    'idle: 200 conn., beat 1 s'
    """
    parts = []
    if "rate" in parameters:
        parts.append(f"{parameters['rate']}/s")
    if "few" in parameters:
        parts.append(f"{parameters['few']} of")
    if "connections" in parameters:
        parts.append(f"{parameters['connections']} conn.")
    if parameters.get("heartbeat", HEARTBEAT) != HEARTBEAT:
        parts.append(f"beat {parameters['heartbeat']} s")
    return f"{name}: {', '.join(parts)}".replace("of,", "of")
