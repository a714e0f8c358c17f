"""Errors and retries of the requests to a model's server, over real sockets."""

import errno
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import trio
from models.serving import ask, end_of, talking
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
)

from netra_trio.models import ModelError, chat, provider
from netra_trio.models.key import Key
from netra_trio.models.provider import Provider

SECRET = "sk-never-to-be-seen-anywhere"
REQUEST = {"model": "m", "messages": []}
BUSY = "The model's server is overloaded or failing (503)."


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "BACK_OFF", 0.01)


async def dropped(exchange: Exchange) -> None:
    """Close the connection without an answer."""


async def answered(*replies: Reply) -> tuple[str, int]:
    """Return the end of a run, its result or its error, and the number of requests."""
    async with open_model_server() as server, talking(server) as client:
        server.will(*replies)
        end = end_of(await ask(client, "hi"))
        text = end["result"] if end["status"] == "completed" else end["error"]["error"]
        return text, len(server.requests)


@pytest.mark.parametrize(
    "failure",
    [
        refuses(429),
        refuses(408),
        refuses(425),
        refuses(500),
        refuses(503),
        refuses(599, [1]),
        refuses(429, None, ("retry-after", "0.01")),
        refuses(429, None, ("retry-after", "Mon, 30 Nov 2020 10:00:00 GMT")),
        refuses(429, None, ("retry-after", "Mon, 30 Nov 2020 10:00:00")),
        refuses(429, None, ("retry-after", "soon")),
        dropped,
        breaks_off(),
        breaks_off(chunk(role="assistant")),
    ],
)
async def test_a_failure_before_the_first_output_is_repeated(failure: Reply) -> None:
    assert await answered(failure, failure, says("ok")) == ("ok", 3)


async def test_three_attempts_are_the_limit() -> None:
    assert await answered(*[refuses(503)] * 3) == (BUSY, 3)


async def test_a_failure_after_output_is_not_repeated() -> None:
    for delta in ({"content": "a"}, {"reasoning": "a"}):
        expected = ("The model's answer broke off.", 1)
        assert await answered(breaks_off(chunk(**delta))) == expected


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (refuses(400), "The model's server rejected the request (400)."),
        (refuses(401), "The model's server rejected the API key."),
        (refuses(403), "The model's server rejected the API key."),
        (refuses(404), "The model's server has no such model, or has another address."),
        (refuses(422, "text"), "The model's server rejected the request (422)."),
        (refuses(301, None, ("location", "/x")), "The model's server has another address."),
        (
            refuses(429, {"error": {"message": "no", "code": "insufficient_quota"}}),
            "The quota at the model's server is used up.",
        ),
        (
            refuses(429, None, ("retry-after", "30.1")),
            "The model's server is overloaded or failing (429).",
        ),
    ],
)
async def test_what_is_not_repeated(reply: Reply, text: str) -> None:
    assert await answered(reply) == (text, 1)


async def failure_of(reply: Reply, key: Key | None = None) -> ModelError:
    async with open_model_server() as server:
        server.will(reply)
        made = Provider(server.url, key)
        async with made.open():
            with pytest.raises(ModelError) as caught:
                await made.answer(REQUEST, _ignore)
            caught.value.detail = caught.value.detail.replace(server.url, "URL")
            return caught.value


async def _ignore(_: object) -> None: ...


@pytest.mark.parametrize(
    ("reply", "detail"),
    [
        (refuses(401), "URL answered 401: no; set OPENAI_API_KEY or OPENAI_API_KEY_FILE"),
        (refuses(404, {"detail": "Not Found"}), "URL answered 404: Not Found; check the model's"),
        (refuses(400, {"error": "bad"}), "URL answered 400: bad"),
        (refuses(400, {"error": {}}), "URL answered 400"),
        (refuses(400, "x" * 20_000), f'URL answered 400: "{"x" * 499}'),
        (refuses(400, {"error": f"  {'x' * 600}"}), f"URL answered 400: {'x' * 498}"),
        (refuses(302, None, ("location", "/x")), "URL answered 302: no (location: /x)"),
        (breaks_off(chunk(content="a")), "URL/chat/completions: the connection broke off: "),
    ],
)
async def test_the_text_for_the_operator(reply: Reply, detail: str) -> None:
    error = await failure_of(reply)
    assert error.detail.startswith(detail)
    assert "URL" not in str(error)


