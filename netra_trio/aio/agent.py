"""Agents that run in the asyncio thread.

@asyncio_agent
async def answer(run: AsyncioRun) -> str:
    await asyncio.sleep(1)
    return run.content
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from netra_trio.agents.run import Run
from netra_trio.aio.bridge import Bridge
from netra_trio.aio.run import AsyncioRun
from netra_trio.aio.thread import current_thread, open_thread

Resources = Callable[[], AbstractAsyncContextManager[object]]
"""Returns an asyncio context manager that lives as long as the application."""


class AsyncioAgent:
    """An agent whose function runs in the asyncio thread; made by `asyncio_agent`.

    Args:
        function: The async function.
        resources: Entered in the asyncio thread when the application opens, and exited when it
            closes.
        name: The name for the developer; that of the function by default.
    """

    def __init__(
        self,
        function: Callable[[AsyncioRun], Awaitable[Any]],
        resources: Resources | None = None,
        *,
        name: str | None = None,
    ) -> None:
        self._function = function
        self._resources = resources
        self.__name__ = getattr(function, "__name__", "agent") if name is None else name

    def __repr__(self) -> str:
        return f"<asyncio agent {self.__name__}>"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold the asyncio thread, and the resources in it."""
        async with open_thread() as thread:
            if self._resources is None:
                yield
            else:
                async with thread.entered(self._resources, self.__name__):
                    yield

    async def __call__(self, run: Run) -> Any:
        """Run the function in the asyncio thread, and return its result."""
        return await Bridge(run, current_thread()).execute(self._call)

    async def _call(self, bridge: Bridge) -> Any:
        return await self._function(AsyncioRun(bridge))


def asyncio_agent(
    function: Callable[[AsyncioRun], Awaitable[Any]], *, resources: Resources | None = None
) -> AsyncioAgent:
    """Make an agent of an async function for asyncio; also a decorator.

    Args:
        function: Takes an `AsyncioRun`, and returns the result of the run.
        resources: Returns an asyncio context manager that is entered when the application opens.
    """
    return AsyncioAgent(function, resources)
