"""Agents by name, from `[NAME=]module:function`.

    agents = import_agents(["my_agents:shout", "old=my_agents:whisper"])

Two steps: `load_agent` imports the object that the text names, and `as_agent` returns the agent
that the object is. An error names the file and the line, and says what to do.
"""

import importlib
import inspect
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from attrs import frozen

from netra_trio.agents.run import Agent
from netra_trio.aio.recognition import recognized
from netra_trio.cli.agent_faults import (
    import_fault,
    missing_attribute,
    not_async,
    not_callable_with_a_run,
)
from netra_trio.cli.errors import CommandError
from netra_trio.errors import AgentUnusable

_MISSING = object()


class AgentFault(CommandError):
    """An agent cannot be imported, or is none; the text names its place and says what to do."""


@frozen
class AgentSpec:
    """What `--agent` is given.

    Attributes:
        text: The whole text.
        name: The name of the agent.
        module: The module to import.
        attribute: The object in the module.
    """

    text: str
    name: str
    module: str
    attribute: str

    @classmethod
    def parse(cls, text: str) -> "AgentSpec":
        """Parse `[NAME=]module:function`; without a name, the agent has that of the function.

        Raises:
            AgentFault: The text has another form.
        """
        name, _, place = text.rpartition("=")
        module, colon, attribute = place.partition(":")
        if not (module and colon and attribute):
            raise AgentFault(f"--agent: expected [NAME=]module:function, got {text!r}")
        return cls(text, name or attribute, module, attribute)


def import_agents(texts: Sequence[str]) -> dict[str, Agent]:
    """Import agents, from the working directory too.

    Raises:
        AgentFault: A text has another form, its object cannot be imported or is no agent, or a
            name is repeated.
    """
    sys.path.insert(0, str(Path.cwd()))
    agents: dict[str, Agent] = {}
    for text in texts:
        spec = AgentSpec.parse(text)
        if spec.name in agents:
            raise AgentFault(
                f"--agent: the name {spec.name!r} is given twice; use NAME=module:function"
            )
        agents[spec.name] = as_agent(load_agent(spec), spec)
    return agents


def load_agent(spec: AgentSpec) -> object:
    """Import the object that a text names.

    Raises:
        AgentFault: The module or the object does not exist, or the module cannot be imported.
    """
    try:
        module = importlib.import_module(spec.module)
    except (Exception, SystemExit) as error:
        raise _fault(spec, import_fault(spec.module, error)) from None
    found: object = getattr(module, spec.attribute, _MISSING)
    if found is _MISSING:
        raise _fault(spec, missing_attribute(module, spec.attribute))
    return found


def as_agent(found: object, spec: AgentSpec) -> Agent:
    """Return the agent that an imported object is.

    Raises:
        AgentFault: It is not an async function, cannot be called with one argument, or is of a
            framework that cannot be used.
    """
    try:
        found = recognized(found)
    except (AgentUnusable, TypeError) as error:
        raise _fault(spec, str(error)) from None
    function = _function_of(found)
    if not inspect.iscoroutinefunction(function):
        raise _fault(spec, f"expected an async function of a Run: {not_async(found)}")
    why = not_callable_with_a_run(function)
    if why is not None:
        raise _fault(spec, why)
    return cast("Agent", found)


def _function_of(found: object) -> Any:
    """Return the function that a call runs: an object with an async `__call__` is an agent too."""
    if isinstance(found, partial) or inspect.isroutine(found) or inspect.isclass(found):
        return found
    return getattr(found, "__call__", found)  # noqa: B004 - the method itself is needed


def _fault(spec: AgentSpec, what: str) -> AgentFault:
    return AgentFault(f"--agent {spec.text}: {what}")
