"""The thread directory on Valkey or Redis."""

import secrets
from collections.abc import Awaitable, Generator, Sequence
from typing import Any

from attrs import define, frozen

from netra_trio.broker.threads import (
    LINE_SECONDS,
    ORDER_STEP,
    Admitted,
    Entry,
    First,
    Held,
    Outcome,
    Wish,
)
from netra_trio.broker.valkey import keys, scripts
from netra_trio.broker.valkey.calls import (
    Calls,
    checked,
    evaluation,
    is_missing_script,
    milliseconds,
)
from netra_trio.broker.valkey.connection import Command, Reply
from netra_trio.ids import NodeId, RunId, ThreadId, UserId
from netra_trio.protocol.ratelimit import group_seconds


@frozen
class _Leaving:
    """The awaitable answer to `leave`; it need not be awaited."""

    calls: Calls
    command: Command
    reply: Reply

    def __await__(self) -> Generator[Any, None, First | None]:
        return self._wait().__await__()

    async def _wait(self) -> First | None:
        (value,) = await self.reply
        if is_missing_script(value):
            (value,) = await self.calls.run_all([self.command])
        parts = checked(value)
        return _first(parts) if parts else None


@define(eq=False)
class ValkeyThreads:
    """The `ThreadDirectory` of one node."""

    node: NodeId
    _calls: Calls

    async def admit(self, wish: Wish) -> Admitted:
        """Take a rate slot and a place in the thread, both or none."""
        of_user = keys.of_user(wish.user_id)
        outcome, epoch, seconds, *place = await self._calls.run(
            scripts.ADMIT,
            [of_user["rate"], keys.line(wish.user_id, wish.thread_id), keys.EPOCH],
            [
                _candidate(),
                wish.run_id,
                self.node,
                wish.on_busy.value,
                wish.rate,
                wish.burst,
                repr(group_seconds(wish.rate)),
                milliseconds(LINE_SECONDS),
                keys.LEASE_PREFIX,
                repr(ORDER_STEP),
            ],
        )
        admitted = Admitted(Outcome(outcome.decode()), epoch.decode(), float(seconds))
        if not place:
            return admitted
        slot, order, position = place
        return Admitted(
            admitted.outcome,
            admitted.epoch,
            admitted.seconds,
            float(slot),
            float(order),
            position,
        )

    async def take_slot(self, user_id: UserId, *, rate: int, burst: int) -> float:  # noqa: ARG002 - none waits
        """Take a rate slot for a message that may not wait."""
        seconds = await self._calls.run(
            scripts.TAKE_SLOT, [keys.of_user(user_id)["rate"]], [rate, repr(group_seconds(rate))]
        )
        return float(seconds)

    def leave(
        self, user_id: UserId, thread_id: ThreadId, run_id: RunId, *, slot: float | None = None
    ) -> Awaitable[First | None]:
        """Remove a run of this node from its line."""
        command = evaluation(
            scripts.LEAVE,
            [keys.line(user_id, thread_id), keys.of_user(user_id)["rate"]],
            [
                run_id,
                self.node,
                "" if slot is None else repr(slot),
                milliseconds(LINE_SECONDS),
                keys.LEASE_PREFIX,
            ],
        )
        return _Leaving(self._calls, command, self._calls.lasting.submit([command]))

    async def hold(self, entries: Sequence[Entry]) -> Held:
        """Keep runs of this node in their lines."""
        (epoch, now), *firsts = await self._calls.run_all(
            [
                evaluation(scripts.THREADS_EPOCH, [keys.EPOCH], [_candidate()]),
                *(self._hold(each, "active" if each.is_active else "waiting") for each in entries),
            ]
        )
        return Held(epoch.decode(), float(now), [_first(parts) for parts in firsts])

    async def step_back(self, entry: Entry) -> First:
        """Let the runs that interrupt go first."""
        (parts,) = await self._calls.run_all([self._hold(entry, "back")])
        return _first(parts)

    def _hold(self, entry: Entry, state: str) -> Command:
        return evaluation(
            scripts.HOLD,
            [keys.line(entry.user_id, entry.thread_id)],
            [
                entry.run_id,
                self.node,
                repr(entry.order),
                state,
                milliseconds(LINE_SECONDS),
                keys.LEASE_PREFIX,
            ],
        )


def _candidate() -> str:
    return secrets.token_urlsafe(9)


def _first(parts: Sequence[bytes]) -> First:
    run_id, node, order = parts
    return First(RunId(run_id.decode()), NodeId(node.decode()), float(order))
