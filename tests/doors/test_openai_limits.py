"""The OpenAI door in this process: limits, credentials, slow clients, drains, pages of browsers."""

from typing import Any

import orjson
import pytest
import trio
from support.doors import open_app, request
from support.memory import EPOCH, token
from support.openai_door import (
    AGENTS,
    DOORS,
    PATH,
    answered,
    body,
    chunks,
    complete,
    runs,
    sessions,
    text_of,
)
from trio.testing import MockClock

from netra_trio.ids import UserId

# Pages of browsers.

ALWAYS = "authorization, content-type, content-disposition, last-event-id"
PAGE = "http://localhost:5173"


async def test_a_page_may_send_the_headers_of_its_client(autojump_clock: MockClock) -> None:
    asked = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "Authorization, x-thread-id,x-os, b ad, " + "x" * 65,
    }
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        async with request(app, "OPTIONS", PATH, user=None, headers=asked) as answer:
            assert answer.status == 204
            assert answer.headers["access-control-allow-origin"] == PAGE
            allowed = answer.headers["access-control-allow-headers"]
            assert allowed == f"{ALWAYS}, x-thread-id, x-os"
        many = ",".join(f"x-{number}" for number in range(50))
        asked |= {"Access-Control-Request-Headers": many}
        async with request(app, "OPTIONS", PATH, user=None, headers=asked) as answer:
            allowed = answer.headers["access-control-allow-headers"]
            assert allowed.endswith("x-31")
        async with request(
            app, "POST", PATH, json=body("1", stream=True), headers={"Origin": PAGE}
        ) as answer:
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert "x-request-id" in answer.headers["access-control-expose-headers"]
        foreign = {**asked, "Origin": "http://evil.example"}
        async with request(app, "OPTIONS", PATH, user=None, headers=foreign) as answer:
            assert answer.status == 403
        status, error = await complete(app, body("1"), headers={"Origin": "http://evil.example"})
        assert (status, error["error"]["code"]) == (403, "origin_not_allowed")
    async with (
        open_app(agents=AGENTS, doors=()) as app,
        request(app, "OPTIONS", "/ws/ticket", user=None, headers=asked) as answer,
    ):
        allowed = answer.headers["access-control-allow-headers"]
        assert allowed == ALWAYS


# Limits.


async def test_a_body_has_a_limit(autojump_clock: MockClock) -> None:
    def padded(size: int) -> bytes:
        data = orjson.dumps({**body("x", "recall"), "padding": ""})
        return data[:-2] + b" " * (size - len(data)) + data[-2:]

    async with open_app(agents=AGENTS, doors=DOORS) as app:
        for size, status in ((1024 * 1024, 200), (1024 * 1024 + 1, 413)):
            async with request(app, "POST", PATH, body=padded(size)) as answer:
                assert answer.status == status
                assert ("error" in await answer.json()) == (status != 200)


async def test_a_message_has_the_limit_of_all_messages(autojump_clock: MockClock) -> None:
    async with open_app(agents=AGENTS, doors=DOORS, max_message_size=2048) as app:
        # Earlier messages of the conversation may be longer.
        messages = [{"role": "user", "content": "y" * 5000}, {"role": "user", "content": "x"}]
        assert (await text_of(app, {"model": "recall", "messages": messages})).endswith("\nx")
        assert await text_of(app, body("x" * 1500, "recall")) == "x" * 1500
        for size in (2048, 16 * 2048 + 1):  # the second is beyond the limit of the connection
            status, error = await complete(app, body("x" * size, "recall"))
            assert (status, error["error"]["code"]) == (413, "message_too_large")
        await trio.sleep(1)
        assert sessions(app) == 0


async def test_the_message_rate_is_a_rate_limit(autojump_clock: MockClock) -> None:
    async with open_app(agents=AGENTS, doors=DOORS, max_message_rate=1, burst_queue=0) as app:
        assert await text_of(app, body("1"))
        async with request(app, "POST", PATH, json=body("1")) as answer:
            assert answer.status == 429
            assert (await answer.json())["error"]["code"] == "rate_limit_exceeded"
            seconds = int(answer.headers["retry-after"])
        await trio.sleep(seconds)
        assert await text_of(app, body("1"))
        assert answered(app) == {"completed": 2, "refused": 1}


async def test_a_full_server_answers_503(autojump_clock: MockClock) -> None:
    async with (
        open_app(agents=AGENTS, doors=DOORS, max_connections=1) as app,
        request(app, "POST", PATH, json=body("1000", stream=True)),
        request(app, "POST", PATH, json=body("1")) as answer,
    ):
        assert answer.status == 503
        assert (await answer.json())["error"]["code"] == "server_full"
        assert int(answer.headers["retry-after"]) >= 1


