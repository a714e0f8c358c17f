"""`GET /ws/files/{file_id}`: content, headers, ranges, tickets and refusals."""

import hashlib
import os
from typing import Any

import pytest
import trio
from support.file_requests import NOW, App, WallClock, bearer, open_app, token
from trio.testing import MockClock

from netra_trio.auth.tickets import FILE_TICKET_SECONDS, FILE_TICKETS_PER_USER
from netra_trio.errors import StorageUnavailable, StoreUnavailable
from netra_trio.files.base import CHUNK_BYTES
from netra_trio.ids import FileId, UserId
from netra_trio.protocol.problem import Refused
from netra_trio.stores.files import StoredFile

SAFE = {
    "content-security-policy": "sandbox; default-src 'none'",
    "cross-origin-resource-policy": "cross-origin",
    "x-content-type-options": "nosniff",
    "cache-control": "private, max-age=3600",
    "accept-ranges": "bytes",
}
HTML = b"<html><script>alert(1)</script>"


async def test_the_content_of_a_file() -> None:
    content = os.urandom(3 * CHUNK_BYTES + 1)
    async with open_app() as app:
        file_id = await app.store(content, "?name=a%20%E2%82%AC.bin")
        answer = await app.get(f"/ws/files/{file_id}")
        assert (answer.status, answer.is_complete) == (200, True)
        assert answer.body == content
        assert answer.headers == {
            **SAFE,
            "content-type": "application/octet-stream",
            "content-length": str(len(content)),
            "content-disposition": 'attachment; filename="a _.bin"; '
            "filename*=UTF-8''a%20%E2%82%AC.bin",
            "etag": f'"{hashlib.sha256(content).hexdigest()}"',
        }
        assert app.node.services.instruments.metrics.file_bytes["sent"] == len(content)


@pytest.mark.parametrize(
    ("content", "kind", "served"),
    [
        (HTML, "text/html", "application/octet-stream"),
        (b"<svg/>", "image/svg+xml", "application/octet-stream"),
        (b"<?xml version='1.0'?><rss/>", "application/xml", "application/octet-stream"),
        (b"hello", "text/plain", "text/plain"),
        (b"\x89PNG\r\n\x1a\n\x00", "image/png", "image/png"),
    ],
)
async def test_no_browser_runs_it(content: bytes, kind: str, served: str) -> None:
    async with open_app() as app:
        answer = await app.upload(content, query="?name=holiday.png")
        assert answer.json["media_type"] == kind
        got = await app.get(f"/ws/files/{answer.json['file_id']}")
        assert got.headers["content-type"] == served
        assert got.headers.items() >= SAFE.items()
        assert got.headers["content-disposition"] == 'attachment; filename="holiday.png"'


async def test_a_head_request_has_no_body() -> None:
    async with open_app() as app:
        file_id = await app.store(b"content")
        got = await app.get(f"/ws/files/{file_id}")
        head = await app.request("HEAD", f"/ws/files/{file_id}", headers=bearer())
        assert (head.status, head.body, head.headers) == (200, b"", got.headers)
        part = bearer(range="bytes=0-1")
        head = await app.request("HEAD", f"/ws/files/{file_id}", headers=part)
        assert (head.status, head.headers["content-length"]) == (206, "2")


async def test_parts_and_conditions() -> None:
    content = os.urandom(2 * CHUNK_BYTES)
    async with open_app() as app:
        path = f"/ws/files/{await app.store(content)}"
        for value, start, end in (
            ("bytes=0-0", 0, 1),
            (f"bytes={CHUNK_BYTES - 1}-{CHUNK_BYTES + 1}", CHUNK_BYTES - 1, CHUNK_BYTES + 2),
            ("bytes=-5", len(content) - 5, len(content)),
            ("bytes=7-", 7, len(content)),
        ):
            answer = await app.get(path, range=value)
            assert (answer.status, answer.body) == (206, content[start:end])
            assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(content)}"
            assert answer.headers["content-length"] == str(end - start)
        beyond = await app.get(path, range=f"bytes={len(content)}-")
        assert (beyond.status, beyond.code) == (416, "BAD_REQUEST")
        assert beyond.headers["content-range"] == f"bytes */{len(content)}"
        etag = answer.headers["etag"]
        same = await app.get(path, if_none_match=etag)
        assert (same.status, same.body, same.headers["etag"]) == (304, b"", etag)
        assert (await app.get(path, range="bytes=0-0", if_range='"x"')).status == 200


async def test_an_empty_file() -> None:
    async with open_app() as app:
        path = f"/ws/files/{await app.store(b'')}"
        answer = await app.get(path)
        assert (answer.status, answer.body, answer.is_complete) == (200, b"", True)
        assert answer.headers["content-length"] == "0"
        assert (await app.get(path, range="bytes=0-")).status == 416


