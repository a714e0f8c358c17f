"""Nodes on a real server, and what has to work after each of its failures.

one, two = await opened(server.url, nursery), await opened(server.url, nursery)
server.kill()
server.start()
await everything_works(one, two)
"""

import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import trio

from netra_trio.broker.base import Appended, Delivery, Directory, HistoryLimits, Mail
from netra_trio.broker.valkey.backend import ValkeyBackend
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import new_node_id, new_session_id
from support.worlds import batch, session_of

LIMITS = HistoryLimits()
RECOVERY_SECONDS = 10.0  # on a busy machine
T = TypeVar("T")


async def opened(url: str, nursery: trio.Nursery) -> ValkeyBackend:
    """Open a node for the rest of the test."""
    backend = ValkeyBackend(new_node_id(), url)
    await nursery.start(hold, backend)
    return backend


async def hold(backend: ValkeyBackend, task_status: trio.TaskStatus[None]) -> None:
    async with backend.open():
        task_status.started()
        await trio.sleep_forever()


async def until(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call until the server answers it."""
    with trio.fail_after(RECOVERY_SECONDS):
        while True:
            try:
                return await call()
            except BrokerUnavailable:
                await trio.sleep(0.01)


async def until_true(condition: Callable[[], object]) -> None:
    with trio.fail_after(RECOVERY_SECONDS):
        while not condition():  # noqa: ASYNC110 - the condition is the server's
            await trio.sleep(0.01)


async def until_received(directory: Directory, mail: Mail) -> list[Mail]:
    """Receive until this message; return those before it."""
    got: list[Mail] = []
    with trio.fail_after(RECOVERY_SECONDS):
        while mail not in got:
            got += await directory.receive()
    return got[: got.index(mail)]


async def everything_works(backend: ValkeyBackend, other: ValkeyBackend) -> None:
    """Check that both nodes reach each other in every way."""
    for one, two in itertools.permutations([backend, other]):
        mail, room = Mail(new_session_id(), one.node), new_session_id()
        await until(one.directory.renew)
        await until(partial(one.directory.post, two.node, [mail]))
        assert mail not in await until_received(two.directory, mail)
        await until(partial(two.broker.subscribe, room))
        place = await until(partial(one.broker.publish, room, b"x", limits=LIMITS, key="k"))
        delivery = Delivery(room, place.epoch, place.offset, b"x")
        with trio.fail_after(RECOVERY_SECONDS):
            while delivery not in await two.broker.receive():
                pass
        record = session_of(one.directory)
        first = batch(record, None, 1)
        assert await until(partial(one.directory.append, [first])) == [Appended.STORED]
        assert (await two.directory.find(record.session_id)).record == record
