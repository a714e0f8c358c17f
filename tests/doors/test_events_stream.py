"""The stream of the events door: the frames of a session, and what ends it."""

from typing import Any

import pytest
import trio
from support.doors import open_app, request
from support.event_streams import MESSAGES, SKIPPED, STREAM, Stream, post, stream
from support.memory import EPOCH, kinds, token
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.config.settings import OPENING_BURST_SECONDS
from netra_trio.endpoints.doors.inboxes import TAKE_SECONDS
from netra_trio.ids import UserId
from netra_trio.protocol.codes import CloseCode
from netra_trio.server.application import Application
from netra_trio.stores.memory import MemoryStore

EVENTS = ("events",)
TOKENS = 5
INTERVAL = 30.0


async def count(run: Run) -> None:
    for number in range(TOKENS):
        await run.emit(f"{number} ")
        await trio.sleep(1)


async def flood(run: Run) -> None:
    for _ in range(400):
        await run.emit("x" * 10_000)


AGENTS = {"count": count, "flood": flood}


def outcomes(app: Application) -> dict[str, int]:
    """Return how the requests of the door were answered."""
    counted = app.instruments.metrics.door_requests
    return {key[1]: number for key, number in counted.items() if key[0] == "events" and number}


def text_of(frames: list[dict[str, Any]]) -> str:
    return "".join(
        frame["payload"]["content"] for frame in frames if frame["type"] == "partial_result"
    )


async def test_a_conversation(autojump_clock: MockClock) -> None:
    async with open_app(agents=AGENTS, doors=EVENTS) as app:
        async with stream(app) as alice:
            headers = alice.answer.headers
            assert headers["content-type"] == "text/event-stream"
            assert headers["cache-control"] == "no-cache, no-transform"
            assert alice.hello["payload"]["resume"] == {
                "verdict": "new",
                "replayed": 0,
                "last_seq": 0,
                "runs": [],
            }
            frame = {"type": "user_message", "payload": {"content": "go"}, "correlation_id": "m-1"}
            assert (await post(app, alice.session_id, frame))[::2] == (202, None)
            frames = await alice.until("agent_completed")
            assert [frame["seq"] for frame in frames] == list(range(1, TOKENS + 4))
            assert text_of(frames) == "0 1 2 3 4 "
            assert {frame["correlation_id"] for frame in frames} == {"m-1"}
            assert await alice.send("ping", {"n": 1}) == 202
            assert [frame["payload"] for frame in await alice.until("pong")] == [{"n": 1}]
        await wait_all_tasks_blocked()
        assert outcomes(app) == {"completed": 2, "left": 1}
        assert app.node.statistics() | {"users": 0} == {
            "slots": 0,
            "connections": 0,
            "sessions": 1,
            "detached": 1,
            "users": 0,
        }


@pytest.mark.parametrize("cut", range(TOKENS + 4))
async def test_a_resume_after_each_event(cut: int, autojump_clock: MockClock) -> None:
    async with open_app(agents=AGENTS, doors=EVENTS) as app:
        frames = []
        async with stream(app) as alice:
            await alice.send("user_message", {"content": "go"})
            frames += [await alice.frame() for _ in range(cut)]
        query = f"session_id={alice.session_id}&last_seq=0"  # as a browser opens it again
        headers = {} if alice.last is None else {"last-event-id": alice.last}
        async with stream(app, query=query, headers=headers) as again:
            resume = again.hello["payload"]["resume"]
            assert (resume["verdict"], resume["last_seq"]) == ("exact", cut)
            frames += await again.until("agent_completed") if cut < TOKENS + 3 else []
        text = "".join(
            frame["payload"]["content"] for frame in frames if frame["type"] == "partial_result"
        )
        assert text == "0 1 2 3 4 "
        firsts = [frame.get("seq_from", frame["seq"]) for frame in frames]
        assert firsts == [1, *(frame["seq"] + 1 for frame in frames[:-1])]


