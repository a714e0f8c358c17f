"""Messages of clients in binary frames of `netra.v2`."""

import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
from support.memory import Client, Server, open_server
from trio.testing import MockClock

from netra_trio.errors import StorageUnavailable
from netra_trio.ids import FileId, UserId
from netra_trio.protocol.binary import join_binary
from netra_trio.protocol.wire_format import COMPACT, JSON_ACKNOWLEDGING, JSON_PLAIN, WireFormat
from netra_trio.sessions.uploads import STORE_SECONDS

NO_HEARTBEAT: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(40))
ONE = {"media_type": "image/png"}
ARRAY = "$.payload.attachments: expected an array of one object with the media_type of the data"
TYPE = "$.payload.attachments[0].media_type: "


def binary(
    frame: Any = None, data: bytes = PNG, media_type: str = "image/png", key: str = "k"
) -> bytes:
    """Return a binary frame of a client; by default of a `user_message`."""
    if frame is None:
        payload = {"content": "What is it?", "attachments": [{"media_type": media_type}]}
        frame = {"type": "user_message", "payload": payload, "correlation_id": key}
    return bytes(join_binary(orjson.dumps(frame), data))


def user_message(attachments: Any) -> dict[str, Any]:
    return {"type": "user_message", "payload": {"content": "x", "attachments": attachments}}


async def confirmed(client: Client) -> dict[str, Any]:
    """Return the payload of the next confirmation, after the end of its run."""
    frame = await client.expect("message_confirmed")
    end: Any = []
    while isinstance(end, list) or end["type"] != "agent_completed":
        end = orjson.loads(await client.peer.receive())
    payload: dict[str, Any] = frame["payload"]
    return payload


async def history(client: Client) -> list[dict[str, Any]]:
    await client.send("list_threads", {})
    [thread] = (await client.expect("thread_list"))["payload"]["threads"]
    await client.send("get_thread_history", {"thread_id": thread["thread_id"]})
    frame = await client.expect("thread_history")
    messages: list[dict[str, Any]] = frame["payload"]["messages"]
    return messages


async def content_of(server: Server, file_id: str) -> bytes:
    return await server.node.services.files.read_bytes(FileId(file_id), 10**6)


async def file_bytes(server: Server) -> int:
    return await server.node.services.store.count_file_bytes(UserId("alice"))


async def test_a_message_with_its_attachment(autojump_clock: MockClock) -> None:
    async with open_server(**NO_HEARTBEAT) as server, server.connect(wire=COMPACT) as client:
        await client.send_raw(binary())
        assert (await confirmed(client))["status"] == "accepted"
        question, _ = await history(client)
        [file] = question["files"]
        assert question["content"] == "What is it?"
        assert question["attachments"] == [file["file_id"]]
        assert (file["media_type"], file["bytes"]) == ("image/png", len(PNG))
        assert await content_of(server, file["file_id"]) == PNG


async def test_a_message_that_is_sent_again_makes_no_second_file(
    autojump_clock: MockClock,
) -> None:
    async with open_server(**NO_HEARTBEAT) as server, server.connect(wire=COMPACT) as client:
        await client.send_raw(binary())
        first = await confirmed(client)
        await client.send_raw(binary())
        again = await confirmed(client)
        assert (again["status"], again["run_id"]) == ("duplicate", first["run_id"])
        assert await file_bytes(server) == len(PNG)


@pytest.mark.parametrize(
    "other",
    [
        binary(data=PNG + b"x"),
        binary(media_type="image/x-unknown+octets", data=b"\xff\x00"),
        '{"type": "user_message", "payload": {"content": "What is it?"}, "correlation_id": "k"}',
    ],
    ids=["other bytes", "another type", "no attachment"],
)
async def test_another_attachment_under_the_same_key(
    autojump_clock: MockClock, other: bytes | str
) -> None:
    async with open_server(**NO_HEARTBEAT) as server, server.connect(wire=COMPACT) as client:
        await client.send_raw(binary())
        await confirmed(client)
        await client.send_raw(other)
        error = await client.error()
        assert error["code"] == "VALIDATION_ERROR"
        assert error["error"].startswith("$.correlation_id: ")
        assert await file_bytes(server) == len(PNG)


async def test_the_size_limit_covers_the_whole_frame(autojump_clock: MockClock) -> None:
    frame = binary()
    async with (
        open_server(max_message_size=len(frame), **NO_HEARTBEAT) as server,
        server.connect(wire=COMPACT) as client,
    ):
        await client.send_raw(frame)
        await confirmed(client)
        await client.send_raw(binary(data=PNG + b"x"))
        error = await client.error()
        assert error["code"] == "MESSAGE_TOO_LARGE"
        assert f"{len(frame) + 1} bytes" in error["error"]


