"""A run, as an asyncio agent uses it: the names of `netra_trio.Run`, awaited in asyncio."""

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from netra_trio.agents.run import EXPIRES
from netra_trio.agents.waits import Wait
from netra_trio.aio.attachments import AsyncioAttachment, attach
from netra_trio.aio.bridge import Bridge, Call, Leave, ToolBlock
from netra_trio.ids import FileId
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import HistoryMessage


class AsyncioTool:
    """A tool call in progress; the agent sets `result`, any JSON value.

    Made by `AsyncioRun.start_tool`, for code that has a start and an end but no block.

    Attributes:
        name: The name of the tool.
        result: Its result.
    """

    def __init__(self, bridge: Bridge, name: str, arguments: dict[str, Any]) -> None:
        self.name = name
        self.result: Any = None
        self._bridge = bridge
        self._block = ToolBlock(name, arguments, bridge.new_future())
        self._has_ended = False

    async def start(self) -> None:
        """Send `tool_executing`; with `approve=True`, after the approval."""
        await self._bridge.wait_for(self._block)

    async def complete(self, error: Exception | None = None) -> None:
        """Send `tool_completed`: with the result, or as a failure.

        Args:
            error: The failure; only the text of a `ToolError` is sent.

        Raises:
            RuntimeError: If the call has ended already, by `complete` or `cut`.
            TypeError: If the result cannot be encoded as JSON.
        """
        if self._has_ended:
            raise RuntimeError(f"the call of the tool {self.name!r} has ended already")
        self._has_ended = True
        block = self._block
        block.result, block.error = self.result, error
        block.future = self._bridge.new_future()
        await self._bridge.put(Leave(block))
        await block.future

    def cut(self) -> None:
        """End the call without `tool_completed`, because it was cancelled; does not wait."""
        self._has_ended = True
        if self._block.scope is not None:
            self._bridge.thread.call_trio(self._block.scope.cancel)


