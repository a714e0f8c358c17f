"""The real client and a real server, with a proxy in between that answers by itself for a while."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from attrs import define, evolve, field
from support.server import PATIENCE, SECRET, sign

import netra_trio.client.manager
from netra_trio.agents.demo.echo import echo
from netra_trio.client import ConnectionRefused, connect
from netra_trio.config.settings import Settings
from netra_trio.server.application import create_app
from netra_trio.server.listeners import Listeners
from netra_trio.server.sockets import listen
from netra_trio.stores.memory import MemoryStore

HOST = "127.0.0.1"
CHUNK = 64 * 1024  # bytes of one read
REFUSALS = 3  # of the proxy, until the server is there again


def reply(status: str, body: str = "", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
    return ("\r\n".join(head) + f"\r\n\r\n{body}").encode()


ANSWERS = {
    "404": reply("404 Not Found", "<html>"),
    "408": reply("408 Request Timeout"),
    "302": reply("302 Found", "", "location: https://login.example/"),
    "200": reply("200 OK", "<html>We are back soon"),
    "401": reply("401 Unauthorized", "<html>"),
    "403": reply("403 Forbidden", '{"message": "Forbidden"}'),
    "number": reply("404 Not Found", '{"code": 404, "error": "Not Found", "help": "None"}'),
    "other-json": reply("400 Bad Request", '{"code": "InvalidRequest", "error": "No route"}'),
}


@define(eq=False)
class Proxy:
    """Passes connections on to a server, or answers by itself.

    Attributes:
        target: The port of the server.
        answer: The answer to each request; None to pass it on.
        answered: How many requests it answered by itself.
        address: Its own address.
    """

    target: int
    answer: bytes | None = None
    answered: int = 0
    address: str = ""
    _open: list[trio.SocketStream] = field(factory=list)
    _changed: trio.Event = field(factory=trio.Event)

    async def serve(self, near: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with near:
                if self.answer is not None:
                    await near.receive_some(CHUNK)
                    await near.send_all(self.answer)
                    self.answered += 1
                    self._changed.set()
                    return
                async with await trio.open_tcp_stream(HOST, self.target) as far:
                    self._open += [near, far]
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._pass_on, near, far, nursery.cancel_scope)
                        nursery.start_soon(self._pass_on, far, near, nursery.cancel_scope)

    async def _pass_on(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await sink.send_all(data)
        scope.cancel()

    async def answer_for_a_while(self, answer: bytes) -> None:
        """Cut every connection, and answer some requests."""
        self.answer = answer
        for stream in self._open:
            await trio.aclose_forcefully(stream)
        self._open.clear()
        while self.answered < REFUSALS:
            self._changed = trio.Event()
            await self._changed.wait()
        self.answer = None


@asynccontextmanager
async def proxied() -> AsyncIterator[Proxy]:
    """Run a server in this process, and a proxy in front of it."""
    app = create_app(
        agents={"echo": echo},
        settings=evolve(Settings(), jwt_secret_key=SECRET),
        store=MemoryStore(),
    )
    socks = listen((HOST,), 0)
    with trio.fail_after(PATIENCE):
        async with app.running(), trio.open_nursery() as nursery:
            listeners = Listeners(app, socks)
            await nursery.start(listeners.serve)
            proxy = Proxy(socks[0].getsockname()[1])
            serve = partial(trio.serve_tcp, proxy.serve, 0, host=HOST)
            (front,) = await nursery.start(serve)
            proxy.address = f"{HOST}:{front.socket.getsockname()[1]}"
            yield proxy
            await listeners.stop()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_answers_of_a_proxy_after_a_connection_are_temporary(answer: bytes) -> None:
    async with proxied() as proxy:
        url = f"ws://{proxy.address}/ws"
        async with connect(url, token=sign(), random=lambda: 0.0) as client:
            assert await (await client.send("before")).text() == "before"
            await proxy.answer_for_a_while(answer)
            assert await (await client.send("after")).text() == "after"
            assert client.stats.last_resume_verdict == "exact"


@pytest.mark.parametrize("name", ["404", "302", "200", "401", "403"])
async def test_answers_of_a_proxy_before_a_connection_are_final(name: str) -> None:
    async with proxied() as proxy:
        proxy.answer = ANSWERS[name]
        with pytest.raises(ConnectionRefused) as caught:
            async with connect(f"ws://{proxy.address}/ws", token=sign()):
                pass
        assert (caught.value.status, caught.value.code) == (int(name), None)


async def test_a_refusal_of_the_server_is_final_after_a_connection() -> None:
    tokens = ["wrong", sign()]

    async def get_token() -> str:
        await trio.lowlevel.checkpoint()
        return tokens.pop() if len(tokens) > 1 else tokens[0]

    async with proxied() as proxy:
        url = f"ws://{proxy.address}/ws"
        async with connect(url, token=None, get_token=get_token, random=lambda: 0.0) as client:
            await proxy.answer_for_a_while(ANSWERS["401"])
            with pytest.raises(ConnectionRefused) as caught:
                await client.send("hello")
            assert (caught.value.status, caught.value.code) == (401, "INVALID_TOKEN")


async def test_cancelling_waits_for_the_close_frames_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # With the usual bound of 2 seconds the test would pass after the bound as well.
    monkeypatch.setattr(netra_trio.client.manager, "CLOSING_SECONDS", 2 * PATIENCE)
    async with proxied() as proxy:
        for url in (f"ws://{HOST}:{proxy.target}/ws", f"ws://{proxy.address}/ws"):
            with trio.CancelScope() as scope:
                async with connect(url, token=sign()) as client:
                    await (await client.send("hello")).text()
                    scope.cancel()
                    await trio.sleep_forever()
            assert scope.cancelled_caught
