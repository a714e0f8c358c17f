"""The confirmation of a message: accepted, queued or duplicate, or an error."""

from typing import Any

import pytest
import trio
from support.memory import Client, Frame, kinds, open_server
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.errors import NotStorable, StoreUnavailable
from netra_trio.ids import RunId
from netra_trio.stores.base import Duplicate, NewMessage, RunEnd
from netra_trio.stores.memory import MemoryStore


async def shout(run: Run) -> str:
    await run.emit(run.content)
    return run.content.upper()


async def one_second(run: Run) -> str:
    """Run for a second."""
    await trio.sleep(1)
    return run.content


async def say(client: Client, content: str, key: str | None = None, **payload: Any) -> Frame:
    """Send a message and return the payload of its confirmation."""
    await client.say(content, key, **payload)
    confirmed: Frame = (await client.expect("message_confirmed"))["payload"]
    return confirmed


async def assert_no_frame(client: Client) -> None:
    """Check that the next frame is the reply to a ping, so no other frame was sent."""
    await trio.testing.wait_all_tasks_blocked()
    await client.send("ping", {"fence": 1})
    assert (await client.expect("pong"))["payload"] == {"fence": 1}


async def test_a_message_is_accepted_before_its_run_starts(autojump_clock: MockClock) -> None:
    async with open_server(agents={"shout": shout}) as server, server.connect() as client:
        await client.say("hello", "k")
        confirmed, *events = await client.until("agent_completed")
    assert confirmed["type"] == "message_confirmed"
    assert kinds(events) == ["agent_started", "partial_result", "agent_completed"]
    assert confirmed["correlation_id"] == "k"
    payload = confirmed["payload"]
    assert set(payload) == {"message_id", "run_id", "thread_id", "status"}
    assert payload["status"] == "accepted"
    assert {event["payload"]["run_id"] for event in events} == {payload["run_id"]}
    assert events[0]["payload"]["thread_id"] == payload["thread_id"]


async def test_messages_of_a_busy_thread_are_queued_with_their_position(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"one_second": one_second}) as server, server.connect() as client:
        for number in range(4):
            await client.say(f"message {number}", f"k{number}")
        frames: list[Frame] = []
        for _ in range(4):
            frames += await client.until("agent_completed")
    confirmed = [frame["payload"] for frame in frames if frame["type"] == "message_confirmed"]
    assert [payload["status"] for payload in confirmed] == [
        "accepted",
        "queued",
        "queued",
        "queued",
    ]
    assert [payload.get("position") for payload in confirmed] == [None, 1, 2, 3]
    ends = [frame for frame in frames if frame["type"] == "agent_completed"]
    assert [end["correlation_id"] for end in ends] == ["k0", "k1", "k2", "k3"]
    assert [end["payload"]["result"] for end in ends] == [f"message {n}" for n in range(4)]
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))


async def test_a_queued_message_is_confirmed_once(autojump_clock: MockClock) -> None:
    async with open_server(agents={"one_second": one_second}) as server, server.connect() as client:
        await client.say("first", "k1")
        await client.say("one_second", "k2")
        frames = [*await client.until("agent_completed"), *await client.until("agent_completed")]
    confirmations = [f["correlation_id"] for f in frames if f["type"] == "message_confirmed"]
    assert confirmations == ["k1", "k2"]


async def test_a_key_that_was_used_in_the_session_starts_no_run(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"one_second": one_second}) as server, server.connect() as client:
        first = await say(client, "hello", "k")
        await client.expect("agent_started")
        again = await say(client, "hello", "k")
        assert again == {**first, "status": "duplicate", "run_status": "running"}
        end = await client.expect("agent_completed")
        assert end["payload"]["run_id"] == first["run_id"]
        await assert_no_frame(client)


async def test_a_duplicate_of_a_waiting_message_has_the_status_queued(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"one_second": one_second}) as server, server.connect() as client:
        await say(client, "first", "k1")
        await client.expect("agent_started")
        waiting = await say(client, "one_second", "k2")
        again = await say(client, "one_second", "k2")
        assert (again["run_id"], again["run_status"]) == (waiting["run_id"], "queued")
        frames = [*await client.until("agent_completed"), *await client.until("agent_completed")]
        assert kinds(frames) == ["agent_completed", "agent_started", "agent_completed"]
        await assert_no_frame(client)


class LateStart(MemoryStore):
    """A store that records the start of a run later, as an SQL store does."""

    def start_run(self, run_id: RunId) -> None:
        """Do nothing: the start is not written yet."""


