"""The actions of an administrator over HTTP: checks in their order, answers, and their trace."""

from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import trio
from attrs import evolve, frozen
from structlog.testing import capture_logs
from support.memory import SECRET
from trio.testing import MockClock

from netra_trio.agents.demo.echo import echo
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.config.settings import Settings
from netra_trio.endpoints.admin import BURST, RATE
from netra_trio.endpoints.paths import ADMIN_ACTIONS, endpoint_of, target_of
from netra_trio.ids import UserId
from netra_trio.protocol.admin import ADMINISTRATOR, AdminAction
from netra_trio.server.application import Application, create_app
from netra_trio.stores.memory import MemoryStore

ROOT = "root"
FOREIGN = (b"origin", b"https://evil.example")
DISABLE_BOB = "/ws/admin/users/bob/disable"


@frozen
class Reply:
    status: int
    body: Any

    @property
    def code(self) -> str:
        code: str = self.body["code"]
        return code


@frozen
class Api:
    """Sends requests to an application without a socket."""

    app: Application

    async def post(self, path: str, *headers: tuple[bytes, bytes], method: str = "POST") -> Reply:
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> dict[str, object]:
            await trio.lowlevel.checkpoint()
            return {"type": "http.request", "body": b""}

        async def send(message: MutableMapping[str, Any]) -> None:
            await trio.lowlevel.checkpoint()
            sent.append(message)

        scope = {
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"localhost"), *headers],
            "client": ("127.0.0.1", 1),
        }
        await self.app.router.handle(scope, receive, send)
        body = b"".join(message.get("body", b"") for message in sent)
        return Reply(sent[0]["status"], orjson.loads(body) if body else None)

    def drains(self) -> bool:
        return self.app.node.capacity.is_draining

    def metric(self, action: str, result: str) -> int:
        return self.app.instruments.metrics.admin_actions[action, result]


def bearer(user: str = ROOT, *permissions: str) -> tuple[bytes, bytes]:
    token = TokenVerifier(SECRET).sign(user, expires_at=1e10, permissions=permissions)
    return b"authorization", f"Bearer {token}".encode()


ADMIN = bearer(ROOT, ADMINISTRATOR)


@asynccontextmanager
async def running() -> AsyncIterator[Api]:
    store = MemoryStore()
    for user in (ROOT, "alice", "bob", "a/b"):
        await store.create_user(UserId(user))
    settings = evolve(Settings(), jwt_secret_key=SECRET, auth_auto_provision=False)
    app = create_app(agents={"echo": echo}, settings=settings, store=store)
    async with app.running():
        yield Api(app)


@pytest.mark.parametrize("pattern", ADMIN_ACTIONS)
async def test_the_checks_and_their_order(pattern: str, autojump_clock: MockClock) -> None:
    async with running() as api:
        path = pattern.partition("{")[0] + "x" + pattern.partition("}")[2]
        refused = [
            await api.post(path, FOREIGN),
            await api.post(path),
            await api.post(path, (b"authorization", b"Bearer x")),
            await api.post(path, bearer("nobody", ADMINISTRATOR)),
            await api.post(path, bearer(ROOT, "netra:publish")),
        ]
        assert [(each.status, each.code) for each in refused] == [
            (403, "ORIGIN_NOT_ALLOWED"),
            (401, "AUTH_REQUIRED"),
            (401, "INVALID_TOKEN"),
            (403, "USER_NOT_FOUND"),
            (403, "FORBIDDEN"),
        ]
        assert (await api.post(path, ADMIN)).status == 404
        assert (await api.post(path, ADMIN, method="GET")).status == 405
        assert (await api.post(path, ADMIN, method="OPTIONS")).status == 204


@pytest.mark.parametrize(
    "path",
    [
        "/ws/admin",
        "/ws/admin/users",
        "/ws/admin/users//disable",
        "/ws/admin/users/bob",
        "/ws/admin/users/bob/stop",
        "/ws/admin/users/bob/disable/",
        "/ws/admin/things/x/stop",
    ],
)
async def test_other_paths_do_not_exist(path: str, autojump_clock: MockClock) -> None:
    assert endpoint_of(path) == path
    async with running() as api:
        refused = await api.post(path, ADMIN)
        assert (refused.status, refused.code) == (404, "BAD_REQUEST")


def test_the_id_of_a_path() -> None:
    pattern = "/ws/admin/users/{user_id}/disable"
    assert target_of("/ws/admin/users/bob/disable", pattern) == "bob"
    assert target_of("/ws/admin/users/a/b/disable", pattern) == "a/b"
    assert target_of("/ws/admin/users/disable", pattern) is None
    assert target_of("/ws/admin/users//disable", pattern) is None
    assert endpoint_of("/ws/admin/users/a/b/disable") == pattern


