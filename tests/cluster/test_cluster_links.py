"""Links between two nodes: order, flow control, losses, and ends."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from support.linked import FAR, NEAR, Post, pair
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.cluster.link import CREDIT_BYTES, PART_BYTES, WINDOW_BYTES
from netra_trio.cluster.links import Links
from netra_trio.errors import TransportClosed
from netra_trio.ids import NodeId


async def test_parts_arrive_in_order() -> None:
    near, far, _ = pair()
    for number in range(3):
        assert not await near.send("kind", {"number": number}, b"x" * number)
    for number in range(3):
        part = await far.receive()
        assert (part.kind, part.header["number"], part.data) == ("kind", number, b"x" * number)


@pytest.mark.parametrize("size", [1, PART_BYTES, PART_BYTES + 1, 10_000])
async def test_the_window(size: int, autojump_clock: MockClock) -> None:
    """As much as the window has is sent, and one more part waits for credit."""
    near, far, _ = pair()
    counted = max(size, PART_BYTES)
    for _ in range(WINDOW_BYTES // counted):
        assert not await near.send("kind", data=b"x" * size)
    waited: list[bool] = []

    async def send_one_more() -> None:
        waited.append(await near.send("kind", data=b"x" * size))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_one_more)
        await wait_all_tasks_blocked()
        for _ in range(-(-CREDIT_BYTES // counted) - 1):
            await far.receive()
        await wait_all_tasks_blocked()
        assert not waited
        await far.receive()
    assert waited == [True]


async def test_a_part_larger_than_the_window_is_sent_alone(autojump_clock: MockClock) -> None:
    near, far, _ = pair()
    await near.send("large", data=b"x" * (WINDOW_BYTES + 1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send, "small")
        await wait_all_tasks_blocked()
        assert (await far.receive()).kind == "large"
        assert (await far.receive()).kind == "small"


@pytest.mark.parametrize("order", [[1], [0, 2], [1, 0]], ids=["first lost", "lost", "reordered"])
async def test_a_lost_or_reordered_message_breaks_the_link(order: list[int]) -> None:
    near, far, post = pair()
    post.keeps = True
    for number in range(3):
        await near.send("kind", {"number": number})
    for index in order:
        far.deliver(*post.kept[index][1])
    assert far.is_broken
    received = [0] if order[0] == 0 else []
    for number in received:
        assert (await far.receive()).header["number"] == number
    with pytest.raises(TransportClosed):
        await far.receive()
    with pytest.raises(TransportClosed):
        await far.send("kind")
    far.deliver(*post.kept[0][1])  # what comes later is ignored


async def test_a_peer_that_ignores_the_window_breaks_the_link() -> None:
    _, far, _ = pair()
    count = 0
    while not far.is_broken:
        count += 1
        far.deliver({"kind": "kind", "n": count}, b"")
    assert count == 2 * WINDOW_BYTES // PART_BYTES + 1


async def test_cancelling_a_send_breaks_the_link(autojump_clock: MockClock) -> None:
    near, _, post = pair()
    post.is_hung = True
    with trio.move_on_after(1):
        await near.send("kind")
    assert near.is_broken
    with pytest.raises(TransportClosed):
        await near.send("kind")


async def test_cancelling_a_receive_is_safe(autojump_clock: MockClock) -> None:
    near, far, _ = pair()
    with trio.move_on_after(1):
        await far.receive()
    await near.send("kind")
    assert (await far.receive()).kind == "kind"


@pytest.mark.parametrize("waits_for", ["room", "the lock"])
async def test_a_break_ends_a_send_that_waits(waits_for: str, autojump_clock: MockClock) -> None:
    near, _, post = pair()
    await near.send("large", data=b"x" * WINDOW_BYTES)
    async with trio.open_nursery() as nursery:
        if waits_for == "the lock":
            nursery.start_soon(_fails, near.send, "first")
            await wait_all_tasks_blocked()
        nursery.start_soon(_fails, near.send, "second")
        await wait_all_tasks_blocked()
        post.keeps = True
        near.break_off()


async def test_a_broker_that_is_gone_breaks_the_link(autojump_clock: MockClock) -> None:
    near, far, post = pair()
    await near.send("kind", data=b"x" * CREDIT_BYTES)
    post.is_down = True
    with pytest.raises(TransportClosed):
        await near.send("kind")
    with pytest.raises(TransportClosed):  # the credit cannot be sent
        await far.receive()
    assert near.is_broken
    assert far.is_broken
    await near.tell_broken()  # no peer receives it


async def test_the_other_end_is_told_when_the_broker_is_back(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        near, far, post = await two(nursery)
        link = near.open(FAR)
        with far.accepted(link.id, NEAR) as accepted:
            post.is_down = True
            with pytest.raises(TransportClosed):
                await link.send("kind")
            near.close(link)
            await trio.sleep(1)
            assert not accepted.is_broken
            post.is_down = False
            await trio.sleep(1)
            assert accepted.is_broken


async def test_the_other_end_is_told() -> None:
    near, far, _ = pair()
    await near.send("kind")
    await near.tell_broken()
    assert (await far.receive()).kind == "kind"
    with pytest.raises(TransportClosed):
        await far.receive()


async def _fails(send: Callable[[str], Awaitable[object]], kind: str) -> None:
    with pytest.raises(TransportClosed):
        await send(kind)


# --- the links of a node


async def two(nursery: trio.Nursery) -> tuple[Links, Links, Post]:
    post = Post()
    near, far = [Links(post.of(node), nursery.start_soon) for node in (NEAR, FAR)]
    post.ends = {NEAR: near.deliver, FAR: far.deliver}
    await trio.lowlevel.checkpoint()
    return near, far, post


async def test_links_find_their_messages() -> None:
    async with trio.open_nursery() as nursery:
        near, far, _ = await two(nursery)
        link = near.open(FAR)
        with far.accepted(link.id, NEAR) as accepted:
            await link.send("kind", data=b"x")
            assert (await accepted.receive()).data == b"x"
            assert (len(near), len(far)) == (1, 1)
        assert len(far) == 0
        await wait_all_tasks_blocked()
        assert link.is_broken  # it was told
        near.close(link)
        near.close(link)  # once more does nothing
        assert len(near) == 0


async def test_a_message_to_an_unknown_link_is_answered() -> None:
    async with trio.open_nursery() as nursery:
        near, far, _ = await two(nursery)
        link = near.open(FAR)
        await link.send("kind")
        await wait_all_tasks_blocked()
        assert link.is_broken
        near.deliver(FAR, {"link": "unknown", "kind": "break"}, b"")  # without an answer
        near.close(link)
        assert len(far) == 0


async def test_a_link_takes_no_message_of_a_third_node() -> None:
    async with trio.open_nursery() as nursery:
        near, _, post = await two(nursery)
        link = near.open(FAR)
        post.keeps = True
        near.deliver(NodeId("third"), {"link": link.id, "kind": "break"}, b"")
        assert not link.is_broken
        near.deliver(NodeId("third"), {"link": link.id, "kind": "kind", "n": 1}, b"")
        await wait_all_tasks_blocked()
        assert [node for node, _ in post.kept] == ["third"]


async def test_the_links_to_a_node_that_is_gone_break() -> None:
    async with trio.open_nursery() as nursery:
        near, _, _ = await two(nursery)
        link, other = near.open(FAR), near.open(NodeId("third"))
        near.break_all(FAR)
        assert (link.is_broken, other.is_broken) == (True, False)
        near.close(link)
        assert len(near) == 1


async def test_a_link_can_be_closed_when_the_node_has_ended() -> None:
    async with trio.open_nursery() as nursery:
        near, _, _ = await two(nursery)
    link = near.open(FAR)
    near.close(link)
    assert link.is_broken
