"""The OpenAI door in this process, in virtual time: conversations, threads, stops and retries."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import orjson
import pytest
import trio
from support.cluster import open_cluster
from support.doors import HttpAnswer, open_app, request
from support.memory import EPOCH, Client, Server, token
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.ids import UserId
from netra_trio.server.application import Application

PATH = "/v1/chat/completions"
DOORS = ("openai",)


async def recall(run: Run) -> None:
    """Send the roles and texts of the history, one a line, and the question."""
    for message in await run.history():
        await run.emit(f"{message.role}: {message.content}\n")
    await run.emit(run.content)
    await run.usage(model="m", input_tokens=2, output_tokens=3)


async def newest(run: Run) -> str:
    return " ".join(message.content for message in await run.history(int(run.content)))


async def count(run: Run) -> None:
    for number in range(int(run.content)):
        await run.emit(f"{number} ")
        await trio.sleep(1)


async def only_return(run: Run) -> str:
    return f"result of {run.content}"


async def ask(run: Run) -> None:
    await run.emit("before ")
    await run.ask("Which one?")


async def ask_late(run: Run) -> None:
    await trio.sleep(5)
    await run.ask("Which one?")


async def late(run: Run) -> str:
    await trio.sleep(250)
    return "at last"


async def flood(run: Run) -> None:
    while True:
        await run.emit("x" * 1000)


async def fail(run: Run) -> None:
    await run.emit("part")
    raise ValueError("not for clients")


_ALL = (recall, newest, count, only_return, ask, ask_late, late, flood, fail)
AGENTS = {each.__name__: each for each in _ALL}


def body(content: str = "3", model: str = "count", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


async def complete(app: Application, posted: Any, **options: Any) -> tuple[int, Any]:
    """Return the status and the decoded answer of a request without a stream."""
    async with request(app, "POST", PATH, json=posted, **options) as answer:
        return answer.status, await answer.json()


async def text_of(app: Application, posted: Any, **options: Any) -> str:
    status, answer = await complete(app, posted, **options)
    assert status == 200, answer
    content: str = answer["choices"][0]["message"]["content"]
    return content


async def chunks(answer: HttpAnswer) -> list[Any]:
    """Return the values of the stream, `[DONE]` as text."""
    return [data if data == "[DONE]" else orjson.loads(data) for data in await answer.data()]


def joined(values: list[Any]) -> str:
    """Return the text of a complete stream."""
    assert values[-1] == "[DONE]", values[-1]
    return "".join(
        choice["delta"].get("content", "") for value in values[:-1] for choice in value["choices"]
    )


async def first(answer: HttpAnswer, text: bytes) -> None:
    """Read a stream until a text has come."""
    data = b""
    while text not in data:
        piece = await answer.piece()
        assert piece, data
        data += piece


@asynccontextmanager
async def device(app: Application, user: str = "alice") -> AsyncIterator[Client]:
    """Open a WebSocket of a user."""
    async with trio.open_nursery() as nursery, Server(app.node, nursery).connect(user) as client:
        client.skipped = frozenset()
        yield client


async def threads(client: Client) -> list[str]:
    await client.send("list_threads", {}, "list")
    listed = (await client.until("thread_list"))[-1]["payload"]
    return [thread["thread_id"] for thread in listed["threads"]]


def sessions(app: Application) -> int:
    return len(list(app.node.sessions))


def runs(app: Application) -> int:
    return sum(app.node.sessions.run_statistics().values())


def answered(app: Application) -> dict[str, int]:
    """Return how often each outcome was counted, without zeros."""
    counted = app.instruments.metrics.door_requests
    return {key[1]: number for key, number in counted.items() if key[0] == "openai" and number}


# Conversations.


async def test_an_agent_reads_the_posted_messages(autojump_clock: MockClock) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    text = "user: Be brief.\nuser: one\nagent: two\nthree"
    thread = {"X-Thread-Id": "t"}
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        for headers in (None, thread, thread):  # the stored thread is not read
            posted = {"model": "recall", "messages": messages}
            status, answer = await complete(app, posted, headers=headers)
            assert status == 200
            assert answer["choices"][0]["message"]["content"] == text
            assert answer["usage"]["total_tokens"] == 5
            assert answer["model"] == "recall"
        posted = body("alone", "recall", stream=True, stream_options={"include_usage": True})
        async with request(app, "POST", PATH, json=posted, headers=thread) as stream:
            values = await chunks(stream)
            assert joined(values) == "alone"
            assert values[-2]["usage"]["total_tokens"] == 5
            run_id = stream.headers["x-request-id"]
            assert values[0]["id"] == f"chatcmpl-{run_id}"
        assert answered(app) == {"completed": 4}
        assert sessions(app) == 0


async def test_an_agent_may_read_the_newest_messages_alone(autojump_clock: MockClock) -> None:
    earlier = [{"role": "user", "content": str(number)} for number in range(3)]
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        for limit, expected in ((0, ""), (2, "1 2"), (9, "0 1 2")):
            question = {"role": "user", "content": str(limit)}
            posted = {"model": "newest", "messages": [*earlier, question]}
            assert await text_of(app, posted) == expected


async def test_a_result_that_is_a_text_is_the_answer(autojump_clock: MockClock) -> None:
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        assert await text_of(app, body("x", "only_return")) == "result of x"
        posted = body("x", "only_return", stream=True)
        async with request(app, "POST", PATH, json=posted) as stream:
            assert joined(await chunks(stream)) == "result of x"


async def test_agents_are_listed_as_models(autojump_clock: MockClock) -> None:
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        async with request(app, "GET", "/v1/models") as answer:
            listed = await answer.json()
        assert listed["object"] == "list"
        assert [model["id"] for model in listed["data"]] == list(AGENTS)
        assert {model["object"] for model in listed["data"]} == {"model"}
        async with request(app, "GET", "/v1/models", user=None) as answer:
            assert answer.status == 401
            assert (await answer.json())["error"]["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
        assert answered(app) == {"completed": 1, "refused": 1}


async def test_without_the_door_there_is_nothing(autojump_clock: MockClock) -> None:
    async with open_app(agents=AGENTS, doors=()) as app:
        assert (await complete(app, body()))[0] == 404


# Threads.


async def test_a_thread_is_listed_if_the_client_names_it(autojump_clock: MockClock) -> None:
    async with open_app(agents=AGENTS, doors=DOORS) as app, device(app) as phone:
        assert await text_of(app, body("1"))
        await trio.sleep(1)
        assert await threads(phone) == []
        assert await phone.sync() == []
        assert await text_of(app, body("1"), headers={"X-Thread-Id": ""})
        await trio.sleep(1)
        assert await threads(phone) == []
        assert await text_of(app, body("1"), headers={"X-Thread-Id": "named"})
        await trio.sleep(1)
        assert (await phone.expect("thread_changed"))["payload"]["thread_id"] == "named"
        assert await threads(phone) == ["named"]


async def test_a_message_waits_for_the_run_of_its_thread(autojump_clock: MockClock) -> None:
    texts: list[str] = []
    async with open_app(agents=AGENTS, doors=DOORS) as app:

        async def send(headers: dict[str, str]) -> None:
            texts.append(await text_of(app, body("3"), headers=headers))

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(send, {"X-Thread-Id": "t"})
        assert (texts, trio.current_time()) == (["0 1 2 "] * 2, 6)
        async with trio.open_nursery() as nursery:  # each has a thread of its own
            for _ in range(2):
                nursery.start_soon(send, {})
        assert trio.current_time() == 9


@pytest.mark.parametrize("value", ["a b", "x" * 65, "a/b", "ä"])
async def test_a_bad_thread_id_is_refused(value: str, autojump_clock: MockClock) -> None:
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        status, answer = await complete(app, body(), headers={"X-Thread-Id": value})
        assert status == 400
        assert answer["error"]["message"].startswith("X-Thread-Id: expected 1 to 64 characters")
        assert sessions(app) == 0
        assert await text_of(app, body(), headers={"X-Thread-Id": "x" * 64})


@pytest.mark.parametrize("name", ["X-Thread-Id", "Idempotency-Key"])
async def test_a_header_is_given_once(name: str, autojump_clock: MockClock) -> None:
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        twice = [(name, "a"), (name, "b")]
        status, answer = await complete(app, body(), more_headers=twice)
        assert status == 400
        assert answer["error"]["message"].startswith(f"{name}: expected one value.")


# Stops and retries.


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_the_run(stream: bool, autojump_clock: MockClock) -> None:
    posted = body("1000", stream=stream)
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        async with request(app, "POST", PATH, json=posted, leaves_after=2.5) as answer:
            await answer.text()
        assert trio.current_time() == 2.5
        await trio.sleep(1)
        assert runs(app) == 0
        assert sessions(app) == 0
        assert answered(app) == {"left": 1}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("seconds", [2, 20])
async def test_a_retry_with_the_key_gets_the_answer_from_its_start(
    seconds: int, stream: bool, autojump_clock: MockClock
) -> None:
    key = {"Idempotency-Key": "k-1"}
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        posted = body("10", stream=stream)
        async with request(app, "POST", PATH, json=posted, headers=key, leaves_after=2.5) as answer:
            await answer.text()
        assert trio.current_time() == 2.5
        await trio.sleep(seconds)
        expected = "".join(f"{number} " for number in range(10))
        for _ in range(2):
            assert await text_of(app, body("10"), headers=key) == expected
            async with request(
                app, "POST", PATH, json=body("10", stream=True), headers=key
            ) as answer:
                assert joined(await chunks(answer)) == expected
        assert trio.current_time() == max(10, 2.5 + seconds)


async def test_a_key_stands_for_one_request(autojump_clock: MockClock) -> None:
    key = {"Idempotency-Key": "k-1"}
    posted = body("x", "recall")
    earlier = {"role": "user", "content": "earlier"}
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        assert await text_of(app, posted, headers=key) == "x"
        others = [
            (body("y", "recall"), key),
            (body("x", "only_return"), key),
            ({**posted, "messages": [earlier, *posted["messages"]]}, key),
            (posted, {**key, "X-Thread-Id": "t"}),
        ]
        for other, headers in others:
            status, answer = await complete(app, other, headers=headers)
            assert (status, answer["error"]["code"]) == (400, "validation_error")
        assert await text_of(app, posted, headers=key, user="bob") == "x"


@pytest.mark.parametrize(("value", "status"), [("", 400), ("k" * 128, 200), ("k" * 129, 400)])
async def test_a_key_has_a_limited_length(
    value: str, status: int, autojump_clock: MockClock
) -> None:
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        assert (await complete(app, body("1"), headers={"Idempotency-Key": value}))[0] == status


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_may_be_cancelled_at_any_checkpoint(
    stream: bool, key: dict[str, str], autojump_clock: MockClock
) -> None:
    """The session of a request without a key ends, and that of another one has the run at most."""
    async with open_app(agents=AGENTS, doors=DOORS, resume_window_ms=5000) as app:
        for ticks in range(0, 60, 3):
            headers = {name: f"{value}-{ticks}" for name, value in key.items()}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    partial(complete, app, body("1000", stream=stream), headers=headers)
                )
                for _ in range(ticks):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            await wait_all_tasks_blocked()
            assert runs(app) <= len(key)
            assert sessions(app) <= len(key)
            await trio.sleep(6)  # the resume window
            assert (runs(app), sessions(app)) == (0, 0)


async def test_a_client_that_leaves_within_its_body_starts_no_run(
    autojump_clock: MockClock,
) -> None:
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        async with request(app, "POST", PATH, body=b"{", is_cut=True) as answer:
            assert answer.status == 400
        assert (runs(app), sessions(app)) == (0, 0)


async def test_another_node_has_the_answer_too(autojump_clock: MockClock) -> None:
    async with open_cluster(AGENTS, doors=DOORS) as cluster:
        one, other = (node.app for node in cluster.nodes)
        assert one is not None
        assert other is not None
        headers = {
            "Idempotency-Key": "k",
            "Authorization": f"Bearer {cluster.token('alice')}",
        }
        sent: Any = {"json": body("10", stream=True), "user": None, "headers": headers}
        async with request(one, "POST", PATH, **sent, leaves_after=2.5) as answer:
            await answer.text()
        expected = "".join(f"{number} " for number in range(10))
        for _ in range(2):  # while the run goes on, and after it has ended
            async with request(other, "POST", PATH, **sent) as answer:
                assert joined(await chunks(answer)) == expected
        assert trio.current_time() < 12


async def test_another_device_may_stop_the_run(autojump_clock: MockClock) -> None:
    headers = {"X-Thread-Id": "t"}
    async with (
        open_app(agents=AGENTS, doors=DOORS) as app,
        device(app) as phone,
        request(app, "POST", PATH, json=body("1000", stream=True), headers=headers) as answer,
    ):
        await first(answer, b'"1 "')
        await phone.send("stop_agent", {"run_id": answer.headers["x-request-id"]})
        assert (await chunks(answer))[-1]["error"]["code"] == "run_cancelled"


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k", "X-Thread-Id": "t"}])
async def test_a_question_stops_the_run(headers: dict[str, str], autojump_clock: MockClock) -> None:
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        async with request(
            app, "POST", PATH, json=body("x", "ask", stream=True), headers=headers
        ) as answer:
            *_, text, error = await chunks(answer)
        assert text["choices"][0]["delta"]["content"] == "before "
        assert error["error"]["code"] == "question_not_supported"
        await trio.sleep(1)
        assert runs(app) == 0
        status, answer_ = await complete(app, body("y", "ask"))
        assert (status, answer_["error"]["code"]) == (409, "question_not_supported")
        assert runs(app) == 0
        assert sessions(app) == 0


async def test_a_question_of_a_repeated_request_stops_the_run(autojump_clock: MockClock) -> None:
    """The session of the first request has the run."""
    key = {"Idempotency-Key": "k"}
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        posted = body("x", "ask_late", stream=True)
        async with request(app, "POST", PATH, json=posted, headers=key, leaves_after=1) as answer:
            await answer.text()
        assert runs(app) == 1
        async with request(app, "POST", PATH, json=posted, headers=key) as answer:
            assert (await chunks(answer))[-1]["error"]["code"] == "question_not_supported"
        assert trio.current_time() == 5
        await trio.sleep(1)
        assert runs(app) == 0


async def test_a_failed_run_is_not_repeated_by_a_client(autojump_clock: MockClock) -> None:
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        async with request(app, "POST", PATH, json=body("x", "fail")) as answer:
            assert answer.status == 500
            assert answer.headers["x-should-retry"] == "false"
            error = (await answer.json())["error"]
        assert error["code"] == "agent_error"
        assert "not for clients" not in error["message"]
        async with request(app, "POST", PATH, json=body("x", "fail", stream=True)) as answer:
            assert (await chunks(answer))[-1]["error"]["code"] == "agent_error"


# Pages of browsers.

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
            assert allowed == "authorization, content-type, last-event-id, x-thread-id, x-os"
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
        assert allowed == "authorization, content-type, last-event-id"


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
