"""The long-polls of the events door."""

from typing import Any

import pytest
import trio
from support.doors import open_app, request
from support.event_streams import STREAM, Poller, stream
from support.memory import kinds
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.endpoints.doors.connection import BUFFER_BYTES
from netra_trio.endpoints.doors.polls import ANSWER_BYTES
from netra_trio.protocol.codes import CloseCode

EVENTS = ("events",)
INTERVAL = 30.0
TOKENS = 5


async def count(run: Run) -> None:
    for number in range(TOKENS):
        await run.emit(f"{number} ")
        await trio.sleep(1)


class Flood:
    """Emits much more than everything on the way can hold."""

    def __init__(self) -> None:
        self.emitted = 0

    async def __call__(self, run: Run) -> None:
        for _ in range(400):
            await run.emit("x" * 10_000)
            self.emitted += 10_000


def text_of(frames: list[dict[str, Any]]) -> str:
    return "".join(
        frame["payload"]["content"] for frame in frames if frame["type"] == "partial_result"
    )


def check_numbers(frames: list[dict[str, Any]], *, after: int = 0) -> None:
    """Check that each event came once."""
    for frame in frames:
        if "seq" in frame:
            assert frame.get("seq_from", frame["seq"]) == after + 1
            after = frame["seq"]


async def test_a_conversation(autojump_clock: MockClock) -> None:
    async with open_app(agents={"count": count}, doors=EVENTS) as app:
        poller = Poller(app)
        assert kinds(await poller.poll()) == ["connection_established"]
        assert trio.current_time() < 1
        assert await poller.send("user_message", {"content": "go"}) == 202
        frames = await poller.until("agent_completed")
        assert text_of(frames) == "0 1 2 3 4 "
        check_numbers(frames)
        assert "connection_established" not in kinds(frames)
        assert app.node.statistics()["slots"] == 1
        # Each poll has acknowledged what came before it.
        async with stream(app, query=f"session_id={poller.session_id}&last_seq=1") as late:
            assert late.hello["payload"]["resume"]["verdict"] == "gap"


