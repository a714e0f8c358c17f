"""Runs a coroutine in its own context variables, in the current task.

    result = await run_in_context(agent(run), copy_context(), on_suspend)

One task executes many runs, one after the other. A context variable that an agent sets must not be
visible in the next run, so each run has its own `contextvars.Context`.
"""

from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from types import FrameType, coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


@coroutine
def run_in_context(
    function: Coroutine[Any, Any, _T], context: Context, on_suspend: Callable[[], None]
) -> Generator[Any, Any, _T]:
    """Await a coroutine in a context.

    Args:
        function: The coroutine.
        context: The context of the coroutine and of the tasks that it starts.
        on_suspend: Called once, when the coroutine first gives control to the event loop; not
            called if it ends before.
    """
    try:
        request = context.run(function.send, None)
        on_suspend()
        while True:  # Trio resumes a task only by `send`; a cancellation is sent as a value too
            # Without a local variable: an exception in it would be in a cycle with this frame.
            request = context.run(function.send, (yield request))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        function.close()  # if this generator is closed; no effect if the coroutine has ended


def context_of(frame: FrameType) -> Context | None:
    """Return the context of a frame of `run_in_context`; None for any other frame."""
    if frame.f_code is not run_in_context.__code__:
        return None
    context: Context = frame.f_locals["context"]
    return context
