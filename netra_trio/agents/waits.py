"""The waits of a run, for the live page; a wait is marked only where it really begins.

    >>> waits = Waits()
    >>> with waits.begin("model", now=1.0), waits.begin("client", now=2.0):
    ...     waits.newest.kind
    'client'
    >>> waits.newest is None
    True

A run may wait in several tasks at the same time, so the waits do not end in the order in which they
began. Times are seconds on Trio's clock. An asyncio agent marks from its own thread: each method
changes or copies the list in one step.
"""

from typing import Self

from netra_trio.protocol.admin import Waits as Kind


class Wait:
    """One wait of a run, until the end of the `with` block.

    Attributes:
        kind: What the run waits for.
        since: When it began.
        name: The name of the tool, of a tool call.
        call_id: The id of the tool call.
    """

    __slots__ = ("_waits", "call_id", "kind", "name", "since")

    def __init__(self, waits: "Waits", kind: Kind, since: float, name: str, call_id: str) -> None:
        self._waits = waits
        self.kind = kind
        self.since = since
        self.name = name
        self.call_id = call_id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End it; no effect if it has ended."""
        if self in self._waits.all:
            self._waits.all.remove(self)


class Waits:
    """The waits of one run.

    Attributes:
        all: Those that have not ended, in the order in which they began.
    """

    __slots__ = ("all",)

    def __init__(self) -> None:
        self.all: list[Wait] = []

    def begin(self, kind: Kind, *, now: float, name: str = "", call_id: str = "") -> Wait:
        """Begin a wait, now; it ends with the `with` block, or with its `end`."""
        wait = Wait(self, kind, now, name, call_id)
        self.all.append(wait)
        return wait

    @property
    def newest(self) -> Wait | None:
        """The one that began last; None if there is none."""
        newest = self.all[-1:]  # in one step, because of the other thread
        return newest[0] if newest else None

    @property
    def tools(self) -> list[Wait]:
        """The tool calls, the oldest first."""
        return [wait for wait in self.all if wait.kind == "tool"]
