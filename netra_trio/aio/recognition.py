"""Agents of frameworks, recognized by their class: no framework is imported to look at an object.

agent = recognized(found)       # an `AsyncioAgent` for an agent of a framework, else `found` itself
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from attrs import evolve, frozen

from netra_trio.agents.options import AgentWithOptions
from netra_trio.errors import AgentUnusable


@frozen
class Framework:
    """A framework whose agents are recognized.

    Attributes:
        adapter: The name of the adapter in `netra_trio.aio`.
        extra: The extra of this package that installs it.
        distribution: The name of its distribution.
        package: The package of its classes.
        classes: The names of the classes that the adapter takes; subclasses are taken too.
    """

    adapter: str
    extra: str
    distribution: str
    package: str
    classes: frozenset[str]


FRAMEWORKS = (
    Framework(
        "pydantic_ai",
        "pydantic-ai",
        "pydantic-ai-slim",
        "pydantic_ai.",
        frozenset({"AbstractAgent"}),
    ),
    Framework("langgraph", "langgraph", "langgraph", "langgraph.", frozenset({"Pregel"})),
    # Its package has a common name; "agents." leaves out a module of a user.
    Framework(
        "openai_agents", "openai-agents", "openai-agents", "agents.agent", frozenset({"Agent"})
    ),
    Framework("adk", "google-adk", "google-adk", "google.adk.", frozenset({"BaseAgent", "App"})),
)

_UNCOMPILED = ("langgraph.", "StateGraph")


def recognized(found: Any) -> Any:
    """Return the agent that an object is: wrapped by its adapter if it is of a known framework.

    Args:
        found: Any object; one that can be called is an agent of this project already. In one that
            `agent(…)` has made, the agent inside is recognized.

    Raises:
        AgentUnusable: If it is a graph that is not compiled, or its framework is too old.
        TypeError: If its adapter needs more than the object.
    """
    if isinstance(found, AgentWithOptions):
        return evolve(found, function=recognized(found.function))
    if callable(found):
        return found
    framework = framework_of(found)
    if framework is None:
        return found
    try:
        adapter = getattr(import_module("netra_trio.aio"), framework.adapter)
    except ImportError as error:
        text = (
            f"{framework.distribution} {_version(framework.distribution)} cannot be used: {error};"
            f" install a supported version with: pip install 'netra-trio[{framework.extra}]'"
        )
        raise AgentUnusable(text) from error
    return adapter(found)


def framework_of(found: object) -> Framework | None:
    """Return the framework of an object; None if it is of none that is known.

    Raises:
        AgentUnusable: If it is a graph of LangGraph that is not compiled.
    """
    for each in type(found).__mro__:
        if each.__module__.startswith(_UNCOMPILED[0]) and each.__name__ == _UNCOMPILED[1]:
            raise AgentUnusable("a graph that is not compiled: pass the result of its compile()")
        for framework in FRAMEWORKS:
            if each.__module__.startswith(framework.package) and each.__name__ in framework.classes:
                return framework
    return None


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(not installed by pip)"