@pytest.mark.parametrize(("wait", "seconds"), [(None, 25), (0, 0), (1, 1), (29, 29)])
async def test_a_poll_waits(wait: int | None, seconds: float, autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        poller = Poller(app)
        await poller.poll(wait)
        since = trio.current_time()
        async with poller.asking(wait) as answer:
            assert await answer.json() == {"frames": []}
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["cache-control"] == "no-store"
        assert trio.current_time() - since == pytest.approx(seconds, abs=0.01)


async def test_a_heartbeat_ends_a_poll(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        poller = Poller(app)
        await poller.poll()
        for _ in range(5):
            assert kinds(await poller.poll(60)) == ["heartbeat"]
        assert trio.current_time() == pytest.approx(5 * INTERVAL, abs=1)


async def test_an_error_ends_a_poll(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        poller = Poller(app)
        await poller.poll()
        async with poller.asking() as answer:  # begun when there is something
            del answer
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.send, "unknown")
            (error,) = await poller.poll()
        assert error["payload"]["code"] == "UNKNOWN_MESSAGE_TYPE"


@pytest.mark.parametrize("lost", range(1, TOKENS + 3))
async def test_frames_of_a_lost_answer_come_again(lost: int, autojump_clock: MockClock) -> None:
    async with open_app(agents={"count": count}, doors=EVENTS) as app:
        poller = Poller(app)
        await poller.poll()
        await poller.send("user_message", {"content": "go"})
        frames = []
        for number in range(1, 3 * TOKENS):
            async with poller.asking() as answer:
                body = await answer.json()
            if number == lost:
                assert "seq" in body["frames"][-1]
                again = await poller.poll()
                assert again[0]["payload"]["resume"]["verdict"] == "exact"
                frames += again[1:]
                continue
            poller.take(body)
            frames += body["frames"]
            if "agent_completed" in kinds(frames):
                break
        frames += await poller.poll(1)
        assert text_of(frames) == "0 1 2 3 4 "
        check_numbers(frames)


async def test_a_resume_that_is_asked_for(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        poller = Poller(app)
        await poller.poll()
        first = poller.hello["payload"]["connection_id"]
        (hello,) = await poller.poll(more="&resume=1")
        assert hello["payload"]["resume"]["verdict"] == "exact"
        assert hello["payload"]["connection_id"] != first
        assert await poller.poll(1) == []


async def note_body(poller: Poller, bodies: list[Any]) -> None:
    """Poll once, and note the body of the answer."""
    async with poller.asking() as answer:
        bodies.append(await answer.json())


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_second_poll_ends_the_first(at_once: bool, autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        poller = Poller(app)
        await poller.poll()
        bodies: list[Any] = []
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(note_body, poller, bodies)
                if not at_once:
                    await wait_all_tasks_blocked()
            await wait_all_tasks_blocked()
            assert bodies == [{"frames": []}] * 2
            assert await poller.send("ping") == 202
        assert kinds(bodies[-1]["frames"]) == ["pong"]
        assert trio.current_time() < 1


@pytest.mark.parametrize("steps", range(30))
async def test_a_second_poll_ends_the_first_at_each_of_its_steps(
    steps: int, autojump_clock: MockClock
) -> None:
    async with open_app(doors=EVENTS) as app:
        poller = Poller(app)
        await poller.poll()
        bodies: list[Any] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note_body, poller, bodies)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.start_soon(note_body, poller, bodies)
            await wait_all_tasks_blocked()
            assert bodies == [{"frames": []}]
            assert await poller.send("ping") == 202
        assert kinds(bodies[-1]["frames"]) == ["pong"]
        assert trio.current_time() < 1


async def test_resumes_hold_one_connection(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        poller, tasks = Poller(app), []
        for _ in range(5):
            await poller.poll(more="&resume=1")
            await wait_all_tasks_blocked()
            tasks.append(trio.lowlevel.current_statistics().tasks_living)
        assert tasks[1:] == [tasks[0]] * 4


async def test_a_connection_stays_for_an_interval(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS, heartbeat_interval_ms=10_000) as app:
        poller = Poller(app)
        await poller.poll()
        await trio.sleep(9)
        assert await poller.send("ping") == 202
        assert kinds(await poller.poll()) == ["pong"]
        await trio.sleep(9)
        assert "connection_established" not in kinds(await poller.poll(0))
        await trio.sleep(11)
        assert app.node.statistics()["slots"] == 0
        assert await poller.send("ping") == 404
        (hello,) = await poller.poll()
        assert hello["payload"]["resume"]["verdict"] == "exact"
        await trio.sleep(11 + 120)
        (reset,) = await poller.poll()
        assert reset["payload"]["resume"]["verdict"] == "reset"


async def test_a_client_that_leaves_while_it_waits(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        poller = Poller(app)
        await poller.poll()
        with trio.move_on_after(5):
            await poller.poll()
        await wait_all_tasks_blocked()
        assert app.instruments.metrics.door_requests["events", "left"] == 1
        assert await poller.send("ping") == 202
        assert kinds(await poller.poll()) == ["pong"]


async def test_a_slow_client_holds_little_and_loses_nothing(autojump_clock: MockClock) -> None:
    flood = Flood()
    async with open_app(agents={"flood": flood}, doors=EVENTS) as app:
        poller = Poller(app)
        await poller.poll()
        await poller.send("user_message", {"content": "go"})
        frames: list[dict[str, Any]] = []
        while "agent_completed" not in kinds(frames):
            before = flood.emitted
            await trio.sleep(10)  # longer than the send timeout
            assert flood.emitted - before < 2 * 1024 * 1024
            async with poller.asking() as answer:
                body = await answer.json()
            size = sum(len(frame["payload"].get("content", "")) for frame in body["frames"])
            assert size < ANSWER_BYTES + 2 * BUFFER_BYTES  # a merged event is as large
            poller.take(body)
            frames += body["frames"]
        assert kinds(frames).count("connection_established") == 0
        assert len(text_of(frames)) == 400 * 10_000
        check_numbers(frames)


async def test_a_drain(autojump_clock: MockClock) -> None:
    async with open_app(agents={"count": count}, doors=EVENTS) as app:
        poller = Poller(app)
        await poller.poll()
        await poller.send("user_message", {"content": "go"})
        frames = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.drain)
            while poller.close is None:
                frames += await poller.poll()
        assert {"server_draining", "agent_completed"} <= set(kinds(frames))
        assert text_of(frames) == "0 1 2 3 4 "
        assert poller.close == {"code": CloseCode.RESTART, "reason": "drained"}
        async with poller.asking() as answer:
            assert (answer.status, (await answer.json())["code"]) == (503, "SERVER_DRAINING")


async def test_a_drain_does_not_wait_for_the_next_poll(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        poller = Poller(app)
        await poller.poll()
        since = trio.current_time()
        await app.drain()
        assert trio.current_time() - since < 1
        assert kinds(await poller.poll()) == ["server_draining"]
        assert poller.close == {"code": CloseCode.RESTART, "reason": "drained"}


async def test_a_close_between_two_polls(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS, max_connections_per_user=1) as app:
        poller = Poller(app)
        await poller.poll()
        async with stream(app):
            (error,) = await poller.poll()
            assert error["payload"]["code"] == "CONNECTION_LIMIT_EXCEEDED"
            assert poller.close == {"code": CloseCode.EVICTED, "reason": "evicted"}
            (hello,) = await poller.poll()  # as any other resume
            assert hello["payload"]["resume"]["verdict"] == "exact"


async def test_a_stream_takes_the_session_of_a_poll_over(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        poller = Poller(app)
        await poller.poll()
        query = f"session_id={poller.session_id}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.poll)
            await wait_all_tasks_blocked()
            async with stream(app, query=query) as taken:
                assert taken.hello["payload"]["resume"]["verdict"] == "exact"
                await wait_all_tasks_blocked()
                assert poller.close == {"code": CloseCode.TAKEN_OVER, "reason": "taken_over"}
                assert await poller.send("ping") == 202
                await taken.until("pong")


async def test_a_resume_while_a_poll_waits(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        poller, other = Poller(app), Poller(app)
        await poller.poll()
        other.hello = poller.hello
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.poll)
            await wait_all_tasks_blocked()
            (hello,) = await other.poll(more="&resume=1")
            assert hello["payload"]["resume"]["verdict"] == "exact"
        assert poller.close == {"code": CloseCode.TAKEN_OVER, "reason": "taken_over"}
        assert await other.poll(1) == []


async def test_a_session_of_another_user(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        alice, bob = Poller(app), Poller(app, user="bob")
        await alice.poll()
        bob.hello = alice.hello
        (reset,) = await bob.poll()
        assert reset["payload"]["resume"]["verdict"] == "reset"
        assert reset["payload"]["user_id"] == "bob"
        assert await alice.poll(1) == []


async def test_a_ticket_opens_once_with_a_session(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        poller = Poller(app)
        await poller.poll()
        for resumes in ("", "&resume=1"):
            async with request(app, "POST", "/ws/ticket") as answer:
                ticket = (await answer.json())["ticket"]
            query = f"ticket={ticket}&session_id={poller.session_id}&wait=0" + resumes
            headers = {"accept": "application/json"}
            async with request(
                app, "GET", STREAM, user=None, query=query, headers=headers
            ) as answer:
                assert answer.status == 200, await answer.json()


async def test_the_limit_of_connections_with_refusals(autojump_clock: MockClock) -> None:
    async with open_app(
        doors=EVENTS, max_connections_per_user=1, connection_limit_policy="reject"
    ) as app:
        poller = Poller(app)
        await poller.poll()
        async with Poller(app).asking() as answer:
            body = await answer.json()
            assert (answer.status, body["code"]) == (429, "CONNECTION_LIMIT_EXCEEDED")
        assert await poller.poll(1) == []
        assert kinds(await poller.poll(more="&resume=1")) == ["connection_established"]


async def test_a_cancelled_opening_leaves_nothing(autojump_clock: MockClock) -> None:
    async with open_app(doors=EVENTS) as app:
        with trio.CancelScope() as scope:
            scope.cancel()
            await Poller(app).poll()
        await wait_all_tasks_blocked()
        assert app.node.statistics()["connections"] == 0


async def test_a_fault_of_the_server_is_reported(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a fault")

    async with open_app(doors=EVENTS) as app:
        monkeypatch.setattr("netra_trio.node.node.Node.serve", fail)
        async with Poller(app).asking() as answer:
            assert answer.status == 0  # the host answers 500
        assert app.instruments.metrics.openings["failed"] == 1
        assert app.node.statistics()["slots"] == 0
