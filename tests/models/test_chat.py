"""A model as an agent: texts, thoughts, history, ends of answers, stops and backpressure."""

from typing import Any

import pytest
import trio
from models.serving import MODEL, ask, end_of, of_kind, talking, text_of
from structlog.testing import capture_logs
from support.model_server import (
    Exchange,
    Reply,
    breaks_off,
    chunk,
    hangs,
    open_model_server,
    refuses,
    says,
    sends,
    usage,
)

from netra_trio.errors import StoreUnavailable
from netra_trio.models import chat
from netra_trio.stores.memory import MemoryStore

SECRET = "sk-never-to-be-seen-anywhere"


async def test_a_conversation() -> None:
    async with open_model_server() as server, talking(server, system="Be brief.") as client:
        server.will(says("Hel", "lo"), says("Bye"))
        first = await ask(client, "hi")
        assert text_of(first) == "Hello"
        assert end_of(first)["result"] == "Hello"
        thread = first[0]["payload"]["thread_id"]
        assert text_of(await ask(client, "bye", thread_id=thread)) == "Bye"
    first_body, second_body = (request.body for request in server.requests)
    assert first_body == {
        "model": MODEL,
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
        ],
    }
    assert second_body["messages"][1:] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "bye"},
    ]
    assert "authorization" not in server.requests[0].headers
    assert server.connections == 1


async def test_the_budget_of_the_history() -> None:
    async with open_model_server() as server, talking(server, history_tokens=0) as client:
        server.always(says("Hello"))
        thread = (await ask(client, "hi"))[0]["payload"]["thread_id"]
        await ask(client, "bye", thread_id=thread)
    assert server.requests[1].body["messages"] == [{"role": "user", "content": "bye"}]


async def test_more_fields_of_the_request_and_the_key() -> None:
    options = {"temperature": 0.5, "stream_options": None}
    async with (
        open_model_server() as server,
        talking(server, options=options, api_key=SECRET) as client,
    ):
        server.will(says("ok"))
        await ask(client, "hi")
    request = server.requests[0]
    assert request.body["temperature"] == 0.5
    assert "stream_options" not in request.body
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert request.headers["accept-encoding"] == "identity"


async def test_usage() -> None:
    async with open_model_server() as server, talking(server) as client:
        server.will(says("a", counted=usage(10, 3, cost=0.5)), says("b"))
        counted = await ask(client, "hi")
        uncounted = await ask(client, "hi")
    (reported,) = (frame["payload"] for frame in counted if frame["type"] == "agent_usage")
    del reported["run_id"]
    assert reported == {"model": MODEL, "input_tokens": 10, "output_tokens": 3, "cost": 0.5}
    assert of_kind(uncounted, "agent_usage", "model") == []


async def test_a_usage_that_is_invalid_does_not_fail_the_run() -> None:
    too_many = f'{{"usage": {{"prompt_tokens": {2**53}, "completion_tokens": 1}}}}'
    infinite = '{"usage": {"prompt_tokens": 1, "completion_tokens": 2, "cost": Infinity}}'
    with capture_logs() as logs:
        async with open_model_server() as server, talking(server) as client:
            server.will(sends(chunk(content="a"), too_many), sends(chunk(content="b"), infinite))
            first, second = await ask(client, "hi"), await ask(client, "hi")
    assert (end_of(first)["result"], end_of(second)["result"]) == ("a", "b")
    assert of_kind(first, "agent_usage", "input_tokens") == []
    assert of_kind(second, "agent_usage", "input_tokens") == [1]
    assert "cost" not in next(f for f in second if f["type"] == "agent_usage")["payload"]
    assert [line["event"] for line in logs].count("model_usage_invalid") == 2


async def test_reasoning_becomes_thoughts_in_larger_pieces() -> None:
    words = [f"word{number} " for number in range(100)]
    async with open_model_server() as server, talking(server) as client:
        server.will(
            sends(*(chunk(reasoning_content=word) for word in words), chunk(content="Done.")),
            sends(*(chunk(reasoning="x" * 100) for _ in range(9)), chunk("stop")),
            sends(*(chunk(reasoning=" " * 100) for _ in range(9)), chunk(content="a")),
        )
        frames = await ask(client, "hi")
        without_spaces = await ask(client, "hi")
        spaces = await ask(client, "hi")
    thoughts = of_kind(frames, "agent_thinking", "thought")
    assert 1 < len(thoughts) < 5
    assert " ".join(thoughts).split() == "".join(words).split()
    assert [frame["type"] for frame in frames].index("partial_result") > len(thoughts)
    assert text_of(frames) == "Done."
    assert of_kind(without_spaces, "agent_thinking", "thought") == ["x" * 800, "x" * 100]
    assert of_kind(spaces, "agent_thinking", "thought") == []


