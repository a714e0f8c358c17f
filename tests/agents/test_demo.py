"""The demo agent, run as a session runs it: what triggers what, in which order, how fast."""

import re
from collections.abc import Sequence

import orjson
import pytest
import trio
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from netra_trio.agents.calculator import calculate
from netra_trio.agents.demo import (
    EXAMPLES,
    LOOKED_AT,
    PACE,
    QUOTED,
    SLOW_SECONDS,
    THINKING,
    demo,
    find_expressions,
    find_places,
    quoted,
)
from netra_trio.agents.echo import echo
from netra_trio.errors import StoreUnavailable
from netra_trio.ids import (
    CorrelationId,
    MessageId,
    ThreadId,
    UserId,
    new_message_id,
    new_run_id,
)
from netra_trio.interfaces import NewMessage, RunEnd, Store
from netra_trio.protocol.messages import (
    AgentStarted,
    AgentThinking,
    Event,
    HistoryMessage,
    PartialResult,
    RunStatus,
    ToolCompleted,
    ToolExecuting,
)
from netra_trio.runs import Agent, Ending, Execution, RunSpec
from netra_trio.stores.memory import MemoryStore

ANN, THREAD, CORRELATION = UserId("ann"), ThreadId("thread"), CorrelationId("corr")


@define
class Collector:
    """An outlet with room for everything, which keeps what it gets and when it got it."""

    events: list[Event] = field(factory=list)
    times: list[float] = field(factory=list)

    async def wait_for_room(self, size: int) -> None:
        assert size >= 0
        await trio.lowlevel.checkpoint()

    def append(self, event: Event, size: int, correlation_id: CorrelationId) -> None:
        assert size <= 256 * 1024
        assert correlation_id == CORRELATION
        self.events.append(event)
        self.times.append(trio.current_time())

    def of[T](self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]