async def test_the_connection_limit_counts_answers(autojump_clock: MockClock) -> None:
    reject: Any = {"max_connections_per_user": 1, "connection_limit_policy": "reject"}
    async with (
        open_app(agents=AGENTS, doors=DOORS, **reject) as app,
        request(app, "POST", PATH, json=body("1000", stream=True)),
    ):
        status, error = await complete(app, body("1"))
        assert (status, error["error"]["code"]) == (429, "rate_limit_exceeded")
        assert await text_of(app, body("1"), user="bob")
    async with (
        open_app(agents=AGENTS, doors=DOORS, max_connections_per_user=1) as app,
        request(app, "POST", PATH, json=body("1000", stream=True)) as oldest,
    ):
        assert await text_of(app, body("1"))
        assert (await chunks(oldest))[-1]["error"]["code"] == "rate_limit_exceeded"
        assert answered(app) == {"completed": 1, "lost": 1}
        assert runs(app) == 0


@pytest.mark.parametrize(
    "sent",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"model":"\\ud800"}', b"[" * 100_000],
)
async def test_a_body_that_is_no_request_is_refused(sent: bytes, autojump_clock: MockClock) -> None:
    async with (
        open_app(agents=AGENTS, doors=DOORS) as app,
        request(app, "POST", PATH, body=sent) as answer,
    ):
        assert answer.status == 400
        assert (await answer.json())["error"]["type"] == "invalid_request_error"


async def test_any_text_is_a_message(autojump_clock: MockClock) -> None:
    text = 'a\x00b "\\ \u2028 😀'
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        assert await text_of(app, body(text, "recall")) == text
        status, error = await complete(app, body("x", "no\x00such"))
        assert (status, error["error"]["code"]) == (404, "model_not_found")
        assert error["error"]["param"] == "model"


# Authentication.


async def test_a_refused_credential_is_an_authentication_error(autojump_clock: MockClock) -> None:
    expired = token("alice", expires_at=EPOCH - 100)
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        for value in (f"Bearer {expired}", "Bearer x", "Basic x"):
            async with request(
                app, "POST", PATH, json=body("1"), user=None, headers={"authorization": value}
            ) as answer:
                assert answer.status == 401
                assert (await answer.json())["error"]["code"] == "invalid_api_key"
        status, _ = await complete(app, {}, user=None)  # before the body is read
        assert status == 401
        assert await text_of(app, body("1"))
        await app.node.services.store.set_user_enabled(UserId("alice"), enabled=False)
        status, error = await complete(app, body("1"))
        assert (status, error["error"]["code"]) == (403, "user_disabled")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_token_that_expires_ends_the_answer(
    stream: bool, autojump_clock: MockClock
) -> None:
    headers = {"authorization": f"Bearer {token('alice', expires_at=EPOCH + 5)}"}
    async with (
        open_app(agents=AGENTS, doors=DOORS) as app,
        request(
            app, "POST", PATH, json=body("1000", stream=stream), user=None, headers=headers
        ) as answer,
    ):
        error = (await chunks(answer))[-1] if stream else await answer.json()
        assert error["error"]["code"] == "invalid_api_key"
        assert answer.status == (200 if stream else 401)
        await trio.sleep(1)
        assert runs(app) == 0
        assert answered(app) == {"lost": 1}


# Long and slow answers.


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_may_take_long(stream: bool, autojump_clock: MockClock) -> None:
    async with (
        open_app(agents=AGENTS, doors=DOORS) as app,
        request(app, "POST", PATH, json=body("x", "late", stream=stream)) as answer,
    ):
        text = await answer.text()
        assert "at last" in text
        assert text.count(": keep-alive\n\n") == (8 if stream else 0)
        assert trio.current_time() == 250


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}])
async def test_a_client_that_does_not_read_stops_the_run(
    key: dict[str, str], autojump_clock: MockClock
) -> None:
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        posted = body("x", "flood", stream=True)
        async with request(app, "POST", PATH, json=posted, headers=key) as answer:
            answer.pause()
            await trio.sleep(20)
            assert answered(app) == {"stalled": 1}
            assert runs(app) == len(key)
            # The agent waits for room in the log of its session.
            assert app.node.services.instruments.metrics.read_gauges().log_events_max <= 1000


@pytest.mark.parametrize("stream", [True, False])
async def test_a_drain_ends_the_answer(stream: bool, autojump_clock: MockClock) -> None:
    async with open_app(agents=AGENTS, doors=DOORS, drain_timeout_ms=3000) as app:

        async def drain() -> None:
            await trio.sleep(2)
            await app.node.drain()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            async with request(app, "POST", PATH, json=body("1000", stream=stream)) as answer:
                error = (await chunks(answer))[-1] if stream else await answer.json()
                assert error["error"]["code"] in {"run_interrupted", "server_draining"}
                assert answer.status == (200 if stream else 503)
        status, error = await complete(app, body("1"))
        assert (status, error["error"]["code"]) == (503, "server_draining")