async def test_a_duplicate_right_after_the_start_has_the_status_running(
    autojump_clock: MockClock,
) -> None:
    agents = {"one_second": one_second}
    async with (
        open_server(agents=agents, store=LateStart()) as server,
        server.connect() as client,
        server.connect() as other,
    ):
        first = await say(client, "hello", "k", thread_id="t")
        await client.expect("agent_started")
        for asker in (client, other):  # in the session of the run, and in another one of the user
            again = await say(asker, "hello", "k", thread_id="t")
            assert again == {**first, "status": "duplicate", "run_status": "running"}


async def test_a_duplicate_after_the_end_gets_a_copy_of_the_end_at_once(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"shout": shout}) as server, server.connect() as client:
        await client.say("hello", "k")
        frames = await client.until("agent_completed")
        for _ in range(2):
            again = await say(client, "hello", "k")
            copy = await client.expect("agent_completed")
            assert again["status"] == "duplicate"
            assert again["run_status"] == "completed"
            assert copy["payload"] == frames[-1]["payload"]
            assert copy["correlation_id"] == "k"
        await assert_no_frame(client)


@pytest.mark.parametrize("acknowledging", [False, True])
async def test_a_duplicate_in_another_session_gets_the_end_when_the_run_ends(
    autojump_clock: MockClock, acknowledging: bool
) -> None:
    async with (
        open_server(agents={"one_second": one_second}) as server,
        server.connect() as owner,
        server.connect(acknowledging=acknowledging) as other,
    ):
        first = await say(owner, "hello", "k")
        await owner.expect("agent_started")
        await trio.sleep(0.5)
        again = await say(other, "hello", "k")
        assert again == {**first, "status": "duplicate", "run_status": "running"}
        copy = await other.expect("agent_completed")
        assert trio.current_time() == 1
        assert copy["seq"] == 2
        assert copy["payload"] == (await owner.expect("agent_completed"))["payload"]
        await assert_no_frame(owner)
        await assert_no_frame(other)


async def test_a_duplicate_in_another_session_gets_the_end_of_a_stopped_waiting_run(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents={"one_second": one_second}) as server,
        server.connect() as owner,
        server.connect() as other,
    ):
        await say(owner, "first", "k1", thread_id="t")
        await owner.expect("agent_started")
        run_id = (await say(owner, "one_second", "k2", thread_id="t"))["run_id"]
        again = await say(other, "one_second", "k2", thread_id="t")
        assert again["run_status"] == "queued"
        await other.send("stop_agent", {"run_id": run_id})
        for client in (owner, other):
            end = (await client.expect("agent_completed"))["payload"]
            assert end == {"run_id": run_id, "status": "cancelled", "duration_ms": 0}


async def test_a_duplicate_in_another_session_after_the_end_gets_the_copy_at_once(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"shout": shout}) as server:
        async with server.connect() as owner:
            await owner.say("hello", "k")
            frames = await owner.until("agent_completed")
        async with server.connect() as other:
            again = await say(other, "hello", "k")
            assert again["run_id"] == frames[0]["payload"]["run_id"]
            assert (await other.expect("agent_completed"))["payload"] == frames[-1]["payload"]
            await assert_no_frame(other)


async def test_a_run_ends_after_the_session_of_its_duplicate_has_ended(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents={"one_second": one_second}) as server,
        server.connect() as owner,
    ):
        await say(owner, "hello", "k")
        async with server.connect() as other:
            assert (await say(other, "hello", "k"))["status"] == "duplicate"
        end = (await owner.until("agent_completed"))[-1]
        assert end["payload"]["status"] == "completed"


async def test_keys_are_separate_for_each_user(autojump_clock: MockClock) -> None:
    async with (
        open_server(agents={"shout": shout}) as server,
        server.connect("alice") as alice,
        server.connect("bob") as bob,
    ):
        hers = await say(alice, "hello", "k")
        his = await say(bob, "something else", "k")
        assert (hers["status"], his["status"]) == ("accepted", "accepted")
        assert hers["run_id"] != his["run_id"]
        assert (await bob.until("agent_completed"))[-1]["payload"]["result"] == "SOMETHING ELSE"


OTHER_CONTENT: list[tuple[str, dict[str, Any]]] = [
    ("user_message", {"content": "other"}),
    ("user_message", {"content": "hello "}),
    ("user_message", {"content": "hello", "thread_id": "t"}),
    ("user_message", {"content": "hello", "agent": "shout"}),
    ("agent_request", {"agent": "shout", "input": "hello"}),
]


