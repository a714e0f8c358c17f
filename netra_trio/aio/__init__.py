"""Agents for asyncio: the bridge to one asyncio thread, and adapters for agent frameworks.

    from netra_trio import create_app
    from netra_trio.aio import asyncio_agent, pydantic_ai

    app = create_app(agents={"shop": pydantic_ai(shop_agent), "mine": asyncio_agent(answer)})

A framework is imported when its adapter is called, not before.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netra_trio.aio.agent import AsyncioAgent, asyncio_agent
    from netra_trio.aio.frameworks.adk import adk
    from netra_trio.aio.frameworks.langgraph import langgraph
    from netra_trio.aio.frameworks.openai_agents import openai_agents
    from netra_trio.aio.frameworks.pydantic_ai import pydantic_ai
    from netra_trio.aio.run import AsyncioRun, AsyncioTool

__all__ = [
    "AsyncioAgent",
    "AsyncioRun",
    "AsyncioTool",
    "adk",
    "asyncio_agent",
    "langgraph",
    "openai_agents",
    "pydantic_ai",
]

_MODULES = {
    "AsyncioAgent": "agent",
    "AsyncioRun": "run",
    "AsyncioTool": "run",
    "adk": "frameworks.adk",
    "asyncio_agent": "agent",
    "langgraph": "frameworks.langgraph",
    "openai_agents": "frameworks.openai_agents",
    "pydantic_ai": "frameworks.pydantic_ai",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
