"""The tools of MCP servers as tools of a model.

async with open_servers(servers) as toolbox:
    toolbox.tools(taken=["weather"])
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import trio
from attrs import frozen

from netra_trio.agents.run import Run
from netra_trio.models.mcp.connection import ListedTool, McpConnection
from netra_trio.models.mcp.server import McpServer, names_of
from netra_trio.protocol.fields import JsonObject


@frozen(eq=False)
class McpTool:
    """A tool of a server.

    Attributes:
        name: The name that the model uses.
        approve: Whether the user has to approve each call.
    """

    name: str
    approve: bool
    _listed: ListedTool
    _connection: McpConnection

    @property
    def description(self) -> str:
        """The server's description."""
        return self._listed.description

    @property
    def parameters(self) -> JsonObject:
        """The server's schema."""
        return self._listed.parameters

    def bind(self, arguments: JsonObject) -> JsonObject:
        """Return the arguments as they are: the server checks them."""
        return arguments

    async def call(self, run: Run, arguments: JsonObject) -> object:
        """Call the tool at its server.

        Raises:
            ToolError: It failed.
        """
        return await self._connection.call(run, self._listed.name, arguments)


class Toolbox:
    """The tools of all servers, as the servers have listed them last."""

    def __init__(self, connections: Sequence[McpConnection]) -> None:
        self._connections = connections

    def tools(self, taken: Collection[str]) -> list[McpTool]:
        """Return the tools; `taken` are the names of other tools."""
        listings = [
            (connection.server.label, [tool.name for tool in connection.tools])
            for connection in self._connections
        ]
        return [
            McpTool(name, connection.server.needs_approval(tool.name), tool, connection)
            for connection, names in zip(self._connections, names_of(taken, listings), strict=True)
            for tool, name in zip(connection.tools, names, strict=True)
        ]


@asynccontextmanager
async def open_servers(servers: Sequence[McpServer]) -> AsyncIterator[Toolbox]:
    """Hold a connection to each server; waits for the first attempt of each, side by side."""
    connections = [McpConnection(server) for server in servers]
    async with trio.open_nursery() as nursery:
        for connection in connections:
            nursery.start_soon(connection.run)
        for connection in connections:
            await connection.tried.wait()
        yield Toolbox(connections)
        nursery.cancel_scope.cancel()
