"""Control frames: the first frame, ping, auth, ack, errors of bad frames, and the rate limit."""

from typing import Any

import orjson
import pytest
import trio
from support.memory import EPOCH, Client, Frame, Server, kinds, open_server, token
from support.stores import ScriptedStore
from trio.testing import MockClock

from netra_trio.agents.demo.echo import echo
from netra_trio.agents.options import agent
from netra_trio.agents.run import Run
from netra_trio.connections.dispatch import BACKGROUND_REQUESTS, CONTROL_BURST
from netra_trio.connections.reader import BAD_FRAMES
from netra_trio.ids import UserId
from netra_trio.protocol.codes import BAD_FRAME, EndReason, ErrorCode
from netra_trio.protocol.rooms import user_room

SIZE = 10_240  # bytes of a message, the default
HARD_SIZE = 16 * SIZE
ALICE = UserId("alice")

BAD: dict[str, tuple[str | bytes, ErrorCode]] = {
    "empty": ("", ErrorCode.EMPTY_MESSAGE),
    "no JSON": ("{", ErrorCode.JSON_PARSE_ERROR),
    "blank": (" ", ErrorCode.JSON_PARSE_ERROR),
    "a number": ("5", ErrorCode.INVALID_MESSAGE_TYPE),
    "an array": ('[{"type": "ping"}]', ErrorCode.INVALID_MESSAGE_TYPE),
    "binary": (b'{"type": "ping"}', ErrorCode.INVALID_MESSAGE_TYPE),
    "empty binary": (b"", ErrorCode.INVALID_MESSAGE_TYPE),
    "no type": ('{"payload": {}}', ErrorCode.MISSING_TYPE_FIELD),
    "type null": ('{"type": null}', ErrorCode.INVALID_TYPE_FIELD),
    "type empty": ('{"type": ""}', ErrorCode.INVALID_TYPE_FIELD),
    "type unknown": ('{"type": "heartbeat"}', ErrorCode.UNKNOWN_MESSAGE_TYPE),
    "payload array": ('{"type": "ping", "payload": []}', ErrorCode.VALIDATION_ERROR),
    "unknown field": ('{"type": "ping", "to": 1}', ErrorCode.VALIDATION_ERROR),
    "seq text": ('{"type": "ack", "payload": {"seq": "1"}}', ErrorCode.VALIDATION_ERROR),
    "seq bool": ('{"type": "ack", "payload": {"seq": true}}', ErrorCode.VALIDATION_ERROR),
    "blank content": (
        '{"type": "user_message", "payload": {"content": " "}}',
        ErrorCode.VALIDATION_ERROR,
    ),
    "too large": ('{"type": "' + "x" * SIZE + '"}', ErrorCode.MESSAGE_TOO_LARGE),
}


def ping_of_size(size: int, correlation_id: str = "x") -> str:
    """Return a ping of `size` bytes, padded with spaces."""
    head, tail = '{"type": "ping", "correlation_id": "' + correlation_id + '"', "}"
    room = size - len((head + tail).encode())
    return head + " " * room + tail


async def call(client: Client, kind: str, payload: Any = None) -> Frame:
    """Send a frame and return the reply."""
    await client.send(kind, payload, "c-1")
    frame = await client.next()
    assert frame["correlation_id"] == "c-1"
    return frame


async def assert_alive(client: Client) -> None:
    assert await client.sync() == []


# connection_established.


