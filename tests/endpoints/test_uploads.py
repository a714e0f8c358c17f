"""`POST /ws/files`: bodies, forms, limits and refusals."""

import hashlib
import os
from typing import Any

import pytest
import trio
import trio.testing
from support.file_requests import Answer, App, bearer, open_app
from trio.testing import MockClock

from netra_trio.endpoints.body import GRACE_SECONDS, LEAST_SPEED
from netra_trio.endpoints.form import HEADER_BYTES, HEADERS, OTHER_BYTES, PARTS
from netra_trio.endpoints.uploads import UPLOADS_AT_ONCE, USER_UPLOADS_AT_ONCE
from netra_trio.errors import StorageUnavailable, StoreUnavailable
from netra_trio.files.rate import UPLOAD_SECONDS, UPLOADS
from netra_trio.ids import UserId
from netra_trio.server.asgi import CLOSING
from netra_trio.transports.asgi import EXTENSION

BOUNDARY = "the-boundary"


def part(content: bytes, name: str = "file", filename: str | None = "a.txt", *more: str) -> bytes:
    """Return a part of a form."""
    file = "" if filename is None else f'; filename="{filename}"'
    lines = [f'Content-Disposition: form-data; name="{name}"{file}', *more]
    head = "".join(f"{line}\r\n" for line in lines)
    return f"--{BOUNDARY}\r\n{head}\r\n".encode() + content + b"\r\n"


def form(*parts: bytes, end: bytes = f"--{BOUNDARY}--\r\n".encode()) -> bytes:
    return b"".join(parts) + end


async def send_form(app: App, body: bytes, *, piece: int = 10_000, **more: str) -> Answer:
    """Upload a form, in pieces."""
    pieces = [body[at : at + piece] for at in range(0, len(body), piece)] or [b""]
    content_type = more.pop("content_type", f"multipart/form-data; boundary={BOUNDARY}")
    return await app.upload(*pieces, content_type=content_type, **more)


async def stored(app: App, answer: Answer) -> Any:
    """Return the file of an answer, as the store has it."""
    assert answer.status == 200, answer.body
    found = await app.node.services.store.get_file(answer.json["file_id"])
    assert found is not None
    return found


async def test_a_raw_body() -> None:
    content = os.urandom(100_000)
    async with open_app() as app:
        answer = await app.upload(content[:50_000], content[50_000:], b"")
        assert answer.json == {
            "file_id": answer.json["file_id"],
            "media_type": "application/octet-stream",
            "bytes": 100_000,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        file = await stored(app, answer)
        assert (file.name, file.user_id) == ("", "alice")


@pytest.mark.parametrize(
    ("query", "disposition", "name"),
    [
        ("", None, ""),
        ("?name=a.txt", None, "a.txt"),
        ("?name=../../etc/passwd", None, "passwd"),
        ("?name=%E2%82%AC.txt", None, "\u20ac.txt"),
        ("?name=a%00b", None, "ab"),
        ("?name=a&name=b", None, "a"),
        ("?name=a", 'attachment; filename="b"', "a"),
        ("", 'attachment; filename="b c.txt"', "b c.txt"),
        ("", "attachment; filename=b.txt", "b.txt"),
        ("", 'attachment; filename="\xe2\x82\xac.txt"', "\u20ac.txt"),
        ("", 'attachment; filename="\xe9.txt"', "\xe9.txt"),
        ("", "attachment; filename=\"b\"; filename*=UTF-8''%E2%82%AC.txt", "\u20ac.txt"),
        ("", "attachment; filename*=nonsense''%61; filename=b", "b"),
        ("", "attachment; filename*=idna''%61; filename=b", "b"),
        ("", "attachment; filename*=punycode''%80; filename=b", "b"),
        ("", "attachment; filename*=iso-8859-1'en'%E9.txt", "\xe9.txt"),
        ("", "nonsense", ""),
        ("", ";;;===", ""),
    ],
)
async def test_the_name_of_a_raw_body(query: str, disposition: str | None, name: str) -> None:
    more = {} if disposition is None else {"content_disposition": disposition}
    async with open_app() as app:
        assert (await stored(app, await app.upload(b"x", query=query, **more))).name == name


@pytest.mark.parametrize("piece", [1, 7, 10_000])
async def test_a_form(piece: int) -> None:
    content = b"--the-bound\r\n--the-boundarx\r\n\r\n--" * 20
    body = form(
        part(b"ignored", "token", None),
        part(content, "file", "\u20ac.md", "Content-Type: image/png"),
        part(b"also ignored", "token", None),
    )
    async with open_app() as app:
        answer = await send_form(app, body, piece=piece)
        file = await stored(app, answer)
        assert (file.name, file.media_type, file.size) == (
            "\u20ac.md",
            "text/markdown",
            len(content),
        )
        assert file.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("part_head", "name"),
    [
        ('name="file"; filename="a%22b.txt"', 'a"b.txt'),
        ('name="file"; filename="C:\\\\me\\\\a.txt"', "a.txt"),
        ("name=file; filename=a.txt", "a.txt"),
        ("name=\"file\"; filename*=UTF-8''%E2%82%AC.txt", "\u20ac.txt"),
        ('filename="a.txt"', "a.txt"),
    ],
)
async def test_the_name_in_a_form(part_head: str, name: str) -> None:
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {part_head}\r\n\r\n"
    async with open_app() as app:
        answer = await send_form(app, head.encode() + form(b"x\r\n"))
        assert (await stored(app, answer)).name == name
        answer = await send_form(app, head.encode() + form(b"x\r\n"), query="?name=other")
        assert (await stored(app, answer)).name == "other"


