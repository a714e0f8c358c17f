"""An HTTP answer in pieces: its client may stop reading, and may leave."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.endpoints.answer import Answer
from netra_trio.endpoints.responder import Responder
from netra_trio.errors import TransportClosed
from netra_trio.transports.asgi import Message

HEADERS = {"content-type": "text/plain"}


class Host:
    """The ASGI host of one request."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.left = trio.Event()
        self.reading = trio.Event()
        self.reading.set()
        self.error: Exception | None = None

    async def send(self, message: Message) -> None:
        if self.error is not None:
            raise self.error
        await self.reading.wait()
        self.sent.append(message)

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    def responder(self, timeout: float = 5.0) -> Responder:
        return Responder(self.receive, self.send, {"vary": "Origin"}, timeout)


async def test_an_answer_in_pieces() -> None:
    host = Host()
    responder = host.responder()
    assert host.sent == []
    await responder.start(HEADERS)
    await responder.send(b"one")
    await responder.end(b"two")
    start, *bodies = host.sent
    assert start["status"] == 200
    assert dict(start["headers"]) == {
        b"content-type": b"text/plain",
        b"vary": b"Origin",
        b"x-content-type-options": b"nosniff",
    }
    assert [(body["body"], body.get("more_body", False)) for body in bodies] == [
        (b"one", True),
        (b"two", False),
    ]


async def test_a_whole_answer() -> None:
    host = Host()
    responder = host.responder()
    await responder.answer(Answer(204))
    assert host.sent[0]["status"] == 204


PUTS: list[Callable[[Responder], Any]] = [
    lambda responder: responder.start(HEADERS),
    lambda responder: responder.send(b"x"),
    lambda responder: responder.end(),
]


@pytest.mark.parametrize("put", PUTS)
async def test_a_client_that_takes_nothing(
    put: Callable[[Responder], Any], autojump_clock: MockClock
) -> None:
    host = Host()
    host.reading = trio.Event()
    with pytest.raises(TransportClosed) as closed:
        await put(host.responder(5.0))
    assert closed.value.timed_out
    assert trio.current_time() == 5.0


@pytest.mark.parametrize("put", PUTS)
async def test_a_connection_that_is_lost(put: Callable[[Responder], Any]) -> None:
    host = Host()
    host.error = OSError("lost")
    with pytest.raises(TransportClosed) as closed:
        await put(host.responder())
    assert not closed.value.timed_out


async def test_a_client_that_leaves_cancels_the_block(autojump_clock: MockClock) -> None:
    host = Host()
    responder = host.responder()
    ended = []
    async with trio.open_nursery() as nursery:

        async def block() -> None:
            async with responder.until_gone():
                await trio.Event().wait()
            ended.append(responder.is_gone)

        nursery.start_soon(block)
        await wait_all_tasks_blocked()
        host.left.set()
    assert ended == [True]
    for put in PUTS:
        with pytest.raises(TransportClosed):
            await put(responder)
    assert host.sent == []


async def test_a_block_that_ends_first() -> None:
    responder = Host().responder()
    async with responder.until_gone():
        await trio.lowlevel.checkpoint()
    assert not responder.is_gone


async def test_an_exception_of_the_block_is_raised_as_it_is() -> None:
    with pytest.raises(TransportClosed):
        async with Host().responder().until_gone():
            raise TransportClosed