@pytest.mark.parametrize("wire", [JSON_ACKNOWLEDGING, JSON_PLAIN], ids=["v1", "plain"])
async def test_other_subprotocols_refuse_a_binary_frame(
    autojump_clock: MockClock, wire: WireFormat
) -> None:
    async with open_server(**NO_HEARTBEAT) as server, server.connect(wire=wire) as client:
        await client.send_raw(binary())
        assert (await client.error())["code"] == "INVALID_MESSAGE_TYPE"


BAD: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "INVALID_MESSAGE_TYPE", "$: expected 4 bytes with the length"),
    "short": (b"\0\0\0", "INVALID_MESSAGE_TYPE", "$: expected 4 bytes with the length"),
    "length beyond the frame": (
        b"\0\0\0\3{}",
        "INVALID_MESSAGE_TYPE",
        "$: expected a JSON frame of 3 bytes after its length, got 2 bytes",
    ),
    "no frame": (b"\0\0\0\0data", "EMPTY_MESSAGE", "The frame is empty."),
    "not JSON": (b"\0\0\0\1{data", "JSON_PARSE_ERROR", "Not valid JSON"),
    "not UTF-8": (b'\0\0\0\3"\xff"', "JSON_PARSE_ERROR", "Not valid JSON"),
    "no object": (b"\0\0\0\2[]", "INVALID_MESSAGE_TYPE", "$: expected an object"),
    "no type": (binary({}), "MISSING_TYPE_FIELD", "$.type"),
    "unknown type": (binary({"type": "x"}), "UNKNOWN_MESSAGE_TYPE", "$.type"),
    "another type": (
        binary({"type": "ping", "payload": {}}),
        "INVALID_MESSAGE_TYPE",
        '$.type: expected user_message or room_message in a binary frame, got "ping"',
    ),
    "agent_request": (
        binary({"type": "agent_request", "payload": {"agent": "echo", "input": "x"}}),
        "INVALID_MESSAGE_TYPE",
        "$.type: expected user_message or room_message",
    ),
    "no payload": (
        binary({"type": "user_message"}),
        "VALIDATION_ERROR",
        "$.payload.content: missing",
    ),
    "no attachments": (
        binary({"type": "user_message", "payload": {"content": "x"}}),
        "VALIDATION_ERROR",
        f"{ARRAY}, got nothing",
    ),
    "null": (
        binary(user_message(None)),
        "VALIDATION_ERROR",
        "$.payload.attachments: expected an array of one object",
    ),
    "an object": (
        binary(user_message(ONE)),
        "VALIDATION_ERROR",
        "$.payload.attachments: expected an array of one object",
    ),
    "none": (binary(user_message([])), "VALIDATION_ERROR", "$.payload.attachments: expected"),
    "two": (
        binary(user_message([ONE, ONE])),
        "VALIDATION_ERROR",
        f"{ARRAY}, got 2 elements",
    ),
    "a file id": (
        binary(user_message(["file_1"])),
        "VALIDATION_ERROR",
        '$.payload.attachments[0]: expected an object with the media_type, got "file_1"',
    ),
    "no media type": (
        binary(user_message([{}])),
        "VALIDATION_ERROR",
        TYPE + "expected a type such as image/png, got nothing",
    ),
    "a number": (
        binary(user_message([{"media_type": 5}])),
        "VALIDATION_ERROR",
        TYPE + "expected a type such as image/png, got 5",
    ),
    "not a type": (
        binary(user_message([{"media_type": "png"}])),
        "VALIDATION_ERROR",
        TYPE + "expected a type such as image/png",
    ),
    "one character too long": (
        binary(user_message([{"media_type": "image/" + "x" * 122}])),
        "VALIDATION_ERROR",
        TYPE + "expected a type such as image/png",
    ),
    "unknown field": (
        binary(user_message([{**ONE, "name": "x"}])),
        "VALIDATION_ERROR",
        "$.payload.attachments[0].name: unknown field",
    ),
    "contradicted": (
        binary(user_message([ONE]), b"<html><script>alert(1)</script></html>"),
        "VALIDATION_ERROR",
        TYPE + 'expected text/html, as the content shows, got "image/png"',
    ),
    "a field of the message": (
        binary({"type": "user_message", "payload": {"content": 5, "attachments": [ONE]}}),
        "VALIDATION_ERROR",
        "$.payload.content: expected a string, got 5",
    ),
}


async def test_bad_frames_are_refused_with_their_fault(autojump_clock: MockClock) -> None:
    async with open_server(**NO_HEARTBEAT) as server, server.connect(wire=COMPACT) as client:
        for name, (payload, code, text) in BAD.items():
            await client.send_raw(payload)
            error = await client.error()
            assert (error["code"], error["error"].startswith(text)) == (code, True), (name, error)
            assert await client.sync() == []  # a good one between them
        assert await file_bytes(server) == 0


