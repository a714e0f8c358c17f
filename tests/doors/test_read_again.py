"""A run that a client of a door reads again, after its first request was cut."""

from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import orjson
import pytest
import trio
from support.ag_ui import run_input, text_of
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


# Text and steps that are not known any more.

LINES = 300
LINE = "y" * 990
WHOLE = "".join(f"[{number:08}]{LINE}" for number in range(LINES))
KEPT_BYTES = 192 * 1024  # of a running answer, in a listing
HISTORY_BYTES = 64 * 1024  # of an answer that has ended


async def long(run: Run) -> None:
    """Emit more than is listed, and the last word later."""
    for number in range(LINES):
        await run.emit(f"[{number:08}]{LINE}")
    await trio.sleep(10)
    await run.emit("END")


async def tools(run: Run) -> None:
    """Call tools with more results than are listed, and emit the last word later."""
    for number in range(80):
        async with run.tool("look", n=number) as tool:
            tool.result = f"{number}" + "z" * 1500
        await run.emit(f"({number})")
    await trio.sleep(10)
    await run.emit("END")


def omissions(events: list[dict[str, Any]], name: str) -> list[Any]:
    return [
        each["value"] for each in events if (each["type"], each.get("name")) == ("CUSTOM", name)
    ]


async def ag_ui(
    app: Application, agent: str, *, after: str | None = None, until: str = "no such text"
) -> tuple[list[dict[str, Any]], str]:
    """Read the run, or what follows an event, up to a text; return the events and the last id."""
    headers = {} if after is None else {"last-event-id": after}
    events, last = list[dict[str, Any]](), ""
    body = run_input("m-1", "go")
    async with request(app, "POST", f"/ag-ui/{agent}", json=body, headers=headers) as answer:
        assert answer.status == 200
        async with aclosing(answer.events()) as found:
            async for event in found:
                if "data" in event:
                    events.append(orjson.loads(event["data"]))
                    last = event["id"]
                if until in text_of(events[-2:]):
                    break
    return events, last


@pytest.mark.parametrize("door", [OPENAI, VERCEL])
async def test_an_answer_tells_that_text_is_missing(door: str, autojump_clock: MockClock) -> None:
    async with open_app(agents={"count": long}) as app:
        body, headers = post(door)
        async with request(app, "POST", door, json=body, headers=headers) as answer:
            await answer.piece()
            await trio.sleep(5)
        for _ in range(2):  # while the run goes on, and after its end
            text = await read_again(app, door)
            marks = {OPENAI: ['"finish_reason":"length"'], VERCEL: ['"truncated":true', '"length"']}
            assert [mark for mark in marks[door] if mark not in text] == []
        assert "END" in text or "[00000063]" in text


async def test_ag_ui_goes_on_exactly_where_its_client_was(autojump_clock: MockClock) -> None:
    async with open_app(agents={"long": long}) as app:
        first, last = await ag_ui(app, "long", until="[00000250]")
        had = len(text_of(first))
        assert had > len(WHOLE) - KEPT_BYTES
        rest, _ = await ag_ui(app, "long", after=last)
    assert text_of(first) + text_of(rest) == WHOLE + "END"
    assert omissions(rest, "text_omitted") == []
    assert rest[-1]["type"] == "RUN_FINISHED"


async def test_ag_ui_tells_how_much_is_missing(autojump_clock: MockClock) -> None:
    async with open_app(agents={"long": long}) as app:
        first, last = await ag_ui(app, "long", until="[00000010]")
        await trio.sleep(1)
        rest, _ = await ag_ui(app, "long", after=last)
        [omitted] = omissions(rest, "text_omitted")
        known = len(text_of(first)) + len(text_of(rest)) + omitted["characters"]
        assert (known, text_of(rest)[-3:]) == (len(WHOLE) + 3, "END")
        assert rest[-1]["type"] == "RUN_FINISHED"
        ended, _ = await ag_ui(app, "long", after=last)
        assert omissions(ended, "text_omitted") == [{}]
        assert (text_of(first) + text_of(ended)) == WHOLE[:HISTORY_BYTES]
        assert ended[-1]["type"] == "RUN_FINISHED"


@pytest.mark.parametrize("has_ended", [False, True])
async def test_ag_ui_goes_on_behind_steps_that_are_not_known(
    has_ended: bool, autojump_clock: MockClock
) -> None:
    async with open_app(agents={"tools": tools}) as app:
        first, last = await ag_ui(app, "tools", until="(78)")
        await trio.sleep(20 if has_ended else 1)
        rest, _ = await ag_ui(app, "tools", after=last)
    assert text_of(first) + text_of(rest) == "".join(f"({n})" for n in range(80)) + "END"
    assert omissions(rest, "steps_omitted") == [{}]
    assert rest[-1]["type"] == "RUN_FINISHED"
