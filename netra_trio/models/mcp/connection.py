"""A connection to one MCP server, opened again with a growing pause when it is lost.

connection = McpConnection(McpServer("uvx mcp-server-time"))
await nursery.start(connection.run)
connection.tools
await connection.call(run, "get_current_time", {"timezone": "Europe/Oslo"})
"""

import random
from importlib.metadata import version
from math import inf
from typing import Any

import structlog
import trio
from attrs import frozen
from mcp.client import Client, ClientRequestContext, IncomingMessage
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    INVALID_REQUEST,
    CallToolResult,
    ElicitRequestParams,
    ElicitResult,
    EmbeddedResource,
    Implementation,
    TextContent,
    TextResourceContents,
    ToolListChangedNotification,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from netra_trio.agents.run import Run
from netra_trio.errors import ToolError, leaves
from netra_trio.models.mcp.call import CURRENT, Call
from netra_trio.models.mcp.open_calls import OpenCalls
from netra_trio.models.mcp.server import McpServer
from netra_trio.models.mcp.transport import open_transport
from netra_trio.protocol.fields import JsonObject

START_SECONDS = 60.0  # to connect and to list the tools: `uvx` may install the server first
BACK_OFF = 1.0  # seconds, the pause after the first loss; doubles with each failure
BACK_OFF_MAX = 60.0
STABLE_SECONDS = 60.0  # a connection that lasted so long resets the pause
TOOLS_MAX = 256  # of one server
PAGES_MAX = 20  # of a list of tools
DESCRIPTION_CHARACTERS = 4096  # of a tool

ENDED = "it ended"  # the reason for a loss, whichever task notices first that the server has ended

_log = structlog.get_logger(__name__)


@frozen
class ListedTool:
    """A tool as its server describes it."""

    name: str
    description: str
    parameters: JsonObject