async def test_last_seq_acknowledges(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        async with stream(app) as alice:
            await alice.send("user_message", {"content": "hello"})
            await alice.until("agent_completed")
        async with stream(app, query=f"session_id={alice.session_id}&last_seq=3") as again:
            assert again.hello["payload"]["resume"]["verdict"] == "exact"
        async with stream(app, query=f"session_id={alice.session_id}&last_seq=2") as late:
            assert late.hello["payload"]["resume"]["verdict"] == "gap"
            await late.send("ack", {"seq": 4})
            await late.send("ping", {})
            await late.until("pong")
        async with stream(app, query=f"session_id={alice.session_id}") as last:
            assert last.hello["payload"]["resume"]["last_seq"] == 4


async def test_a_session_that_is_not_there(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app, stream(app) as alice:
        for user, session_id in (("bob", alice.session_id), ("alice", "sess_none")):
            async with stream(app, user=user, query=f"session_id={session_id}") as other:
                resume = other.hello["payload"]["resume"]
                assert (resume["verdict"], resume["reason"]) == ("reset", "unknown")
        query = f"session_id={alice.session_id}&last_seq=9"
        async with stream(app, query=query) as ahead:
            assert ahead.hello["payload"]["resume"]["reason"] == "ahead"


@pytest.mark.parametrize(
    ("query", "headers", "status", "code"),
    [
        ("", {"last-event-id": "1"}, 400, "BAD_REQUEST"),
        ("last_seq=1", {}, 400, "BAD_REQUEST"),
        ("session_id=s&last_seq=x", {}, 400, "BAD_REQUEST"),
        ("session_id=s", {"last-event-id": "-1"}, 400, "BAD_REQUEST"),
        ("session_id=s&last_seq=x", {"last-event-id": "1"}, 400, "BAD_REQUEST"),
        (f"session_id={'s' * 129}", {}, 400, "BAD_REQUEST"),
        ("", {"origin": "https://evil.example"}, 403, "ORIGIN_NOT_ALLOWED"),
        ("", {"authorization": "Bearer nonsense"}, 401, "INVALID_TOKEN"),
        (f"token={token()}", {}, 401, "INVALID_TOKEN"),
        ("wait=61", {"accept": "application/json"}, 400, "BAD_REQUEST"),
        ("wait=-1", {"accept": "application/json"}, 400, "BAD_REQUEST"),
        ("wait=1&wait=2", {"accept": "application/json"}, 400, "BAD_REQUEST"),
        ("wait=1.5", {"accept": "application/json"}, 400, "BAD_REQUEST"),
        ("resume=0", {"accept": "application/json"}, 400, "BAD_REQUEST"),
        ("", {"accept": "application/json", "authorization": "Bearer x"}, 401, "INVALID_TOKEN"),
        ("session_id=s&last_seq=x", {"accept": "application/json"}, 400, "BAD_REQUEST"),
    ],
)
async def test_a_refused_opening(
    query: str, headers: dict[str, str], status: int, code: str, autojump_clock: MockClock
) -> None:
    async with open_app(doors=EVENTS) as app:
        async with request(app, "GET", STREAM, query=query, headers=headers) as answer:
            body = await answer.json()
            assert (answer.status, body["code"]) == (status, code)
            assert (body["type"], body["payload"]["code"]) == ("error", code)
        assert outcomes(app) == {"refused": 1}
        assert app.node.statistics()["slots"] == 0


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_a_user_that_is_not_there_or_disabled(accept: str, autojump_clock: MockClock) -> None:
    store = MemoryStore()
    await store.create_user(UserId("alice"))
    await store.set_user_enabled(UserId("alice"), enabled=False)
    async with open_app(doors=EVENTS, store=store) as app:
        headers = {"accept": accept}
        async with request(app, "GET", STREAM, headers=headers) as answer:
            assert (answer.status, (await answer.json())["code"]) == (403, "USER_DISABLED")
        status, _, body = await post(app, "sess_none", {"type": "ping"})
        assert (status, body["code"]) == (403, "USER_DISABLED")


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_a_full_server(accept: str, autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS, max_connections=1) as app, stream(app):
        headers = {"accept": accept}
        async with request(app, "GET", STREAM, user="bob", headers=headers) as answer:
            assert (answer.status, (await answer.json())["code"]) == (503, "SERVER_FULL")
            assert "retry-after" in answer.headers


async def test_other_credentials(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        async with request(app, "POST", "/ws/ticket") as answer:
            ticket = (await answer.json())["ticket"]
        async with stream(app, user=None, query=f"ticket={ticket}") as alice:
            assert alice.hello["payload"]["user_id"] == "alice"
        for accept in ("text/event-stream", "application/json"):
            query, headers = f"ticket={ticket}", {"accept": accept}
            async with request(
                app, "GET", STREAM, user=None, query=query, headers=headers
            ) as answer:
                assert answer.status == 401
        async with stream(app, user=None, query=f"token={token('bob')}") as bob:
            assert bob.hello["payload"]["user_id"] == "bob"


async def test_anonymous_users_have_their_own_sessions(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS, require_auth=False) as app:
        async with stream(app, user=None) as one, stream(app) as alice:
            assert await one.send("ping", user=None) == 202
            await one.until("pong")
            assert await one.send("ping", user="alice") == 404
            assert await alice.send("ping", user=None) == 404
        async with stream(app, user=None, query=f"session_id={one.session_id}") as again:
            assert again.hello["payload"]["user_id"] == one.hello["payload"]["user_id"]


async def test_rejected_heads_count_for_their_address(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS, opening_rate=1) as app:
        statuses = []
        for _ in range(OPENING_BURST_SECONDS + 2):
            async with request(app, "HEAD", STREAM, user=None, peer="8.8.8.8") as answer:
                statuses.append(answer.status)
        assert statuses == [*[401] * (OPENING_BURST_SECONDS + 1), 429]


async def test_head_and_options(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        async with request(app, "HEAD", STREAM) as answer:
            assert (answer.status, await answer.text()) == (200, "")
            assert answer.headers["content-type"] == "text/event-stream"
        async with request(app, "HEAD", STREAM, user=None) as answer:
            assert answer.status == 401
        assert app.node.statistics()["sessions"] == 0
        headers = {"origin": "http://localhost:5173", "access-control-request-method": "GET"}
        for path in (STREAM, MESSAGES):
            async with request(app, "OPTIONS", path, user=None, headers=headers) as answer:
                assert answer.status == 204
                allowed = answer.headers["access-control-allow-headers"].split(", ")
                assert {"authorization", "content-type", "last-event-id"} <= set(allowed)
        async with stream(app, headers={"origin": "http://localhost:5173"}) as alice:
            origin = alice.answer.headers["access-control-allow-origin"]
            assert origin == "http://localhost:5173"
        async with request(app, "DELETE", STREAM) as answer:
            assert answer.status == 405


# The ends of a stream.


async def test_a_heartbeat_keeps_a_stream_open(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app, stream(app) as alice:
        for number in range(1, 6):
            assert [frame["type"] for frame in await alice.until("heartbeat")] == ["heartbeat"]
            assert trio.current_time() == pytest.approx(number * INTERVAL, abs=1)


async def test_a_client_that_takes_nothing_can_resume(autojump_clock: MockClock) -> None:
    async with open_app(agents=AGENTS, doors=EVENTS) as app:
        async with stream(app) as alice:
            await alice.send("agent_request", {"agent": "flood", "input": "x"})
            await alice.until("agent_started")
            alice.answer.pause()
            await trio.sleep(5 + 1)
            assert app.node.statistics()["connections"] == 0
            assert outcomes(app) == {"completed": 1, "stalled": 1}
            # The connection and the log hold a part of the answer, and the agent waits.
            (session,) = app.node.sessions
            assert session.statistics()["active"] == 1
            taken = text_of(await alice.rest())  # the pieces before the pause
        query = f"session_id={alice.session_id}&last_seq={alice.last}"
        async with stream(app, query=query) as again:
            assert again.hello["payload"]["resume"]["verdict"] == "exact"
            frames = [await again.frame()]
            while frames[-1]["type"] != "agent_completed":
                assert await again.send("ack", {"seq": int(again.last or 0)}) == 202
                frames += [await again.frame()]
        assert len(text_of(frames)) == 400 * 10_000 - len(taken)


async def test_a_newer_stream_takes_the_session_over(autojump_clock: MockClock) -> None:
    async with (
        open_app(doors=EVENTS) as app,
        stream(app) as first,
        stream(app, query=f"session_id={first.session_id}") as second,
    ):
        assert await first.rest() == []
        assert first.close == {"code": CloseCode.TAKEN_OVER, "reason": "taken_over"}
        assert await first.send("ping") == 202  # of the session, on its newest stream
        await second.until("pong")


async def test_the_oldest_stream_beyond_the_limit_ends(autojump_clock: MockClock) -> None:
    async with (
        open_app(doors=EVENTS, max_connections_per_user=1) as app,
        stream(app) as first,
        stream(app) as second,
    ):
        (error,) = await first.rest()
        assert error["payload"]["code"] == "CONNECTION_LIMIT_EXCEEDED"
        assert first.close == {"code": CloseCode.EVICTED, "reason": "evicted"}
        assert await first.send("ping") == 404
        assert await second.send("ping") == 202


async def test_a_drain(autojump_clock: MockClock) -> None:
    async with open_app(agents=AGENTS, doors=EVENTS) as app, stream(app) as alice:
        await alice.send("user_message", {"content": "go"})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.drain)
            frames = await alice.rest()
        assert kinds(frames)[-2:] == ["partial_result", "agent_completed"]
        assert "server_draining" in kinds(frames)
        assert text_of(frames) == "0 1 2 3 4 "
        assert alice.close == {"code": CloseCode.RESTART, "reason": "drained"}
        async with request(app, "GET", STREAM) as answer:
            assert (answer.status, (await answer.json())["code"]) == (503, "SERVER_DRAINING")
        await wait_all_tasks_blocked()
        assert outcomes(app) == {"completed": 1, "lost": 1, "refused": 1}


async def test_a_disabled_user(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    async with open_app(doors=EVENTS, store=store) as app, stream(app) as alice:
        await store.set_user_enabled(UserId("alice"), enabled=False)
        frames = await alice.rest()
        assert frames[-1]["payload"]["code"] == "USER_DISABLED"
        assert alice.close == {"code": CloseCode.USER_DISABLED, "reason": "user_disabled"}
        assert await alice.send("ping") == 403


async def test_a_token_is_renewed_by_a_post(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        early = {"authorization": f"Bearer {token(expires_at=EPOCH + 100)}"}
        async with stream(app, headers=early) as alice, stream(app, headers=early) as other:
            await alice.until("auth_expiring")
            renewed = token(expires_at=EPOCH + 1000)
            assert await alice.send("auth", {"token": renewed}, headers=early) == 202
            (answer,) = [f for f in await alice.until("auth_ok") if f["type"] != "heartbeat"]
            assert answer["payload"]["expires_at"] == EPOCH + 1000
            frames = await other.rest()
            assert frames[-1]["payload"]["code"] == "TOKEN_EXPIRED"
            assert other.close == {"code": CloseCode.TOKEN_EXPIRED, "reason": "token_expired"}
            assert trio.current_time() == pytest.approx(100, abs=1)
            await trio.sleep(10)  # the leeway
            assert await alice.send("ping", headers=early) == 401
            assert await alice.send("ping") == 202
            await alice.until("pong")


async def test_a_cancelled_application_ends_its_streams(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        with trio.CancelScope() as scope:
            async with stream(app) as alice:
                scope.cancel()
                await alice.next()
        assert app.node.statistics()["connections"] == 0
        assert outcomes(app) == {"left": 1}


# Frames of the client.


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"user": None}, 401, "AUTH_REQUIRED"),
        ({"user": "bob"}, 404, "BAD_REQUEST"),
        ({"headers": {"origin": "https://evil.example"}}, 403, "ORIGIN_NOT_ALLOWED"),
        ({"body": b"\xff"}, 400, "BAD_REQUEST"),
        ({"body": b"x" * (16 * 10_240 + 1)}, 413, "BAD_REQUEST"),
    ],
)
async def test_a_refused_post(
    options: dict[str, Any], status: int, code: str, autojump_clock: MockClock
) -> None:
    async with open_app(doors=EVENTS) as app, stream(app) as alice:
        answered, _, body = await post(app, alice.session_id, {"type": "ping"}, **options)
        assert (answered, body["code"]) == (status, code)
        await alice.send("ping")
        assert kinds(await alice.until("pong")) == ["pong"]


async def test_a_post_without_a_session(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        async with request(app, "POST", MESSAGES, json={"type": "ping"}) as answer:
            assert (answer.status, (await answer.json())["code"]) == (400, "BAD_REQUEST")
        status, _, body = await post(app, "sess_none", {"type": "ping"})
        assert (status, body["code"]) == (404, "BAD_REQUEST")
        async with stream(app) as alice:
            pass
        await wait_all_tasks_blocked()
        assert await alice.send("ping") == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "EMPTY_MESSAGE"),
        (b"{", "JSON_PARSE_ERROR"),
        (b"[]", "INVALID_MESSAGE_TYPE"),
        (b'{"type":"ping","more":1}', "VALIDATION_ERROR"),
        (b" " * 10_239 + b"{}", "MESSAGE_TOO_LARGE"),
        (b"x" * 16 * 10_240, "MESSAGE_TOO_LARGE"),
    ],
)
async def test_a_bad_frame_is_answered_on_the_stream(
    body: bytes, code: str, autojump_clock: MockClock
) -> None:
    async with open_app(doors=EVENTS) as app, stream(app) as alice:
        assert (await post(app, alice.session_id, None, body=body))[0] == 202
        (error,) = await alice.until("error")
        assert error["payload"]["code"] == code


async def test_a_frame_of_the_greatest_size(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app, stream(app) as alice:
        frame = b'{"type":"ping","payload":{"a":1}}'
        assert (await post(app, alice.session_id, None, body=frame.ljust(10_240)))[0] == 202
        assert kinds(await alice.until("pong")) == ["pong"]


async def test_five_bad_frames_end_the_connection(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app, stream(app) as alice:
        for _ in range(5):
            assert (await post(app, alice.session_id, None, body=b"{"))[0] == 202
        frames = await alice.rest()
        codes = [frame["payload"]["code"] for frame in frames]
        assert codes == ["JSON_PARSE_ERROR"] * 5 + ["ERROR_LIMIT_EXCEEDED"]
        assert alice.close == {"code": CloseCode.ERROR_LIMIT, "reason": "error_limit"}


async def test_a_post_waits_while_the_reader_takes_nothing(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app, stream(app) as alice:
        alice.answer.pause()
        ping = {"type": "ping", "payload": {"text": "x" * 1000}}
        sent = 0
        while (answered := await post(app, alice.session_id, ping))[0] == 202:
            sent += 1
        status, headers, body = answered
        assert (status, body["code"]) == (503, "SERVICE_UNAVAILABLE")
        assert headers["retry-after"] == "1"
        assert trio.current_time() == pytest.approx(TAKE_SECONDS, abs=0.5)
        assert sent * 1000 < 1024 * 1024  # what is waiting is bounded
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_post_late, alice, ping)
            await wait_all_tasks_blocked()
            alice.answer.reading.set()
            for _ in range(sent + 1):
                assert kinds(await alice.until("pong")) == ["pong"]


async def _post_late(alice: Stream, ping: dict[str, Any]) -> None:
    assert (await post(alice.app, alice.session_id, ping))[0] == 202


async def test_frames_are_handled_in_their_order(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app, stream(app) as alice:
        for number in range(50):
            assert await alice.send("ping", {"n": number}) == 202
        for number in range(50):
            (pong,) = await alice.until("pong")
            assert pong["payload"] == {"n": number}


async def test_rooms_and_changes_of_threads_come_without_ids(autojump_clock: MockClock) -> None:
    async with (
        open_app(agents=AGENTS, doors=EVENTS) as app,
        stream(app) as alice,
        stream(app) as other,
    ):
        await other.send("user_message", {"content": "go", "thread_id": "travel"})
        await other.until("agent_started")
        await alice.send("watch_thread", {"thread_id": "travel"})
        (joined,) = await alice.until("room_joined")
        assert "seq" not in joined
        frames = await alice.until("room_event")
        assert all("seq" not in frame for frame in frames)
        assert {"thread_changed"} == SKIPPED