async def test_the_answers(autojump_clock: MockClock) -> None:
    async with running() as api:
        for user in ("bob", "a/b", "bob"):
            done = await api.post(f"/ws/admin/users/{user}/disable", ADMIN)
            assert done.status == 200
            assert done.body == {
                "action": "disable_user",
                "target": user,
                "status": "disabled",
                "nodes": [],
            }
        missing = await api.post("/ws/admin/users/carol/disable", ADMIN)
        assert (missing.status, missing.code) == (404, "USER_NOT_FOUND")
        missing = await api.post("/ws/admin/runs/run_0/stop", ADMIN)
        assert (missing.status, missing.code) == (404, "RUN_NOT_FOUND")
        missing = await api.post("/ws/admin/sessions/sess_0/end", ADMIN)
        assert (missing.status, missing.code) == (404, "BAD_REQUEST")


async def test_a_drain_is_accepted_before_it_begins(autojump_clock: MockClock) -> None:
    async with running() as api:
        node = api.app.node_id
        accepted = await api.post(f"/ws/admin/nodes/{node}/drain", ADMIN)
        assert accepted.status == 202
        assert accepted.body["status"] == "draining"
        assert accepted.body["nodes"] == [node]
        assert not api.drains()
        await trio.sleep(0.2)
        assert api.drains()
        again = await api.post(f"/ws/admin/nodes/{node}/drain", ADMIN)
        assert again.status == 202


async def test_a_drain_ends_the_process_where_it_may(autojump_clock: MockClock) -> None:
    async with running() as api:
        calls: list[str] = []
        api.app.terminate = lambda: calls.append("SIGTERM")
        await api.post(f"/ws/admin/nodes/{api.app.node_id}/drain", ADMIN)
        assert calls == []
        await api.post(f"/ws/admin/nodes/{api.app.node_id}/drain", ADMIN)
        await trio.sleep(0.2)
        assert calls == ["SIGTERM"]  # a second one would end the process at once
        await api.app.drain()
        assert api.drains()


async def test_a_drain_by_a_signal_is_not_repeated(autojump_clock: MockClock) -> None:
    async with running() as api:
        calls: list[str] = []
        api.app.terminate = lambda: calls.append("SIGTERM")
        await api.app.drain()
        accepted = await api.post(f"/ws/admin/nodes/{api.app.node_id}/drain", ADMIN)
        await trio.sleep(0.2)
        assert (accepted.status, calls) == (202, [])


async def test_each_action_is_logged_and_counted(autojump_clock: MockClock) -> None:
    async with running() as api:
        with capture_logs() as logs:
            await api.post(DISABLE_BOB, ADMIN)
            await api.post("/ws/admin/runs/run_0/stop", ADMIN)
            await api.post(DISABLE_BOB)  # refused before it is an action
        acted = [line for line in logs if line["event"] == "admin_action"]
        assert [
            (each["actor"], each["action"], each["target"], each["result"]) for each in acted
        ] == [
            (ROOT, "disable_user", "bob", "done"),
            (ROOT, "stop_run", "run_0", "RUN_NOT_FOUND"),
        ]
        assert (api.metric("disable_user", "done"), api.metric("disable_user", "refused")) == (1, 0)
        assert (api.metric("stop_run", "done"), api.metric("stop_run", "refused")) == (0, 1)


async def test_a_fault_is_logged_as_one(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running() as api:

        async def fail(_action: AdminAction, _target: str) -> list[str]:
            await trio.lowlevel.checkpoint()
            raise ValueError("a fault")

        monkeypatch.setattr(api.app.node.admin.actions, "perform", fail)
        with capture_logs() as logs, pytest.raises(ValueError, match="a fault"):
            await api.post(DISABLE_BOB, ADMIN)
        assert [line["result"] for line in logs if line["event"] == "admin_action"] == ["unknown"]


async def test_the_rate_is_limited(autojump_clock: MockClock) -> None:
    async with running() as api:
        for _ in range(BURST):
            assert (await api.post(DISABLE_BOB, ADMIN)).status == 200
        refused = await api.post(DISABLE_BOB, ADMIN)
        assert (refused.status, refused.code) == (429, "RATE_LIMIT_EXCEEDED")
        assert refused.body["retry_after_ms"] <= 1000 / RATE
        assert api.app.instruments.metrics.rate_events["requests", "refused"] == 1
        await trio.sleep(1 / RATE)
        assert (await api.post(DISABLE_BOB, ADMIN)).status == 200
