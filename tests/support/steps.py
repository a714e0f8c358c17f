"""A Trio program that a test runs step by step, on a virtual clock that stops between the steps.

    program = Program()
    program.do(trio.sleep, 3600)
    program.end()

Trio runs in another thread, so that a state machine of Hypothesis, which is not async, has one
program for all of its steps. At any time one of the two threads waits for the other.
"""

from collections.abc import Awaitable, Callable
from math import inf
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import outcome
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

STEP_SECONDS = 50_000.0  # seconds of virtual time for a step

T = TypeVar("T")
Step = Callable[[], Awaitable[Any]]


class Program:
    """A running program; its clock moves during a step.

    Attributes:
        nursery: For tasks that continue from step to step.
    """

    nursery: trio.Nursery

    def __init__(self) -> None:
        self._clock = MockClock()
        self._steps: list[Step] = []
        self._requested = trio.Event()
        self._results: SimpleQueue[outcome.Outcome[Any]] = SimpleQueue()
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()
        self._results.get().unwrap()

    def do(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run one step and return its result; an exception ends the program."""
        self._steps.append(lambda: function(*args))
        result: T = self._request()
        return result

    def end(self) -> None:
        """End the program; does nothing if it has ended."""
        if self._thread.is_alive():
            self._request()
        self._thread.join()

    def _request(self) -> Any:
        assert self._token is not None
        self._token.run_sync_soon(self._requested.set)
        return self._results.get().unwrap()

    def _run(self) -> None:
        self._results.put(outcome.capture(lambda: trio.run(self._main, clock=self._clock)))

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        result: Any = None
        async with trio.open_nursery() as self.nursery:
            while True:
                self._clock.autojump_threshold = inf
                await wait_all_tasks_blocked()
                self._results.put(outcome.Value(result))
                await self._requested.wait()
                self._requested = trio.Event()
                self._clock.autojump_threshold = 0
                if not self._steps:
                    break
                with trio.fail_after(STEP_SECONDS):
                    result = await self._steps.pop()()
            self.nursery.cancel_scope.cancel()
