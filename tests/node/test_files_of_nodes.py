"""Files of several nodes: one store, one storage, and limits that all of them count."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio
from support.file_requests import App, WallClock, open_app
from support.shared_nodes import LinkedBackend

from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.files.rate import UPLOADS
from netra_trio.ids import (
    CorrelationId,
    FileId,
    SessionId,
    ThreadId,
    UserId,
    new_message_id,
    new_run_id,
)
from netra_trio.stores.base import NewMessage
from netra_trio.stores.memory import MemoryStore

ALICE = UserId("alice")


@asynccontextmanager
async def two_nodes(folder: Path) -> AsyncIterator[tuple[App, App]]:
    """Open two nodes on one store, one folder of files and one broker."""
    server, clock = MemoryServer(), WallClock()
    store = MemoryStore(wall_clock=clock)
    async with AsyncExitStack() as stack:
        apps = []
        for _ in range(2):
            backend = LinkedBackend(MemoryBackend(server=server))
            opened = open_app(
                store=store.for_node(backend.memory.node),
                backend=backend,
                clock=clock,
                files_url=str(folder),
            )
            apps.append(await stack.enter_async_context(opened))
        one, two = apps
        yield one, two


async def test_a_file_of_one_node_is_read_at_the_other(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (one, two):
        file_id = await one.store(b"content")
        assert (await two.get(f"/ws/files/{file_id}")).body == b"content"
        assert (await two.get(f"/ws/files/{file_id}", user="bob")).status == 404
        ticket = (await one.ticket({"file_id": file_id})).json["ticket"]
        for node in (two, one, two):
            answer = await node.get(f"/ws/files/{file_id}?ticket={ticket}", user=None)
            assert answer.body == b"content"
        other = await two.store(b"other")
        answer = await two.get(f"/ws/files/{other}?ticket={ticket}", user=None)
        assert answer.code == "INVALID_TOKEN"


async def test_the_uploads_of_both_nodes_count(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as nodes:
        for number in range(UPLOADS):
            assert (await nodes[number % 2].upload(b"x")).status == 200
        for node in nodes:
            answer = await node.upload(b"x")
            assert (answer.status, answer.code) == (429, "RATE_LIMIT_EXCEEDED")


async def test_without_the_broker_a_ticket_for_a_file_is_not_known(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (one, _):
        file_id = await one.store(b"content")
        assert one.node.cluster is not None
        backend = one.node.cluster.backend
        assert isinstance(backend, LinkedBackend)
        backend.link.is_cut = True
        for answer in (
            await one.ticket({"file_id": file_id}),
            await one.get(f"/ws/files/{file_id}?ticket=x", user=None),
        ):
            assert (answer.status, answer.code) == (503, "SERVICE_UNAVAILABLE")
        assert (await one.get(f"/ws/files/{file_id}")).status == 200
        assert (await one.upload(b"x")).status == 200
        backend.link.is_cut = False


async def test_the_files_of_a_deleted_thread_are_gone_on_all_nodes(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (one, two):
        file_id = await one.store(b"content")
        kept = await one.store(b"kept")
        services, thread_id = one.node.services, ThreadId("thread")
        for thread, files in ((thread_id, [file_id, kept]), (ThreadId("other"), [kept])):
            await services.store.record(
                NewMessage(
                    user_id=ALICE,
                    thread_id=thread,
                    message_id=new_message_id(),
                    run_id=new_run_id(),
                    content="look",
                    key=None,
                    fingerprint=b"",
                    agent_name="echo",
                    correlation_id=CorrelationId("c"),
                    created_at=one.clock(),
                    attachments=tuple(FileId(each) for each in files),
                )
            )
        assert await services.threads.delete(ALICE, thread_id, by=SessionId("none"))
        path = services.storage._path(FileId(file_id))  # type: ignore[attr-defined]
        with trio.fail_after(100):
            while path.exists():  # noqa: ASYNC110 - of the collection there is no event
                await trio.sleep(0.01)
        for node in (one, two):
            assert (await node.get(f"/ws/files/{file_id}")).code == "FILE_NOT_FOUND"
            assert (await node.get(f"/ws/files/{kept}")).body == b"kept"
