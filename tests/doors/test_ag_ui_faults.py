"""The `ag-ui` door when its calls are cancelled anywhere, and when its runs are at another node."""

from typing import Any

import orjson
import pytest
import trio
from support.ag_ui import check, run_input, summary, text_of
from support.cluster import open_cluster
from support.doors import open_app, request
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.agents.run import Run
from netra_trio.endpoints.doors.runs import ConnectionEnded, RunReader
from netra_trio.server.application import Application

PATH = "/ag-ui/demo"
WINDOW = 5.0  # seconds
STEPS = range(0, 90, 3)


class Demo:
    """An agent that counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self, run: Run) -> None:
        self.runs += 1
        if run.content == "delete":
            async with run.tool("delete", approve=True) as tool:
                tool.result = "gone"
        if run.content == "wait":
            await run.emit("waiting")
            await trio.sleep_forever()
        for _ in range(3):
            await run.emit("x")
            await trio.sleep(0.5)


async def post(
    app: Application, body: Any, path: str = PATH, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """Return the status, and the events of a stream or the JSON of another answer."""
    user = None if headers else "alice"
    async with request(app, "POST", path, json=body, user=user, headers=headers) as answer:
        await answer.started()
        if answer.headers.get("content-type") != "text/event-stream":
            return answer.status, await answer.json()
        return answer.status, [orjson.loads(each) for each in await answer.data()]


async def cut(app: Application, body: Any, steps: int, path: str = PATH) -> None:
    """Cancel a request after some steps of the tasks."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(post, app, body, path)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    await wait_all_tasks_blocked()


def sessions(app: Application) -> int:
    return len(list(app.node.sessions))


@pytest.mark.parametrize("steps", STEPS)
async def test_a_request_is_cancelled_and_sent_again(steps: int, autojump_clock: MockClock) -> None:
    demo = Demo()
    async with open_app(
        agents={"demo": demo}, doors=("ag-ui",), resume_window_ms=WINDOW * 1000
    ) as app:
        await cut(app, run_input(), steps)
        _, found = await post(app, run_input())
        check(found)
        assert (text_of(found), demo.runs) == ("xxx", 1)
        await trio.sleep(WINDOW + 1)
        assert sessions(app) == 0


@pytest.mark.parametrize("path", [PATH, f"{PATH}/stop"])
async def test_no_session_is_left_of_a_connection_that_ends_before_a_run(
    path: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def request(*_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise ConnectionEnded(1012)

    monkeypatch.setattr(RunReader, "request", request)
    async with open_app(agents={"demo": Demo()}, doors=("ag-ui",)) as app:
        status, _ = await post(app, run_input(), path)
        assert (status, sessions(app)) == (503, 0)


@pytest.mark.parametrize("steps", STEPS)
async def test_an_answer_is_cancelled_and_sent_again(steps: int, autojump_clock: MockClock) -> None:
    demo = Demo()
    async with open_app(
        agents={"demo": demo}, doors=("ag-ui",), resume_window_ms=WINDOW * 1000
    ) as app:
        _, asked = await post(app, run_input(text="delete"))
        [interrupt] = asked[-1]["outcome"]["interrupts"]
        entry = {"interruptId": interrupt["id"], "status": "resolved", "payload": True}
        body = run_input(text="delete", resume=[entry])
        await cut(app, body, steps)
        _, found = await post(app, body)
        check(found)
        assert (text_of(found), demo.runs) == ("xxx", 1)
        assert [event["content"] for event in found if "RESULT" in event["type"]] == ["gone"]
        await trio.sleep(WINDOW + 1)
        assert sessions(app) == 0


@pytest.mark.parametrize("steps", STEPS)
async def test_a_stop_is_cancelled_and_sent_again(steps: int, autojump_clock: MockClock) -> None:
    stop = {"threadId": "t-1"}
    async with (
        open_app(agents={"demo": Demo()}, doors=("ag-ui",)) as app,
        request(app, "POST", PATH, json=run_input(text="wait")) as answer,
    ):
        await answer.piece()
        await cut(app, stop, steps, f"{PATH}/stop")
        assert (await post(app, stop, f"{PATH}/stop"))[0] == 200
        assert '"CANCELLED"' in await answer.text()


async def test_the_run_is_at_another_node(autojump_clock: MockClock) -> None:
    demo = Demo()
    async with open_cluster({"demo": demo}, doors=("ag-ui",)) as cluster:
        one, other = (node.app for node in cluster.nodes)
        assert one is not None
        assert other is not None
        headers = {"Authorization": f"Bearer {cluster.token('alice')}"}
        _, asked = await post(one, run_input(text="delete"), headers=headers)
        [interrupt] = asked[-1]["outcome"]["interrupts"]
        entry = {"interruptId": interrupt["id"], "status": "resolved", "payload": True}
        body = run_input(text="delete", resume=[entry])
        _, found = await post(other, body, headers=headers)
        check(found)
        assert text_of(found) == "xxx"
        assert summary((await post(one, body, headers=headers))[1]) == summary(found)
        async with request(
            one, "POST", PATH, json=run_input("m-2", "wait"), user=None, headers=headers
        ) as answer:
            await answer.piece()
            status, told = await post(other, {"threadId": "t-1"}, f"{PATH}/stop", headers)
            assert (status, len(told["stopped"])) == (200, 1)
            assert '"CANCELLED"' in await answer.text()
        assert demo.runs == 2