@pytest.mark.parametrize(("kind", "payload"), OTHER_CONTENT)
async def test_the_same_key_with_other_content_is_refused_with_its_path(
    autojump_clock: MockClock, kind: str, payload: dict[str, Any]
) -> None:
    async with open_server(agents={"shout": shout}) as server, server.connect() as client:
        await client.say("hello", "k")
        await client.until("agent_completed")
        await client.send(kind, payload, "k")
        refusal = await client.expect("error")
        assert refusal["correlation_id"] == "k"
        assert refusal["payload"]["code"] == "VALIDATION_ERROR"
        assert refusal["payload"]["error"].startswith("$.correlation_id: expected ")
        assert refusal["payload"]["recoverable"] is True
        # The first message is still the one with the key.
        assert (await say(client, "hello", "k"))["status"] == "duplicate"
        await client.expect("agent_completed")
        await assert_no_frame(client)


async def test_requests_with_the_same_key_are_compared_by_agent_and_input(
    autojump_clock: MockClock,
) -> None:
    agents = {"shout": shout, "one_second": one_second}
    request = {"agent": "shout", "input": {"a": 1, "b": 2}}
    same = {"agent": "shout", "input": {"b": 2, "a": 1}}
    others = [
        {"agent": "one_second", "input": {"a": 1, "b": 2}},
        {"agent": "shout", "input": {"a": 1, "b": 3}},
        {"agent": "shout", "input": '{"a":1,"b":2}'},
        {"agent": "shout", "input": {"a": 1, "b": 2}, "thread_id": "t"},
    ]
    async with open_server(agents=agents) as server, server.connect() as client:
        await client.send("agent_request", request, "k")
        await client.until("agent_completed")
        for other in others:
            await client.send("agent_request", other, "k")
            assert (await client.error())["code"] == "VALIDATION_ERROR", other
        await client.send("agent_request", same, "k")
        again = await client.expect("message_confirmed")
        assert again["payload"]["status"] == "duplicate"


async def test_on_busy_and_deadline_are_not_compared(autojump_clock: MockClock) -> None:
    async with open_server(agents={"shout": shout}) as server, server.connect() as client:
        await client.say("hello", "k")
        await client.until("agent_completed")
        again = await say(client, "hello", "k", on_busy="interrupt", deadline_ms=5)
        assert again["status"] == "duplicate"
        await client.expect("agent_completed")
        again = await say(client, "hello", "k", on_busy="reject")
        assert again["status"] == "duplicate"


async def test_a_duplicate_interrupts_nothing(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"one_second": one_second}) as server, server.connect() as client:
        await say(client, "hello", "k", on_busy="interrupt")
        await client.expect("agent_started")
        again = await say(client, "hello", "k", on_busy="interrupt")
        assert again["run_status"] == "running"
        assert (await client.expect("agent_completed"))["payload"]["status"] == "completed"


async def test_the_key_of_the_envelope_has_precedence(autojump_clock: MockClock) -> None:
    async with open_server(agents={"shout": shout}) as server, server.connect() as client:
        both = {"content": "hello", "correlation_id": "inner"}
        await client.send("user_message", both, "outer")
        frames = await client.until("agent_completed")
        assert {frame["correlation_id"] for frame in frames} == {"outer"}
        await client.send("user_message", {"content": "hello", "correlation_id": "outer"})
        again = await client.expect("message_confirmed")
        assert again["correlation_id"] == "outer"
        assert again["payload"]["status"] == "duplicate"


async def test_a_message_without_a_key_gets_a_new_key(
    autojump_clock: MockClock,
) -> None:
    async with open_server(agents={"shout": shout}) as server, server.connect() as client:
        keys = []
        for _ in range(2):
            await client.say("hello")
            frames = await client.until("agent_completed")
            assert frames[0]["payload"]["status"] == "accepted"
            (key,) = {frame["correlation_id"] for frame in frames}
            assert 1 <= len(key) <= 128
            keys.append(key)
        assert keys[0] != keys[1]


@pytest.mark.parametrize("length", [1, 128])
async def test_keys_at_the_limits_are_accepted(autojump_clock: MockClock, length: int) -> None:
    async with open_server(agents={"shout": shout}) as server, server.connect() as client:
        key = "é" * length
        assert (await say(client, "hello", key))["status"] == "accepted"
        assert (await client.until("agent_completed"))[-1]["correlation_id"] == key