BAD_FORMS = {
    "empty": b"",
    "no form": b"hello",
    "only the end": form(),
    "no file": form(part(b"x", "a", None)),
    "no chosen file": form(part(b"", "file", "")),
    "two files": form(part(b"x"), part(b"y")),
    "no end": form(part(b"x"), end=b""),
    "cut in a boundary": form(part(b"x"), end=b"--the-bou"),
    "cut in a head": f"--{BOUNDARY}\r\nContent-Disposition: form-".encode(),
    "no disposition": f"--{BOUNDARY}\r\n\r\nx\r\n".encode() + form(),
    "another disposition": form(part(b"x")).replace(b"form-data", b"inline"),
    "no colon": f"--{BOUNDARY}\r\nnonsense\r\n\r\nx\r\n".encode() + form(),
    "bare line feeds": form(part(b"x")).replace(b"\r\n", b"\n"),
    "a long head": form(part(b"x", "file", "a", f"X: {'y' * 5000}")),
    "many heads": form(part(b"x", "file", "a", *("X: y",) * 20)),
    "many parts": form(*(part(b"", "a", None) for _ in range(PARTS)), part(b"x")),
    "bytes behind a boundary": form(part(b"x"), end=f"--{BOUNDARY}xy".encode()),
    "a wrong length": form(part(b"xyz", "file", "a", "Content-Length: 2")),
}


@pytest.mark.parametrize("name", BAD_FORMS)
@pytest.mark.parametrize("piece", [11, 100_000])
async def test_a_form_that_is_not_valid(name: str, piece: int) -> None:
    async with open_app() as app:
        answer = await send_form(app, BAD_FORMS[name], piece=piece)
        assert (answer.status, answer.code) == (400, "BAD_REQUEST")
        assert await app.node.services.store.count_file_bytes("alice") == 0  # type: ignore[arg-type]
        assert (await app.upload(b"x")).status == 200


async def test_the_parts_of_a_form_and_one_more() -> None:
    others = [part(b"", "a", None) for _ in range(PARTS)]
    async with open_app() as app:
        assert (await send_form(app, form(*others[:-1], part(b"x")))).status == 200
        refused = await send_form(app, form(*others, part(b"x")))
        assert (refused.status, refused.code) == (400, "BAD_REQUEST")
        assert f"more than {PARTS} parts" in refused.body.decode()


async def test_the_headers_of_a_part_and_one_more() -> None:
    async with open_app() as app:
        for count, status in ((HEADERS, 200), (HEADERS + 1, 400)):
            more = ("X: y",) * (count - 1)  # beside its Content-Disposition
            answer = await send_form(app, form(part(b"x", "file", "a", *more)))
            assert answer.status == status
        for size, status in ((HEADER_BYTES, 200), (HEADER_BYTES + 1, 400)):
            answer = await send_form(app, form(part(b"x", "file", "a", f"X: {'y' * (size - 3)}")))
            assert answer.status == status
        assert f"a header of more than {HEADER_BYTES} bytes" in answer.body.decode()


@pytest.mark.parametrize("is_before", [False, True])
async def test_the_bytes_beside_a_file_are_bounded(is_before: bool) -> None:
    async with open_app() as app:
        for size, status in ((OTHER_BYTES - 1000, 200), (OTHER_BYTES + 1000, 413)):
            other = part(b"y" * size, "a", None)
            parts = (other, part(b"x")) if is_before else (part(b"x"), other)
            answer = await send_form(app, form(*parts))
            assert answer.status == status
        endless = await send_form(app, form(part(b"x")) + b"z" * (OTHER_BYTES + 1))
        assert endless.status == 413
        preamble = b"z" * (OTHER_BYTES + 1) + b"\r\n"
        before = await send_form(app, preamble + form(part(b"x")))
        assert before.status == 413


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        f"multipart/form-data; boundary={'x' * 71}",
        'multipart/form-data; boundary="a\x01b"',
        f"multipart/mixed; boundary={BOUNDARY}",
    ],
)
async def test_parts_without_a_valid_boundary(content_type: str) -> None:
    async with open_app() as app:
        answer = await send_form(app, form(part(b"x")), content_type=content_type)
        assert (answer.status, answer.code) == (400, "BAD_REQUEST")
        assert answer.json["error"].startswith("Content-Type: expected")


