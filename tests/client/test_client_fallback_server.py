"""The client and a real server, with a proxy between them that lets no WebSocket through."""

import ssl
from collections.abc import Iterator
from functools import partial

import pytest
import trio
import trustme
from support.server import PATIENCE, Server, serving, sign, write_agents
from support.stripping_proxy import StrippingProxy, stripping

from netra_trio.client import Client, Network, Transport, connect, door, fallback

AGENTS = """
import trio

async def count(run):
    for number in range(20):
        await run.emit(f"{number} ")
        await trio.sleep(0.01)

async def color(run):
    await run.emit(await run.ask("Which color?", {"type": "string"}))
"""
COUNTED = "".join(f"{number} " for number in range(20))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("fallback")
    write_agents(directory, AGENTS)
    agents = [f"--agent={name}=outside_agents:{name}" for name in ("count", "color")]
    with serving(directory, "--door", "events", *agents) as running:
        yield running


@pytest.fixture
def proxy(server: Server) -> Iterator[StrippingProxy]:
    with stripping(server.address) as running:
        yield running


async def use(client: Client) -> None:
    """Use what a client has: runs, questions, requests, rooms and new tokens."""
    run = await client.send("count", agent="count", thread_id="numbers")
    assert await run.text() == COUNTED
    run = await client.send("paint", agent="color")
    async for event in run:
        if event.type == "agent_asking":
            await client.answer(event.payload["question_id"], answer="blue")
    assert run.end is not None
    page = await client.history("numbers")
    assert page["messages"][-1]["content"] == COUNTED
    async with client.room(client.user_room) as room:
        published = await room.send({"theme": "dark"})
        event = await anext(aiter(room))
        assert event.offset == published.offset


async def reconnected(client: Client, proxy: StrippingProxy) -> None:
    """Drop the connections until the client has reconnected: between two polls there is none."""
    before = client.stats.reconnections
    with trio.fail_after(PATIENCE):
        while client.stats.reconnections == before:
            proxy.drop()
            await trio.sleep(0.1)
    await client.connection.until_connected()


async def test_a_proxy_that_strips_upgrades(server: Server, proxy: StrippingProxy) -> None:
    url, token = f"ws://{proxy.address}/ws", sign("stripped")
    async with connect(url, token=token, random=lambda: 0.0) as client:
        assert client.stats.transport is Transport.SSE
        await use(client)
        run = await client.send("count", agent="count")
        text = ""
        async for event in run:
            if event.type == "partial_result":
                text += event.payload["content"]
                if event.seq is not None and event.seq % 5 == 0:
                    proxy.drop()
        assert text == COUNTED
        assert client.stats.reconnections > 0
        assert client.stats.last_resume_verdict == "exact"


async def test_a_proxy_that_collects_streams(
    proxy: StrippingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "FIRST_FRAME_SECONDS", 0.5)
    proxy.collects = True
    url, token = f"ws://{proxy.address}/ws", sign("collected")
    async with connect(url, token=token, random=lambda: 0.0) as client:
        assert client.stats.transport is Transport.LONG_POLL
        await use(client)
        await reconnected(client, proxy)
        await use(client)
        assert client.stats.transport is Transport.LONG_POLL
        assert client.stats.last_resume_verdict == "exact"


async def test_a_proxy_that_recovers(
    proxy: StrippingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, token = f"ws://{proxy.address}/ws", sign("recovered")
    async with connect(url, token=token, random=lambda: 0.0) as client:
        assert str(client.stats.transport) == "sse"
        run = await client.send("count", agent="count")
        monkeypatch.setattr(fallback, "RETURN_SECONDS", 0.0)
        proxy.strips = False
        await reconnected(client, proxy)
        assert str(client.stats.transport) == "websocket"
        assert await run.text() == COUNTED
        await use(client)
        assert client.stats.last_resume_verdict == "exact"


async def test_a_proxy_that_ends_websockets(proxy: StrippingProxy) -> None:
    proxy.strips = False
    url, token = f"ws://{proxy.address}/ws", sign("ended")
    async with connect(url, token=token, random=lambda: 0.0) as client:
        assert str(client.stats.transport) == "websocket"
        run = await client.send("count", agent="count")
        for _ in range(fallback.SHORT_LIVES):
            await reconnected(client, proxy)
        assert str(client.stats.transport) != "websocket"
        assert await run.text() == COUNTED
        await use(client)


async def test_tls(proxy: StrippingProxy) -> None:
    authority = trustme.CA()
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(ours)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    relay = partial(relay_tls, ours, proxy.address)
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, relay, 0, host="127.0.0.1"))
        url = f"wss://localhost:{listener.socket.getsockname()[1]}/ws"
        dialer = Network(tls=trusting)
        async with connect(url, token=sign("tls"), dialer=dialer, random=lambda: 0.0) as client:
            assert client.stats.transport is Transport.SSE
            await use(client)
        nursery.cancel_scope.cancel()


async def relay_tls(ours: ssl.SSLContext, target: str, near: trio.SocketStream) -> None:
    """Pass a connection with TLS on to an address without."""
    host, _, port = target.rpartition(":")
    line = trio.SSLStream(near, ours, server_side=True, https_compatible=True)
    far = await trio.open_tcp_stream(host, int(port))

    async def pass_on(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
        try:
            while data := await source.receive_some():
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await trio.aclose_forcefully(far)
        await trio.aclose_forcefully(line)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_on, line, far)
        nursery.start_soon(pass_on, far, line)
