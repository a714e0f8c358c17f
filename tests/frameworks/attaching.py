"""A conversation in which the user attaches files, for the adapters of all frameworks."""

from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

from support.asyncio_agents import ask, end_of, serve_agents

from netra_trio.aio import AsyncioAgent
from netra_trio.ids import UserId

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256))
PDF = b"%PDF-1.7\n\x00\xff"
TEXT = 'look\n\n[File "n.txt" (text/plain)]\na note'
NAMED = (
    'look\n\n[File "a.png" (image/png), 272 bytes: its content is not available.]\n\n'
    '[File "b.pdf" (application/pdf), 11 bytes: its content is not available.]\n\n'
    '[File "n.txt" (text/plain)]\na note'
)


def url(media_type: str, data: bytes) -> str:
    """Return content as a data URL."""
    return f"data:{media_type};base64,{b64encode(data).decode()}"


async def attach(agent: AsyncioAgent) -> list[Any]:
    """Say `look` with an image, a document and a text, then `and?`; return both results."""

    async def chunks(data: bytes) -> AsyncIterator[bytes]:
        yield data

    async with serve_agents(agent=agent) as server, server.connect() as client:
        files = server.node.services.files
        ids = [
            (await files.upload(UserId("alice"), chunks(data), name=name)).file_id
            for data, name in ((PNG, "a.png"), (PDF, "b.pdf"), (b"a note", "n.txt"))
        ]
        first = end_of(await ask(client, "look", attachments=ids, thread_id="t"))
        second = end_of(await ask(client, "and?", thread_id="t"))
    assert (first["status"], second["status"]) == ("completed", "completed")
    return [first.get("result"), second.get("result")]
