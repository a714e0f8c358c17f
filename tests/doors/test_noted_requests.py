"""Every request at a door is noted once, also one that is cancelled."""

from typing import Any

import pytest
import trio
from support.ag_ui import run_input
from support.doors import open_app, request
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.telemetry.events import DoorOutcome

CHAT = {
    "id": "c1",
    "messages": [{"id": "m-1", "role": "user", "parts": [{"type": "text", "text": "hello"}]}],
}
COMPLETION = {"model": "wait", "stream": True, "messages": [{"role": "user", "content": "hello"}]}


async def wait(run: Run) -> None:
    """Emit a piece of text, and run until it is stopped."""
    await run.emit("waiting")
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("door", "method", "path", "body"),
    [
        ("ag-ui", "POST", "/ag-ui/wait", run_input()),
        ("vercel", "POST", "/api/chat", CHAT),
        ("openai", "POST", "/v1/chat/completions", COMPLETION),
        ("events", "GET", "/ws/events", None),
    ],
)
async def test_a_cancelled_request(
    door: str, method: str, path: str, body: Any, autojump_clock: MockClock
) -> None:
    async with open_app(agents={"wait": wait}) as app:
        with trio.CancelScope() as scope:
            async with request(app, method, path, json=body) as answer:
                assert (answer.status, bool(await answer.piece())) == (200, True)
                scope.cancel()
                await trio.sleep_forever()
        noted = app.instruments.metrics.door_requests
        of_door = [noted[door, outcome] for outcome in DoorOutcome]
        assert (noted[door, DoorOutcome.LEFT], sum(of_door)) == (1, 1)
