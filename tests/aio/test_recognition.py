"""Objects of frameworks, recognized by their class, without an import of a framework."""

import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

import netra_trio.aio
from netra_trio import Run, Settings, create_app
from netra_trio.agents.options import agent, options_of
from netra_trio.aio import AsyncioRun, asyncio_agent
from netra_trio.aio.recognition import FRAMEWORKS, Framework, framework_of, recognized
from netra_trio.cli.agent_import import import_agents
from netra_trio.cli.errors import CommandError
from netra_trio.errors import AgentUnusable
from netra_trio.stores.memory import MemoryStore


def of_class(module: str, name: str, *, derived: bool = False) -> Any:
    """Return an object of a class of a framework, or of a class derived from it."""
    kind = type(name, (), {"__module__": module})
    return (type("Mine", (kind,), {}) if derived else kind)()


@pytest.mark.parametrize("derived", [False, True])
@pytest.mark.parametrize(
    ("module", "name", "adapter"),
    [
        ("pydantic_ai.agent.abstract", "AbstractAgent", "pydantic_ai"),
        ("langgraph.pregel.main", "Pregel", "langgraph"),
        ("agents.agent", "Agent", "openai_agents"),
        ("google.adk.agents.base_agent", "BaseAgent", "adk"),
        ("google.adk.apps.app", "App", "adk"),
    ],
)
def test_a_class_is_recognized(module: str, name: str, adapter: str, derived: bool) -> None:
    framework = framework_of(of_class(module, name, derived=derived))
    assert framework is not None
    assert framework.adapter == adapter


@pytest.mark.parametrize(
    ("module", "name"),
    [("agents", "Agent"), ("my_agents", "AbstractAgent"), ("google.genai", "BaseAgent")],
)
def test_a_class_of_a_user_is_not(module: str, name: str) -> None:
    found = of_class(module, name)
    assert framework_of(found) is None
    assert recognized(found) is found


async def native(run: Run) -> str:
    return run.content


@asyncio_agent
async def asynchronous(run: AsyncioRun) -> str:
    return run.content


@pytest.mark.parametrize("found", [native, asynchronous], ids=["native", "asyncio"])
def test_what_can_be_called_stays_as_it_is(found: Any) -> None:
    assert recognized(found) is found


def test_an_agent_with_options_is_recognized_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    found = of_class("google.adk.agents.base_agent", "BaseAgent")
    monkeypatch.setitem(vars(netra_trio.aio), "adk", {found: native}.get)
    given = agent(found, title="Shop", unattended="continue")
    wrapped = recognized(given)
    assert wrapped.function is native
    assert options_of(wrapped) == options_of(given)


def test_an_adapter_wraps_and_the_application_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = []

    def adapter(found: object) -> Any:
        wrapped.append(found)
        return native

    monkeypatch.setitem(vars(netra_trio.aio), "adk", adapter)
    found = of_class("google.adk.agents.base_agent", "BaseAgent")
    settings = evolve(Settings(), jwt_secret_key="0123456789abcdef0123456789abcdef")
    create_app(agents={"shop": found}, settings=settings, store=MemoryStore())
    assert wrapped == [found]


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.extra)
def test_a_framework_that_is_too_old_says_what_to_install(
    framework: Framework, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = framework.package.rstrip(".")
    for name in {module, module.partition(".")[0]}:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(vars(netra_trio.aio), framework.adapter, raising=False)
    monkeypatch.delitem(
        sys.modules, f"netra_trio.aio.frameworks.{framework.adapter}", raising=False
    )
    found = of_class(f"{framework.package}.x", min(framework.classes))
    with pytest.raises(AgentUnusable) as caught:
        recognized(found)
    assert f"pip install 'netra-trio[{framework.extra}]'" in str(caught.value)
    assert framework.distribution in str(caught.value)


def test_a_graph_that_is_not_compiled_says_so() -> None:
    with pytest.raises(AgentUnusable, match="compile"):
        recognized(of_class("langgraph.graph.state", "StateGraph"))


AGENTS = """
from netra_trio.aio import asyncio_agent

@asyncio_agent
async def answer(run):
    return run.content

class Agent:
    async def __call__(self, run):
        return run.content

mine = Agent()
graph = type("StateGraph", (), {"__module__": "langgraph.graph.state"})()
other = object()
"""


def test_the_command_takes_what_can_be_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aio_agents.py").write_text(AGENTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    agents = import_agents(["aio_agents:answer", "my=aio_agents:mine"])
    assert list(agents) == ["answer", "my"]
    for name in ("graph", "other"):
        with pytest.raises(CommandError, match=f"--agent aio_agents:{name}: "):
            import_agents([f"aio_agents:{name}"])