async def test_connection_established_is_first_and_complete(autojump_clock: MockClock) -> None:
    agents = {"echo": agent(echo, title="Chosen", examples=["Hello"])}
    async with open_server(agents=agents, max_message_rate=7, heartbeat_interval_ms=9000) as server:
        await trio.sleep(1.5)
        client = server.start()
        await client.send("ping")  # before the first frame of the server
        hello, pong = await client.next(), await client.next()
        client.peer.close()
    assert pong["type"] == "pong"
    assert set(hello) == {"type", "payload", "timestamp"}
    assert hello["timestamp"] == EPOCH + 1.5
    payload = hello["payload"]
    assert payload.pop("connection_id").startswith("conn_")
    assert payload.pop("session_id").startswith("sess_")
    assert payload == {
        "user_id": "alice",
        "server_time": EPOCH + 1.5,
        "heartbeat_interval": 9000,
        "features": {
            "json_first": True,
            "auth_required": True,
            "heartbeat_supported": True,
            "reconnection_supported": True,
            "rate_limiting": True,
            "message_queuing": True,
            "resume": payload["features"]["resume"],
            "tickets": True,
        },
        "limits": {
            "max_connections_per_user": 5,
            "max_message_rate": 7,
            "heartbeat_interval": 9000,
            "max_message_size": SIZE,
            "max_file_size": 25 * 1024 * 1024,
            "resume_window": payload["limits"]["resume_window"],
        },
        "resume": {"verdict": "new", "replayed": 0, "last_seq": 0, "runs": []},
        "user_room": user_room(UserId("alice")),
        "agents": [{"name": "echo", "title": "Chosen", "examples": ["Hello"]}],
    }