class McpConnection:
    """The connection.

    Args:
        server: The server.

    Attributes:
        tools: What the server listed last, also while the connection is lost.
        tried: Set after the first attempt to connect, failed or not.
    """

    def __init__(self, server: McpServer) -> None:
        self.server = server
        self.tools: tuple[ListedTool, ...] = ()
        self.tried = trio.Event()
        self._client: Client | None = None
        self._calls = OpenCalls()
        self._lost = trio.Event()
        self._changed = trio.Event()

    async def run(self) -> None:
        """Stay connected until cancelled."""
        failures = 0
        while True:
            began = trio.current_time()
            reason = await self._connect()
            if trio.current_time() - began >= STABLE_SECONDS:
                failures = 0
            pause = min(BACK_OFF_MAX, BACK_OFF * 2**failures) * random.uniform(0.5, 1)  # noqa: S311 - jitter, no secret
            failures = min(failures + 1, 10)
            _log.warning("mcp_lost", server=self.server.label, reason=reason, pause=round(pause, 3))
            self.tried.set()
            await trio.sleep(pause)

    async def call(self, run: Run, name: str, arguments: JsonObject) -> Any:
        """Call a tool, and return its result: structured content, or else text.

        Cancelling cancels the call at the server.

        Raises:
            ToolError: It failed, took too long, or there is no connection.
        """
        label, client, calls = self.server.label, self._client, self._calls
        if client is None:
            raise ToolError(f"the MCP server {label} is not connected")
        error: str | None = None
        async with trio.open_nursery() as nursery:
            call = Call(run, nursery, self.server.timeout)
            calls.begin(call)
            token = CURRENT.set(call)
            try:
                with call.scope:
                    result = await client.call_tool(name, arguments)
            except MCPError as failure:
                error = f"the MCP server {label}: {failure.message}"
                if failure.code == CONNECTION_CLOSED or self._is_expired(failure):
                    self._lost.set()
            except Exception as failure:
                _log.warning("mcp_call_failed", server=label, tool=name, exc_info=failure)
                error = f"the MCP server {label} gave no valid answer"
            finally:
                CURRENT.reset(token)
                calls.end(call)
            nursery.cancel_scope.cancel()
        if call.scope.cancelled_caught:
            raise ToolError(f"no answer within {self.server.timeout:g} s")
        if error is not None:
            raise ToolError(error)
        return _value_of(result)

    async def _connect(self) -> str:
        """Hold a connection until it is lost; return the reason."""
        self._lost, self._changed, self._calls = trio.Event(), trio.Event(), OpenCalls()
        limit = trio.CancelScope(deadline=trio.current_time() + START_SECONDS)
        reason = ENDED
        try:
            with limit:
                async with self._new_client() as client:
                    self.tools = await _list(client)
                    limit.deadline = inf
                    _log.info("mcp_connected", server=self.server.label, tools=len(self.tools))
                    self._client = client
                    self.tried.set()
                    await self._hold(client)
        except* Exception as errors:  # also beside a cancellation, which goes on
            reason = _reason(errors)
        finally:
            self._client = None
        return f"no answer within {START_SECONDS:g} s" if limit.cancelled_caught else reason

    def _new_client(self) -> Client:
        transport: Any = open_transport(self.server, self._calls, self._lost.set)
        return Client(
            transport,
            client_info=Implementation(name="netra-trio", version=version("netra-trio")),
            elicitation_callback=self._elicit,
            message_handler=self._receive,
            cache=None,
        )

    async def _hold(self, client: Client) -> None:
        """List the tools again when they change, until the connection is lost."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._refresh, client)
            if client.protocol_version in MODERN_PROTOCOL_VERSIONS:
                nursery.start_soon(self._listen, client)
            await self._lost.wait()
            nursery.cancel_scope.cancel()

    async def _refresh(self, client: Client) -> None:
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            self.tools = await _list(client)

    async def _listen(self, client: Client) -> None:
        """Subscribe to tool-list changes; older servers send them unsubscribed."""
        capability = client.server_capabilities.tools
        if capability is None or not capability.list_changed:
            return
        try:
            async with client.listen(tools_list_changed=True) as changes:
                self._changed.set()  # earlier changes are not reported
                async for _ in changes:
                    self._changed.set()
        except (MCPError, RuntimeError, TimeoutError) as error:
            _log.info("mcp_listening_ended", server=self.server.label, reason=_reason(error))

    async def _receive(self, message: IncomingMessage) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._changed.set()
        await trio.lowlevel.checkpoint()

    async def _elicit(
        self,
        context: ClientRequestContext,  # noqa: ARG002 - an argument of the callback
        params: ElicitRequestParams,
    ) -> ElicitResult:
        """Ask the user of the call that the question belongs to."""
        call = CURRENT.get()
        if call is None or call not in self._calls:
            # Over stdio a question does not name its call, and must not reach another user.
            _log.warning("mcp_question_declined", server=self.server.label, calls=len(self._calls))
            return ElicitResult(action="decline")
        return await call.elicit(params)

    @staticmethod
    def _is_expired(failure: MCPError) -> bool:
        return failure.code == INVALID_REQUEST and failure.message == "Session terminated"


async def _list(client: Client) -> tuple[ListedTool, ...]:
    listed: list[ListedTool] = []
    cursor: str | None = None
    for _ in range(PAGES_MAX):
        page = await client.list_tools(cursor=cursor)
        listed += [
            ListedTool(
                tool.name,
                (tool.description or "")[:DESCRIPTION_CHARACTERS],
                {"type": "object", "properties": {}, **tool.input_schema},
            )
            for tool in page.tools
        ]
        cursor = page.next_cursor
        if cursor is None:
            break
    return tuple(listed[:TOOLS_MAX])


def _value_of(result: CallToolResult) -> Any:
    """Return the value of a result.

    Raises:
        ToolError: The tool failed.
    """
    text = "\n".join(_text_of(block) for block in result.content)
    if result.is_error:
        raise ToolError(text or "the tool failed")
    value = result.structured_content
    if isinstance(value, dict) and value.keys() == {"result"}:
        return value["result"]  # some servers wrap a value that is not an object
    return text if value is None else value


def _text_of(block: Any) -> str:
    if isinstance(block, TextContent):
        return block.text
    if isinstance(block, EmbeddedResource) and isinstance(block.resource, TextResourceContents):
        return block.resource.text
    return f"[{block.type}]"


def _reason(error: BaseException) -> str:
    """Return why a connection failed, without addresses and arguments of commands."""
    first = next(leaves(error))
    if isinstance(first, MCPError) and first.code == CONNECTION_CLOSED:
        return ENDED
    if isinstance(first, FileNotFoundError) and isinstance(first.filename, str):
        return f"there is no command {first.filename}; install it, or correct its path"
    if isinstance(first, OSError) and first.strerror:
        return f"{type(first).__name__}: {first.strerror}"
    return f"{type(first).__name__}: {first}"[:300]
