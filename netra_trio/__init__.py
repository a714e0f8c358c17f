"""A WebSocket server on Trio that puts AI agents in front of users."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netra_trio.agents.options import agent
    from netra_trio.agents.run import Agent, Run, Tool
    from netra_trio.config.settings import Settings
    from netra_trio.errors import (
        QuestionExpired,
        RetryableAgentError,
        SettingsError,
        ToolDenied,
        ToolError,
    )
    from netra_trio.server.application import Application, create_app

__all__ = [
    "Agent",
    "Application",
    "QuestionExpired",
    "RetryableAgentError",
    "Run",
    "Settings",
    "SettingsError",
    "Tool",
    "ToolDenied",
    "ToolError",
    "agent",
    "create_app",
]

_MODULES = {
    "Agent": "agents.run",
    "Application": "server.application",
    "QuestionExpired": "errors",
    "RetryableAgentError": "errors",
    "Run": "agents.run",
    "Settings": "config.settings",
    "SettingsError": "errors",
    "Tool": "agents.run",
    "ToolDenied": "errors",
    "ToolError": "errors",
    "agent": "agents.options",
    "create_app": "server.application",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: a client, or `--help`, does not load the server."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