async def test_two_connections_have_different_ids(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect() as one, server.connect() as two:
        for name in ("connection_id", "session_id"):
            assert one.hello["payload"][name] != two.hello["payload"][name]


# Ping and pong.


@pytest.mark.parametrize("payload", [{}, {"n": 1.5, "ü": [None, {"a": "😀"}]}, {"type": "ping"}])
async def test_a_pong_has_the_payload_of_its_ping(
    autojump_clock: MockClock, payload: Frame
) -> None:
    async with open_server() as server, server.connect() as client:
        pong = await call(client, "ping", payload)
    assert pong["type"] == "pong"
    assert pong["payload"] == payload
    assert "seq" not in pong


async def test_a_ping_without_payload_gets_an_empty_payload(
    autojump_clock: MockClock,
) -> None:
    async with open_server() as server, server.connect() as client:
        assert (await call(client, "ping"))["payload"] == {}


@pytest.mark.parametrize("letter", ["x", "ü", "😀"])
@pytest.mark.parametrize("kind", ["ping", "pong"])
async def test_a_payload_of_ping_or_pong_has_at_most_a_kibibyte(
    autojump_clock: MockClock, kind: str, letter: str
) -> None:
    room = 1024 - len(orjson.dumps({"a": ""}))
    text = letter * (room // len(letter.encode()))
    text += "x" * (room - len(text.encode()))
    async with open_server() as server, server.connect() as client:
        await client.send(kind, {"a": text})
        if kind == "ping":
            assert (await client.expect("pong"))["payload"] == {"a": text}
        await client.send(kind, {"a": text + "x"})
        assert (await client.error())["code"] == "VALIDATION_ERROR"
        await assert_alive(client)


async def test_a_pong_gets_no_reply(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect() as client:
        await client.send("pong", {"any": "thing"}, "c-1")
        await assert_alive(client)


# Auth.


async def test_a_new_token_replaces_the_old_one(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect(expires_at=EPOCH + 100) as client:
        answer = await call(client, "auth", {"token": token(expires_at=EPOCH + 200)})
        assert answer["type"] == "auth_ok"
        assert answer["payload"] == {"expires_at": EPOCH + 200}
        for _ in range(2):
            await trio.sleep(65)
            assert set(kinds(await client.sync())) <= {"heartbeat", "auth_expiring"}


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ("rubbish", "INVALID_TOKEN"),
        ("", "INVALID_TOKEN"),
        (token(expires_at=EPOCH - 60), "TOKEN_EXPIRED"),
        (token("bob"), "INVALID_TOKEN"),
    ],
    ids=["rubbish", "empty", "expired", "another user's"],
)
async def test_an_invalid_token_does_not_replace_the_old_one(
    autojump_clock: MockClock, bad: str, code: str
) -> None:
    async with open_server() as server, server.connect(expires_at=EPOCH + 100) as client:
        for _ in range(2 * BAD_FRAMES):  # an invalid token is not a bad frame
            answer = await call(client, "auth", {"token": bad})
            assert answer["type"] == "error"
            assert answer["payload"]["code"] == code
            assert answer["payload"]["recoverable"] is True
            assert "old token" in answer["payload"]["help"]
            assert bad not in answer["payload"]["error"] or not bad
        good = await call(client, "auth", {"token": token(expires_at=EPOCH + 300)})
        assert good["type"] == "auth_ok"


async def test_an_anonymous_connection_does_not_accept_the_token_of_a_user(
    autojump_clock: MockClock,
) -> None:
    async with open_server() as server, server.connect("anonymous-1", anonymous=True) as client:
        answer = await call(client, "auth", {"token": token()})
        assert answer["payload"]["code"] == "INVALID_TOKEN"
        answer = await call(client, "auth", {"token": token("anonymous-1")})
        assert answer["type"] == "auth_ok"


@pytest.mark.parametrize(("removed", "code"), [(False, "USER_DISABLED"), (True, "USER_NOT_FOUND")])
async def test_auth_checks_the_user(autojump_clock: MockClock, *, removed: bool, code: str) -> None:
    store = ScriptedStore()
    async with open_server(store=store) as server, server.connect() as client:
        if removed:
            await store.remove_user(ALICE)
        else:
            await store.set_user_enabled(ALICE, enabled=False)
        await client.send("auth", {"token": token()}, "c-1")
        frames, close_code = await client.rest()
    assert kinds(frames) == ["error"]
    assert frames[0]["payload"]["code"] == code
    assert frames[0]["payload"]["recoverable"] is False
    assert close_code == 4403
    assert client.ended is EndReason.USER_DISABLED


async def test_auth_can_be_retried_after_the_store_was_unavailable(
    autojump_clock: MockClock,
) -> None:
    store = ScriptedStore()
    async with open_server(store=store) as server, server.connect() as client:
        store.is_down = True
        answer = await call(client, "auth", {"token": token()})
        assert answer["payload"]["code"] == "SERVICE_UNAVAILABLE"
        assert answer["payload"]["retry_after_ms"] == 1000
        store.is_down = False
        assert (await call(client, "auth", {"token": token()}))["type"] == "auth_ok"


async def test_a_store_that_does_not_answer_does_not_block_the_reader(
    autojump_clock: MockClock,
) -> None:
    store = ScriptedStore()
    async with open_server(store=store) as server, server.connect() as client:
        store.hold()
        for n in range(BACKGROUND_REQUESTS):
            await client.send("auth", {"token": token()}, f"c-{n}")
        assert await client.sync() == []
        refusal = await call(client, "auth", {"token": token()})
        assert refusal["payload"]["code"] == "RATE_LIMIT_EXCEEDED"
        store.release()
        answers = [await client.expect("auth_ok") for _ in range(BACKGROUND_REQUESTS)]
        assert {a["correlation_id"] for a in answers} == {
            f"c-{n}" for n in range(BACKGROUND_REQUESTS)
        }
        assert (await call(client, "auth", {"token": token()}))["type"] == "auth_ok"


# Bad frames.


@pytest.mark.parametrize(("frame", "code"), BAD.values(), ids=BAD)
async def test_a_bad_frame_gets_its_error_code_and_the_connection_stays_open(
    autojump_clock: MockClock, frame: str | bytes, code: ErrorCode
) -> None:
    async with open_server() as server, server.connect() as client:
        await client.send_raw(frame)
        error = await client.expect("error")
        await assert_alive(client)
    payload = error["payload"]
    assert payload["code"] == code
    assert payload["recoverable"] is True
    assert payload["timestamp"] == error["timestamp"] == EPOCH
    assert payload["help"]
    assert "seq" not in error


def test_every_code_of_a_bad_frame_is_tested() -> None:
    assert {code for _, code in BAD.values()} == BAD_FRAME


async def test_the_error_has_the_correlation_id_of_the_bad_frame(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect() as client:
        assert (await call(client, "nonsense"))["payload"]["code"] == "UNKNOWN_MESSAGE_TYPE"
        await client.send("user_message", {"content": "", "correlation_id": "c-2"})
        assert (await client.expect("error"))["correlation_id"] == "c-2"


async def test_the_fifth_bad_frame_in_a_row_ends_the_connection(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect() as client:
        for n in range(6):
            await client.send("nonsense", None, f"c-{n}")
        frames, close_code = await client.rest()
        await client.done.wait()
    assert [(f["payload"]["code"], f.get("correlation_id")) for f in frames] == [
        ("UNKNOWN_MESSAGE_TYPE", "c-0"),
        ("UNKNOWN_MESSAGE_TYPE", "c-1"),
        ("UNKNOWN_MESSAGE_TYPE", "c-2"),
        ("UNKNOWN_MESSAGE_TYPE", "c-3"),
        ("UNKNOWN_MESSAGE_TYPE", "c-4"),
        ("ERROR_LIMIT_EXCEEDED", None),
    ]
    assert frames[-1]["payload"]["recoverable"] is False
    assert close_code == 4400
    assert client.ended is EndReason.ERROR_LIMIT


@pytest.mark.parametrize(
    "good",
    [
        '{"type": "ping"}',
        '{"type": "pong"}',
        '{"type": "ack", "payload": {"seq": 0}}',
        '{"type": "stop_agent", "payload": {"run_id": "none"}}',
        '{"type": "auth", "payload": {"token": "bad"}}',
        '{"type": "user_message", "payload": {"content": "x", "agent": "none"}}',
    ],
)
async def test_a_good_frame_resets_the_count_of_bad_frames(
    autojump_clock: MockClock, good: str
) -> None:
    async with open_server() as server, server.connect() as client:
        for _ in range(3):
            for _ in range(BAD_FRAMES - 1):
                await client.send_raw("{")
            await client.send_raw(good)
        frames = await client.sync()
        codes = [f["payload"]["code"] for f in frames if f["type"] == "error"]
        assert codes.count("JSON_PARSE_ERROR") == 3 * (BAD_FRAMES - 1)
        assert "ERROR_LIMIT_EXCEEDED" not in codes


# The rate of control frames.


async def use_burst(client: Client) -> None:
    """Use all tokens of the burst."""
    for n in range(CONTROL_BURST):
        await client.send("ping", {"n": n})
        assert (await client.expect("pong"))["payload"] == {"n": n}


async def expect_refusal(client: Client) -> Frame:
    error = await call(client, "ping")
    assert error["type"] == "error"
    assert error["payload"]["code"] == "RATE_LIMIT_EXCEEDED"
    assert error["payload"]["recoverable"] is True
    return error


async def test_a_control_frame_is_refused_after_the_burst(
    autojump_clock: MockClock,
) -> None:
    async with open_server() as server, server.connect() as client:
        await use_burst(client)
        for _ in range(2 * BAD_FRAMES):  # a refused frame is not a bad frame and uses no token
            assert (await expect_refusal(client))["payload"]["retry_after_ms"] == 10
        await trio.sleep(1 / 64)  # exact in binary: 1.5625 frames
        assert (await call(client, "ping"))["type"] == "pong"
        assert (await expect_refusal(client))["payload"]["retry_after_ms"] == 5
        await trio.sleep(2)
        for _ in range(200):
            assert (await call(client, "ping"))["type"] == "pong"
        await expect_refusal(client)


async def test_ack_and_pong_are_not_refused_and_not_counted(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect(acknowledging=True) as client:
        for _ in range(2 * CONTROL_BURST):
            await client.send("ack", {"seq": 0})
            await client.send("pong")
        await use_burst(client)
        await client.send("ack", {"seq": 0})
        await client.send("pong")
        await expect_refusal(client)  # the first reply of all


async def test_messages_are_not_counted_as_control_frames(autojump_clock: MockClock) -> None:
    async with open_server(max_message_rate=10_000) as server, server.connect() as client:
        for _ in range(20):
            await client.say("hello")
            await client.until("agent_completed")
        await use_burst(client)
        await expect_refusal(client)
        await client.say("hello")
        assert kinds(await client.until("agent_completed"))[0] == "message_confirmed"
        await client.send("agent_request", {"agent": "echo", "input": "hello"})
        assert kinds(await client.until("agent_completed"))[0] == "message_confirmed"


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("auth", {"token": "bad"}),
        ("stop_agent", {"run_id": "none"}),
        ("get_thread_history", {"thread_id": "none"}),
        ("nonsense", None),
    ],
)
async def test_every_other_frame_is_counted_as_a_control_frame(
    autojump_clock: MockClock, kind: str, payload: Frame | None
) -> None:
    async with open_server() as server, server.connect() as client:
        await call(client, kind, payload)
        for _ in range(CONTROL_BURST - 1):
            assert (await call(client, "ping"))["type"] == "pong"
        await expect_refusal(client)
        assert (await call(client, kind, payload))["payload"]["code"] == "RATE_LIMIT_EXCEEDED"


async def test_five_bad_frames_beyond_the_rate_end_the_connection(
    autojump_clock: MockClock,
) -> None:
    async with open_server() as server, server.connect() as client:
        await use_burst(client)
        for _ in range(BAD_FRAMES):
            await client.send_raw("{")
        frames, close_code = await client.rest()
    codes = [frame["payload"]["code"] for frame in frames]
    assert codes == ["RATE_LIMIT_EXCEEDED"] * BAD_FRAMES + ["ERROR_LIMIT_EXCEEDED"]
    assert close_code == 4400


async def test_history_requests_have_their_own_rate(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect() as client:
        request = {"thread_id": "none"}
        for _ in range(10):
            error = await call(client, "get_thread_history", request)
            assert error["payload"]["code"] == "THREAD_NOT_FOUND"
        error = await call(client, "get_thread_history", request)
        assert error["payload"]["code"] == "RATE_LIMIT_EXCEEDED"
        assert error["payload"]["retry_after_ms"] == 100
        await trio.sleep(0.125)
        error = await call(client, "get_thread_history", request)
        assert error["payload"]["code"] == "THREAD_NOT_FOUND"


# Ack.


async def receive_events(server: Server, client: Client) -> int:
    """Have a run, receive its events, and return the last number."""
    await client.say("hello")
    return int((await client.until("agent_completed"))[-1]["seq"])


async def test_an_ack_up_to_the_last_number_gets_no_reply(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect(acknowledging=True) as client:
        last = await receive_events(server, client)
        for seq in (0, 1, last, last, 1, 0):
            await client.send("ack", {"seq": seq}, "c-1")
        await assert_alive(client)


async def test_an_ack_above_the_last_number_is_a_bad_frame(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect(acknowledging=True) as client:
        last = await receive_events(server, client)
        error = await call(client, "ack", {"seq": last + 1})
        assert error["payload"]["code"] == "VALIDATION_ERROR"
        assert error["payload"]["recoverable"] is True
        assert "$.payload.seq" in error["payload"]["error"]
        assert str(last + 1) in error["payload"]["error"]
        for _ in range(BAD_FRAMES - 1):
            await client.send("ack", {"seq": last + 1})
        frames, close_code = await client.rest()
    assert frames[-1]["payload"]["code"] == "ERROR_LIMIT_EXCEEDED"
    assert close_code == 4400


async def test_an_ack_of_a_client_without_subprotocol_is_ignored(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect() as client:
        for seq in (0, 1, 10**12):
            await client.send("ack", {"seq": seq})
        await assert_alive(client)


async def test_an_ack_makes_room_for_the_agent(autojump_clock: MockClock) -> None:
    async def count(run: Run) -> None:
        for n in range(5):
            await run.emit(str(n))

    async with (
        open_server(agents={"count": count}, replay_events=3) as server,
        server.connect(acknowledging=True) as client,
    ):
        await client.say("go")
        frames = [await client.next() for _ in range(4)]
        assert kinds(frames)[1:] == ["agent_started", "partial_result", "partial_result"]
        await assert_alive(client)  # the log has three events, so the agent waits
        await client.send("ack", {"seq": frames[-1]["seq"]})
        # The log was full, so the other deltas may be merged.
        *deltas, end = await client.until("agent_completed")
        assert set(kinds(deltas)) == {"partial_result"}
        assert "".join(delta["payload"]["content"] for delta in deltas) == "234"
        assert end["payload"]["result"] == "01234"


# Stop and history.


async def test_an_unknown_run_cannot_be_stopped(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect() as client:
        error = await call(client, "stop_agent", {"run_id": "run_0"})
        assert error["payload"]["code"] == "RUN_NOT_FOUND"
        await assert_alive(client)


async def test_a_run_is_stopped_from_another_connection_of_its_user_only(
    autojump_clock: MockClock,
) -> None:
    async def wait(run: Run) -> None:
        await run.emit("…")
        await trio.sleep_forever()

    async with (
        open_server(agents={"wait": wait}) as server,
        server.connect() as client,
        server.connect() as second,
        server.connect("bob") as other_user,
    ):
        await client.say("go")
        run_id = (await client.until("partial_result"))[-1]["payload"]["run_id"]
        error = await call(other_user, "stop_agent", {"run_id": run_id})
        assert error["payload"]["code"] == "RUN_NOT_FOUND"
        await second.send("stop_agent", {"run_id": run_id})
        end = await client.expect("agent_completed")
        assert end["payload"]["status"] == "cancelled"
        await assert_alive(second)
        error = await call(second, "stop_agent", {"run_id": run_id})
        assert error["payload"]["code"] == "RUN_NOT_FOUND"


async def test_history_is_fetched_in_the_background(autojump_clock: MockClock) -> None:
    store = ScriptedStore()
    async with open_server(store=store) as server, server.connect() as client:
        await client.say("hello", thread_id="main")
        await client.until("agent_completed")
        store.hold()
        await client.send("get_thread_history", {"thread_id": "main"}, "c-1")
        await assert_alive(client)
        store.release()
        page = await client.expect("thread_history")
        assert page["correlation_id"] == "c-1"
        assert "seq" not in page
        messages = page["payload"]["messages"]
        assert [(m["role"], m["content"]) for m in messages] == [
            ("user", "hello"),
            ("agent", "hello"),
        ]
        assert page["payload"]["has_more"] is False
        wrong = {"thread_id": "main", "before": "msg_0"}
        error = await call(client, "get_thread_history", wrong)
        assert error["payload"]["code"] == "VALIDATION_ERROR"
        assert "$.payload.before" in error["payload"]["error"]
        store.is_down = True
        error = await call(client, "get_thread_history", {"thread_id": "main"})
        assert error["payload"]["code"] == "SERVICE_UNAVAILABLE"


# Sizes.


@pytest.mark.parametrize("letter", ["x", "ü", "漢", "😀"])
async def test_the_size_of_a_message_is_measured_in_bytes(
    autojump_clock: MockClock, letter: str
) -> None:
    correlation_id = letter * 100
    async with open_server() as server, server.connect() as client:
        await client.send_raw(ping_of_size(SIZE, correlation_id))
        assert (await client.expect("pong"))["correlation_id"] == correlation_id
        await client.send_raw(ping_of_size(SIZE + 1, correlation_id))
        error = await client.error()
        assert error["code"] == "MESSAGE_TOO_LARGE"
        assert str(SIZE + 1) in error["error"]
        await assert_alive(client)


@pytest.mark.parametrize("letter", ["x", "ü", "漢", "😀"])
async def test_a_message_beyond_sixteen_times_the_limit_ends_the_connection(
    autojump_clock: MockClock, letter: str
) -> None:
    text = letter * (HARD_SIZE // len(letter.encode()))
    text += "x" * (HARD_SIZE - len(text.encode()))
    async with open_server() as server, server.connect() as client:
        await client.send_raw(text)
        assert (await client.error())["code"] == "MESSAGE_TOO_LARGE"
        await assert_alive(client)
        await client.send_raw(text + "x")
        frames, close_code = await client.rest()
    assert [frame["payload"]["code"] for frame in frames] == ["MESSAGE_TOO_LARGE"]
    assert close_code == 1009
    assert client.ended is EndReason.TOO_BIG


async def test_a_binary_frame_beyond_the_hard_limit_ends_the_connection(
    autojump_clock: MockClock,
) -> None:
    async with open_server() as server, server.connect() as client:
        await client.send_raw(b"x" * HARD_SIZE)
        assert (await client.error())["code"] == "INVALID_MESSAGE_TYPE"
        await client.send_raw(b"x" * (HARD_SIZE + 1))
        _, close_code = await client.rest()
    assert close_code == 1009
