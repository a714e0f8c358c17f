"""Agents that run in the asyncio thread read files, attach some, and send binary data."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from support.asyncio_agents import ask, end_of, serve_agents
from support.memory import Server

from netra_trio.agents.attachments import WINDOW_BYTES
from netra_trio.aio import AsyncioRun, asyncio_agent
from netra_trio.errors import FilesNotFound, FileTooLarge
from netra_trio.files.base import CHUNK_BYTES
from netra_trio.ids import FileId, UserId

ALICE = UserId("alice")


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each


async def upload(server: Server, data: bytes) -> FileId:
    return (await server.node.services.files.upload(ALICE, pieces(data), name="a.txt")).file_id


def names_of(end: dict[str, Any]) -> Sequence[tuple[str, str, int]]:
    return [(each["name"], each["media_type"], each["bytes"]) for each in end.get("files", ())]


async def test_it_reads_the_files_of_its_message() -> None:
    content = b"0123456789abcdef" * (WINDOW_BYTES // 16) + b"end"
    seen: list[Any] = []

    @asyncio_agent
    async def agent(run: AsyncioRun) -> None:
        [file] = run.attachments
        chunks = [chunk async for chunk in file]
        assert max(map(len, chunks)) == CHUNK_BYTES
        async for _ in file:
            break
        again = await run.attachment(file.file_id)
        seen.append((file.name, file.media_type, file.bytes, repr(file) == repr(again)))
        seen.append(b"".join(chunks) == await again.read() == content)
        seen.append(await file.read(start=len(content) - 2, size=9, limit=2))
        with pytest.raises(ValueError, match="at most 1 are allowed"):
            await file.read(limit=1)
        with pytest.raises(FilesNotFound):
            await run.attachment("file_unknown")

    async with serve_agents(agent=agent) as server, server.connect() as client:
        frames = await ask(client, attachments=[await upload(server, content)])
    assert end_of(frames)["status"] == "completed"
    assert seen == [("a.txt", "text/plain", len(content), True), True, b"nd"]


async def test_its_answer_has_files() -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for piece in (b"he", b"", b"llo"):
            await asyncio.sleep(0)
            yield piece

    @asyncio_agent
    async def agent(run: AsyncioRun) -> None:
        whole = await run.attach("a.txt", b"whole")
        await run.emit_bytes(b"sound", media_type="audio/mpeg")
        streamed = await run.attach("b.bin", slowly(), media_type="application/x-b")
        assert (whole.bytes, await streamed.read()) == (5, b"hello")

    async with serve_agents(agent=agent) as server, server.connect() as client:
        frames = await ask(client)
    end = end_of(frames)
    assert end["status"] == "completed"
    assert names_of(end) == [
        ("a.txt", "text/plain", 5),
        ("", "audio/mpeg", 5),
        ("b.bin", "application/x-b", 5),
    ]
    assert [frame["type"] for frame in frames].count("binary_result") == 1


async def test_an_iterable_that_raises_attaches_nothing() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    @asyncio_agent
    async def agent(run: AsyncioRun) -> None:
        with pytest.raises(ZeroDivisionError):
            await run.attach("a", broken())
        await run.attach("b", b"x")

    async with serve_agents(agent=agent) as server, server.connect() as client:
        end = end_of(await ask(client))
        assert await server.node.services.store.count_file_bytes(ALICE) == 1
    assert (end["status"], names_of(end)) == ("completed", [("b", "text/plain", 1)])


async def test_an_iterable_that_is_too_long_is_not_read_on() -> None:
    taken: list[int] = []
    closed: list[str] = []

    async def long() -> AsyncIterator[bytes]:
        try:
            for number in range(1000):
                taken.append(number)
                yield b"x" * 5
        finally:
            closed.append(await asyncio.sleep(0, "closed"))

    @asyncio_agent
    async def agent(run: AsyncioRun) -> None:
        with pytest.raises(FileTooLarge):
            await run.attach("a", long())
        assert closed == ["closed"]
        with pytest.raises(TypeError):
            await run.attach("a", "text")  # type: ignore[arg-type]

    options = {"files_max_bytes": 10}
    async with (
        serve_agents(agent=agent, options=options) as server,
        server.connect() as client,
    ):
        end = end_of(await ask(client))
    assert end["status"] == "completed"
    assert len(taken) < 10


async def test_a_stop_while_an_iterable_is_stored() -> None:
    ended: list[str] = []

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"half"
            await asyncio.sleep(1000)
        finally:
            ended.append("iterable")

    @asyncio_agent
    async def agent(run: AsyncioRun) -> None:
        await run.think("storing")
        await run.attach("a", endless())

    async with serve_agents(agent=agent) as server, server.connect() as client:
        await client.say("go")
        run_id = (await client.until("agent_thinking"))[-1]["payload"]["run_id"]
        await client.send("stop_agent", {"run_id": run_id})
        end = end_of(await client.until("agent_completed"))
        assert await server.node.services.store.count_file_bytes(ALICE) == 0
    assert end == {"status": "cancelled"}
    assert ended == ["iterable"]
