"""Budgets at the doors: each refuses a message in its own words, and tells how a run ends."""

from typing import Any

import orjson
import trio
from support.ag_ui import run_input
from support.doors import open_app, request
from support.event_streams import post, stream
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.server.application import Application

LIMIT = 10
LEFT_S = "57600"  # from the epoch of these tests to midnight


async def spend(run: Run) -> str:
    await run.usage(model="m", input_tokens=int(run.content), output_tokens=0)
    await run.emit("done")
    return "done"


def budgeted() -> Any:
    return open_app(agents={"spend": spend}, usage_limit_tokens=LIMIT)


async def openai(app: Application, content: str, **more: Any) -> tuple[int, dict[str, str], str]:
    messages = [{"role": "user", "content": content}]
    posted = {"model": "spend", "messages": messages, **more}
    async with request(app, "POST", "/v1/chat/completions", json=posted) as answer:
        return answer.status, answer.headers, await answer.text()


async def test_the_openai_door_has_no_quota_left(autojump_clock: MockClock) -> None:
    async with budgeted() as app:
        assert (await openai(app, str(LIMIT)))[0] == 200
        # The run that goes beyond it, whole and as a stream.
        status, headers, text = await openai(app, "1")
        error = orjson.loads(text)["error"]
        assert (status, error["type"], error["code"]) == (429, *["insufficient_quota"] * 2)
        assert headers["x-should-retry"] == "false"
        assert "retry-after" not in headers
        # The next message.
        for stream_ in (False, True):
            status, headers, text = await openai(app, "1", stream=stream_)
            error = orjson.loads(text)["error"]
            assert (status, error["type"], error["code"]) == (429, *["insufficient_quota"] * 2)
            assert (headers["x-should-retry"], headers["retry-after"]) == ("false", LEFT_S)
            assert "11 of 10 tokens" in error["message"]


async def test_a_stream_of_the_openai_door_ends_with_the_error(autojump_clock: MockClock) -> None:
    async with budgeted() as app:
        status, _, text = await openai(app, str(LIMIT + 1), stream=True)
        assert status == 200
        assert '"code":"insufficient_quota"' in text
        assert "[DONE]" not in text


async def test_the_vercel_door(autojump_clock: MockClock) -> None:
    async def ask(content: str, key: str) -> tuple[int, dict[str, str], str]:
        parts = [{"type": "text", "text": content}]
        said = {"id": key, "role": "user", "parts": parts}
        posted = {"id": "c1", "messages": [said], "trigger": "submit-message"}
        async with request(app, "POST", "/api/chat", json=posted) as answer:
            return answer.status, answer.headers, await answer.text()

    async with budgeted() as app:
        status, _, text = await ask(str(LIMIT + 1), "m1")
        assert status == 200
        assert "budget of the agent spend is used up" in text
        assert '"type":"abort"' not in text
        status, headers, text = await ask("1", "m2")
        assert (status, headers["retry-after"]) == (429, LEFT_S)
        assert "11 of 10 tokens" in text


async def test_the_ag_ui_door(autojump_clock: MockClock) -> None:
    async def ask(content: str, run: str) -> tuple[int, dict[str, str], str]:
        posted = run_input(f"m-{run}", content, run=run)
        async with request(app, "POST", "/ag-ui/spend", json=posted) as answer:
            return answer.status, answer.headers, await answer.text()

    async with budgeted() as app:
        status, _, text = await ask(str(LIMIT + 1), "r1")
        assert status == 200
        assert '"code":"BUDGET_EXCEEDED"' in text
        status, headers, text = await ask("1", "r2")
        assert (status, headers["retry-after"]) == (429, LEFT_S)
        assert "BUDGET_EXCEEDED" in text


async def test_the_events_door(autojump_clock: MockClock) -> None:
    async with budgeted() as app, stream(app) as alice:

        async def say(content: str, key: str) -> Any:
            frame = {"type": "user_message", "payload": {"content": content}}
            sent = {**frame, "correlation_id": key}
            assert (await post(app, alice.session_id, sent))[0] == 202

        await say("8", "m-1")
        frames = await alice.until("agent_completed")
        [warning] = [frame for frame in frames if frame["type"] == "usage_warning"]
        assert (warning["payload"]["used"], warning["payload"]["limit"]) == (8, LIMIT)
        await say("3", "m-2")
        end = (await alice.until("agent_completed"))[-1]["payload"]
        assert (end["status"], end["error"]["code"]) == ("cancelled", "BUDGET_EXCEEDED")
        await say("1", "m-3")
        error = (await alice.until("error"))[-1]
        assert (error["correlation_id"], error["payload"]["code"]) == ("m-3", "BUDGET_EXCEEDED")
        await trio.sleep(1)  # it is not asked again by anyone
        assert app.node.services.instruments.metrics.errors["BUDGET_EXCEEDED"] == 2
