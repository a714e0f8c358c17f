"""The interface `ThreadDirectory`: the order of the runs of each thread, and the message rate.

    admitted = await threads.admit(wish)            # one round trip for each message
    ...                                             # the run starts, and ends
    following = await threads.leave(user_id, thread_id, run_id)

A thread belongs to a user. Its line has the runs of all nodes; one of them is the first and may
start, the others wait. A run that is admitted enters its line and leaves it when it has ended.
`hold` repairs what was lost: a node calls it for its runs every second. The suite
`tests/broker/test_threads_contract.py` checks each implementation.

Runs of nodes without a lease are removed wherever they are found, if the asking node has a lease:
without one, the server may have lost all leases.

Calls are applied in the order in which they begin, not in that of the answers. Every method raises
`BrokerUnavailable` if the server does not answer in time. Cancelling is always safe. After a call
that raised or was cancelled, its change may have been made all the same.
"""

from collections.abc import Awaitable, Sequence
from enum import Enum
from typing import Protocol

from attrs import frozen

from netra_trio.ids import NodeId, RunId, ThreadId, UserId
from netra_trio.protocol.messages import OnBusy

LINE_SECONDS = 172_800.0  # without a call for it, a line is forgotten; twice the longest question
ORDER_STEP = 1e-6  # between two runs of one moment


@frozen
class Wish:
    """A message that asks for a rate slot and a place in its thread.

    Attributes:
        rate: Messages of the user in each minute.
        burst: Further messages, which start later.
    """

    user_id: UserId
    thread_id: ThreadId
    run_id: RunId
    on_busy: OnBusy
    rate: int
    burst: int


class Outcome(Enum):
    """The outcome of a wish.

    FIRST: The run may start when its rate slot is due.
    BEHIND: It waits for the runs ahead of it.
    BUSY: It is refused, because the thread has a run.
    TOO_FAST: It is refused, because of the rate.
    """

    FIRST = "first"
    BEHIND = "behind"
    BUSY = "busy"
    TOO_FAST = "too_fast"


@frozen
class Admitted:
    """The answer to a wish.

    Attributes:
        seconds: Until its rate slot; if it is `TOO_FAST`, until it would be accepted.
        slot: The rate slot, on the server's clock, in seconds.
        order: Its place in the line, on the server's clock; less than 0 if it interrupts.
        position: The number of runs ahead, from 1; one more if none of them may start yet.
        epoch: Is another one after the server has lost everything.
    """

    outcome: Outcome
    epoch: str
    seconds: float = 0.0
    slot: float = 0.0
    order: float = 0.0
    position: int = 1


@frozen
class Entry:
    """A run of this node in the line of its thread.

    Attributes:
        order: As it was admitted.
        is_active: Whether it has started.
    """

    user_id: UserId
    thread_id: ThreadId
    run_id: RunId
    order: float
    is_active: bool


@frozen
class First:
    """The first run of a thread."""

    run_id: RunId
    node: NodeId
    order: float


@frozen
class Held:
    """The answer to `hold`.

    Attributes:
        epoch: Is another one after the server has lost everything.
        now: The time on the server's clock.
        firsts: For each entry, the first run of its thread.
    """

    epoch: str
    now: float
    firsts: Sequence[First]


class ThreadDirectory(Protocol):
    """The lines of all threads, as one node sees them."""

    @property
    def node(self) -> NodeId:
        """The node that uses this object."""
        ...

    async def admit(self, wish: Wish) -> Admitted:
        """Take a rate slot and a place in the thread, both or none.

        The rate is that of `netra_trio.protocol.ratelimit.SlidingWindow`.
        """
        ...

    async def take_slot(self, user_id: UserId, *, rate: int, burst: int) -> float:
        """Take a rate slot for a message that may not wait, outside of all threads.

        Args:
            user_id: The user.
            rate: Messages of the user in each minute.
            burst: Further messages, which start later; they are not used here.

        Returns:
            0; or the seconds until there is such a slot, and none is taken.
        """
        ...

    def leave(
        self, user_id: UserId, thread_id: ThreadId, run_id: RunId, *, slot: float | None = None
    ) -> Awaitable[First | None]:
        """Remove a run of this node from its line; no effect if it is not there.

        The call begins at once, not when the answer is awaited.

        Args:
            user_id: The user.
            thread_id: The thread.
            run_id: The run.
            slot: Its rate slot, to be given back if the message was not recorded.

        Returns:
            The run that may start now; None if no other run has become the first.
        """
        ...

    async def hold(self, entries: Sequence[Entry]) -> Held:
        """Keep runs of this node in their lines, where they were or where they have to be.

        A run of another node becomes one of this node. Lost entries are added again in their order;
        a run that is already the first of a thread stays so beside another one.
        """
        ...

    async def step_back(self, entry: Entry) -> First:
        """Let the runs that interrupt go first, as the first run has not started.

        Returns:
            The first run, which may be the same one.
        """
        ...


class SharedPlace(Protocol):
    """A run of this process in the line of its thread, as the admission over all nodes sees it.

    Attributes:
        is_active: Whether the run has started.
        is_granted: Whether it may start; None if this process decides alone.
        is_refused: Whether its message was not recorded, so that its rate slot is given back.
        position: As it was admitted.
    """

    is_active: bool
    is_granted: bool | None
    is_refused: bool
    position: int | None

    @property
    def run(self) -> str:
        """The run."""
        ...

    @property
    def thread(self) -> str:
        """Its thread."""
        ...

    def wake(self) -> None:
        """Start it if it is due, in a moment."""
        ...

    def interrupt(self) -> None:
        """Cancel it, as it has started and another run comes next."""
        ...


class SharedAdmission(Protocol):
    """Admits messages over all nodes, and keeps the lines of their threads."""

    async def admit(self, user_id: UserId, place: SharedPlace, on_busy: OnBusy) -> Admitted | None:
        """Take a rate slot and a place in the thread.

        Returns:
            The answer; it is in `place` too. None if this process has to decide alone.
        """
        ...

    async def take_slot(self, user_id: UserId) -> float | None:
        """Take a rate slot for a message that may not wait, outside of all threads.

        Returns:
            0; the seconds until there is such a slot; or None if this process decides alone.
        """
        ...

    def adopt(self, user_id: UserId, place: SharedPlace) -> None:
        """Take over the place of a run that waited on another node."""
        ...

    def interrupt(self, place: SharedPlace) -> None:
        """Cancel the first run of a thread, which this one interrupts, on whichever node it is."""
        ...

    def leave(self, place: SharedPlace) -> None:
        """Give a place back, and the rate slot of a refused one; no effect if it was released."""
        ...

    def release(self, place: SharedPlace) -> None:
        """Forget a place without giving it back, as its run moves to another node."""
        ...