@pytest.mark.parametrize(
    ("reply", "status", "text"),
    [
        (sends(chunk(content="a"), chunk("stop"), done=False), "completed", "a"),
        (breaks_off(chunk(content="a"), chunk("stop")), "completed", "a"),
        (sends(chunk(content="a")), "completed", "a"),
        (sends(chunk("stop")), "completed", ""),
        (
            sends(chunk(content="a"), chunk("length")),
            "completed",
            "a\n\n*The answer was cut: it reached the model's limit of tokens.*",
        ),
        (
            sends(chunk(content="a"), chunk("content_filter")),
            "failed",
            "The answer was stopped by the provider's content filter.",
        ),
        (sends(chunk(content="a"), done=False), "failed", "The model's answer broke off."),
        (breaks_off(chunk(content="a")), "failed", "The model's answer broke off."),
        (
            sends(chunk(content="a"), {"error": {"message": "x"}}),
            "failed",
            "The model's server reported an error.",
        ),
        (sends("{"), "failed", "The model's server sent an answer that cannot be read."),
        (
            sends("x" * (1024 * 1024 + 1)),
            "failed",
            "The model's server sent an answer that cannot be read.",
        ),
    ],
)
async def test_how_an_answer_ends(reply: Reply, status: str, text: str) -> None:
    async with open_model_server() as server, talking(server) as client:
        server.will(reply)
        frames = await ask(client, "hi")
        end = end_of(frames)
        assert end["status"] == status
        if status == "completed":
            assert end["result"] == text
        else:
            assert end["error"]["error"] == text
            assert end["error"]["code"] == "AGENT_ERROR"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}',
        (
            'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: [DONE]\n\n'
            'data: {"error": "b"}\n\n'
        ),
    ],
    ids=["without its last line", "more after its end"],
)
async def test_the_end_of_a_body(body: str) -> None:
    async def reply(exchange: Exchange) -> None:
        await exchange.start()
        await exchange.write(body.encode())
        await exchange.end()

    async with open_model_server() as server, talking(server) as client:
        server.will(reply)
        assert end_of(await ask(client, "hi"))["result"] == "a"


async def test_a_stall_ends_the_run() -> None:
    async with open_model_server() as server, talking(server, idle_seconds=0.3) as client:
        server.will(hangs(chunk(content="a")))
        end = end_of(await ask(client, "hi"))
        assert end["error"]["error"] == "The model's server sent nothing for 0.3 s."
        await server.wait_closed()
    assert server.exchanges[0].gone.is_set()


async def test_a_server_that_does_not_end_its_stream() -> None:
    async with open_model_server() as server, talking(server) as client:
        server.will(hangs(chunk(content="a"), "[DONE]"))
        assert end_of(await ask(client, "hi"))["result"] == "a"
        await server.wait_closed()


async def test_an_answer_that_is_not_streamed() -> None:
    async def reply(exchange: Exchange) -> None:
        await exchange.start(200, ("content-type", "application/json; charset=utf-8"))
        body = b'{"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]}'
        await exchange.write(body[:20])
        await exchange.write(body[20:])
        await exchange.end()

    async with open_model_server() as server, talking(server) as client:
        server.will(reply)
        assert end_of(await ask(client, "hi"))["result"] == "whole"


async def test_a_compressed_answer_is_refused() -> None:
    async def reply(exchange: Exchange) -> None:
        await exchange.start(200, ("content-encoding", "gzip"))
        await exchange.end()

    async with open_model_server() as server, talking(server) as client:
        server.will(reply)
        error = end_of(await ask(client, "hi"))["error"]["error"]
    assert error == "The model's server sent an answer that cannot be read."


async def test_a_stop_closes_the_connection_to_the_provider() -> None:
    async with open_model_server() as server, talking(server) as client:
        server.will(hangs(chunk(content="one ")))
        await client.say("hi")
        started = (await client.until("partial_result"))[0]["payload"]
        await client.send("stop_agent", {"run_id": started["run_id"]})
        assert end_of(await client.until("agent_completed"))["status"] == "cancelled"
        await server.wait_closed()
    assert server.exchanges[0].gone.is_set()


