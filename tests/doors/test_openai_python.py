"""The unmodified client of OpenAI for Python, on Trio, with a real server."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import openai
import pytest
import trio
from support.chat_agents import AGENTS, OPTIONS, SOURCE, counted
from support.event_cutting import cutting_events
from support.markdown import blocks
from support.ports import kept_port
from support.server import PATIENCE, Server, run, serving, sign

# The client leaves its own generators to the garbage collector.
pytestmark = [
    pytest.mark.unmeasured,
    pytest.mark.filterwarnings("ignore:Async generator '(openai|httpx2|httpcore2):ResourceWarning"),
]

SETTINGS = {
    "WEBSOCKET_CONNECTION_LIMIT_POLICY": "reject",
    "WEBSOCKET_DRAIN_TIMEOUT": "1000",
    "WEBSOCKET_MAX_MESSAGE_RATE": "10000",
}
LONG = "100000"  # numbers: an answer that a test stops


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("openai")
    (directory / "chat_agents.py").write_text(SOURCE)
    with serving(directory, "--door", "openai", *OPTIONS, **SETTINGS) as running:
        yield running


@asynccontextmanager
async def client(
    port: int, user: str, *, key: str | None = None, **options: Any
) -> AsyncIterator[Any]:
    """Open a client with a token of a user, or with another key."""
    given = {"max_retries": 0, "timeout": PATIENCE, **options}
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key=sign(user) if key is None else key, **given
    ) as opened:
        yield opened


def asking(content: str, model: str = "count", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


async def text_of(stream: Any) -> str:
    """Return the text of a stream, up to its end."""
    pieces = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
    return "".join(piece or "" for piece in pieces)


async def test_a_conversation(server: Server) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": [{"type": "text", "text": "three"}]},
    ]
    text = "user: Be brief.\nuser: one\nagent: two\nthree"
    async with client(server.port, "conversation") as chat:
        assert [model.id async for model in chat.models.list()] == list(AGENTS)
        whole = await chat.chat.completions.create(model="recall", messages=messages)
        assert whole.choices[0].message.content == text
        assert whole.choices[0].message.reasoning_content == "Let me see.\nTool: weather\n"
        assert whole.choices[0].finish_reason == "stop"
        assert (whole.usage.prompt_tokens, whole.usage.total_tokens) == (2, 5)
        assert whole._request_id.startswith("run_")
        stream = await chat.chat.completions.create(
            model="recall", messages=messages, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [5]
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_the_example_of_the_documentation(server: Server, tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "doors-openai.md"
    (example,) = [block for block in blocks("python") if block.page == page]
    source = example.text.replace("127.0.0.1:8000", server.address)
    code, output, errors = run(
        ["-c", source], directory=tmp_path, environ={"TOKEN": sign("reader")}
    )
    assert (code, output) == (0, "Hello"), errors


async def test_the_helper_for_streams_accumulates_the_answer(server: Server) -> None:
    async with (
        client(server.port, "helper") as chat,
        chat.chat.completions.stream(**asking("5")) as stream,
    ):
        kinds = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert kinds[-1] == "content.done"
    assert final.choices[0].message.content == counted(5)


async def test_closing_the_stream_stops_the_run(server: Server) -> None:
    async with client(server.port, "stopper") as chat:
        stream = await chat.chat.completions.create(**asking(LONG, stream=True))
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        server.process.wait_log("run_ended", user_id="stopper", status="cancelled")
        with trio.move_on_after(0.1):  # cancelled while it waits for the whole answer
            await chat.chat.completions.create(**asking(LONG))
        server.process.wait_log("run_ended", 2, user_id="stopper", status="cancelled")


async def test_each_error_has_its_class(server: Server) -> None:
    async with client(server.port, "errors") as chat:

        async def error(content: str = "1", model: str = "count", **more: Any) -> Any:
            with pytest.raises(openai.APIError) as caught:
                await chat.chat.completions.create(**asking(content, model, **more))
            return caught.value

        missing = await error(model="gpt-4")
        assert isinstance(missing, openai.NotFoundError)
        assert (missing.code, missing.param) == ("model_not_found", "model")
        assert isinstance(await error(n=2), openai.BadRequestError)
        assert isinstance(await error("ä" * 10_000), openai.APIStatusError)
        foreign = {"Origin": "http://evil.example"}
        assert isinstance(await error(extra_headers=foreign), openai.PermissionDeniedError)
        assert (await error(model="ask")).code == "question_not_supported"
        failed = await error(model="fail")
        assert isinstance(failed, openai.InternalServerError)
        assert failed.code == "agent_error"
        assert "not for clients" not in failed.message
        stream = await chat.chat.completions.create(**asking("1", "fail", stream=True))
        with pytest.raises(openai.APIError) as caught:
            await text_of(stream)
        assert caught.value.code == "agent_error"
    for key in ("sk-unknown", sign("errors", seconds=-100)):
        async with client(server.port, "errors", key=key) as stranger:
            for call in (stranger.models.list, stranger.chat.completions.create):
                with pytest.raises(openai.AuthenticationError) as refused:
                    await (call(**asking("1")) if call != stranger.models.list else call())
                assert refused.value.code == "invalid_api_key"


async def test_beyond_a_limit_is_a_rate_limit_error(server: Server) -> None:
    async with client(server.port, "limits") as chat:
        streams = [
            await chat.chat.completions.create(**asking(LONG, stream=True)) for _ in range(5)
        ]
        with pytest.raises(openai.RateLimitError) as caught:
            await chat.chat.completions.create(**asking("1"))
        assert caught.value.code == "rate_limit_exceeded"
        assert int(caught.value.response.headers["retry-after"]) >= 1
        for stream in streams:
            await stream.close()


async def test_the_client_repeats_no_run_that_has_failed(server: Server) -> None:
    async with client(server.port, "repeats", max_retries=3) as chat:
        for model in ("fail", "ask"):
            with pytest.raises(openai.APIStatusError):
                await chat.chat.completions.create(**asking("1", model))
        await chat.chat.completions.create(**asking("1"))
    server.process.wait_log("run_ended", 3, user_id="repeats")
    assert len(server.process.logs("run_ended", user_id="repeats")) == 3


async def test_a_retry_with_a_key_runs_once(server: Server) -> None:
    """The answer is lost on its way; the client sends its request again by itself."""
    headers = {"Idempotency-Key": "lost-answer"}
    async with (
        cutting_answers(server.port) as port,
        client(port, "retries", max_retries=2) as chat,
    ):
        whole = await chat.chat.completions.create(**asking("20", extra_headers=headers))
        assert whole.choices[0].message.content == counted(20)
    server.process.wait_log("run_ended", user_id="retries", status="completed")
    assert len(server.process.logs("run_ended", user_id="retries")) == 1


@pytest.mark.parametrize("number", [1, 2, 7])
async def test_cuts_after_every_event(server: Server, number: int) -> None:
    """Each repeated request gets the answer from its start, until one gets all of it."""
    user, cuts = f"cuts-{number}", 0
    request = asking("30", stream=True, extra_headers={"Idempotency-Key": f"cut-{number}"})

    async with (
        # Each connection lives for some events longer than the one before it.
        cutting_events(server.port, lambda events: events in sums(number)) as (port, relay),
        client(port, user) as chat,
    ):
        while True:
            text = ""
            try:
                async for chunk in await chat.chat.completions.create(**request):
                    text += chunk.choices[0].delta.content or ""
            except openai.APIConnectionError:
                cuts += 1
                assert counted(30).startswith(text)
            else:
                assert text == counted(30)
                break
    assert 0 < cuts <= relay.cuts <= cuts + 1  # the last one may come behind the whole answer
    assert len(server.process.wait_log("run_ended", user_id=user)) == 1


def sums(number: int) -> set[int]:
    """Return n, n + 2n, n + 2n + 3n, …: the events after which the relay cuts."""
    return {number * count * (count + 1) // 2 for count in range(1, 20)}


async def test_a_restart_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "chat_agents.py").write_text(SOURCE)
    done: Any = {"extra_headers": {"Idempotency-Key": "done"}}
    cut: Any = {"extra_headers": {"Idempotency-Key": "cut"}}
    with kept_port() as port:
        options = ("--door", "openai", *OPTIONS)
        async with client(port, "alice") as chat:
            with serving(tmp_path, *options, port=str(port), **SETTINGS):
                whole = await chat.chat.completions.create(**asking("5", **done))
                stream = await chat.chat.completions.create(**asking(LONG, stream=True, **cut))
                await anext(aiter(stream))
            with pytest.raises(openai.APIError) as lost:
                await text_of(stream)
            assert lost.value.code in {"run_interrupted", "server_draining"}
            with serving(tmp_path, *options, port=str(port), **SETTINGS):
                again = await chat.chat.completions.create(**asking("5", **done))
                assert again.choices[0].message.content == whole.choices[0].message.content
                assert again.id == whole.id
                with pytest.raises(openai.InternalServerError) as interrupted:
                    await chat.chat.completions.create(**asking(LONG, **cut))
                assert interrupted.value.code == "run_interrupted"
                stream = await chat.chat.completions.create(**asking("3", stream=True))
                assert await text_of(stream) == counted(3)


@asynccontextmanager
async def cutting_answers(target: int) -> AsyncIterator[int]:
    """Run a relay that cuts the first connection when the server begins to answer."""
    connections = 0

    async def serve(near: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        is_cut = connections == 1
        far = await trio.open_tcp_stream("127.0.0.1", target)
        async with near, far, trio.open_nursery() as requests:
            requests.start_soon(pump, near, far)
            if is_cut:
                await far.receive_some(1)
            else:
                await pump(far, near)
            requests.cancel_scope.cancel()

    async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await sink.send_all(data)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()
