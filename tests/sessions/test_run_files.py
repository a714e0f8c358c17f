"""Files of messages and of answers, in the sessions of a node."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
from attrs import evolve
from support.memory import Client, Frame, Server, kinds, open_server
from trio.testing import MockClock

from netra_trio import RetryableAgentError, Run
from netra_trio.agents.attachments import BINARY_RESULTS, binary_event
from netra_trio.errors import (
    FilesFull,
    FilesNotFound,
    FileTooLarge,
    StorageUnavailable,
    StoreUnavailable,
)
from netra_trio.ids import FileId, RunId, UserId
from netra_trio.protocol.binary import EVENT_DATA_BYTES, BinaryEvent
from netra_trio.protocol.fields import ATTACHMENTS
from netra_trio.protocol.messages import BinaryResult
from netra_trio.stores.files import StoredFile
from netra_trio.stores.memory import MemoryStore

Agent = Callable[[Run], Awaitable[Any]]
ALICE = UserId("alice")


async def nothing(run: Run) -> None:
    """Answer with nothing."""


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each


async def upload(server: Server, data: bytes = b"hello", name: str = "a.txt") -> FileId:
    """Return the id of a new file of Alice."""
    return (await server.node.services.files.upload(ALICE, pieces(data), name=name)).file_id


async def ask(client: Client, attachments: Sequence[str] = (), **payload: Any) -> list[Frame]:
    """Send a message with files, and return the frames up to the end of its run."""
    await client.say("go", attachments=[*attachments], **payload)
    return await client.until("agent_completed")


def end_of(frames: list[Frame]) -> Frame:
    payload: Frame = frames[-1]["payload"]
    return payload


async def history_of(client: Client, thread_id: str) -> list[Frame]:
    await client.send("get_thread_history", {"thread_id": thread_id})
    messages: list[Frame] = (await client.expect("thread_history"))["payload"]["messages"]
    return messages


# The message.


async def test_an_agent_reads_the_files_of_its_message() -> None:
    seen: list[Any] = []

    async def agent(run: Run) -> None:
        for each in run.attachments:
            content = b"".join([chunk async for chunk in each])
            seen.append((each.file_id, each.name, each.media_type, each.bytes, content))

    async with open_server(agents={"a": agent}) as server, server.connect() as client:
        one = await upload(server)
        two = await upload(server, b"%PDF-1.7 \x00\x01", "b")
        assert end_of(await ask(client, [two, one]))["status"] == "completed"
        await ask(client)
        await client.send("agent_request", {"agent": "a", "input": {}, "attachments": [one]})
        await client.until("agent_completed")
    first = (one, "a.txt", "text/plain", 5, b"hello")
    assert seen == [(two, "b", "application/pdf", 11, b"%PDF-1.7 \x00\x01"), first, first]


async def test_the_history_names_the_files_of_a_message() -> None:
    async with open_server(agents={"a": nothing}) as server, server.connect() as client:
        file_id = await upload(server)
        await ask(client, [file_id], thread_id="t")
        [message] = await history_of(client, "t")
    assert message["attachments"] == [file_id]
    listed = {"file_id": file_id, "name": "a.txt", "media_type": "text/plain", "bytes": 5}
    assert message["files"] == [listed]


async def test_a_watcher_gets_the_files_of_a_message() -> None:
    async with (
        open_server(agents={"a": nothing}) as server,
        server.connect() as client,
        server.connect() as watcher,
    ):
        file_id = await upload(server)
        await watcher.send("watch_thread", {"thread_id": "t"})
        await watcher.expect("room_joined")
        await ask(client, [file_id], thread_id="t")
        await ask(client, thread_id="t")
        frames = [await watcher.expect("room_event") for _ in range(6)]
    messages = [
        frame["payload"]["event"]["payload"]
        for frame in frames
        if frame["payload"]["event"]["type"] == "user_message"
    ]
    assert [each.get("attachments") for each in messages] == [[file_id], None]


@pytest.mark.parametrize("owner", ["nobody", "bob", "deleted"])
async def test_a_message_with_a_file_that_its_user_does_not_have(owner: str) -> None:
    async with open_server(agents={"a": nothing}) as server, server.connect() as client:
        mine, other = await upload(server), FileId("file_1")
        if owner == "bob":
            files = server.node.services.files
            other = (await files.upload(UserId("bob"), pieces(b"secret"))).file_id
        elif owner == "deleted":
            other = await upload(server)
            await ask(client, [other], thread_id="gone")
            await client.send("delete_thread", {"thread_id": "gone"})
            assert await client.sync() == []
        await client.say("go", "key-1", attachments=[mine, other])
        error = await client.error()
        assert error["code"] == "FILE_NOT_FOUND"
        assert error["recoverable"] is True
        text = f'$.payload.attachments: expected files that you have uploaded, got "{other}"'
        assert error["error"] == text
        # The key stays free, and the message counts nowhere.
        await client.say("go", "key-1", attachments=[mine])
        frames = await client.until("agent_completed")
        assert frames[0]["payload"]["status"] == "accepted"


async def test_the_files_belong_to_what_a_key_stands_for() -> None:
    async with open_server(agents={"a": nothing}) as server, server.connect() as client:
        one, two = await upload(server), await upload(server)
        await client.say("go", "key-1", attachments=[one])
        await client.until("agent_completed")
        await client.say("go", "key-1", attachments=[one])
        duplicate = await client.until("agent_completed")
        assert duplicate[0]["payload"]["status"] == "duplicate"
        for others in ([two], [one, two], []):
            await client.say("go", "key-1", attachments=others)
            assert (await client.error())["code"] == "VALIDATION_ERROR"
        # Without files a message is what it was before there were files.
        await client.say("go", "key-2")
        await client.until("agent_completed")
        await client.say("go", "key-2", attachments=[])
        assert (await client.until("agent_completed"))[0]["payload"]["status"] == "duplicate"


async def test_a_duplicate_is_found_although_its_files_are_gone() -> None:
    async with open_server(agents={"a": nothing}) as server, server.connect() as client:
        file_id = await upload(server)
        await client.say("go", "key-1", attachments=[file_id], thread_id="t")
        await client.until("agent_completed")
        await server.node.services.files.upload(ALICE, pieces(b"other"))
        await client.say("go", "key-1", attachments=[file_id], thread_id="t")
        frames = await client.until("agent_completed")
        assert frames[0]["payload"]["status"] == "duplicate"


async def test_a_store_that_cannot_find_files_refuses_the_message() -> None:
    class Failing(MemoryStore):
        is_down = False

        async def find_files(self, user_id: Any, file_ids: Any) -> Sequence[StoredFile]:
            if self.is_down:
                raise StoreUnavailable("down")
            return await super().find_files(user_id, file_ids)

    store = Failing()
    async with (
        open_server(agents={"a": nothing}, store=store) as server,
        server.connect() as client,
    ):
        file_id = await upload(server)
        store.is_down = True
        await client.say("go", "key-1", attachments=[file_id])
        assert (await client.error())["code"] == "SERVICE_UNAVAILABLE"
        store.is_down = False
        await client.say("go", "key-1", attachments=[file_id])
        await client.until("agent_completed")


async def test_an_agent_opens_the_files_of_earlier_messages() -> None:
    seen: list[Any] = []

    async def agent(run: Run) -> None:
        for message in await run.history():
            for file_id in message.attachments or ():
                attachment = await run.attachment(file_id)
                seen.append((message.role, attachment.name, await attachment.read()))
        with pytest.raises(FilesNotFound):
            await run.attachment("file_unknown")
        if run.attachments:
            await run.attach("answer", b"a thing")

    async with open_server(agents={"a": agent}) as server, server.connect() as client:
        await ask(client, [await upload(server)], thread_id="t")
        await ask(client, thread_id="t")
    assert seen == [("user", "a.txt", b"hello"), ("agent", "answer", b"a thing")]


# The answer.


async def test_an_answer_with_files() -> None:
    async def agent(run: Run) -> str:
        whole = await run.attach("../report.pdf", b"%PDF-1.7 \x00")
        await run.emit_bytes(b"la la", media_type="audio/mpeg")
        streamed = await run.attach("notes", pieces(b"he", b"", b"llo"), media_type="text/markdown")
        assert (whole.name, whole.bytes) == ("report.pdf", 10)
        assert await streamed.read() == b"hello"
        return "done"

    async with open_server(agents={"a": agent}) as server, server.connect() as client:
        frames = await ask(client, thread_id="t")
        _, answer = await history_of(client, "t")
        end = end_of(frames)
        kept = [await server.node.services.store.get_file(each) for each in end["attachments"]]
        assert [each.user_id for each in kept if each is not None] == [ALICE] * 3
    assert [(each["name"], each["media_type"], each["bytes"]) for each in end["files"]] == [
        ("report.pdf", "application/pdf", 10),
        ("", "audio/mpeg", 5),
        ("notes", "text/markdown", 5),
    ]
    assert [each["file_id"] for each in end["files"]] == end["attachments"]
    assert (answer["attachments"], answer["files"]) == (end["attachments"], end["files"])
    [sent] = [frame["payload"] for frame in frames if frame["type"] == "binary_result"]
    assert sent == {
        "run_id": end["run_id"],
        "media_type": "audio/mpeg",
        "file_id": end["attachments"][1],
        "bytes": 5,
    }
    assert end["result"] == "done"


async def test_a_run_without_files_names_none() -> None:
    async def agent(run: Run) -> None:
        await run.emit_bytes(b"", media_type="audio/mpeg")

    async with open_server(agents={"a": agent}) as server, server.connect() as client:
        frames = await ask(client)
    assert kinds(frames) == ["message_confirmed", "agent_started", "agent_completed"]
    assert {"attachments", "files"}.isdisjoint(end_of(frames))


async def test_an_answer_has_a_limited_number_of_files() -> None:
    async def agent(run: Run) -> None:
        for number in range(ATTACHMENTS):
            await run.attach(f"{number}.txt", b"x")
        with pytest.raises(RuntimeError, match="at most 16 attached files"):
            await run.attach("more", b"x")

    async with open_server(agents={"a": agent}) as server, server.connect() as client:
        end = end_of(await ask(client))
    assert end["status"] == "completed"
    assert [each["name"] for each in end["files"]] == [f"{n}.txt" for n in range(ATTACHMENTS)]


async def test_a_run_sends_a_limited_number_of_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netra_trio.agents.attachments.BINARY_RESULTS", 3)
    assert BINARY_RESULTS == 256

    async def agent(run: Run) -> None:
        for _ in range(3):
            await run.emit_bytes(b"x", media_type="audio/mpeg")
        with pytest.raises(RuntimeError, match="at most 3 times"):
            await run.emit_bytes(b"x", media_type="audio/mpeg")

    async with open_server(agents={"a": agent}) as server, server.connect() as client:
        end = end_of(await ask(client))
    assert (end["status"], len(end["files"])) == ("completed", 3)


async def test_files_beyond_the_limits_of_bytes() -> None:
    async def agent(run: Run) -> None:
        await run.attach("a", b"x" * 10)
        with pytest.raises(FileTooLarge):
            await run.attach("b", b"x" * 11)
        with pytest.raises(FileTooLarge):
            await run.emit_bytes(b"x" * 11, media_type="audio/mpeg")
        await run.emit_bytes(b"x" * 10, media_type="audio/mpeg")
        with pytest.raises(FilesFull):
            await run.attach("c", b"x")

    limits: dict[str, Any] = {"files_max_bytes": 10, "files_user_max_bytes": 20}
    async with open_server(agents={"a": agent}, **limits) as server, server.connect() as client:
        end = end_of(await ask(client))
        assert await server.node.services.store.count_file_bytes(ALICE) == 20
    assert (end["status"], [each["bytes"] for each in end["files"]]) == ("completed", [10, 10])


async def test_invalid_arguments() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    wrong: list[tuple[Any, type[Exception]]] = [
        (lambda run: run.attach(5, b""), TypeError),
        (lambda run: run.attach("a", "text"), TypeError),
        (lambda run: run.attach("a", b"", media_type=5), TypeError),
        (lambda run: run.attach("a", b"", media_type="audio"), ValueError),
        (lambda run: run.attach("a", broken()), ZeroDivisionError),
        (lambda run: run.emit_bytes("text", media_type="audio/mpeg"), TypeError),
        (lambda run: run.emit_bytes(b"x", media_type="audio/mpeg\r\nx: y"), ValueError),
        (lambda run: run.emit_bytes(b"x", media_type="a/" + "b" * 126), ValueError),
    ]

    async def agent(run: Run) -> None:
        for call, error in wrong:
            with pytest.raises(error):
                await call(run)
        data: Any = bytearray(b"x")
        await run.emit_bytes(data, media_type="audio/L16; rate=24000")

    async with open_server(agents={"a": agent}) as server, server.connect() as client:
        end = end_of(await ask(client))
        assert await server.node.services.store.count_file_bytes(ALICE) == 1
    assert (end["status"], len(end["files"])) == ("completed", 1)


async def test_content_that_a_browser_would_run_keeps_its_own_type() -> None:
    html = b"<!doctype html><script>alert(1)</script>"

    async def agent(run: Run) -> None:
        await run.attach("a.png", html, media_type="image/png")
        await run.attach("b.png", html + b" " * 100_000, media_type="image/png")
        await run.attach("c.csv", b"a,b", media_type="text/csv")
        await run.attach("d", b"la la", media_type="audio/mpeg")
        await run.emit_bytes(html, media_type="audio/mpeg")

    async with open_server(agents={"a": agent}) as server, server.connect() as client:
        frames = await ask(client)
    types = [each["media_type"] for each in end_of(frames)["files"]]
    assert types == ["text/html", "text/html", "text/csv", "audio/mpeg", "text/html"]
    [sent] = [frame["payload"] for frame in frames if frame["type"] == "binary_result"]
    assert sent["media_type"] == "audio/mpeg"  # as the agent has said


async def test_the_data_of_an_event_counts_for_the_log() -> None:
    file = StoredFile(FileId("f"), ALICE, "", "audio/mpeg", EVENT_DATA_BYTES, "00", 0.0)
    event, size = binary_event(RunId("r"), "audio/mpeg", file, bytes(EVENT_DATA_BYTES))
    assert type(event) is BinaryEvent
    assert size == EVENT_DATA_BYTES + len('"audio/mpeg"') - 2
    event, size = binary_event(
        RunId("r"), "audio/mpeg", evolve(file, size=EVENT_DATA_BYTES + 1), b""
    )
    assert type(event) is BinaryResult
    assert size < 100


async def test_a_generator_that_is_not_read_to_its_end_is_closed() -> None:
    closed: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 5
        finally:
            await trio.lowlevel.checkpoint()
            closed.append(1)

    async def agent(run: Run) -> None:
        with pytest.raises(FileTooLarge):
            await run.attach("a", endless())
        assert closed == [1]

    async with (
        open_server(agents={"a": agent}, files_max_bytes=10) as server,
        server.connect() as client,
    ):
        assert end_of(await ask(client))["status"] == "completed"


async def test_a_storage_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def agent(run: Run) -> None:
        with pytest.raises(StorageUnavailable):
            await run.attach("a", b"x")
        for _ in range(ATTACHMENTS):  # the failed one has given its place back
            await run.attach("a", b"x")

    async with open_server(agents={"a": agent}) as server, server.connect() as client:
        storage = server.node.services.storage
        put, failures = storage.put, [StorageUnavailable("down")]

        async def failing(*args: Any) -> None:
            if failures:
                raise failures.pop()
            await put(*args)

        monkeypatch.setattr(storage, "put", failing)
        assert len(end_of(await ask(client))["files"]) == ATTACHMENTS


async def test_a_retry_drops_what_was_attached_and_keeps_what_was_sent() -> None:
    async def agent(run: Run) -> None:
        await run.attach(f"{run.attempt}.txt", b"x")
        await run.emit_bytes(b"x", media_type="audio/mpeg")
        if run.attempt == 1:
            raise RetryableAgentError

    async with open_server(agents={"a": agent}) as server, server.connect() as client:
        frames = await ask(client)
    assert kinds(frames).count("agent_started") == 2
    names = [each["name"] for each in end_of(frames)["files"]]
    assert names == ["", "2.txt", ""]


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_a_run_that_does_not_complete_keeps_its_files(status: str) -> None:
    async def agent(run: Run) -> None:
        await run.attach("a.txt", b"x")
        await run.think("attached")
        if status == "failed":
            raise ValueError
        await trio.sleep_forever()

    async with open_server(agents={"a": agent}) as server, server.connect() as client:
        await client.say("go", thread_id="t")
        run_id = (await client.until("agent_thinking"))[-1]["payload"]["run_id"]
        if status == "cancelled":
            await client.send("stop_agent", {"run_id": run_id})
        end = end_of(await client.until("agent_completed"))
        _, answer = await history_of(client, "t")
    assert end["status"] == status
    assert [each["name"] for each in end["files"]] == ["a.txt"]
    assert answer["attachments"] == end["attachments"]


@pytest.mark.parametrize("method", ["attach", "emit_bytes"])
async def test_a_stop_while_a_file_is_stored_leaves_nothing_of_it(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = trio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"half"
        waiting.set()
        await trio.sleep_forever()

    async def agent(run: Run) -> None:
        if method == "attach":
            await run.attach("a.txt", endless())
        await run.emit_bytes(b"sound", media_type="audio/mpeg")

    async with open_server(agents={"a": agent}) as server, server.connect() as client:
        storage = server.node.services.storage

        async def hanging(*_: Any) -> None:
            waiting.set()
            await trio.sleep_forever()

        monkeypatch.setattr(storage, "put", hanging)
        await client.say("go")
        run_id = (await client.until("agent_started"))[-1]["payload"]["run_id"]
        await waiting.wait()
        await client.send("stop_agent", {"run_id": run_id})
        frames = await client.until("agent_completed")
        assert kinds(frames) == ["agent_completed"]
        assert "files" not in end_of(frames)
        assert await server.node.services.store.count_file_bytes(ALICE) == 0
        assert list(storage.spool_folder.glob("*")) == []


async def test_a_stop_while_the_storage_hangs_ends_the_run_in_time(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def agent(run: Run) -> None:
        await run.emit_bytes(b"sound", media_type="audio/mpeg")

    waiting = trio.Event()

    async def hanging(*_: Any) -> None:
        waiting.set()
        await trio.sleep_forever()

    async with open_server(agents={"a": agent}) as server, server.connect() as client:
        storage = server.node.services.storage

        async def put(*_: Any) -> None:
            monkeypatch.setattr(type(storage.threads), "run", hanging)
            await hanging()

        monkeypatch.setattr(storage, "put", put)
        await client.say("go")
        run_id = (await client.until("agent_started"))[-1]["payload"]["run_id"]
        await waiting.wait()
        await client.send("stop_agent", {"run_id": run_id})
        end = end_of(await client.until("agent_completed"))
        assert (end["status"], end.get("abandoned")) == ("cancelled", None)


async def test_after_the_end_of_the_run_nothing_is_stored() -> None:
    kept: list[Run] = []

    async def agent(run: Run) -> None:
        kept.append(run)

    async with open_server(agents={"a": agent}) as server, server.connect() as client:
        await ask(client)
        with pytest.raises(trio.ClosedResourceError):
            await kept[0].attach("late", b"x")
        with pytest.raises(trio.ClosedResourceError):
            await kept[0].emit_bytes(b"x", media_type="audio/mpeg")
        assert await server.node.services.store.count_file_bytes(ALICE) == 0


async def test_a_run_that_ends_while_its_file_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that ignores its cancellation stores a file; the end of the run does not have it."""
    may_end, refused = trio.Event(), trio.Event()

    async def agent(run: Run) -> None:
        with trio.CancelScope(shield=True):
            await run.think("storing")
            with pytest.raises(trio.ClosedResourceError):
                await run.attach("late", b"x")
            refused.set()

    async with open_server(agents={"a": agent}) as server, server.connect() as client:
        files = server.node.services.files
        upload = files.upload

        async def slow(*args: Any, **options: Any) -> StoredFile:
            await may_end.wait()
            return await upload(*args, **options)

        monkeypatch.setattr(files, "upload", slow)
        await client.say("go")
        run_id = (await client.until("agent_thinking"))[-1]["payload"]["run_id"]
        await client.send("stop_agent", {"run_id": run_id})
        end = end_of(await client.until("agent_completed"))
        assert end["abandoned"] is True
        assert "files" not in end
        may_end.set()
        await refused.wait()


async def test_a_resume_has_the_binary_results_that_the_client_lacks() -> None:
    async def agent(run: Run) -> None:
        for _ in range(3):
            await run.emit_bytes(b"x", media_type="audio/mpeg")

    async with open_server(agents={"a": agent}) as server:
        client = server.start(acknowledging=True)
        hello = await client.expect("connection_established")
        await client.say("go")
        first = await client.until("agent_completed")
        client.peer.cut()
        await client.done.wait()
        again = server.start(
            acknowledging=True, session_id=hello["payload"]["session_id"], last_seq=3
        )
        assert (await again.next())["payload"]["resume"]["verdict"] == "exact"
        assert await again.until("agent_completed") == first[3:]
        again.peer.close()
        await again.done.wait()
