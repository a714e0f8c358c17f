"""The contract of `Directory`: the same in memory, on Valkey and on Redis."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from attrs import evolve
from support.worlds import World, batch, session_of

from netra_trio.broker.base import (
    INBOX_MAIL,
    LEASE_SECONDS,
    MAIL_BYTES,
    Appended,
    Directory,
    Found,
    Mail,
)
from netra_trio.ids import SessionId, new_node_id, new_session_id

STORED, FENCED, STALE = Appended.STORED, Appended.FENCED, Appended.STALE


# --- nodes


async def test_a_lease_is_held_until_it_expires(world: World) -> None:
    directory = (await world.node()).directory
    assert not await directory.renew()
    assert await directory.nodes() == {directory.node: False}
    world.elapse(LEASE_SECONDS - 1)
    assert await directory.renew()
    world.elapse(LEASE_SECONDS - 1)
    assert await directory.nodes() == {directory.node: False}
    world.elapse(LEASE_SECONDS)
    assert await directory.nodes() == {}
    assert not await directory.renew()


async def test_a_server_with_older_data_is_noticed(world: World) -> None:
    older, node = (await world.node()).directory, new_node_id()
    await (await world.node(node)).directory.renew()
    directory = (await world.node(node)).directory
    for _ in range(3):
        await directory.renew()
    assert await directory.renew()
    # Another object of the same node leaves what the server had after the first renewal.
    await older.resign(node)
    await (await world.node(node)).directory.renew()
    assert not await directory.renew()
    assert await directory.renew()


async def test_a_lease_tells_whether_its_node_drains(world: World) -> None:
    one, two = [(await world.node()).directory for _ in range(2)]
    await one.renew()
    await two.renew(draining=True)
    assert await one.nodes() == {one.node: False, two.node: True}
    assert await one.renew(draining=True)
    assert await two.nodes() == {one.node: True, two.node: True}


async def test_resigning_ends_the_lease_and_the_inbox(world: World) -> None:
    one, two = [(await world.node()).directory for _ in range(2)]
    await one.renew()
    await one.resign()
    assert await two.nodes() == {}
    gone = new_node_id()
    dead = (await world.node(gone)).directory
    await dead.renew()
    assert await two.nodes() == {gone: False}
    await two.resign(gone)
    assert await two.nodes() == {}
    await two.resign(gone)  # once more changes nothing
    assert not await dead.renew()


async def test_a_broker_that_lost_everything_is_noticed(world: World) -> None:
    directory = (await world.node()).directory
    record = session_of(directory)
    await directory.renew()
    await directory.append([batch(record, None, 1)])
    world.forget_all()
    assert await directory.nodes() == {}
    assert await directory.find(record.session_id) == Found(
        None, owner_is_live=False, is_registered=False
    )
    assert not await directory.renew()
    assert await directory.append([batch(record, 1, 2)]) == [STALE]
    assert await directory.append([batch(record, None, 2)]) == [STORED]
    assert await directory.find(record.session_id) == Found(
        record, owner_is_live=True, is_registered=True
    )


# --- messages


async def test_messages_arrive_in_order_and_once(world: World) -> None:
    one, two = [(await world.node()).directory for _ in range(2)]
    sent = [Mail("kind", one.node, b'{"at": %d}' % at, bytes([at])) for at in range(200)]
    for at in range(0, 200, 20):
        await one.post(two.node, sent[at : at + 20])
    await two.post(one.node, [Mail("other", two.node)])
    assert await received(two, 200) == sent
    assert await one.receive() == [Mail("other", two.node, b"{}", b"")]


async def test_messages_to_oneself_and_to_a_node_that_comes_later(world: World) -> None:
    one, later = (await world.node()).directory, new_node_id()
    mail = Mail("kind", one.node, b"{}", b"\x00\r\n\xff")
    await one.post(one.node, [mail])
    await one.post(later, [mail])
    await one.post(later, [])
    assert await one.receive() == [mail]
    assert await (await world.node(later)).directory.receive() == [mail]


async def test_one_waits_for_messages(world: World) -> None:
    one, two = [(await world.node()).directory for _ in range(2)]
    with trio.move_on_after(0.05) as waited:
        await two.receive()
    assert waited.cancelled_caught
    async with trio.open_nursery() as nursery:
        got: list[Mail] = []
        nursery.start_soon(receive_into, two, got)
        await trio.sleep(0.02)
        await one.post(two.node, [Mail("kind", one.node)])
    assert got == [Mail("kind", one.node)]


@pytest.mark.parametrize("beyond", [0, 1])
async def test_the_oldest_messages_are_lost_beyond_the_limit(world: World, beyond: int) -> None:
    one, late = (await world.node()).directory, new_node_id()
    sent = [Mail("k", one.node, b"%d" % at) for at in range(INBOX_MAIL + beyond)]
    for at in range(0, len(sent), 4096):
        await one.post(late, sent[at : at + 4096])
    assert await received((await world.node(late)).directory, INBOX_MAIL) == sent[beyond:]


async def test_the_size_of_a_message_is_limited(world: World) -> None:
    one, two = [(await world.node()).directory for _ in range(2)]
    largest = Mail("kind", one.node, b"{}", b"x" * (MAIL_BYTES - 2))
    with pytest.raises(ValueError, match=rf"{MAIL_BYTES + 1} bytes"):
        await one.post(two.node, [Mail("kind", one.node), evolve(largest, header=b"{ }")])
    await one.post(two.node, [largest])
    assert await two.receive() == [largest]


# --- sessions


async def test_an_unknown_session(world: World) -> None:
    directory = (await world.node()).directory
    unknown = new_session_id()
    assert await directory.find(unknown) == Found(None, owner_is_live=False, is_registered=False)
    await directory.renew()
    assert await directory.find(unknown) == Found(None, owner_is_live=False, is_registered=True)
    assert await directory.read(unknown) == []
    assert not await directory.take(unknown, owner=None, epoch=0)
    assert not await directory.take(unknown, owner=directory.node, epoch=1)
    record = evolve(session_of(directory), session_id=unknown)
    assert not await directory.release(record, to=None, lease=record.lease, seconds=60)
    await directory.keep({unknown: 60})
    await directory.keep({})
    await directory.drop([record])
    await directory.drop([])
    assert await directory.append([]) == []


async def test_a_session_is_registered_by_its_first_batch(world: World) -> None:
    one, two = [(await world.node()).directory for _ in range(2)]
    record = evolve(session_of(one), is_anonymous=True, acknowledging=False, waiting=b"\x00\xff")
    assert await one.append([batch(record, 0, 1)]) == [STALE]
    assert await one.append([batch(record, None, 0, b"")]) == [STORED]  # nothing happened yet
    assert await two.find(record.session_id) == Found(
        record, owner_is_live=False, is_registered=False
    )
    await one.renew()
    assert await two.find(record.session_id) == Found(
        record, owner_is_live=True, is_registered=False
    )
    world.elapse(LEASE_SECONDS)
    assert not (await two.find(record.session_id)).owner_is_live


async def test_a_log_is_appended_to_and_replaced(world: World) -> None:
    one, two = [(await world.node()).directory for _ in range(2)]
    record = session_of(one)
    batches = [
        batch(record, None, 0, b"0"),
        batch(record, 0, 5, b"5"),
        batch(record, 5, 6, b"\x00"),
    ]
    assert await one.append(batches) == [STORED] * 3
    assert await two.read(record.session_id) == [b"0", b"5", b"\x00"]
    assert await one.append([batch(record, None, 6, b"all")]) == [STORED]
    assert await two.read(record.session_id) == [b"all"]
    # A log that is replaced may end earlier: that of a server with older data did.
    assert await one.append([batch(record, None, 2, b"old"), batch(record, 2, 3, b"3")]) == [
        STORED,
        STORED,
    ]
    assert await two.read(record.session_id) == [b"old", b"3"]


async def test_a_repeated_batch_is_stored_once(world: World) -> None:
    one = (await world.node()).directory
    record = session_of(one)
    first, second, third = [
        batch(record, previous, last, b"%d" % last)
        for previous, last in [(None, 1), (1, 4), (4, 6)]
    ]
    assert await one.append([first, first, second, second, third, second]) == [STORED] * 6
    assert await one.read(record.session_id) == [b"1", b"4", b"6"]
    # The same place with another beginning is no repetition.
    assert await one.append([batch(record, 3, 4), batch(record, 1, 6)]) == [STALE, STALE]


async def test_a_gap_makes_a_batch_stale(world: World) -> None:
    one = (await world.node()).directory
    record = session_of(one)
    await one.append([batch(record, None, 5, b"5")])
    for previous, last in [(4, 7), (6, 7), (0, 1)]:
        assert await one.append([batch(record, previous, last)]) == [STALE]
    assert await one.append([batch(record, 5, 7, b"7")]) == [STORED]
    assert await one.read(record.session_id) == [b"5", b"7"]


async def test_batches_are_applied_in_the_order_of_the_calls(world: World) -> None:
    one = (await world.node()).directory
    records = [session_of(one) for _ in range(20)]
    await one.append([batch(record, None, 0) for record in records])
    answers = [
        one.append([batch(record, at, at + 1, b"%d" % at) for record in records])
        for at in range(30)
    ]
    for answer in reversed(answers):
        assert await answer == [STORED] * len(records)
    for record in records:
        assert await one.read(record.session_id) == [b"data", *(b"%d" % at for at in range(30))]


async def test_an_answer_need_not_be_awaited(world: World) -> None:
    one = (await world.node()).directory
    record = session_of(one)
    one.append([batch(record, None, 1, b"1")])
    one.append([batch(record, 1, 2, b"2")])
    assert await one.read(record.session_id) == [b"1", b"2"]


async def test_a_session_that_is_not_kept_expires(world: World) -> None:
    one, two = [(await world.node()).directory for _ in range(2)]
    appended, kept, foreign, gone = [session_of(one) for _ in range(4)]
    records = (appended, kept, foreign, gone)
    await one.append([batch(record, None, 1, seconds=60) for record in records])
    world.elapse(50)
    await one.append([batch(appended, 1, 2, seconds=20)])
    await one.keep({kept.session_id: 20, new_session_id(): 20})
    await two.keep({foreign.session_id: 1000})  # its owner alone keeps it
    world.elapse(11)
    found = [(await two.find(record.session_id)).record for record in records]
    assert found == [appended, kept, None, None]
    assert [len(await two.read(record.session_id)) for record in records] == [2, 1, 0, 0]
    assert not await two.take(gone.session_id, owner=one.node, epoch=1)
    world.elapse(10)
    assert await one.append([batch(appended, 2, 3)]) == [STALE]
    assert (await two.find(kept.session_id)).record is None
    await one.append([batch(kept, None, 1, seconds=0)])
    assert (await two.find(kept.session_id)).record is None


async def test_many_sessions_are_kept_and_dropped(world: World) -> None:
    one = (await world.node()).directory
    records = [session_of(one) for _ in range(250)]
    await one.append([batch(record, None, 1, seconds=60) for record in records])
    await one.keep({record.session_id: 100 for record in records})
    world.elapse(61)
    assert all([(await one.find(record.session_id)).record for record in records])
    await one.drop(records)
    assert not any([(await one.find(record.session_id)).record for record in records])
    assert not any([await one.read(record.session_id) for record in records])


# --- owners


async def test_of_two_takers_exactly_one_takes(world: World) -> None:
    one, *takers = [(await world.node()).directory for _ in range(4)]
    for _ in range(20):
        record = session_of(one)
        await one.append([batch(record, None, 1)])
        won: list[Directory] = []
        async with trio.open_nursery() as nursery:
            for taker in takers:
                nursery.start_soon(take_into, taker, record.session_id, won)
        (winner,) = won
        found = (await one.find(record.session_id)).record
        assert found == evolve(record, owner=winner.node, epoch=2)


async def take_into(taker: Directory, session_id: SessionId, won: list[Directory]) -> None:
    record = (await taker.find(session_id)).record
    assert record is not None
    if await taker.take(session_id, owner=record.owner, epoch=1):
        won.append(taker)


async def test_a_take_compares_owner_and_epoch(world: World) -> None:
    one, two = [(await world.node()).directory for _ in range(2)]
    record = session_of(one, epoch=3)
    await one.append([batch(record, None, 1)])
    for owner, epoch in [(None, 3), (two.node, 3), (one.node, 2), (one.node, 4)]:
        assert not await two.take(record.session_id, owner=owner, epoch=epoch)
    assert (await two.find(record.session_id)).record == record
    assert await two.take(record.session_id, owner=one.node, epoch=3)
    assert not await two.take(record.session_id, owner=one.node, epoch=3)
    assert await two.read(record.session_id) == [b"data"]


async def test_the_earlier_owner_is_fenced(world: World) -> None:
    one, two = [(await world.node()).directory for _ in range(2)]
    record = session_of(one)
    await one.append([batch(record, None, 1)])
    await two.take(record.session_id, owner=one.node, epoch=1)
    taken = evolve(record, owner=two.node, epoch=2)
    assert await one.append([batch(record, 1, 2), batch(record, None, 2)]) == [FENCED, FENCED]
    assert not await one.release(record, to=None, lease=one.node, seconds=60)
    await one.drop([record])
    assert (await two.find(record.session_id)).record == taken
    # The same epoch with another owner is fenced too.
    assert await one.append([batch(evolve(taken, owner=one.node), None, 2)]) == [FENCED]
    # The new owner has not replaced the log yet, and may go on with it.
    assert await two.append([batch(taken, 1, 2, b"2")]) == [STORED]
    assert await two.read(record.session_id) == [b"data", b"2"]


async def test_a_higher_epoch_is_adopted(world: World) -> None:
    one, two = [(await world.node()).directory for _ in range(2)]
    record = session_of(one, epoch=1)
    await one.append([batch(record, None, 1)])
    ahead = evolve(record, owner=two.node, epoch=5)  # the broker has lost what came between
    assert await two.append([batch(ahead, 1, 2)]) == [STALE]
    assert await two.append([batch(ahead, None, 9, b"9")]) == [STORED]
    assert (await one.find(record.session_id)).record == ahead
    assert await one.append([batch(record, 1, 2)]) == [FENCED]


@pytest.mark.parametrize("to_another", [False, True])
async def test_a_session_is_released(world: World, *, to_another: bool) -> None:
    one, two, three = [(await world.node()).directory for _ in range(3)]
    record = session_of(one)
    await one.append([batch(record, None, 1)])
    lease, to = new_node_id(), two.node if to_another else None
    for wrong in (evolve(record, epoch=2), evolve(record, epoch=0)):
        assert not await one.release(wrong, to=to, lease=lease, seconds=60)
    assert not await two.release(record, to=to, lease=lease, seconds=60)
    assert await one.release(record, to=to, lease=lease, waiting=b"\x00w", seconds=60)
    released = evolve(record, owner=to, epoch=2, lease=lease, waiting=b"\x00w")
    assert (await three.find(record.session_id)).record == released
    assert not (await three.find(record.session_id)).owner_is_live
    assert not await one.release(record, to=to, lease=lease, seconds=60)
    assert await one.append([batch(record, 1, 2)]) == [FENCED]
    assert await three.take(record.session_id, owner=to, epoch=2)
    assert (await one.find(record.session_id)).record == evolve(released, owner=three.node, epoch=3)
    assert await three.read(record.session_id) == [b"data"]


async def test_a_released_session_expires(world: World) -> None:
    one = (await world.node()).directory
    record = session_of(one)
    await one.append([batch(record, None, 1, seconds=1000)])
    await one.release(record, to=None, lease=one.node, seconds=10)
    world.elapse(9)
    assert (await one.find(record.session_id)).record is not None
    world.elapse(2)
    assert (await one.find(record.session_id)).record is None
    assert await one.read(record.session_id) == []


# --- cancellation

CALLS: dict[str, Callable[[Directory], Awaitable[object]]] = {
    "renew": lambda each: each.renew(),
    "resign": lambda each: each.resign(new_node_id()),
    "nodes": lambda each: each.nodes(),
    "post": lambda each: each.post(new_node_id(), [Mail("kind", each.node)]),
    "receive": lambda each: each.receive(),
    "find": lambda each: each.find(new_session_id()),
    "append": lambda each: each.append([batch(session_of(each), None, 1)]),
    "read": lambda each: each.read(new_session_id()),
    "take": lambda each: each.take(new_session_id(), owner=None, epoch=1),
    "release": lambda each: each.release(session_of(each), to=None, lease=each.node, seconds=1),
    "keep": lambda each: each.keep({new_session_id(): 1.0}),
    "drop": lambda each: each.drop([session_of(each)]),
}


@pytest.mark.parametrize("name", CALLS)
async def test_cancelling_is_safe(world: World, name: str) -> None:
    one = (await world.node()).directory
    for checkpoints in range(4):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_after, checkpoints, scope)
                await CALLS[name](one)
    # Each reply still belongs to its command.
    record = session_of(one)
    assert await one.append([batch(record, None, 1, b"1")]) == [STORED]
    assert (await one.find(record.session_id)).record == record
    assert await one.read(record.session_id) == [b"1"]
    await one.renew()
    assert await one.nodes() == {one.node: False}
    await one.post(one.node, [Mail("kind", one.node)])
    assert await one.receive() == [Mail("kind", one.node)]


async def cancel_after(checkpoints: int, scope: trio.CancelScope) -> None:
    for _ in range(checkpoints):
        await trio.lowlevel.checkpoint()
    scope.cancel()


@pytest.mark.parametrize("name", CALLS)
async def test_every_call_is_a_checkpoint(world: World, name: str) -> None:
    one = (await world.node()).directory
    with trio.CancelScope() as scope:
        scope.cancel()
        await CALLS[name](one)
    assert scope.cancelled_caught


async def test_a_cancelled_receiver_loses_nothing(world: World) -> None:
    one = (await world.node()).directory
    sent = [Mail("kind", one.node, b"%d" % at) for at in range(40)]
    got: list[Mail] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(post_each, one, sent)
        while len(got) < len(sent):
            with trio.move_on_after(0.002):
                got += await one.receive()
    assert got == sent


async def post_each(directory: Directory, mail: list[Mail]) -> None:
    for each in mail:
        await directory.post(directory.node, [each])
        await trio.sleep(0.0007)


async def received(directory: Directory, count: int) -> list[Mail]:
    """Receive so many messages."""
    got: list[Mail] = []
    with trio.fail_after(10):
        while len(got) < count:
            got += await directory.receive()
    return got


async def receive_into(directory: Directory, got: list[Mail]) -> None:
    got += await directory.receive()