async def test_an_encoded_body_is_refused() -> None:
    async with open_app() as app:
        answer = await app.upload(b"x", content_encoding="gzip")
        assert (answer.status, answer.json["error"][:17]) == (400, "Content-Encoding:")
        assert (await app.upload(b"x", content_encoding="identity")).status == 200


# Limits.


async def test_the_largest_body_and_one_byte_more() -> None:
    async with open_app(files_max_bytes=1000) as app:
        assert (await app.upload(b"x" * 1000)).status == 200
        for sent in ((b"x" * 1001,), (b"x" * 1000, b"x")):
            answer = await app.upload(*sent)
            assert (answer.status, answer.code) == (413, "MESSAGE_TOO_LARGE")
            assert "1000 bytes" in answer.json["error"]
        # With the length known nothing is read: the body never comes.
        assert (await app.upload(1e6, content_length="1001")).status == 413
        assert (await app.upload(b"x" * 1000, content_length="1000")).status == 200


async def test_the_largest_file_of_a_form_and_one_byte_more() -> None:
    async with open_app(files_max_bytes=1000) as app:
        assert (await send_form(app, form(part(b"x" * 1000)))).status == 200
        answer = await send_form(app, form(part(b"x" * 1001)))
        assert (answer.status, answer.code) == (413, "MESSAGE_TOO_LARGE")
        length = str(1000 + OTHER_BYTES)
        assert (await send_form(app, form(part(b"x")), content_length=length)).status == 200
        length = str(1001 + OTHER_BYTES)
        assert (await send_form(app, form(part(b"x")), content_length=length)).status == 413


async def test_the_bytes_of_a_user_and_one_more() -> None:
    async with open_app(files_user_max_bytes=10) as app:
        assert (await app.upload(b"x" * 10)).status == 200
        answer = await app.upload(b"x")
        assert (answer.status, answer.code) == (429, "QUEUE_FULL")
        assert "10 bytes" in answer.json["error"]
        assert answer.json["retry_after_ms"] == 60_000
        assert answer.headers["retry-after"] == "60"
        assert (await app.upload(b"x", user="bob")).status == 200


async def test_the_uploads_of_a_minute_and_one_more(autojump_clock: MockClock) -> None:
    async with open_app(files_max_bytes=5) as app:
        for number in range(UPLOADS):
            # One that fails counts too: its body may have been read.
            status = 413 if number % 2 else 200
            assert (await app.upload(b"123456" if number % 2 else b"1")).status == status
            await trio.sleep(1)
        answer = await app.upload(b"1")
        assert (answer.status, answer.code) == (429, "RATE_LIMIT_EXCEEDED")
        wait = UPLOAD_SECONDS - UPLOADS
        assert answer.headers["retry-after"] == f"{wait:g}"
        assert (await app.upload(b"1", user="bob")).status == 200
        await trio.sleep(wait)
        assert (await app.upload(b"1")).status == 200
        assert (await app.upload(b"1")).status == 429


async def test_uploads_at_once_of_a_user_and_of_all(autojump_clock: MockClock) -> None:
    async with open_app() as app, trio.open_nursery() as nursery:
        for _ in range(USER_UPLOADS_AT_ONCE):
            nursery.start_soon(app.upload, 1.0, b"x")
        await trio.testing.wait_all_tasks_blocked()
        answer = await app.upload(b"x")
        assert (answer.status, answer.code) == (503, "SERVICE_UNAVAILABLE")
        assert answer.headers["retry-after"] == "1"
        assert (await app.upload(b"x", user="bob")).status == 200
        await trio.sleep(2)
        assert (await app.upload(b"x")).status == 200


async def test_a_few_users_cannot_take_all_places_of_uploads(autojump_clock: MockClock) -> None:
    """With few free places a user gets half of them, and one of the last ones."""
    async with open_app() as app, trio.open_nursery() as nursery:
        taken: list[int] = []
        for number in range(20):
            answers: list[int] = []
            for _ in range(USER_UPLOADS_AT_ONCE):
                nursery.start_soon(note_status, app, f"user-{number}", answers)
            await trio.testing.wait_all_tasks_blocked()
            taken.append(USER_UPLOADS_AT_ONCE - len(answers))
        assert taken == [16, 16, 11, 7, 5, 3, 2, 1, 1, 1, 1, *[0] * 9]
        assert sum(taken) == UPLOADS_AT_ONCE