async def test_the_pause_that_the_server_asks_for(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    for text, low, high in [("7", 7, 7), ("30", 30, 30), (when, 17, 20)]:
        error = ModelError("x", is_retryable=True, retry_after=provider._retry_after(text))
        pause = provider._pause(error, 1)
        assert pause is not None
        assert low <= pause <= high
    assert provider._pause(ModelError("x", is_retryable=True, retry_after=30.5), 1) is None
    monkeypatch.setattr(provider, "BACK_OFF", 0.5)
    for attempt in (1, 2):
        pause = provider._pause(ModelError("x", is_retryable=True), attempt)
        assert pause is not None
        assert 0.25 * attempt <= pause <= 0.5 * attempt
    assert provider._pause(ModelError("x", is_retryable=True), 3) is None
    assert provider._pause(ModelError("x"), 1) is None


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_nothing_listens() -> None:
    url = f"http://127.0.0.1:{unused_port()}/v1"
    with capture_logs() as logs:
        async with open_model_server() as server, talking(server, base_url=url) as client:
            end = end_of(await ask(client, "hi"))
    assert end["error"]["error"] == "The model's server cannot be reached."
    reason = f"no connection to {url}: Connection refused; start the model's server, or correct its"
    assert [line["attempt"] for line in logs if line["event"] == "model_retried"] == [1, 2]
    (failed,) = (line for line in logs if line["event"] == "model_failed")
    assert failed["reason"].startswith(reason)
    (run_failed,) = (line for line in logs if line["event"] == "run_failed")
    assert run_failed["exc_info"].__traceback__ is None


async def test_a_name_that_does_not_exist() -> None:
    made = Provider("http://nowhere.invalid/v1", None)
    async with made.open():
        with pytest.raises(ModelError) as caught:
            await made.check()
    assert "no connection to http://nowhere.invalid/v1" in caught.value.detail


def test_the_reason_of_a_failed_connection() -> None:
    refused = OSError(errno.ECONNREFUSED, "Connection refused")
    grouped = ValueError("all failed")
    grouped.__cause__ = ExceptionGroup("", [refused])
    assert provider._reason(grouped) == "Connection refused"
    assert provider._reason(ValueError("plain")) == "plain"
    assert provider._reason(ValueError()) == "ValueError"


async def test_an_answer_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}'

    async def whole(exchange: Exchange) -> None:
        await exchange.start(200, ("content-type", "application/json"))
        await exchange.write(body)
        await exchange.end()

    monkeypatch.setattr(provider, "ANSWER_BYTES", len(body))
    assert await answered(whole) == ("a", 1)
    monkeypatch.setattr(provider, "ANSWER_BYTES", len(body) - 1)
    text, _ = await answered(whole)
    assert text == f"The model's answer is longer than {len(body) - 1} bytes."


@pytest.mark.parametrize("reply", [None, refuses(404), refuses(500), refuses(200, {}), dropped])
async def test_the_check_at_the_start_passes(reply: Reply | None) -> None:
    async with open_model_server() as server:
        server.other = reply
        async with chat("m", base_url=server.url, check=True).open():
            assert [request.path for request in server.others] == ["/v1/models"]


@pytest.mark.parametrize(
    ("model", "listed"), [("m", ["a", "m"]), ("m", ["m:latest"]), ("m", []), ("m:7b", ["m:7b"])]
)
async def test_the_check_at_the_start_finds_the_model(model: str, listed: list[str]) -> None:
    with capture_logs() as logs:
        async with open_model_server() as server:
            server.other = refuses(200, {"data": [{"id": name} for name in listed]})
            async with chat(model, base_url=server.url, check=True).open():
                pass
    assert not [line for line in logs if line["event"] == "model_not_listed"]