async def reserve(app: App) -> FileId:
    """Record a file whose content is not written yet."""
    file = StoredFile(FileId("file_0"), UserId("alice"), "", "text/plain", 1, "0" * 64, NOW)
    assert await app.node.services.store.reserve_file(file, max_bytes=10)
    return file.file_id


async def test_files_that_the_user_does_not_have() -> None:
    async with open_app() as app:
        bobs = await app.store(b"secret", user="bob")
        unfinished = await reserve(app)
        lost = await app.store(b"lost")
        await app.node.services.storage.delete(FileId(lost))
        answers = [
            await app.get(f"/ws/files/{file_id}")
            for file_id in (bobs, unfinished, lost, "unknown", "a/../b", "%00", "x" * 1000)
        ]
        assert {answer.status for answer in answers} == {404}
        assert len({answer.body for answer in answers}) == 1
        assert answers[0].code == "FILE_NOT_FOUND"
        assert (await app.get("/ws/files/", user="alice")).status == 404


@pytest.mark.parametrize(
    ("headers", "query", "status", "code"),
    [
        ({}, "", 401, "AUTH_REQUIRED"),
        ({}, "?token=" + token(), 401, "AUTH_REQUIRED"),
        ({}, "?ticket=guess", 401, "INVALID_TOKEN"),
        ({}, "?ticket=a&ticket=b", 401, "INVALID_TOKEN"),
        (bearer(), "?ticket=guess", 401, "INVALID_TOKEN"),
        ({"authorization": f"Bearer {token(expires_at=NOW - 60)}"}, "", 401, "TOKEN_EXPIRED"),
        (bearer("nobody"), "", 403, "USER_NOT_FOUND"),
    ],
)
async def test_requests_that_are_refused(
    headers: dict[str, str], query: str, status: int, code: str
) -> None:
    async with open_app(auth_auto_provision=False) as app:
        file_id = await app.store(b"content")
        answer = await app.request("GET", f"/ws/files/{file_id}{query}", headers=headers)
        assert (answer.status, answer.code) == (status, code)


async def test_pages_of_other_origins() -> None:
    async with open_app(environment="staging") as app:
        path = f"/ws/files/{await app.store(b'content')}"
        answer = await app.get(path, origin="https://evil.example")
        assert "access-control-allow-origin" not in answer.headers
        answer = await app.get(path, origin="http://localhost:3000")
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"


# Tickets.


async def test_a_ticket_for_a_file(autojump_clock: MockClock) -> None:
    async with open_app() as app:
        file_id, other = await app.store(b"content"), await app.store(b"other")
        issued = await app.ticket({"file_id": file_id})
        assert issued.json == {"ticket": issued.json["ticket"], "expires_in": 300}
        query = f"?ticket={issued.json['ticket']}"
        for _ in range(3):
            answer = await app.get(f"/ws/files/{file_id}{query}", user=None)
            assert (answer.status, answer.body) == (200, b"content")
        assert (await app.get(f"/ws/files/{other}{query}", user=None)).code == "INVALID_TOKEN"
        assert (await app.get(f"/ws{query}", user=None)).status == 426
        ordinary = (await app.ticket()).json["ticket"]
        answer = await app.get(f"/ws/files/{file_id}?ticket={ordinary}", user=None)
        assert answer.code == "INVALID_TOKEN"
        services = app.node.services
        assert (await services.tickets.redeem(ordinary, trio.current_time())).user_id == "alice"
        await trio.sleep(FILE_TICKET_SECONDS - 1)
        assert (await app.get(f"/ws/files/{file_id}{query}", user=None)).status == 200
        await trio.sleep(1)
        answer = await app.get(f"/ws/files/{file_id}{query}", user=None)
        assert (answer.status, answer.code) == (401, "INVALID_TOKEN")


async def test_a_ticket_for_a_file_opens_no_connection() -> None:
    async with open_app() as app:
        issued = await app.ticket({"file_id": await app.store(b"content")})
        with pytest.raises(Refused):
            await app.node.services.tickets.redeem(issued.json["ticket"], trio.current_time())


