"""MCP servers whose tools a model calls: by command (stdio) or URL (streamable HTTP)."""