async def test_a_deadline_closes_the_connection_to_the_provider() -> None:
    async with open_model_server() as server, talking(server, run_seconds=0.5) as client:
        server.will(hangs(chunk(content="one ")))
        assert end_of(await ask(client, "hi"))["status"] == "timed_out"
        await server.wait_closed()


async def test_the_provider_waits_for_a_slow_client() -> None:
    """A client that reads nothing stops the reading from the provider's socket."""
    total = 64 * 1024 * 1024
    piece = "x" * 16_000

    async def flood(exchange: Exchange) -> None:
        await exchange.start()
        for _ in range(total // len(piece)):
            await exchange.event(chunk(content=piece))
        await exchange.end()

    async with open_model_server() as server, talking(server) as client:
        server.will(flood)
        await client.say("hi")
        await client.until("partial_result")
        exchange, sent = server.exchanges[0], -1
        with trio.fail_after(60):
            while sent != exchange.sent:
                sent = exchange.sent
                await trio.sleep(0.5)
        # The log of the session holds 1 MiB, and the buffers of two sockets some more.
        assert 0 < sent < total / 4
        client.peer.cut()


async def test_the_store_that_cannot_answer_is_asked_again() -> None:
    class Flaky(MemoryStore):
        failures = 1

        async def history(self, *args: Any, **kwargs: Any) -> Any:
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable
            return await super().history(*args, **kwargs)

    async with open_model_server() as server, talking(server, store=Flaky()) as client:
        server.will(says("ok"))
        frames = await ask(client, "hi")
    assert of_kind(frames, "agent_started", "attempt") == [1, 2]
    assert end_of(frames)["result"] == "ok"


async def test_the_key_and_addresses_are_in_no_event_and_the_key_in_no_log() -> None:
    body = {"error": {"message": f"Incorrect API key provided: {SECRET}", "code": "invalid"}}
    with capture_logs() as logs:
        async with open_model_server() as server, talking(server, api_key=SECRET) as client:
            server.will(refuses(401, body), sends({"error": f"key {SECRET}"}))
            frames = [*await ask(client, "hi"), *await ask(client, "hi")]
    assert end_of(frames)["status"] == "failed"
    assert of_kind(frames, "agent_completed", "error")[0]["error"] == (
        "The model's server rejected the API key."
    )
    assert SECRET not in str(frames)
    assert server.url not in str(frames)
    reasons = [line["reason"] for line in logs if line["event"] == "model_failed"]
    assert reasons == [
        f"{server.url} answered 401: Incorrect API key provided: [key]; check OPENAI_API_KEY",
        f"{server.url}: the server sent an error: key [key]",
    ]
    assert SECRET not in str(logs)


@pytest.mark.parametrize("characters", range(470, 530, 7))
async def test_a_key_where_a_text_of_the_server_is_cut_is_in_no_log(characters: int) -> None:
    text = "x" * characters + SECRET + "y" * 200
    with capture_logs() as logs:
        async with open_model_server() as server, talking(server, api_key=SECRET) as client:
            server.will(
                refuses(400, {"error": {"message": text}}),
                refuses(400, {"error": text}),
                refuses(302, None, ("location", text)),
                sends({"error": {"message": text}}),
                sends("x" * (characters - 430) + SECRET + "y" * 500),
                sends("x" * (characters - 50) + SECRET + "y" * 500),
            )
            for _ in range(6):
                await ask(client, "hi")
    reasons = [line["reason"] for line in logs if line["event"] == "model_failed"]
    assert len(reasons) == 6
    assert "sk-" not in str(logs)
    assert max(map(len, reasons)) < 700


def test_wrong_arguments() -> None:
    for options in ({"history_tokens": -1}, {"max_rounds": -1}, {"idle_seconds": 0}):
        with pytest.raises(ValueError, match="expected 0 or more"):
            chat("m", **options)  # type: ignore[arg-type]
    for url in ("localhost:80", "ftp://a/v1", "http://a b", "http://ü/v1"):
        with pytest.raises(ValueError, match="base_url: expected a URL"):
            chat("m", base_url=url)
    for url in ("http://me:pw@a/v1", "http://a/v1?x=1", "http://a/v1#x"):
        with pytest.raises(ValueError, match="base_url: leave out") as caught:
            chat("m", base_url=url)
        assert "pw" not in str(caught.value)


async def test_an_agent_that_is_not_open() -> None:
    agent = chat("m", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(RuntimeError, match="create_app"):
        await agent._provider.check()