async def test_the_longest_media_type(autojump_clock: MockClock) -> None:
    longest = "image/" + "x" * 121
    async with open_server(**NO_HEARTBEAT) as server, server.connect(wire=COMPACT) as client:
        await client.send_raw(binary(media_type=longest, data=b"\xff\x00"))
        await confirmed(client)
        question, _ = await history(client)
        assert [file["media_type"] for file in question["files"]] == [longest]


async def test_the_fifth_bad_frame_in_a_row_ends_the_connection(
    autojump_clock: MockClock,
) -> None:
    async with open_server(**NO_HEARTBEAT) as server, server.connect(wire=COMPACT) as client:
        for _ in range(5):
            await client.send_raw(BAD["contradicted"][0])
        _, code = await client.rest()
        assert code == 4400


async def test_an_error_has_the_key_of_its_message(autojump_clock: MockClock) -> None:
    async with open_server(**NO_HEARTBEAT) as server, server.connect(wire=COMPACT) as client:
        for data in (BAD["two"][0], BAD["contradicted"][0]):
            frame = orjson.loads(data[4 : 4 + int.from_bytes(data[:4], "big")])
            content = data[4 + int.from_bytes(data[:4], "big") :]
            await client.send_raw(binary({**frame, "correlation_id": "k-1"}, content))
            assert (await client.expect("error"))["correlation_id"] == "k-1"


async def test_the_file_space_of_the_user_is_full(autojump_clock: MockClock) -> None:
    async with (
        open_server(files_user_max_bytes=len(PNG), **NO_HEARTBEAT) as server,
        server.connect(wire=COMPACT) as client,
    ):
        await client.send_raw(binary())
        await confirmed(client)
        await client.send_raw(binary(key="k-2"))
        error = await client.expect("error")
        assert (error["payload"]["code"], error["correlation_id"]) == ("MESSAGE_TOO_LARGE", "k-2")
        assert await file_bytes(server) == len(PNG)


async def test_a_file_may_be_smaller_than_a_message(autojump_clock: MockClock) -> None:
    async with (
        open_server(files_max_bytes=len(PNG) - 1, **NO_HEARTBEAT) as server,
        server.connect(wire=COMPACT) as client,
    ):
        await client.send_raw(binary())
        error = await client.error()
        assert error["code"] == "MESSAGE_TOO_LARGE"
        assert f"{len(PNG) - 1} bytes" in error["error"]


async def test_the_storage_cannot_store_it_now(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise StorageUnavailable("down")

    async with open_server(**NO_HEARTBEAT) as server, server.connect(wire=COMPACT) as client:
        with monkeypatch.context() as patch:
            patch.setattr(type(server.node.services.files), "upload", fail)
            await client.send_raw(binary())
            assert (await client.error())["code"] == "SERVICE_UNAVAILABLE"
        await client.send_raw(binary())  # its key is free
        assert (await confirmed(client))["status"] == "accepted"


@pytest.mark.parametrize("seconds", [STORE_SECONDS - 0.5, STORE_SECONDS + 0.5])
async def test_the_storage_is_slow(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    async with open_server(**NO_HEARTBEAT) as server, server.connect(wire=COMPACT) as client:
        storage = server.node.services.storage
        put = storage.put

        async def slow(file_id: FileId, path: Path) -> None:
            await trio.sleep(seconds)
            await put(file_id, path)

        monkeypatch.setattr(storage, "put", slow)
        since = trio.current_time()
        await client.send_raw(binary())
        if seconds < STORE_SECONDS:
            assert (await confirmed(client))["status"] == "accepted"
        else:
            assert (await client.error())["code"] == "SERVICE_UNAVAILABLE"
            assert trio.current_time() - since == pytest.approx(STORE_SECONDS)
            assert await file_bytes(server) == 0


async def test_a_message_to_a_room(autojump_clock: MockClock) -> None:
    async def may(*_: object) -> bool:
        return True

    payload = {"room": "team", "content": "look", "attachments": [ONE]}
    frame = {"type": "room_message", "payload": payload, "correlation_id": "k"}
    async with (
        open_server(may=may, **NO_HEARTBEAT) as server,
        server.connect(wire=COMPACT) as client,
    ):
        await client.send("join_room", {"room": "team"})
        await client.expect("room_joined")
        await client.send_raw(binary(frame))
        got = {each["type"]: each["payload"] for each in [await client.next(), await client.next()]}
        assert got["room_confirmed"]["status"] == "accepted"
        event = got["room_event"]["event"]
        assert (event["type"], event["payload"]["content"]) == ("room_message", "look")
        [file_id] = event["payload"]["attachments"]
        assert await content_of(server, file_id) == PNG
        file = await server.node.services.store.get_file(FileId(file_id))
        assert file is not None
        assert (file.user_id, file.sha256) == ("alice", hashlib.sha256(PNG).hexdigest())
