"""Reports what blocks the event loop, from a thread outside of it.

    with LoopWatchdog(context_of):  # in the loop that is watched
        await serve()

A task that computes, or calls something that blocks, stops every other task. The thread asks the
loop for an answer regularly. If there is none in time, it looks which line of which task is
executed, and logs one warning.
"""

import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import Context
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import structlog
import trio
from attrs import frozen

from netra_trio.telemetry.log_context import LOG_CONTEXT

PERIOD = 0.5  # seconds between two questions
BLOCKED_SECONDS = 1.0  # without an answer: then the loop is blocked, and users notice
ONGOING_SECONDS = 10.0  # of a block that is reported before it has ended
INTERVAL = 10.0  # seconds between two warnings
IDLE_SHARE = 0.05  # of CPU time: with less, the process was suspended; other load leaves it more
TASKS = 100_000  # that are searched for the current one
FRAMES = 1000  # of the stack that are searched

_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
_SERVER = str(Path(__file__).parents[1])
_DEMO = str(Path(_SERVER, "agents", "demo"))

_log = structlog.get_logger(__name__)


@frozen
class Sample:
    """The code that the loop executes at one moment.

    Attributes:
        where: The innermost line of code outside of this server and of libraries, if any.
        task: The name of the task, if it is known.
        ids: The ids of its log lines.
    """

    where: str
    task: str | None
    ids: dict[str, str]


class LoopWatchdog:
    """A thread that watches the current event loop while the context is open.

    Args:
        context_of: Returns the context that a frame runs other code in, None for most frames: a
            task may execute several runs in turn, each in a context of its own.
        period: Seconds between two questions.
        blocked: Seconds without an answer after which the loop counts as blocked.
        ongoing: Seconds after which a block is reported although it has not ended.
    """

    def __init__(
        self,
        context_of: Callable[[FrameType], Context | None],
        *,
        period: float = PERIOD,
        blocked: float = BLOCKED_SECONDS,
        ongoing: float = ONGOING_SECONDS,
    ) -> None:
        self._context_of = context_of
        self._period, self._blocked, self._ongoing = period, blocked, ongoing
        self._answered = threading.Event()
        self._stopped = threading.Event()
        self._reported_at = -INTERVAL
        self._repeated = 0

    def __enter__(self) -> Self:
        self._token = trio.lowlevel.current_trio_token()
        self._root = trio.lowlevel.current_root_task()
        self._loop_thread = threading.get_ident()
        threading.Thread(target=self._watch, name="loop watchdog", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._answered.set()

    def _watch(self) -> None:
        while True:
            timer = _Timer(self._period)
            if self._stopped.wait(self._period):
                return
            if timer.held_seconds() > self._blocked:
                self._report(self._sample(), timer.held_seconds(), is_ongoing=False)
                continue
            timer = _Timer(self._blocked)
            self._answered.clear()
            try:
                self._token.run_sync_soon(self._answered.set)
            except trio.RunFinishedError:
                return
            if self._answered.wait(self._blocked) or timer.was_suspended():
                continue
            sample = self._sample()
            has_ended = self._answered.wait(self._ongoing - self._blocked)
            if not self._stopped.is_set():
                self._report(sample, timer.elapsed(), is_ongoing=not has_ended)
            self._answered.wait()

    def _sample(self) -> Sample:
        return take_sample(self._loop_thread, self._root, self._context_of)

    def _report(self, sample: Sample, seconds: float, *, is_ongoing: bool) -> None:
        now = time.monotonic()
        if now - self._reported_at < INTERVAL:
            self._repeated += 1
            return
        repeated, self._repeated, self._reported_at = self._repeated, 0, now
        _log.warning(
            "loop_blocked",
            seconds=round(seconds, 2),
            ongoing=is_ongoing,
            where=sample.where,
            task=sample.task,
            run_id=sample.ids.get("run_id"),
            agent=sample.ids.get("agent"),
            session_id=sample.ids.get("session_id"),
            user_id=sample.ids.get("user_id"),
            repeated=repeated,
        )


class _Timer:
    """Measures whether a wait of this thread took longer than it asked for, and why.

    Native code that does not release the interpreter delays this thread too. It is interrupted as
    soon as it returns, so that a sample still shows its line. A process that is suspended is
    delayed in the same way, but uses no CPU time.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._started, self._cpu = time.monotonic(), time.process_time()

    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def held_seconds(self) -> float:
        """Return for how long the interpreter was held beyond the asked time; 0 if suspended."""
        late = self.elapsed() - self._seconds
        return late if late > 0 and not self._is_idle(late) else 0.0

    def was_suspended(self) -> bool:
        """Return whether the process did not run for a part of the time."""
        late = self.elapsed() - self._seconds
        return late > self._seconds / 2 and self._is_idle(late)

    def _is_idle(self, late: float) -> bool:
        return time.process_time() - self._cpu < late * IDLE_SHARE


def take_sample(
    thread: int,
    root: trio.lowlevel.Task | None,
    context_of: Callable[[FrameType], Context | None],
) -> Sample:
    """Return what a thread executes, and which of the tasks below `root` that is."""
    frames = list(_stack(thread))
    task = _task_of({id(frame) for frame in frames}, root)
    shown = next((frame for frame in frames if _is_application(frame)), None)
    if shown is None:
        shown = frames[0] if frames else None
    where = "unknown"
    if shown is not None:
        code = shown.f_code
        where = f"{code.co_filename}:{shown.f_lineno} in {code.co_qualname}"
    contexts = (context for frame in frames if (context := context_of(frame)) is not None)
    context = next(contexts, None if task is None else task.context)
    ids = None if context is None else context.get(LOG_CONTEXT)
    return Sample(where, None if task is None else task.name, dict(ids or {}))


def _stack(thread: int) -> Iterator[FrameType]:
    """Return the frames of a thread, the innermost one first."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - the documented way
    for _ in range(FRAMES):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _is_application(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file.startswith("<") or file.startswith(_LIBRARIES):
        return False
    return not file.startswith(_SERVER) or file.startswith(_DEMO)


def _task_of(frames: set[int], root: trio.lowlevel.Task | None) -> trio.lowlevel.Task | None:
    """Return the task whose coroutine is among these frames."""
    left = [] if root is None else [root]
    try:
        for _ in range(TASKS):
            if not left:
                break
            task = left.pop()
            coroutine: Any = task.coro
            if id(getattr(coroutine, "cr_frame", None)) in frames:
                return task
            for nursery in task.child_nurseries:
                left.extend(nursery.child_tasks)
    except RuntimeError:  # the loop has gone on, and changes the tasks
        pass
    return None
