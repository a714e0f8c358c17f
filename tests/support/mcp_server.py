"""An MCP server with tools for tests, on the official package: over stdio, or HTTP with a port.

python tests/support/mcp_server.py [PORT] [--name NAME]

It writes what happens to it into the file that the variable MCP_JOURNAL names.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import anyio
from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Context, Elicit, MCPServer, Resolve
from mcp.server.mcpserver.utilities.types import Image
from mcp_types import CallToolResult, EmbeddedResource, TextContent, TextResourceContents
from pydantic import BaseModel

server = MCPServer("test")
JOURNAL = os.environ.get("MCP_JOURNAL")


def note(text: str) -> None:
    """Append a line to the journal."""
    if JOURNAL:
        with Path(JOURNAL).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


class Size(BaseModel):  # type: ignore[misc] # pydantic is not followed
    """An answer of a user."""

    size: int


@server.tool()
def echo(text: str) -> str:
    """Return the text."""
    return text


@server.tool()
def add(a: int, b: int) -> dict[str, int]:
    """Add two numbers."""
    return {"sum": a + b}


@server.tool(name="dotted.name", structured_output=False)
def dotted() -> str:
    """Return a text."""
    return "dotted"


@server.tool(name="approve")
def approve(approve: bool) -> bool:
    """Have an argument of a name with a meaning."""
    return approve


@server.tool(structured_output=False)
def many() -> CallToolResult:
    """Return several blocks."""
    resource = TextResourceContents(uri="memo://a", text="in a resource")
    return CallToolResult(
        content=[
            TextContent(type="text", text="a text"),
            Image(data=b"x", format="png").to_image_content(),
            EmbeddedResource(type="resource", resource=resource),
        ]
    )


@server.tool()
def fail(text: str) -> str:
    """Fail."""
    raise ValueError(text)


@server.tool()
async def slow(seconds: float) -> str:
    """Wait; the journal tells whether it was cancelled."""
    note("slow began")
    try:
        await anyio.sleep(seconds)
    except anyio.get_cancelled_exc_class():
        note("slow was cancelled")
        raise
    note("slow ended")
    return "done"


@server.tool()
async def ask_late(question: str, context: Context) -> str:
    """Wait until the call is stopped, and ask the user then; the journal tells the answer."""
    note("ask_late began")
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            answer = await context.elicit(question, Size)
        note(f"ask_late: {answer.action}")
        raise
    return "done"


def size(question: str) -> Elicit[Size]:
    """Ask the user, as the protocol of the connection has it."""
    return Elicit(question, Size)


@server.tool()
def ask(question: str, answer: Annotated[ElicitationResult[Size], Resolve(size)]) -> str:
    """Ask the user."""
    note(f"ask: {answer.action}")
    return f"accept {answer.data.size}" if answer.action == "accept" else answer.action


@server.tool()
def environment() -> Sequence[str]:
    """Return the names of the variables."""
    return sorted(os.environ)


@server.tool()
def noise(lines: int, text: str) -> str:
    """Write to the error output."""
    sys.stderr.write(f"{text}\n" * lines)
    sys.stderr.flush()
    return "written"


@server.tool()
def die() -> str:
    """End the process."""
    note("died")
    os._exit(3)


@server.tool()
async def grow(context: Context) -> str:
    """Add another tool."""

    def grown() -> str:
        return "grown"

    server.add_tool(grown)
    await context.session.send_tool_list_changed()  # for clients of the old protocol
    await context.notify_tools_changed()
    return "ok"


if __name__ == "__main__":
    note("started")
    note(f"process {os.getpid()}")
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run("stdio")
