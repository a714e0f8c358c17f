"""The same over real sockets: the connection is lost after each frame, or within one."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager

import pytest
import trio
from attrs import evolve
from structlog.testing import capture_logs
from support.clients import Plain
from support.cutting import HOST, cutting
from support.server import PATIENCE, SECRET, sign
from support.talk import EVENTS, WHOLE, talk, talker

from netra_trio.client import Dialer, Network, connect
from netra_trio.config.settings import Settings
from netra_trio.server.application import create_app
from netra_trio.server.listeners import Listeners
from netra_trio.server.sockets import listen
from netra_trio.stores.memory import MemoryStore
from netra_trio.testing import Trace, assert_nothing_lost

pytestmark = pytest.mark.unmeasured

pytestmark = pytest.mark.usefixtures("quiet")


KINDS = pytest.mark.parametrize("dialer", [Network(), Plain(Network())], ids=["acking", "plain"])
SIDE_BY_SIDE = 4  # conversations at once: most of their time is pauses of the agent


@pytest.fixture
def quiet() -> Iterator[None]:
    """Keep the log of hundreds of connections out of the output."""
    with capture_logs():
        yield


@asynccontextmanager
async def server(trace: Trace) -> AsyncIterator[int]:
    """Run a server in this process, on a free port."""
    app = create_app(
        agents={"talker": trace.recording(talker)},
        settings=evolve(Settings(), jwt_secret_key=SECRET),
        store=MemoryStore(),
    )
    [sock] = listen(HOST, 0)
    with trio.fail_after(PATIENCE), sock:
        async with app.running(), trio.open_nursery() as nursery:
            listeners = Listeners(app, [sock])
            await nursery.start(listeners.serve)
            yield sock.getsockname()[1]
            await listeners.stop()
            nursery.cancel_scope.cancel()


Cut = Callable[[int], bool]


async def converse(
    trace: Trace, target: int, dialer: Dialer, user: str, is_cut: Cut, *, in_frame: bool = False
) -> None:
    """Check that a conversation is complete, and that the connection was lost."""
    async with (
        cutting(target, is_cut, in_frame=in_frame) as (port, relay),
        trio.open_nursery() as nursery,
        connect(
            f"ws://{HOST}:{port}/ws", token=sign(user), dialer=dialer, random=lambda: 0.0
        ) as client,
    ):
        nursery.start_soon(trace.follow, client, user)
        assert await talk(client) == WHOLE
    # The last connection may be lost after the end of the conversation.
    assert max(1, relay.cuts - 1) <= client.stats.reconnections <= relay.cuts


async def converse_in_turn(dialer: Dialer, cuts: Mapping[int, Cut]) -> None:
    """Have one conversation for each way to lose the connection, a few at a time."""
    trace, turns = Trace(), trio.CapacityLimiter(SIDE_BY_SIDE)

    async def one(number: int, is_cut: Cut) -> None:
        async with turns:
            in_frame = bool(number % 2)
            await converse(trace, target, dialer, f"u{number}", is_cut, in_frame=in_frame)

    async with server(trace) as target, trio.open_nursery() as nursery:
        for number, is_cut in cuts.items():
            nursery.start_soon(one, number, is_cut)
    assert_nothing_lost(trace)
    assert trace.announced == []


@KINDS
async def test_lost_after_one_frame(dialer: Dialer) -> None:
    await converse_in_turn(dialer, {cut: once(cut) for cut in range(EVENTS - 1)})


@KINDS
async def test_lost_after_every_nth_frame(dialer: Dialer) -> None:
    await converse_in_turn(dialer, {n: every(n) for n in range(1, EVENTS // 2)})


def once(cut: int) -> Cut:
    """Return True once, after so many frames."""
    left = [cut]

    def is_cut(frames: int) -> bool:
        return bool(left) and frames >= cut and left.pop() == cut

    return is_cut


def every(n: int) -> Cut:
    """Return True after each so many frames."""
    last = 0

    def is_cut(frames: int) -> bool:
        nonlocal last
        is_due = frames // n > last
        last = frames // n
        return is_due

    return is_cut
