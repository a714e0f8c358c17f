"""The routing table: every listed endpoint is answered, each method by one function."""

import trio
from attrs import evolve

from netra_trio.agents.demo.echo import echo
from netra_trio.config.settings import Settings
from netra_trio.endpoints.paths import ENDPOINTS, WEBSOCKET_PATHS
from netra_trio.server.application import create_app
from netra_trio.stores.memory import MemoryStore

SECRET = "x" * 32


async def test_every_listed_path_has_an_endpoint() -> None:
    settings = evolve(Settings(), jwt_secret_key=SECRET)
    app = create_app(agents={"echo": echo}, settings=settings, store=MemoryStore())
    statuses: dict[str, int] = {}
    async with app.running():
        for path, methods in ENDPOINTS.items():
            for method in methods:
                statuses[path] = await ask(app.router.handle, method, path)
        for path in WEBSOCKET_PATHS:
            assert await ask(app.router.handle, "GET", path) == 426
        assert await ask(app.router.handle, "GET", "/elsewhere") == 404
    assert 404 not in statuses.values()
    assert 405 not in statuses.values()


async def ask(handle: object, method: str, path: str) -> int:
    """Return the status of the answer to an empty request from this machine."""
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        return {"type": "http.request", "body": b'{"user": "alice"}'}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
    }
    await handle(scope, receive, send)  # type: ignore[operator]
    status = sent[0]["status"]
    assert isinstance(status, int)
    return status