@pytest.mark.parametrize("model", ["m", "b:7b", "name"])
async def test_the_check_at_the_start_misses_the_model(model: str) -> None:
    names = [f"name{number}" for number in range(12)]
    with capture_logs() as logs:
        async with open_model_server() as server:
            server.other = refuses(200, {"data": [{"id": name} for name in names]})
            async with chat(model, base_url=server.url, check=True).open():
                pass
    (line,) = [line for line in logs if line["event"] == "model_not_listed"]
    assert (line["model"], line["listed"]) == (model, ", ".join(names[:10]))


@pytest.mark.parametrize("body", [[], {}, {"data": 5}, {"data": [5]}, {"data": [{"name": "m"}]}])
async def test_a_list_of_models_of_another_form_passes(body: Any) -> None:
    async with open_model_server() as server:
        server.other = refuses(200, body)
        made = Provider(server.url, None)
        async with made.open():
            assert await made.check() == ()


async def test_the_check_at_the_start_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "CHECK_SECONDS", 0.2)
    async with open_model_server() as server:
        server.other = hangs()
        async with chat("m", base_url=server.url, check=True).open():
            await server.wait_closed()


async def test_the_check_at_the_start_passes_a_server_without_progress() -> None:
    async def silent(exchange: Exchange) -> None:
        await exchange.wait_gone()

    for reply in (silent, hangs()):
        async with open_model_server() as server:
            server.other = reply
            async with chat("m", base_url=server.url, check=True, idle_seconds=0.1).open():
                assert [request.path for request in server.others] == ["/v1/models"]


@pytest.mark.parametrize(
    ("status", "text"), [(401, "answered 401: no; check OPENAI_API_KEY"), (403, "answered 403")]
)
async def test_the_check_at_the_start_finds_a_wrong_key(status: int, text: str) -> None:
    async with open_model_server() as server:
        server.other = refuses(status)
        with pytest.raises(ModelError, match=text) as caught:
            async with chat("m", base_url=server.url, api_key=SECRET, check=True).open():
                raise AssertionError
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("reply", [None, refuses(404), refuses(200, {"data": []})])
async def test_the_check_at_the_start_warns_of_an_address_without_models(
    reply: Reply | None,
) -> None:
    with capture_logs() as logs:
        async with open_model_server() as server:
            server.other = reply
            async with chat("m", base_url=server.url, check=True).open():
                pass
    (line,) = [line for line in logs if line["event"] == "models_not_listed"]
    assert (line["model"], line["address"]) == ("m", server.url)


async def test_https_for_a_server_without_tls() -> None:
    async with open_model_server() as server:
        made = Provider(server.url.replace("http://", "https://"), None)
        async with made.open():
            with pytest.raises(ModelError) as caught:
                await made.check()
    assert "no TLS (" in caught.value.detail
    assert "the address may begin with http://" in caught.value.detail


async def test_without_the_check_nothing_is_asked_at_the_start() -> None:
    async with chat("m", base_url=f"http://127.0.0.1:{unused_port()}/v1").open():
        pass


@pytest.mark.parametrize("phase", ["before the head", "within the pause"])
async def test_cancelled(phase: str) -> None:
    waiting = trio.Event()

    async def silent(exchange: Exchange) -> None:
        waiting.set()
        await exchange.wait_gone()

    async def busy(exchange: Exchange) -> None:
        await refuses(503, None, ("retry-after", "30"))(exchange)
        waiting.set()

    async with open_model_server() as server, trio.open_nursery() as nursery:
        server.will(silent if phase == "before the head" else busy)
        made = Provider(server.url, None)
        async with made.open():
            nursery.start_soon(made.answer, REQUEST, _ignore)
            await waiting.wait()
            nursery.cancel_scope.cancel()
        await trio.lowlevel.checkpoint_if_cancelled()
    assert len(server.requests) == 1


async def test_an_error_of_the_receiver_is_raised_and_closes_the_connection() -> None:
    async def refuse(_: object) -> None:
        raise ZeroDivisionError

    async with open_model_server() as server:
        server.will(says("a", "b"))
        made = Provider(server.url, None)
        async with made.open():
            with pytest.raises(ZeroDivisionError):
                await made.answer(REQUEST, refuse)
            await server.wait_closed()