class AsyncioRun:
    """A run, as an asyncio agent uses it. Use it in the asyncio thread only.

    After the run was cancelled its methods raise `asyncio.CancelledError`, and after its end
    `trio.ClosedResourceError`. Cancelling any of them is safe; what was sent stays sent.

    Attributes:
        id: The id of the run.
        user: The id of the user who sent the message.
        permissions: The permissions of the user's token.
        thread_id: The thread of the message.
        agent_name: The name under which the application serves the agent.
        correlation_id: The correlation id of the message.
        content: The text of the message; of an `agent_request`, its input as text.
        input: The payload of an `agent_request`; None for a `user_message`.
        attachments: The files of the message.
        attempt: 1, 2 or 3.
        traceparent: The trace of the run, for the HTTP header of that name; None if there is none.
    """

    def __init__(self, bridge: Bridge) -> None:
        run = bridge.run
        self.id = run.id
        self.user = run.user
        self.permissions = run.permissions
        self.thread_id = run.thread_id
        self.agent_name = run.agent_name
        self.correlation_id = run.correlation_id
        self.content = run.content
        self.input = run.input
        self.attachments: Sequence[AsyncioAttachment] = [
            AsyncioAttachment(bridge, each) for each in run.attachments
        ]
        self.attempt = run.attempt
        self.traceparent = run.traceparent
        self._bridge = bridge

    @property
    def deadline(self) -> float:
        """When the run ends `timed_out`, on the clock of the loop: for `asyncio.timeout_at`."""
        return self._bridge.run.deadline + self._bridge.clock_offset

    def model_call(self) -> Wait:
        """Show the run as waiting for its language model, on the live page, in a `with` block."""
        bridge = self._bridge
        return bridge.run.model_call(now=bridge.thread.loop.time() - bridge.clock_offset)

    async def emit(self, text: str) -> None:
        """Send a piece of the answer; waits while the client does not keep up.

        It returns before the piece is in the log: a text that cannot be encoded as UTF-8 fails the
        run, not the call.

        Raises:
            TypeError: If `text` is no string.
        """
        if not isinstance(text, str):
            raise TypeError(f"emit takes a str, got {type(text).__name__}")
        await self._bridge.put(text, len(text))

    async def attachment(self, file_id: FileId | str) -> AsyncioAttachment:
        """Return a file of the user by its id, for example of an earlier message.

        Raises:
            FilesNotFound: If the user does not have it.
            StoreUnavailable: If the store cannot answer now.
        """
        return AsyncioAttachment(self._bridge, await self._bridge.call("attachment", file_id))

    async def attach(
        self, name: str, data: bytes | AsyncIterable[bytes], media_type: str | None = None
    ) -> AsyncioAttachment:
        """Attach a file to the answer, as `Run.attach`; `data` may be an iterable of asyncio."""
        return await attach(self._bridge, name, data, media_type)

    async def emit_bytes(self, data: bytes, *, media_type: str) -> None:
        """Send binary data as a part of the answer, as `Run.emit_bytes`."""
        await self._bridge.call("emit_bytes", data, media_type=media_type)

    async def think(
        self, thought: str, *, step: int | None = None, total: int | None = None
    ) -> None:
        """Send a thought; with a plan, it is step `step` of `total`.

        It returns before the thought is in the log: a step that is not an integer fails the run,
        not the call.

        Raises:
            TypeError: If `thought` is not a string.
        """
        if not isinstance(thought, str):
            raise TypeError(f"think takes a str, got {type(thought).__name__}")
        steps = {"step": step, "total": total}
        await self._bridge.put(Call("think", (thought,), steps, None), len(thought))

    @asynccontextmanager
    async def tool(self, name: str, /, **arguments: Any) -> AsyncIterator[AsyncioTool]:
        """Send `tool_executing` before the block, and `tool_completed` after it.

        As `Run.tool`: the block sets the `result`, only the text of a `ToolError` is sent, and a
        block that is cancelled sends no `tool_completed`.

        Raises:
            TypeError: If the name is not a string, or arguments or result cannot be encoded as
                JSON.
            ValueError: If the name is too long, or cannot be encoded as UTF-8.
        """
        tool = await self.start_tool(name, **arguments)
        try:
            yield tool
        except Exception as error:
            await tool.complete(error)
            raise
        except BaseException:
            tool.cut()
            raise
        await tool.complete()

    async def start_tool(self, name: str, /, **arguments: Any) -> AsyncioTool:
        """Send `tool_executing`, as `tool` does; the caller has to call `complete`."""
        tool = AsyncioTool(self._bridge, name, arguments)
        await tool.start()
        return tool

    async def ask(self, prompt: str, schema: Any = None, expires: float = EXPIRES) -> Any:
        """Ask the user a question and return the answer, as `Run.ask`.

        Raises:
            QuestionExpired: If no user answered in time.
        """
        return await self._bridge.call("ask", prompt, schema, expires)

    async def publish(self, room: str, payload: JsonObject | str) -> None:
        """Publish a message of the run's user to a room, as `Run.publish`.

        Raises:
            TypeError: If `payload` is neither a text nor an object, or cannot be encoded as JSON.
            ValueError: If the name of the room is not valid, or the event has more than 256 KiB.
            BrokerUnavailable: If the broker does not answer in time.
        """
        await self._bridge.call("publish", room, payload)

    async def usage(
        self, *, model: str, input_tokens: int, output_tokens: int, cost: float | None = None
    ) -> None:
        """Report what the run has used of a model, as `Run.usage`."""
        tokens = {"input_tokens": input_tokens, "output_tokens": output_tokens}
        await self._bridge.call("usage", model=model, cost=cost, **tokens)

    async def set_title(self, title: str) -> bool:
        """Set the title of the thread, as `Run.set_title`; return whether it was set.

        Raises:
            TypeError: If `title` is not a string.
            ValueError: If it is blank or too long, or cannot be encoded as UTF-8.
            StoreUnavailable: If the store cannot answer now.
        """
        is_set: bool = await self._bridge.call("set_title", title)
        return is_set

    async def history(self, limit: int = 50) -> Sequence[HistoryMessage]:
        """Return up to `limit` earlier messages of the thread, oldest first.

        Raises:
            StoreUnavailable: If the store cannot answer now.
        """
        found: Sequence[HistoryMessage] = await self._bridge.call("history", limit)
        return found
