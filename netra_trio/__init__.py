"""A WebSocket server on Trio that puts AI agents in front of users."""

from netra_trio.agents.run import Agent, Run, Tool
from netra_trio.config.settings import Settings
from netra_trio.errors import RetryableAgentError, SettingsError, ToolError
from netra_trio.server.application import Application, create_app

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
