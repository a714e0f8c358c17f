"""Files in what clients post to doors: what is read, kept and compared."""

from base64 import b64encode
from typing import Any

import pytest
from support.ag_ui import run_input
from support.doors import open_app, request

from netra_trio import Run
from netra_trio.endpoints.doors.ag_ui_input import read_input
from netra_trio.endpoints.doors.openai_request import read_request
from netra_trio.endpoints.doors.posted_files import PostedFile, read_base64, read_url
from netra_trio.endpoints.doors.vercel_request import decode_chat
from netra_trio.files.rate import UPLOADS
from netra_trio.ids import FileId, ThreadId, UserId
from netra_trio.protocol.fields import ATTACHMENTS
from netra_trio.protocol.problem import Refused
from netra_trio.server.application import Application

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256))
BASE64 = b64encode(PNG).decode()
URL = f"data:image/png;base64,{BASE64}"
OTHER = "https://example.com/a.png"
OWN = "/ws/files/file_7"
UPLOADED = PostedFile.uploaded("file_7")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL, PostedFile("a", PNG)),
        (URL.replace("image/png", "text/plain;charset=utf-8"), PostedFile("a", PNG)),
        (f"DATA:;BASE64,{BASE64}", PostedFile("a", PNG)),
        ("data:;base64,", PostedFile("a", b"")),
        ("data:text/plain,hello", None),
        ("data:image/png;base64,?", None),
        ("data:image/png;base64,\u00e9", None),
        (OWN, UPLOADED),
        (f"https://example.com{OWN}?ticket=x", UPLOADED),
        (f"{OWN}/more", None),
        ("/ws/files/", None),
        (OTHER, None),
        ("http://[", None),
        ("", None),
        (5, None),
        (None, None),
    ],
)
def test_urls(url: object, expected: PostedFile | None) -> None:
    assert read_url(url, name="a") == expected


def test_the_value_by_which_a_file_is_compared() -> None:
    one, same = read_base64(BASE64, name="a"), read_base64(BASE64, name=5)
    assert one is not None
    assert same == PostedFile("", PNG)
    assert one.digest == same.digest
    assert len(one.digest) == 64
    assert UPLOADED.digest == UPLOADED.file_id == FileId("file_7")
    assert read_base64(5) is None


# What each door reads.


def openai(*parts: Any) -> tuple[PostedFile, ...]:
    messages = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": OTHER}}]},
        {"role": "user", "content": [{"type": "text", "text": "look"}, *parts]},
    ]
    read = read_request({"model": "m", "messages": messages}, 0.0)
    assert (read.content, read.history) == ("look", ())
    return read.files


def vercel(*parts: Any) -> tuple[PostedFile, ...]:
    said = {"id": "m", "role": "user", "parts": [{"type": "text", "text": "look"}, *parts]}
    chat = decode_chat({"id": "t", "messages": [said]})
    assert chat.said is not None
    return chat.said.files


def ag_ui(*parts: Any) -> tuple[PostedFile, ...]:
    return read_input(run_input(text=[{"type": "text", "text": "look"}, *parts])).files


SOURCE = {"type": "data", "value": BASE64, "mimeType": "image/png"}
FROM_URL = {"type": "url", "value": OWN}


@pytest.mark.parametrize(
    ("read", "part", "expected"),
    [
        (openai, {"type": "image_url", "image_url": {"url": URL}}, PostedFile("", PNG)),
        (openai, {"type": "image_url", "image_url": {"url": OWN}}, UPLOADED),
        (
            openai,
            {"type": "file", "file": {"file_data": URL, "filename": "a"}},
            PostedFile("a", PNG),
        ),
        (openai, {"type": "file", "file": {"file_id": "file_7"}}, UPLOADED),
        (
            openai,
            {"type": "input_audio", "input_audio": {"data": BASE64, "format": "wav"}},
            PostedFile("audio.wav", PNG),
        ),
        (openai, {"type": "input_audio", "input_audio": {"data": BASE64}}, PostedFile("", PNG)),
        (vercel, {"type": "file", "url": URL, "filename": "a"}, PostedFile("a", PNG)),
        (vercel, {"type": "file", "url": OWN, "mediaType": "image/png"}, UPLOADED),
        (ag_ui, {"type": "binary", "data": BASE64, "filename": "a"}, PostedFile("a", PNG)),
        (ag_ui, {"type": "binary", "url": URL}, PostedFile("", PNG)),
        (ag_ui, {"type": "binary", "id": "file_7"}, UPLOADED),
        (ag_ui, {"type": "image", "source": SOURCE}, PostedFile("", PNG)),
        (ag_ui, {"type": "document", "source": FROM_URL}, UPLOADED),
        (
            ag_ui,
            {"type": "audio", "source": SOURCE, "metadata": {"filename": "a"}},
            PostedFile("a", PNG),
        ),
    ],
)
def test_files_in_parts(read: Any, part: Any, expected: PostedFile) -> None:
    assert read(part) == (expected,)


WANTED = "expected a data: URL in Base64, or the address of an uploaded file, got"


