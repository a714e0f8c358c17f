"""Agents that are a language model with tools, over the Chat Completions API.

    from netra_trio import create_app
    from netra_trio.models import chat

    app = create_app(agents={"chat": chat("qwen3", base_url="http://localhost:11434/v1")})

See `docs/models.md`.
"""

from netra_trio.models.chat import Chat, chat
from netra_trio.models.errors import ModelError
from netra_trio.models.mcp.server import McpServer
from netra_trio.models.tools import tool

__all__ = ["Chat", "McpServer", "ModelError", "chat", "tool"]
