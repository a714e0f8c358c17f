"""Access to the metrics: the credentials of a request, and its refusal."""

from collections.abc import MutableMapping
from typing import Any

import orjson
import pytest
import trio
from attrs import evolve
from structlog.testing import capture_logs
from trio.testing import MockClock

from netra_trio.auth.tokens import TokenVerifier
from netra_trio.config.settings import Settings
from netra_trio.errors import NotStorable
from netra_trio.ids import UserId
from netra_trio.server.application import Application, create_app
from netra_trio.stores.base import User
from netra_trio.stores.memory import MemoryStore
from netra_trio.telemetry.sampling import FIRST

SECRET = "s" * 32
TOKEN = "a-token-for-prometheus"
NOW = 1_800_000_000.0
ADMIN = "netra:admin"


def token(user: str = "root", *permissions: str) -> str:
    signed = TokenVerifier(SECRET).sign(user, expires_at=NOW + 60, permissions=permissions)
    return str(signed)


def application(store: MemoryStore | None = None, **settings: Any) -> Application:
    chosen = evolve(Settings(), jwt_secret_key=SECRET, **settings)
    return create_app(settings=chosen, store=store or MemoryStore(), wall_clock=lambda: NOW)


async def get(app: Application, path: str, *tokens: str, query: str = "") -> tuple[int, bytes]:
    """Send a request to a running application; return the status and the body."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": query.encode(),
        "headers": [(b"authorization", f"Bearer {each}".encode("latin-1")) for each in tokens],
        "client": ("10.0.0.1", 1234),
    }
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize(
    ("given", "status"),
    [((TOKEN,), 200), ((), 401), (("another",), 401), ((TOKEN, TOKEN), 401), (("ünï",), 401)],
)
async def test_metrics_with_a_token(
    autojump_clock: MockClock, given: tuple[str, ...], status: int
) -> None:
    app = application(metrics_token=TOKEN)
    async with app.running():
        answer, body = await get(app, "/metrics", *given)
    assert answer == status
    assert (b"netra_connections " in body) is (status == 200)
    assert TOKEN.encode() not in body


@pytest.mark.parametrize(
    ("environment", "public", "status"),
    [
        ("development", False, 200),
        ("staging", False, 200),
        ("production", False, 404),
        ("production", True, 200),
    ],
)
async def test_metrics_without_a_token(
    autojump_clock: MockClock, environment: str, public: bool, status: int
) -> None:
    app = application(environment=environment, metrics_public=public)
    async with app.running():
        answer, body = await get(app, "/metrics")
        nothing, _ = await get(app, "/nothing")
    assert (answer, nothing) == (status, 404)
    assert (b"netra_connections " in body) is (status == 200)


@pytest.mark.parametrize(
    ("given", "query", "status", "code"),
    [
        ((token("root", ADMIN),), "", 200, None),
        ((token("root", "other", ADMIN),), "", 200, None),
        ((), "", 401, "AUTH_REQUIRED"),
        ((), f"token={token('root', ADMIN)}", 401, "AUTH_REQUIRED"),
        ((token("root", ADMIN),), f"token={token('root', ADMIN)}", 401, "INVALID_TOKEN"),
        (("nonsense",), "", 401, "INVALID_TOKEN"),
        ((token("root"),), "", 403, "FORBIDDEN"),
        ((token("root", "netra:administrator"),), "", 403, "FORBIDDEN"),
        ((token("stranger", ADMIN),), "", 403, "USER_NOT_FOUND"),
        ((token("former", ADMIN),), "", 403, "USER_DISABLED"),
    ],
)
async def test_statistics(
    autojump_clock: MockClock, given: tuple[str, ...], query: str, status: int, code: str | None
) -> None:
    store = MemoryStore()
    for user in ("root", "former"):
        await store.create_user(UserId(user))
    await store.set_user_enabled(UserId("former"), enabled=False)
    app = application(store, auth_auto_provision=False)
    async with app.running():
        answer, body = await get(app, "/ws/stats", *given, query=query)
    assert (answer, orjson.loads(body).get("code")) == (status, code)


class RefusingStore(MemoryStore):
    """A store that can keep no user."""

    async def create_user(self, user_id: UserId) -> User:
        await trio.lowlevel.checkpoint()
        raise NotStorable(user_id)


async def test_a_user_who_cannot_be_stored_is_refused_permanently(
    autojump_clock: MockClock,
) -> None:
    app = application(RefusingStore(), auth_auto_provision=True)
    async with app.running():
        answer, body = await get(app, "/ws/stats", token("root", ADMIN))
    assert (answer, orjson.loads(body)["code"]) == (403, "USER_NOT_FOUND")
    assert "retry_after_ms" not in orjson.loads(body)


async def test_an_anonymous_user_is_no_administrator(autojump_clock: MockClock) -> None:
    app = application(require_auth=False)
    async with app.running():
        assert (await get(app, "/ws/stats"))[0] == 401


async def test_pending_summaries_are_written_at_the_end(autojump_clock: MockClock) -> None:
    app = application()
    with capture_logs() as logs:
        async with app.running():
            for _ in range(FIRST + 3):
                await get(app, "/ws/stats")
        refusals = [line for line in logs if line["event"] == "opening_refused"]
    assert [line["repeated"] for line in refusals] == [0] * FIRST + [2]
    assert refusals[-1]["upgrade"] is False


async def test_requests_are_timed_by_endpoint(autojump_clock: MockClock) -> None:
    app = application()
    async with app.running():
        for path in ("/ws/config", "/ws/config", "/metrics", "/no/such/path"):
            await get(app, path)
        counts = {
            endpoint: histogram.count
            for endpoint, histogram in app.instruments.metrics.requests.items()
            if histogram.count
        }
    assert counts == {"/ws/config": 2, "/metrics": 1, "other": 1}