@pytest.mark.parametrize("length", [0, 129])
async def test_keys_beyond_the_limits_are_refused(autojump_clock: MockClock, length: int) -> None:
    async with open_server(agents={"shout": shout}) as server, server.connect() as client:
        await client.say("hello", "k" * length)
        refusal = await client.error()
        assert refusal["code"] == "VALIDATION_ERROR"
        assert refusal["error"].startswith("$.correlation_id: ")


async def test_the_key_of_a_refused_message_stays_unused(autojump_clock: MockClock) -> None:
    settings: dict[str, Any] = {"run_queue": 1, "max_message_rate": 3, "burst_queue": 0}
    async with (
        open_server(agents={"one_second": one_second}, **settings) as server,
        server.connect() as client,
    ):
        await client.say("hello", "k", agent="nobody")
        assert (await client.error())["code"] == "AGENT_NOT_FOUND"
        await say(client, "first", "k1", thread_id="t")
        await client.expect("agent_started")
        await client.say("hello", "k", thread_id="t", on_busy="reject")
        assert (await client.error())["code"] == "AGENT_BUSY"
        await say(client, "one_second", "k2", thread_id="t")
        await client.say("hello", "k", thread_id="t")
        assert (await client.error())["code"] == "QUEUE_FULL"
        await say(client, "third", "k3")  # another thread, so it does not wait
        await client.expect("agent_started")
        await client.say("hello", "k")
        refusal = await client.error()
        assert refusal["code"] == "RATE_LIMIT_EXCEEDED"
        await trio.sleep(refusal["retry_after_ms"] / 1000)
        await client.say("something new", "k", thread_id="elsewhere")
        confirmed = (await client.until("message_confirmed"))[-1]
        assert (confirmed["payload"]["status"], confirmed["correlation_id"]) == ("accepted", "k")


class UnavailableStore(MemoryStore):
    """A store that cannot answer while `is_down`."""

    is_down = False

    async def record(self, message: NewMessage) -> Duplicate | None:
        await trio.lowlevel.checkpoint()
        if self.is_down:
            raise StoreUnavailable
        return await super().record(message)


async def test_a_message_is_refused_while_the_store_is_unavailable_and_its_key_stays_unused(
    autojump_clock: MockClock,
) -> None:
    store = UnavailableStore()
    async with (
        open_server(agents={"shout": shout}, store=store) as server,
        server.connect() as client,
    ):
        store.is_down = True
        await client.say("hello", "k")
        refusal = await client.expect("error")
        assert refusal["correlation_id"] == "k"
        assert refusal["payload"]["code"] == "SERVICE_UNAVAILABLE"
        assert refusal["payload"]["retry_after_ms"] > 0
        store.is_down = False
        assert (await say(client, "hello", "k"))["status"] == "accepted"


class RefusingStore(MemoryStore):
    """A store that can never keep one of the messages."""

    async def record(self, message: NewMessage) -> Duplicate | None:
        await trio.lowlevel.checkpoint()
        if message.content == "unstorable":
            raise NotStorable
        return await super().record(message)


async def test_a_message_that_can_never_be_stored_is_refused_permanently(
    autojump_clock: MockClock,
) -> None:
    async with (
        open_server(agents={"shout": shout}, store=RefusingStore()) as server,
        server.connect() as client,
    ):
        for _ in range(6):  # it is no bad frame: the connection stays open
            await client.say("unstorable", "k")
            refusal = await client.expect("error")
            assert refusal["correlation_id"] == "k"
            assert refusal["payload"]["code"] == "VALIDATION_ERROR"
            assert refusal["payload"]["recoverable"] is True
            assert "retry_after_ms" not in refusal["payload"]
        assert (await say(client, "hello", "k"))["status"] == "accepted"


class SlowStore(MemoryStore):
    """A store whose calls return later than they take effect, as those of a database."""

    record_takes = 0.0
    end_takes = 0.0

    async def record(self, message: NewMessage) -> Duplicate | None:
        known = await super().record(message)
        await trio.sleep(self.record_takes)
        return known

    async def end_run(self, end: RunEnd) -> None:
        await super().end_run(end)
        await trio.sleep(self.end_takes)


async def test_the_confirmation_and_the_end_are_sent_after_they_are_stored(
    autojump_clock: MockClock,
) -> None:
    store = SlowStore()
    store.record_takes, store.end_takes = 0.5, 0.25
    async with (
        open_server(agents={"shout": shout}, store=store) as server,
        server.connect() as client,
    ):
        await client.say("hello", "k")
        await client.expect("message_confirmed")
        assert trio.current_time() == 0.5
        await client.until("agent_completed")
        assert trio.current_time() == 0.75


