"""The OpenAI door in this process, in virtual time: conversations, threads, stops and retries."""

from functools import partial
from typing import Any

import pytest
import trio
from support.cluster import open_cluster
from support.doors import open_app, request
from support.openai_door import (
    AGENTS,
    DOORS,
    PATH,
    answered,
    body,
    chunks,
    complete,
    device,
    first,
    joined,
    runs,
    sessions,
    text_of,
    threads,
)
from trio.testing import MockClock, wait_all_tasks_blocked

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


async def test_a_repeated_request_leaves_no_session(autojump_clock: MockClock) -> None:
    """Only the session of the first request has the run."""
    sent: Any = {"json": body("1000", stream=True), "headers": {"Idempotency-Key": "k"}}
    async with open_app(agents=AGENTS, doors=DOORS) as app:
        for _ in range(3):
            async with request(app, "POST", PATH, **sent, leaves_after=2) as answer:
                await answer.text()
            assert (runs(app), sessions(app)) == (1, 1)


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
