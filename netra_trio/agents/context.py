"""Run a coroutine in a context of its own, without a task of its own.

    result = await run_in_context(agent(run), copy_context(), on_suspend)

One task executes many runs in turn. What an agent sets in context variables must not reach the next
run, so each run has its own `contextvars.Context`.
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
        context: The context that it and the tasks that it starts see.
        on_suspend: Called once, where the coroutine first gives control to the event loop, and not
            at all if it ends before.
    """
    try:
        request = context.run(function.send, None)
        on_suspend()
        while True:  # Trio resumes a task by `send` alone: a cancellation is a value too
            # Not by a local variable: an exception in it would be in a cycle with this frame.
            request = context.run(function.send, (yield request))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        function.close()  # where this one is closed; nothing if it has ended


def context_of(frame: FrameType) -> Context | None:
    """Return the context that a frame runs a coroutine in, None for a frame that does not."""
    if frame.f_code is not run_in_context.__code__:
        return None
    context: Context = frame.f_locals["context"]
    return context
