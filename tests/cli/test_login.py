"""The tokens of the commands: from a server in development, also while it restarts."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from support.server import PATIENCE

from netra_trio.cli.login import Login, LoginError
from netra_trio.client import TokenUnavailable

OURS = '{"code": "%s", "error": "E.", "help": "H."}'


def reply(status: str, body: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


GIVEN = reply("200 OK", '{"token": "t.o.k", "expires_in": 60}')
TEMPORARY = {
    "502": reply("502 Bad Gateway", "<html>"),
    "408": reply("408 Request Timeout"),
    "429": reply("429 Too Many", OURS % "RATE_LIMIT_EXCEEDED"),
    "draining": reply("503 Service Unavailable", OURS % "SERVER_DRAINING"),
}
OF_A_PROXY = {
    "404": reply("404 Not Found", "<html>"),
    "302": reply("302 Found"),
    "200": reply("200 OK", "<html>We are back soon"),
    "no-token": reply("200 OK", "{}"),
}


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no secret to sign with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JWT_SECRET_KEY", raising=False)


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[str]:
    """Serve one answer after the other; give the url."""
    left: Iterator[bytes] = iter(answers)

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(4096)
            await stream.send_all(next(left))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            yield f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/ws"
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("answer", TEMPORARY.values(), ids=TEMPORARY)
async def test_a_temporary_refusal(answer: bytes) -> None:
    async with answering(answer, GIVEN, answer, GIVEN) as url:
        login = Login(url, "alice")
        with pytest.raises(LoginError, match="cannot connect"):
            await login.prepare()
        await login.prepare()
        assert await login.token() == "t.o.k"
        with pytest.raises(TokenUnavailable):
            await login.token()
        assert await login.token() == "t.o.k"


@pytest.mark.parametrize("answer", OF_A_PROXY.values(), ids=OF_A_PROXY)
async def test_answers_of_a_proxy_are_temporary_after_a_token(answer: bytes) -> None:
    async with answering(answer, GIVEN, answer, GIVEN) as url:
        login = Login(url, "alice")
        with pytest.raises(LoginError, match="gives no token"):
            await login.prepare()
        await login.prepare()
        await login.token()
        with pytest.raises(TokenUnavailable):
            await login.token()
        assert await login.token() == "t.o.k"


async def test_a_refusal_of_the_server_is_final() -> None:
    async with answering(GIVEN, reply("404 Not Found", OURS % "BAD_REQUEST")) as url:
        login = Login(url, "alice")
        await login.prepare()
        await login.token()
        with pytest.raises(LoginError, match="gives no token"):
            await login.token()
