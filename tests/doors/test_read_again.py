"""A run that a client of a door reads again, after its first request was cut."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
from support.ag_ui import run_input
from support.doors import open_app, request
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.endpoints.doors.runs import RunReader
from netra_trio.server.application import Application

OPENAI, VERCEL, AG_UI = "/v1/chat/completions", "/api/chat", "/ag-ui/count"
DOORS = (OPENAI, VERCEL, AG_UI)
WINDOW = 5.0  # seconds
PIECES = 40
PIECE = "x" * 1000
LOG_BYTES = 16_000  # of a session: less than the agent emits
every_door = pytest.mark.parametrize("door", DOORS)


async def count(run: Run) -> None:
    for number in range(PIECES):
        await run.emit(f"<{number}>{PIECE}")
        await trio.sleep(1)


def post(door: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the body and the headers of a message with a key."""
    if door == OPENAI:
        messages = [{"role": "user", "content": "go"}]
        body = {"model": "count", "stream": True, "messages": messages}
        return body, {"Idempotency-Key": "m-1"}
    if door == VERCEL:
        parts = [{"type": "text", "text": "go"}]
        return {"id": "t", "messages": [{"id": "m-1", "role": "user", "parts": parts}]}, {}
    return run_input("m-1", "go"), {}


async def cut(app: Application, door: str) -> None:
    """Send the message, and leave after a part of the answer."""
    body, headers = post(door)
    async with request(app, "POST", door, json=body, headers=headers) as answer:
        while "<1>" not in (await answer.piece()).decode():
            pass


async def read_again(app: Application, door: str) -> str:
    body, headers = post(door)
    async with request(app, "POST", door, json=body, headers=headers) as answer:
        assert answer.status == 200
        return await answer.text()


def check_whole(text: str) -> None:
    assert [number for number in range(PIECES) if f"<{number}>" not in text] == []


@every_door
async def test_the_run_goes_on_while_it_is_read(door: str, autojump_clock: MockClock) -> None:
    window = WINDOW * 1000
    async with open_app(agents={"count": count}, resume_window_ms=window) as app:
        await cut(app, door)
        check_whole(await read_again(app, door))
        assert trio.current_time() >= PIECES > 2 * WINDOW


@every_door
async def test_the_run_does_not_wait_for_the_client_that_has_left(
    door: str, autojump_clock: MockClock
) -> None:
    async with open_app(agents={"count": count}, replay_bytes=LOG_BYTES) as app:
        await cut(app, door)
        check_whole(await read_again(app, door))
        assert trio.current_time() < PIECES + 5


@every_door
async def test_the_reader_comes_before_the_first_client_leaves(
    door: str, autojump_clock: MockClock
) -> None:
    async with open_app(agents={"count": count}, replay_bytes=LOG_BYTES) as app:
        texts: list[str] = []

        async def read() -> None:
            texts.append(await read_again(app, door))

        async with trio.open_nursery() as nursery:
            body, headers = post(door)
            async with request(app, "POST", door, json=body, headers=headers) as answer:
                await answer.piece()
                nursery.start_soon(read)
                await trio.sleep(3)
        check_whole(texts[0])


@every_door
async def test_a_run_that_no_node_lists_has_not_ended(
    door: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Its node may not answer for a moment, or the run may be on its way to another node."""
    watch: Callable[..., Any] = RunReader.watch
    calls: list[float] = []

    async def without_runs(self: RunReader, thread_id: str) -> Any:
        listed = await watch(self, thread_id)
        calls.append(trio.current_time())
        return [] if len(calls) < 4 else listed

    async with open_app(agents={"count": count}) as app:
        await cut(app, door)
        monkeypatch.setattr(RunReader, "watch", without_runs)
        check_whole(await read_again(app, door))
        assert len(calls) == 4
        assert 2 < calls[-1] - calls[0] < 5


async def test_the_chat_of_such_a_run_is_read_and_stopped(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def without_runs(self: RunReader, thread_id: str) -> list[Any]:
        await watch(self, thread_id)
        return []

    watch: Callable[..., Any] = RunReader.watch
    async with open_app(agents={"count": count}) as app:
        await cut(app, VERCEL)
        monkeypatch.setattr(RunReader, "watch", without_runs)
        async with trio.open_nursery() as nursery:
            texts: list[str] = []

            async def read() -> None:
                async with request(app, "GET", f"{VERCEL}/t/stream") as answer:
                    assert answer.status == 200
                    texts.append(await answer.text())

            nursery.start_soon(read)
            await trio.sleep(2.5)
            async with request(app, "POST", f"{VERCEL}/t/stop") as answer:
                assert await answer.json() == {"stopped": 1}
        assert '"abort"' in texts[0]
        async with request(app, "GET", f"{VERCEL}/t/stream") as answer:
            assert answer.status == 204
        async with request(app, "POST", f"{VERCEL}/t/stop") as answer:
            assert await answer.json() == {"stopped": 0}