async def note_status(app: App, user: str, answers: list[int]) -> None:
    answers.append((await app.upload(1.0, b"x", user=user)).status)


async def test_a_body_that_stalls_and_one_that_is_slow(autojump_clock: MockClock) -> None:
    async with open_app(send_timeout_ms=5000) as app:
        answer = await app.upload(b"x", 5.1, b"y")
        assert (answer.status, answer.code) == (408, "BAD_REQUEST")
        slow = [part for _ in range(12) for part in (4.9, b"x")]
        assert (await app.upload(*slow)).json["bytes"] == 12


async def test_the_slowest_body_and_a_slower_one(autojump_clock: MockClock) -> None:
    async with open_app() as app:
        await trio.sleep(100)
        begin = [part for _ in range(12) for part in (GRACE_SECONDS / 12 - 0.1, b"x")]
        second = [part for _ in range(300) for part in (1.0, b"x" * LEAST_SPEED)]
        assert (await app.upload(*begin, *second, 1.2, b"y")).status == 200
        answer = await app.upload(*begin, *second, 1.3, b"y")
        assert (answer.status, answer.code) == (408, "BAD_REQUEST")
        assert "too slowly" in answer.json["error"]


async def test_a_client_that_leaves() -> None:
    async with open_app() as app:
        answer = await app.upload(b"x" * 300_000, None)
        assert answer.status == 400
        assert await app.node.services.store.count_file_bytes("alice") == 0  # type: ignore[arg-type]
        assert (await app.upload(b"x" * 300_000)).status == 200  # the same again just works


# The checks before the body, in their order.


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "AUTH_REQUIRED"),
        ({"authorization": "Bearer nonsense"}, 401, "INVALID_TOKEN"),
        (bearer("nobody"), 403, "USER_NOT_FOUND"),
        ({"origin": "https://evil.example"}, 403, "ORIGIN_NOT_ALLOWED"),
    ],
)
async def test_a_request_that_is_refused(headers: dict[str, str], status: int, code: str) -> None:
    async with open_app(auth_auto_provision=False) as app:
        answer = await app.request("POST", "/ws/files", headers=headers, body=(1e6,))
        assert (answer.status, answer.code) == (status, code)
        assert (await app.upload(b"x", query="?token=x")).code == "INVALID_TOKEN"


async def test_no_upload_begins_while_the_server_drains() -> None:
    async with open_app() as app:
        app.node.capacity.is_draining = True
        answer = await app.request("POST", "/ws/files", body=(1e6,))
        assert (answer.status, answer.code) == (503, "SERVER_DRAINING")


async def test_an_upload_is_cut_when_it_takes_longer_than_the_drain(
    autojump_clock: MockClock,
) -> None:
    stopping = trio.Event()
    async with open_app(drain_timeout_ms=5000) as app:
        app.extensions[EXTENSION] = {"terminated": stopping.wait}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.upload, *(b"x", 1.0) * 1000)
            await trio.sleep(2)
            stopping.set()
        assert trio.current_time() == pytest.approx(2 + 5 + CLOSING)
        assert await app.node.services.store.count_file_bytes(UserId("alice")) == 0


async def test_an_allowed_page_may_read_the_answer() -> None:
    async with open_app() as app:
        answer = await app.upload(b"x", origin="http://localhost:3000")
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert (await app.request("GET", "/ws/files", headers=bearer())).status == 405


# Faults.


@pytest.mark.parametrize("error", [StorageUnavailable("No space left"), StoreUnavailable("gone")])
async def test_a_storage_or_a_store_that_fails(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise error

    async with open_app() as app:
        with monkeypatch.context() as patch:
            target = app.node.services.storage
            if isinstance(error, StorageUnavailable):
                patch.setattr(target, "put", fail)
            else:
                patch.setattr("netra_trio.stores.memory.MemoryStore.reserve_file", fail)
            answer = await app.upload(b"x")
        assert (answer.status, answer.code) == (503, "SERVICE_UNAVAILABLE")
        assert answer.headers["retry-after"] == "1"
        assert "No space" not in answer.body.decode()
        assert await app.node.services.store.count_file_bytes("alice") == 0  # type: ignore[arg-type]
        assert (await app.upload(b"x")).status == 200
        metrics = app.node.services.instruments.metrics
        assert metrics.uploads == {"stored": 1, "refused": 0, "failed": 1}
        assert metrics.file_bytes["received"] == 1


async def test_an_upload_is_not_cut_by_the_time_of_other_bodies(autojump_clock: MockClock) -> None:
    async with open_app() as app:
        minutes = [part for _ in range(600) for part in (1.0, b"x" * LEAST_SPEED)]
        assert (await app.upload(*minutes)).status == 200
