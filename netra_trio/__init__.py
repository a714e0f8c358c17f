"""A WebSocket server on Trio that puts AI agents in front of users."""

from netra_trio.app import Application, create_app
from netra_trio.errors import RetryableAgentError, SettingsError, ToolError
from netra_trio.runs import Agent, Run, Tool
from netra_trio.settings import Settings

__all__ = [
    "Agent",
    "Application",
    "RetryableAgentError",
    "Run",
    "Settings",
    "SettingsError",
    "Tool",
    "ToolError",
    "create_app",
]