@pytest.mark.parametrize(
    ("read", "part", "expected"),
    [
        (
            openai,
            {"type": "image_url", "image_url": {"url": OTHER}},
            f'$.messages[1].content[1].image_url.url: {WANTED} "{OTHER}"',
        ),
        (
            openai,
            {"type": "file", "file": {}},
            f"$.messages[1].content[1].file.file_data: {WANTED} null",
        ),
        (
            openai,
            {"type": "input_audio", "input_audio": {"data": 5}},
            f"$.messages[1].content[1].input_audio.data: {WANTED} 5",
        ),
        (openai, {"type": "video"}, "$.messages[1].content[1].type: expected text, image_url"),
        (
            vercel,
            {"type": "file", "url": OTHER},
            f'$.messages[0].parts[1].url: {WANTED} "{OTHER}"',
        ),
        (
            ag_ui,
            {"type": "binary", "url": OTHER},
            f'$.messages[0].content[1].url: {WANTED} "{OTHER}"',
        ),
        (
            ag_ui,
            {"type": "binary", "data": "?"},
            '$.messages[0].content[1].data: expected Base64, got "?"',
        ),
        (
            ag_ui,
            {"type": "image", "source": {"type": "url", "value": 5}},
            f"$.messages[0].content[1].source.value: {WANTED} 5",
        ),
        (ag_ui, {"type": "image"}, "$.messages[0].content[1].source: expected an object"),
    ],
)
def test_other_parts_are_refused_with_their_path(read: Any, part: Any, expected: str) -> None:
    with pytest.raises(Refused) as caught:
        read(part)
    assert caught.value.problem.error.startswith(expected)


# What an agent gets.


async def digest(run: Run) -> str:
    files = [(each.name, each.media_type, await each.read() == PNG) for each in run.attachments]
    return f"{files}"


FOUND = "[('', 'image/png', True)]"
OPENAI, VERCEL, AG_UI = "/v1/chat/completions", "/api/chat", "/ag-ui/digest"


def post(door: str, key: str, *urls: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the body and the headers of a message with these files."""
    if door == OPENAI:
        images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content = [{"type": "text", "text": "look"}, *images]
        body = {"model": "digest", "messages": [{"role": "user", "content": content}]}
        return body, {"idempotency-key": key}
    if door == VERCEL:
        files = [{"type": "file", "mediaType": "image/png", "url": url} for url in urls]
        parts = [{"type": "text", "text": "look"}, *files]
        return {"id": "t", "messages": [{"id": key, "role": "user", "parts": parts}]}, {}
    binaries = [{"type": "binary", "mimeType": "image/png", "url": url} for url in urls]
    return run_input(key, [{"type": "text", "text": "look"}, *binaries]), {}


async def answer_of(app: Application, door: str, key: str, *urls: str) -> tuple[int, str]:
    body, headers = post(door, key, *urls)
    async with request(app, "POST", door, json=body, headers=headers, user="alice") as answer:
        return answer.status, await answer.text()


@pytest.mark.parametrize("door", [OPENAI, VERCEL, AG_UI])
async def test_an_agent_gets_the_files_of_a_posted_message(door: str) -> None:
    async with open_app(agents={"digest": digest}) as app:
        status, first = await answer_of(app, door, "m-1", URL)
        assert (status, FOUND in first) == (200, True)
        # The same message again is a duplicate, and its file is not stored again.
        store = app.node.services.store
        status, again = await answer_of(app, door, "m-1", URL)
        assert (status, FOUND in again) == (200, True)
        assert await store.count_file_bytes(UserId("alice")) == len(PNG)
        status, other = await answer_of(app, door, "m-2", URL, "data:;base64,AAAA")
        assert (status, "False" in other) == (200, True)
        # An address names a file that the user has uploaded.
        page = await store.history(UserId("alice"), ThreadId(_thread(door)), limit=9)
        if page is not None:
            [file_id] = page[0][0].attachments or ()
            status, by_address = await answer_of(app, door, "m-3", f"/ws/files/{file_id}")
            assert (status, FOUND in by_address) == (200, True)


def _thread(door: str) -> str:
    return {VERCEL: "t", AG_UI: "t-1"}.get(door, "none")


@pytest.mark.parametrize("door", [OPENAI, VERCEL, AG_UI])
async def test_files_that_cannot_be_kept(door: str) -> None:
    async with open_app(agents={"digest": digest}, files_max_bytes=len(PNG)) as app:

        async def refusal(*urls: str) -> str:
            status, text = await answer_of(app, door, "m-1", *urls)
            assert 400 <= status < 500
            assert "$.payload" not in text  # the field of a frame, which this request is not
            return text

        assert "uploaded, got" in await refusal("/ws/files/file_unknown")
        large = f"data:;base64,{b64encode(PNG + b'x').decode()}"
        assert "more than 272 bytes" in await refusal(large)
        many = [f"/ws/files/file_{number}" for number in range(ATTACHMENTS + 1)]
        assert "at most 16 files in a message, got 17" in await refusal(*many)
        # One file twice is one file; the refused message has left its key free.
        status, text = await answer_of(app, door, "m-1", URL, URL)
        assert (status, FOUND in text) == (200, True)
        for number in range(UPLOADS):
            status, text = await answer_of(app, door, f"n-{number}", URL)
            if status != 200:
                break
        assert status == 429
        assert "Too many uploads" in text