async def test_a_ticket_ends_with_its_token_and_its_user() -> None:
    clock = WallClock()
    async with open_app(clock=clock) as app:
        file_id = await app.store(b"content")
        headers = {"authorization": f"Bearer {token(expires_at=NOW + 60)}"}
        body = (f'{{"file_id": "{file_id}"}}'.encode(),)
        issued = await app.request("POST", "/ws/ticket", headers=headers, body=body)
        path = f"/ws/files/{file_id}?ticket={issued.json['ticket']}"
        assert (await app.get(path, user=None)).status == 200
        await app.node.services.store.set_user_enabled(UserId("alice"), enabled=False)
        assert (await app.get(path, user=None)).code == "USER_DISABLED"
        await app.node.services.store.set_user_enabled(UserId("alice"), enabled=True)
        clock.moved = 120
        assert (await app.get(path, user=None)).code == "TOKEN_EXPIRED"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 200, None),
        (b" \n", 200, None),
        (b"{}", 200, None),
        (b"{", 400, "BAD_REQUEST"),
        (b"x" * 20_000, 413, "BAD_REQUEST"),
        ([], 400, "VALIDATION_ERROR"),
        ({"file_id": 5}, 400, "VALIDATION_ERROR"),
        ({"file_id": ""}, 400, "VALIDATION_ERROR"),
        ({"file_id": None}, 400, "VALIDATION_ERROR"),
        ({"other": "x"}, 400, "VALIDATION_ERROR"),
        ({"file_id": "unknown"}, 404, "FILE_NOT_FOUND"),
    ],
)
async def test_the_body_of_a_request_for_a_ticket(body: Any, status: int, code: str | None) -> None:
    async with open_app() as app:
        answer = await app.ticket(body)
        assert answer.status == status
        assert code is None or answer.code == code
        bobs = await app.store(b"x", user="bob")
        assert (await app.ticket({"file_id": bobs})).code == "FILE_NOT_FOUND"


async def test_the_tickets_of_a_user_and_one_more() -> None:
    async with open_app() as app:
        file_id = await app.store(b"content")
        tickets = [
            (await app.ticket({"file_id": file_id})).json["ticket"]
            for _ in range(FILE_TICKETS_PER_USER + 1)
        ]
        assert [
            (await app.get(f"/ws/files/{file_id}?ticket={ticket}", user=None)).status
            for ticket in (*tickets[:2], tickets[-1])
        ] == [401, 200, 200]


# Faults.


async def test_a_client_that_leaves() -> None:
    async with open_app() as app:
        file_id = await app.store(os.urandom(10 * CHUNK_BYTES))
        answer = await app.request(
            "GET",
            f"/ws/files/{file_id}",
            headers=bearer(),
            has_left=lambda answer: len(answer.body) >= CHUNK_BYTES,
        )
        assert (len(answer.body), answer.is_complete) == (CHUNK_BYTES, False)
        assert app.node.services.instruments.metrics.file_bytes["sent"] == CHUNK_BYTES


@pytest.mark.parametrize("at_work", [False, True])
async def test_a_storage_that_fails(at_work: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_app() as app:
        file_id = await app.store(os.urandom(3 * CHUNK_BYTES))
        threads = app.node.services.storage.threads
        run, calls = threads.run, []

        async def fail(function: Any, *args: Any) -> Any:
            calls.append(function)
            if len(calls) > (2 if at_work else 0):
                raise StorageUnavailable("Input/output error")
            return await run(function, *args)

        monkeypatch.setattr(threads, "run", fail)
        answer = await app.get(f"/ws/files/{file_id}")
        if at_work:
            assert (answer.status, answer.is_complete) == (200, False)
            assert len(answer.body) == CHUNK_BYTES
        else:
            assert (answer.status, answer.code) == (503, "SERVICE_UNAVAILABLE")


async def test_a_store_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise StoreUnavailable("gone")

    async with open_app() as app:
        file_id = await app.store(b"content")
        monkeypatch.setattr("netra_trio.stores.memory.MemoryStore.find_files", fail)
        answer = await app.get(f"/ws/files/{file_id}")
        assert (answer.status, answer.code) == (503, "SERVICE_UNAVAILABLE")
        assert (await app.ticket({"file_id": file_id})).status == 503


async def test_content_that_ends_early() -> None:
    async with open_app() as app:
        file_id = await app.store(b"content")
        path = app.node.services.storage._path(file_id)  # type: ignore[attr-defined]
        path.write_bytes(b"con")
        answer = await app.get(f"/ws/files/{file_id}")
        assert (answer.status, answer.body, answer.is_complete) == (200, b"con", False)


async def test_the_health_names_the_files() -> None:
    async with open_app() as app:
        answer = await app.request("GET", "/ws/health")
        assert answer.json["checks"] == {"store": "ok", "files": "ok"}
    async with open_app(files_url="/dev/null/files") as app:
        answer = await app.request("GET", "/ws/health")
        assert answer.json == {
            "status": "degraded",
            "checks": {"store": "ok", "files": "unavailable"},
        }
        assert (await app.upload(b"x")).status == 503
