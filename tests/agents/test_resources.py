"""The resources of agents: opened before any run, and closed after all runs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from attrs import evolve

from netra_trio import Application, Run, Settings, create_app
from netra_trio.errors import AgentUnusable
from netra_trio.stores.memory import MemoryStore

SECRET = "0123456789abcdef0123456789abcdef"


class Shop:
    """An agent with a resource, which records the order of events."""

    def __init__(self, name: str, events: list[str], *, broken: bool = False) -> None:
        self.name = name
        self.events = events
        self.broken = broken

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        if self.broken:
            raise OSError("no route to the model")
        self.events.append(f"open {self.name}")
        await trio.lowlevel.checkpoint()
        try:
            yield
        finally:
            self.events.append(f"close {self.name}")

    async def __call__(self, run: Run) -> str:
        return run.content


async def plain(run: Run) -> str:
    return run.content


def application(**agents: object) -> Application:
    settings = evolve(Settings(), jwt_secret_key=SECRET)
    return create_app(agents=agents, settings=settings, store=MemoryStore())  # type: ignore[arg-type]


async def test_resources_are_opened_in_order_and_closed_in_reverse_order() -> None:
    events: list[str] = []
    app = application(a=Shop("a", events), b=plain, c=Shop("c", events))
    async with app.running():
        events.append("running")
    assert events == ["open a", "open c", "running", "close c", "close a"]


async def test_an_agent_with_two_names_is_opened_once() -> None:
    events: list[str] = []
    shop = Shop("a", events)
    async with application(a=shop, b=shop).running():
        pass
    assert events == ["open a", "close a"]


async def test_an_agent_that_cannot_be_opened_stops_the_start_and_closes_the_others() -> None:
    events: list[str] = []
    app = application(a=Shop("a", events), b=Shop("b", events, broken=True))
    with pytest.raises(AgentUnusable) as caught:
        async with app.running():
            events.append("running")
    assert str(caught.value) == ("The agent 'b' cannot be opened: OSError: no route to the model")
    assert events == ["open a", "close a"]


async def test_resources_are_closed_after_the_runs_when_the_application_fails() -> None:
    events: list[str] = []
    app = application(a=Shop("a", events))
    with pytest.raises(ExceptionGroup):
        async with app.running():
            raise RuntimeError("on purpose")
    assert events == ["open a", "close a"]


async def test_resources_are_closed_when_the_application_is_cancelled() -> None:
    events: list[str] = []
    app = application(a=Shop("a", events))
    with trio.CancelScope() as scope:
        async with app.running():
            scope.cancel()
            await trio.sleep_forever()
    assert events == ["open a", "close a"]
