"""The resources of agents: opened with the application, and closed with it.

    class Shop:
        @asynccontextmanager
        async def open(self) -> AsyncIterator[None]:
            async with httpx2.AsyncClient() as self.http:
                yield

        async def __call__(self, run: Run) -> str: ...

    app = create_app(agents={"shop": Shop()})

If an agent is an object with a method `open`, the application enters the context manager that it
returns before the first connection, and exits it after the last session has ended.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Protocol, runtime_checkable

from netra_trio.agents.options import AgentWithOptions
from netra_trio.agents.run import Agent
from netra_trio.errors import AgentUnusable


@runtime_checkable
class HasResources(Protocol):
    """An agent with resources."""

    def open(self) -> AbstractAsyncContextManager[object]:
        """Open the resources that runs use, and close them at the end of the block."""
        ...


def resources_of(
    agents: Mapping[str, Agent],
) -> list[Callable[[], AbstractAsyncContextManager[None]]]:
    """Return functions that open the resources of the agents, in their order; one for each object.

    Entering the context manager of such a function raises `AgentUnusable` if `open` fails.
    """
    owners: dict[int, tuple[str, object]] = {}
    for name, each in agents.items():
        agent = each.function if isinstance(each, AgentWithOptions) else each
        owners.setdefault(id(agent), (name, agent))
    return [
        partial(_opened, name, agent)
        for name, agent in owners.values()
        if isinstance(agent, HasResources)
    ]


@asynccontextmanager
async def _opened(name: str, agent: HasResources) -> AsyncIterator[None]:
    """Hold the resources of one agent; the text of an error names the agent."""
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(agent.open())
        except Exception as error:
            text = f"The agent {name!r} cannot be opened: {type(error).__name__}: {error}"
            raise AgentUnusable(text) from error
        yield
