"""Agents by name, from `[NAME=]module:function`.

agents = import_agents(["my_agents:shout", "old=my_agents:whisper"])
"""

import importlib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from netra_trio.agents.run import Agent
from netra_trio.aio.recognition import recognized
from netra_trio.cli.errors import CommandError
from netra_trio.errors import AgentUnusable


def import_agents(specs: Sequence[str]) -> dict[str, Agent]:
    """Import agents, from the working directory too.

    Raises:
        CommandError: A text has another form, names something else than an async function, or
            repeats a name.
    """
    sys.path.insert(0, str(Path.cwd()))
    agents: dict[str, Agent] = {}
    for spec in specs:
        name, agent = _import_agent(spec)
        if name in agents:
            raise CommandError(
                f"--agent: the name {name!r} is given twice; use NAME=module:function"
            )
        agents[name] = agent
    return agents


def _import_agent(spec: str) -> tuple[str, Agent]:
    name, _, place = spec.rpartition("=")
    module_name, colon, function_name = place.partition(":")
    if not (module_name and colon and function_name):
        raise CommandError(f"--agent: expected [NAME=]module:function, got {spec!r}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise CommandError(f"--agent {spec}: {error}") from None
    agent: Any = getattr(module, function_name, None)
    if agent is None:
        raise CommandError(f"--agent {spec}: {module_name} has no {function_name}")
    try:
        agent = recognized(agent)
    except (AgentUnusable, TypeError) as error:
        raise CommandError(f"--agent {spec}: {error}") from None
    if not (inspect.iscoroutinefunction(agent) or _has_async_call(agent)):
        raise CommandError(f"--agent {spec}: expected an async function of a Run")
    return name or function_name, agent


def _has_async_call(agent: object) -> bool:
    """Whether it is an object that is called as an async function."""
    return inspect.iscoroutinefunction(getattr(type(agent), "__call__", None))  # noqa: B004
