"""Files that a user attaches, at a model's server that speaks the Chat Completions API."""

from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from models.serving import MODEL, PATIENCE, ask, end_of, text_of
from structlog.testing import capture_logs
from support.memory import Client, open_server
from support.model_server import ModelServer, open_model_server, refuses, says

from netra_trio.errors import StorageUnavailable
from netra_trio.files.folder import FolderStorage
from netra_trio.ids import UserId
from netra_trio.models import chat
from netra_trio.models.chat import BASE_URL

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256))
PDF = b"%PDF-1.7\n\x00\xff"

Upload = Callable[[bytes, str], Awaitable[str]]


@asynccontextmanager
async def talking(server: ModelServer, **options: Any) -> AsyncIterator[tuple[Client, Upload]]:
    """Serve `chat` with these options, and connect to it; also return how to upload a file."""
    agent = chat(MODEL, base_url=server.url, **options)
    with trio.fail_after(PATIENCE):
        async with (
            agent.open(),
            open_server(agents={"chat": agent}) as node,
            node.connect() as client,
        ):
            files = node.node.services.files

            async def upload(data: bytes, name: str) -> str:
                async def chunks() -> AsyncIterator[bytes]:
                    yield data

                return (await files.upload(UserId("alice"), chunks(), name=name)).file_id

            yield client, upload


def url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{b64encode(data).decode()}"


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


IMAGE = {"type": "image_url", "image_url": {"url": url("image/png", PNG)}}
DOCUMENT = {"type": "file", "file": {"filename": "b.pdf", "file_data": url("application/pdf", PDF)}}


async def test_a_model_sees_images_and_texts() -> None:
    async with open_model_server() as server, talking(server) as (client, upload):
        server.will(says("A cat."))
        files = [await upload(PNG, "a.png"), await upload(b"# Notes", "n.md")]
        frames = await ask(client, "What is it?", attachments=files)
        assert text_of(frames) == "A cat."
    [request] = server.requests
    content = [text('What is it?\n\n[File "n.md" (text/markdown)]\n# Notes'), IMAGE]
    assert request.body["messages"] == [{"role": "user", "content": content}]


@pytest.mark.parametrize("pdfs", [None, True])
async def test_a_document_is_sent_where_the_server_accepts_it(pdfs: bool | None) -> None:
    async with open_model_server() as server, talking(server, pdfs=pdfs) as (client, upload):
        server.will(says("ok"))
        await ask(client, "hi", attachments=[await upload(PDF, "b.pdf")])
    named = '[File "b.pdf" (application/pdf), 11 bytes: its content is not available.]'
    content = f"hi\n\n{named}" if pdfs is None else [text("hi"), DOCUMENT]
    assert server.requests[0].body["messages"] == [{"role": "user", "content": content}]


def test_openai_itself_accepts_documents() -> None:
    for base_url in (BASE_URL, f"{BASE_URL}/"):
        assert chat(MODEL, base_url=base_url, api_key="k")._pdfs is True
    assert chat(MODEL, base_url="http://localhost:1/v1", api_key="k")._pdfs is False
    assert chat(MODEL, api_key="k", pdfs=False)._pdfs is False


async def test_a_model_for_text_only_gets_names() -> None:
    async with open_model_server() as server, talking(server, images=False) as (client, upload):
        server.will(says("ok"))
        await ask(client, "hi", attachments=[await upload(PNG, "a.png")])
    named = f'[File "a.png" (image/png), {len(PNG)} bytes: its content is not available.]'
    messages = server.requests[0].body["messages"]
    assert messages == [{"role": "user", "content": f"hi\n\n{named}"}]


@pytest.mark.parametrize(("tokens", "is_sent"), [(1000, False), (1010, True)])
async def test_earlier_images_count_for_the_budget_of_the_history(
    tokens: int, is_sent: bool
) -> None:
    async with (
        open_model_server() as server,
        talking(server, history_tokens=tokens) as (client, upload),
    ):
        server.always(says("ok"))
        await ask(client, "hi", attachments=[await upload(PNG, "a.png")], thread_id="t")
        await ask(client, "bye", thread_id="t")
    *earlier, last = server.requests[1].body["messages"]
    assert last == {"role": "user", "content": "bye"}
    first = {"role": "user", "content": [text("hi"), IMAGE]}
    assert earlier == ([first, {"role": "assistant", "content": "ok"}] if is_sent else [])


async def test_an_image_of_a_message_without_an_answer_comes_with_the_next_one() -> None:
    async with open_model_server() as server, talking(server) as (client, upload):
        server.will(refuses(400), says("ok"))
        await ask(client, "hi", attachments=[await upload(PNG, "a.png")], thread_id="t")
        await ask(client, "well?", thread_id="t")
    [message] = server.requests[1].body["messages"]
    assert message["content"] == [text("hi\n\nwell?"), IMAGE]


async def test_a_server_that_refuses_an_image() -> None:
    with capture_logs() as logs:
        async with open_model_server() as server, talking(server) as (client, upload):
            server.will(refuses(400, {"error": {"message": "no images"}}))
            frames = await ask(client, "hi", attachments=[await upload(PNG, "a.png")])
    assert end_of(frames)["error"]["error"] == "The model's server rejected the request (400)."
    [line] = [line for line in logs if line["event"] == "model_failed"]
    hint = "the request has images or documents: does the model accept them (images, pdfs)?"
    assert line["reason"].endswith(f"answered 400: no images; {hint}")


async def test_a_storage_that_is_down_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netra_trio.agents.execution.BACK_OFF", 0.0)
    async with open_model_server() as server, talking(server) as (client, upload):
        server.will(says("ok"))
        file_id = await upload(PNG, "a.png")
        failures = [StorageUnavailable("down")]
        original = FolderStorage.read

        def failing(self: Any, *args: Any, **options: Any) -> Any:
            if failures:
                raise failures.pop()
            return original(self, *args, **options)

        monkeypatch.setattr(FolderStorage, "read", failing)
        frames = await ask(client, "hi", attachments=[file_id])
    assert [frame["type"] for frame in frames].count("agent_started") == 2
    assert end_of(frames)["status"] == "completed"
