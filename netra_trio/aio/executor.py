"""The executor of the asyncio loop: threads that do not delay the exit of the process.

The default executor of asyncio joins its threads when the interpreter exits, so a tool that blocks
in `asyncio.to_thread` would keep a stopped server alive. Trio's thread cache has daemon threads.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import trio

THREADS = 40  # at once, as Trio's default limiter allows; more calls wait in their order


class DaemonExecutor(ThreadPoolExecutor):
    """An executor with at most `THREADS` daemon threads.

    It is a `ThreadPoolExecutor` because asyncio accepts no other class as the default executor.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1)  # of the base class: its threads are never started
        self._mutex = threading.Lock()
        self._active = 0
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a function in a thread, as soon as one is free."""
        future: Future[Any] = Future()
        with self._mutex:
            self._calls.append((future, partial(fn, *args, **kwargs)))
        self._start()
        return future

    def _start(self) -> None:
        while True:
            with self._mutex:
                if not self._calls or self._active == THREADS:
                    return
                future, call = self._calls.popleft()
                if not future.set_running_or_notify_cancel():
                    continue
                self._active += 1
            trio.lowlevel.start_thread_soon(call, partial(self._finish, future))

    def _finish(self, future: Future[Any], outcome: Any) -> None:
        with self._mutex:
            self._active -= 1
        self._start()
        try:
            result = outcome.unwrap()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