@pytest.mark.parametrize(("takes", "waited"), [(1.75, 1.75), (2.25, 2.0), (1000, 2.0)])
async def test_an_end_is_sent_after_two_seconds_if_it_is_not_stored(
    autojump_clock: MockClock, takes: float, waited: float
) -> None:
    store = SlowStore()
    store.end_takes = takes
    async with (
        open_server(agents={"shout": shout}, store=store) as server,
        server.connect() as client,
    ):
        await client.say("hello", "k")
        await client.until("partial_result")
        end = await client.expect("agent_completed")
        assert end["payload"]["status"] == "completed"
        assert trio.current_time() == waited


async def test_a_duplicate_gets_the_end_of_a_run_that_ends_during_the_lookup(
    autojump_clock: MockClock,
) -> None:
    store = SlowStore()
    async with (
        open_server(agents={"one_second": one_second}, store=store) as server,
        server.connect() as owner,
        server.connect() as other,
    ):
        first = await say(owner, "hello", "k")
        await trio.sleep(0.5)
        store.record_takes = 1
        await other.say("hello", "k")  # looked up at 0.5, returned at 1.5; the run ends at 1
        again = await other.expect("message_confirmed")
        assert again["payload"]["status"] == "duplicate"
        assert again["payload"]["run_id"] == first["run_id"]
        copy = await other.expect("agent_completed")
        assert copy["payload"] == (await owner.until("agent_completed"))[-1]["payload"]


async def test_a_run_can_be_stopped_while_its_message_is_being_recorded(
    autojump_clock: MockClock,
) -> None:
    store = SlowStore()
    store.record_takes = 1
    async with (
        open_server(agents={"one_second": one_second}, store=store) as server,
        server.connect() as owner,
        server.connect() as other,
    ):
        await owner.say("hello", "k", thread_id="t")
        await trio.sleep(0.5)  # stored, but the call has not returned
        await other.send("get_thread_history", {"thread_id": "t"})
        history = await other.expect("thread_history")
        run = history["payload"]["messages"][0]["run"]
        await other.send("stop_agent", {"run_id": run["run_id"]})
        frames = await owner.until("agent_completed")
        assert kinds(frames) == ["message_confirmed", "agent_completed"]
        assert frames[-1]["payload"] == {
            "run_id": run["run_id"],
            "status": "cancelled",
            "duration_ms": 0,
        }
        assert trio.current_time() == 1
        await assert_no_frame(other)


async def test_a_message_has_an_end_if_its_session_closes_while_it_is_recorded(
    autojump_clock: MockClock,
) -> None:
    store = SlowStore()
    store.record_takes = 1
    agents = {"one_second": one_second}
    async with open_server(agents=agents, store=store, resume_window_ms=0) as server:
        async with server.connect() as client:
            await client.say("hello", "k", thread_id="t")
            await client.say("never looked at", "k2", thread_id="t")
            await trio.sleep(0.5)
        await trio.sleep(1)
        async with server.connect() as client:
            again = await say(client, "hello", "k", thread_id="t")
            assert again["run_status"] == "cancelled"
            assert (await client.expect("agent_completed"))["payload"]["status"] == "cancelled"
            await client.say("never looked at", "k2", thread_id="t")
            assert (await client.expect("message_confirmed"))["payload"]["status"] == "accepted"


async def test_a_message_for_a_full_inbox_is_refused(
    autojump_clock: MockClock,
) -> None:
    store = SlowStore()
    store.record_takes = 1
    settings: dict[str, Any] = {"max_message_rate": 1000, "run_queue": 1000}
    async with (
        open_server(agents={"shout": shout}, store=store, **settings) as server,
        server.connect() as client,
    ):
        for number in range(65):  # one is being recorded, 64 wait
            await client.say("hello", f"k{number}")
        await assert_no_frame(client)
        await client.say("one too many", "k65")
        refusal = await client.expect("error")
        assert refusal["payload"]["code"] == "QUEUE_FULL"
        assert refusal["payload"]["retry_after_ms"] > 0
        assert refusal["correlation_id"] == "k65"
        await client.until("message_confirmed")
        await client.say("now there is a place", "k65")
        frames: list[Frame] = []
        while not frames or frames[-1]["correlation_id"] != "k65":
            frames += await client.until("agent_completed")
        assert frames[-1]["payload"]["result"] == "NOW THERE IS A PLACE"
