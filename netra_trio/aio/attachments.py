"""Files of a run, as an asyncio agent uses them: the names of `netra_trio.Attachment`."""

import asyncio
from collections.abc import AsyncIterable

import trio

from netra_trio.agents.attachments import READ_BYTES, Attachment, ReadChunks
from netra_trio.agents.run import Run
from netra_trio.aio.bridge import Bridge
from netra_trio.generators import closing


class AsyncioAttachment:
    """A file of a message or of an answer; see `netra_trio.Attachment`.

    Iterating over it (`async for chunk in attachment`) reads its content in chunks of at most
    64 KiB; not more than 1 MiB of it is in memory. Cancelling is safe.

    Attributes:
        file_id: Its id.
        name: Its name, without a path; may be empty.
        media_type: Its type.
        bytes: Its size.
    """

    def __init__(self, bridge: Bridge, attachment: Attachment) -> None:
        self.file_id = attachment.file_id
        self.name = attachment.name
        self.media_type = attachment.media_type
        self.bytes = attachment.bytes
        self._bridge = bridge
        self._attachment = attachment

    def __repr__(self) -> str:
        return repr(self._attachment)

    async def read(
        self, *, start: int = 0, size: int | None = None, limit: int = READ_BYTES
    ) -> bytes:
        """Return the content, or a part of it, as `Attachment.read`.

        Raises:
            ValueError: If it has more than `limit` bytes, or `start` or `size` is negative.
            FilesNotFound: If it was deleted meanwhile.
            StorageUnavailable: If it cannot be read now.
        """
        read = self._attachment.read
        content: bytes = await self._bridge.call(read, start=start, size=size, limit=limit)
        return content

    def __aiter__(self) -> ReadChunks:
        return ReadChunks(self.read, self.bytes)


async def attach(
    bridge: Bridge, name: str, data: bytes | AsyncIterable[bytes], media_type: str | None
) -> AsyncioAttachment:
    """Attach a file to the answer of the run of a bridge; called in the asyncio thread."""
    if not isinstance(data, AsyncIterable):
        return AsyncioAttachment(bridge, await bridge.call("attach", name, data, media_type))
    send, receive = trio.open_memory_channel[bytes](0)
    storing = asyncio.ensure_future(bridge.call(_attach, bridge.run, name, receive, media_type))
    try:
        try:
            async with closing(data):
                async for chunk in data:
                    await bridge.call(send.send, chunk)
        except trio.BrokenResourceError:  # it cannot be stored: see what `storing` raises
            pass
        else:
            await bridge.call(send.aclose)
        return AsyncioAttachment(bridge, await storing)
    finally:
        storing.cancel()


async def _attach(
    run: Run, name: str, data: "trio.MemoryReceiveChannel[bytes]", media_type: str | None
) -> Attachment:
    async with data:
        return await run.attach(name, data, media_type)
