"""The live page and its actions over two workers, and for a single process."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from support.server import SOON, Client, Frame, Server, bearer, serving, sign, write_agents

pytestmark = pytest.mark.unmeasured

AGENT = """
import trio

async def wait(run):
    async with run.tool("wait"):
        await trio.sleep(3600)
"""
CONNECTIONS = 12  # at least
ADMIN = ["netra:admin"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("workers")
    write_agents(folder, AGENT)
    options = {"WEBSOCKET_MAX_CONNECTIONS_PER_USER": "100", "WEBSOCKET_DRAIN_TIMEOUT": "2000"}
    with serving(folder, "--agent=outside_agents:wait", "--workers", "2", **options) as running:
        yield running


class Page:
    """The newest part of each node, as a client of the live page has it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.parts: dict[str, Frame] = {}
        self.histories: set[str] = set()

    async def until(self, look: Callable[[], Any]) -> Any:
        with trio.fail_after(SOON):
            while not (found := look()):
                frame = (await self._client.until("room_event"))[-1]
                content = frame["payload"]["event"]["payload"]["content"]
                if content["kind"] == "gone":
                    self.parts.pop(content["node"], None)
                elif content["kind"] == "history":
                    self.histories.add(content["node"])
                else:
                    self.parts[content["node"]] = content
        return found

    def own_node(self) -> str | None:
        """Return the node of this page's session; others of its user may be detached elsewhere."""
        own = self._client.hello["payload"]["session_id"]
        for node, part in self.parts.items():
            if any(session["session_id"] == own for session in part["sessions"]):
                return node
        return None

    def node_of(self, run_id: str) -> str | None:
        """Return the node of a run that is in its tool."""
        for node, part in self.parts.items():
            if any(run["run_id"] == run_id and run["tools"] for run in part["runs"]):
                return node
        return None


@asynccontextmanager
async def live_page(server: Server) -> AsyncIterator[Page]:
    async with server.connect("root", token=sign("root", permissions=ADMIN)) as client:
        await client.send("join_room", {"room": "admin:live"})
        await client.until("room_joined")
        yield Page(client)


def act(server: Server, path: str) -> tuple[int, Frame]:
    answer = server.http("POST", f"/ws/admin/{path}", [bearer("root", permissions=ADMIN)])
    return answer.status_code, answer.json()


async def test_the_page_has_all_workers_and_acts_on_each(server: Server) -> None:
    async with live_page(server) as page, AsyncExitStack() as stack:
        nodes = set(await page.until(lambda: len(page.parts) == 2 and page.parts))
        await page.until(lambda: page.histories >= nodes)
        clients: list[Client] = []
        runs: list[str] = []
        # The system chooses the worker of a connection: more are opened until both have one.
        while len(runs) < CONNECTIONS or {page.node_of(run_id) for run_id in runs} != nodes:
            clients.append(await stack.enter_async_context(server.connect("alice")))
            await clients[-1].say("hello")
            runs.append((await clients[-1].until("tool_executing"))[-1]["payload"]["run_id"])
            if len(runs) >= CONNECTIONS:
                await page.until(lambda: all(map(page.node_of, runs)))
        # The one address reaches any worker: each action finds its target.
        for client, run_id in zip(clients[:4], runs, strict=False):
            node = page.node_of(run_id)
            assert act(server, f"runs/{run_id}/stop") == (
                202,
                {"action": "stop_run", "target": run_id, "status": "stopping", "nodes": [node]},
            )
            end = (await client.until("agent_completed"))[-1]
            assert end["payload"]["status"] == "cancelled"
        for client in clients[4:8]:
            status, ending = act(server, f"sessions/{client.hello['payload']['session_id']}/end")
            assert (status, ending["status"]) == (202, "ending")
            frames, code = await client.rest()
            assert (frames[-1]["type"], code) == ("agent_completed", 1000)
        status, disabled = act(server, "users/alice/disable")
        assert (status, disabled["status"]) == (200, "disabled")
        for client in clients[8:]:
            assert (await client.rest())[1] == 4403


async def test_a_drained_worker_is_replaced_and_the_other_goes_on(server: Server) -> None:
    async with live_page(server) as page:
        before = set(await page.until(lambda: len(page.parts) == 2 and page.parts))
        own = await page.until(page.own_node)
        (drained,) = before - {own}
        status, draining = act(server, f"nodes/{drained}/drain")
        assert (status, draining["status"], draining["nodes"]) == (202, "draining", [drained])
        await page.until(lambda: drained not in page.parts)
        after = set(await page.until(lambda: len(page.parts) == 2 and page.parts))
        assert own in after
        assert not after & {drained}
        (new,) = after - {own}
        assert page.parts[new]["uptime"] < page.parts[own]["uptime"]
        assert act(server, f"nodes/{drained}/drain")[0] == 404


def test_a_single_process_that_drains_ends_with_0(tmp_path: Path) -> None:
    with serving(tmp_path, WEBSOCKET_DRAIN_TIMEOUT="1000") as alone:
        health = alone.http("GET", "/ws/health")
        assert health.status_code == 200
        node = node_of(alone)
        assert act(alone, f"nodes/{node}/drain")[0] == 202
        assert alone.process.wait() == 0


def node_of(server: Server) -> str:
    async def find() -> str:
        async with live_page(server) as page:
            await page.until(lambda: page.parts)
            return next(iter(page.parts))

    return trio.run(find)
