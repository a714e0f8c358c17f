"""Agents by name, from `[NAME=]module:function`, and the permissions in rooms.

    agents = import_agents(["my_agents:shout", "old=my_agents:whisper"])
    may = import_permissions("my_rooms:may")

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
from netra_trio.rooms.permission import PermissionCheck

_MISSING = object()


class AgentFault(CommandError):
    """An agent cannot be imported, or is none; the text names its place and says what to do."""


@frozen
class AgentSpec:
    """The value of `--agent` or `--rooms`.

    Attributes:
        option: The option.
        text: The whole text.
        name: The name of the agent; for `--rooms`, the name of the function.
        module: The module to import.
        attribute: The object in the module.
    """

    option: str
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
        return cls("--agent", text, name or attribute, module, attribute)


def import_agents(texts: Sequence[str]) -> dict[str, Agent]:
    """Import agents, from the working directory too.

    Raises:
        AgentFault: A text has another form, its object cannot be imported or is no agent, or a
            name is repeated.
    """
    _find_in_working_directory()
    agents: dict[str, Agent] = {}
    for text in texts:
        spec = AgentSpec.parse(text)
        if spec.name in agents:
            raise AgentFault(
                f"--agent: the name {spec.name!r} is given twice; use NAME=module:function"
            )
        agents[spec.name] = as_agent(load_agent(spec), spec)
    return agents


def import_permissions(text: str) -> PermissionCheck:
    """Import the function for permissions in rooms, also from the working directory.

    Args:
        text: `module:function`.

    Raises:
        AgentFault: The text has another form, the function cannot be imported, or it is not an
            async function of a user, a room and an action.
    """
    _find_in_working_directory()
    module, colon, attribute = text.partition(":")
    if not (module and colon and attribute):
        raise AgentFault(f"--rooms: expected module:function, got {text!r}")
    spec = AgentSpec("--rooms", text, attribute, module, attribute)
    found: Any = load_agent(spec)
    function = _function_of(found)
    if not inspect.iscoroutinefunction(function):
        expected = "an async function of a user, a room and an action"
        raise _fault(spec, f"expected {expected}, got {type(found).__name__}")
    try:
        inspect.signature(function).bind("user", "room", "join")
    except TypeError as error:
        raise _fault(spec, f"cannot be called with a user, a room and an action: {error}") from None
    return cast("PermissionCheck", found)


def _find_in_working_directory() -> None:
    """Add the working directory to the import path, unless it is in it."""
    if sys.path[:1] != [str(Path.cwd())]:
        sys.path.insert(0, str(Path.cwd()))


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
    return AgentFault(f"{spec.option} {spec.text}: {what}")
