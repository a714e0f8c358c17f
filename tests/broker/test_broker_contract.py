"""The contract of `Broker` and `Backend`: the same in memory, on Valkey and on Redis."""

from collections.abc import Awaitable, Callable, Mapping

import pytest
import trio
import trio.testing
from support.worlds import World

from netra_trio.broker.base import (
    DELIVERIES,
    EMPTY_ROOM_SECONDS,
    KEY_SECONDS,
    ROOM_SECONDS,
    Broker,
    Delivery,
    History,
    HistoryLimits,
    Published,
)
from netra_trio.broker.memory import MemoryBackend, MemoryServer

LIMITS = HistoryLimits()
KEPT = HistoryLimits(seconds=3600)
ROOM = "lobby"


async def test_an_event_has_the_next_place(world: World) -> None:
    one, two = [(await world.node()).broker for _ in range(2)]
    first = await one.publish(ROOM, b"1", limits=LIMITS)
    assert (first.offset, first.is_duplicate) == (1, False)
    assert first.epoch
    assert await two.publish(ROOM, b"2", limits=LIMITS) == Published(first.epoch, 2)
    other = await two.publish("other", b"3", limits=LIMITS)
    assert other.offset == 1
    assert other.epoch != first.epoch


async def test_subscribers_receive_in_order(world: World) -> None:
    one, two, three = [(await world.node()).broker for _ in range(3)]
    places = [await one.publish(ROOM, b"0", limits=LIMITS)]
    epoch = places[0].epoch
    for subscriber in (one, two):
        assert await subscriber.subscribe(ROOM) == History(epoch, 1, (), is_exact=True)
    await three.subscribe("other")
    sent = [b"%d\r\n \x00" % at for at in range(300)]
    for data in sent:
        await one.publish(ROOM, data, limits=LIMITS)
    expected = [Delivery(ROOM, epoch, at + 2, data) for at, data in enumerate(sent)]
    for subscriber in (one, two):
        assert await received(subscriber, 300) == expected
    with trio.move_on_after(0.02) as waited:
        await three.receive()
    assert waited.cancelled_caught


async def test_a_subscription_ends(world: World) -> None:
    one, two = [(await world.node()).broker for _ in range(2)]
    await two.subscribe(ROOM)
    await two.subscribe(ROOM)  # once more changes nothing
    await two.subscribe("other")
    await one.publish(ROOM, b"1", limits=LIMITS)
    assert [each.data for each in await two.receive()] == [b"1"]
    await two.unsubscribe(ROOM)
    await two.unsubscribe(ROOM)
    await one.publish(ROOM, b"2", limits=LIMITS)
    await one.publish("other", b"3", limits=LIMITS)
    assert [each.data for each in await received(two, 1)] == [b"3"]


async def test_waiting_events_are_bounded_in_memory() -> None:
    backend = MemoryBackend()
    await backend.broker.subscribe(ROOM)
    for _ in range(DELIVERIES + 1):
        await backend.broker.publish(ROOM, b"", limits=HistoryLimits(events=1))
    assert [each.offset for each in await backend.broker.receive()] == list(
        range(2, DELIVERIES + 2)
    )


async def test_other_subscriptions_go_on(world: World) -> None:
    one, two = [(await world.node()).broker for _ in range(2)]
    for subscriber in (one, two):
        await subscriber.subscribe(ROOM)
    await two.unsubscribe(ROOM)
    await one.publish(ROOM, b"1", limits=LIMITS)
    assert [each.data for each in await received(one, 1)] == [b"1"]
    with trio.move_on_after(0.02) as waited:
        await two.receive()
    assert waited.cancelled_caught


async def test_a_room_has_one_position_before_its_first_event(world: World) -> None:
    one, two = [(await world.node()).broker for _ in range(2)]
    position = await one.subscribe(ROOM)
    assert position == History(position.epoch, 0, (), is_exact=True)
    assert await two.history(ROOM, epoch=position.epoch, after=0) == position
    assert await two.publish(ROOM, b"1", limits=LIMITS) == Published(position.epoch, 1)


async def test_a_repeated_key_is_published_once(world: World) -> None:
    one, two = [(await world.node()).broker for _ in range(2)]
    await two.subscribe(ROOM)
    first = await one.publish(ROOM, b"1", limits=LIMITS, key="k")
    again = await two.publish(ROOM, b"other", limits=LIMITS, key="k")
    assert again == Published(first.epoch, 1, is_duplicate=True)
    assert await one.publish("other", b"1", limits=LIMITS, key="k") != again
    assert (await one.publish(ROOM, b"2", limits=LIMITS, key="K")).offset == 2
    assert (await one.publish(ROOM, b"3", limits=LIMITS, key="")).offset == 3
    assert (await one.publish(ROOM, b"3", limits=LIMITS, key="")).is_duplicate
    assert [each.data for each in await received(two, 3)] == [b"1", b"2", b"3"]


async def test_a_key_is_forgotten(world: World) -> None:
    one = (await world.node()).broker
    await one.publish(ROOM, b"1", limits=LIMITS, key="k")
    world.elapse(KEY_SECONDS - 1)
    assert (await one.publish(ROOM, b"2", limits=LIMITS, key="k")).is_duplicate
    world.elapse(2)
    assert (await one.publish(ROOM, b"2", limits=LIMITS, key="k")).offset == 2


async def test_history_is_what_follows_an_offset(world: World) -> None:
    one, two = [(await world.node()).broker for _ in range(2)]
    epoch = (await one.publish(ROOM, b"1", limits=LIMITS)).epoch
    for data in (b"2", b"3"):
        await one.publish(ROOM, data, limits=LIMITS)
    events = [Delivery(ROOM, epoch, at, b"%d" % at) for at in (1, 2, 3)]
    for after in range(4):
        found = await two.history(ROOM, epoch=epoch, after=after)
        assert (found.epoch, found.offset, found.is_exact) == (epoch, 3, True)
        assert list(found.events) == events[after:]
    for wrong, after in [("other", 1), ("", 0), (epoch, 4)]:
        found = await two.history(ROOM, epoch=wrong, after=after)
        assert (found.epoch, found.offset, list(found.events)) == (epoch, 3, [])
        assert not found.is_exact


@pytest.mark.parametrize("kept", [0, 1, 3])
async def test_history_is_limited_in_number(world: World, kept: int) -> None:
    one = (await world.node()).broker
    limits = HistoryLimits(events=kept)
    for at in range(1, 6):
        epoch = (await one.publish(ROOM, b"%d" % at, limits=limits)).epoch
    at_limit = await one.history(ROOM, epoch=epoch, after=5 - kept)
    assert at_limit.is_exact
    assert [each.offset for each in at_limit.events] == list(range(6 - kept, 6))
    beyond = await one.history(ROOM, epoch=epoch, after=4 - kept)
    assert not beyond.is_exact
    assert list(beyond.events) == list(at_limit.events)


async def test_history_is_limited_in_age(world: World) -> None:
    one = (await world.node()).broker
    limits = HistoryLimits(seconds=100)
    epoch = (await one.publish(ROOM, b"1", limits=limits)).epoch
    world.elapse(80)
    await one.publish(ROOM, b"2", limits=limits)
    assert [each.offset for each in (await one.history(ROOM, epoch=epoch, after=0)).events] == [
        1,
        2,
    ]
    world.elapse(25)
    found = await one.history(ROOM, epoch=epoch, after=1)
    assert ([each.data for each in found.events], found.is_exact) == ([b"2"], True)
    found = await one.history(ROOM, epoch=epoch, after=0)
    assert ([each.data for each in found.events], found.is_exact) == ([b"2"], False)
    world.elapse(80)
    found = await one.history(ROOM, epoch=epoch, after=1)
    assert found == History(epoch, 2, (), is_exact=False)
    assert (await one.history(ROOM, epoch=epoch, after=2)).is_exact
    assert await one.publish(ROOM, b"3", limits=limits) == Published(epoch, 3)


async def test_an_event_that_is_too_old_goes_with_the_next_one(world: World) -> None:
    one = (await world.node()).broker
    epoch = (await one.publish(ROOM, b"1", limits=LIMITS)).epoch
    world.elapse(50)
    await one.publish(ROOM, b"2", limits=HistoryLimits(seconds=40))
    found = await one.history(ROOM, epoch=epoch, after=0)
    assert ([each.data for each in found.events], found.is_exact) == ([b"2"], False)


async def test_a_broker_that_lost_everything_starts_a_new_epoch(world: World) -> None:
    one, two = [(await world.node()).broker for _ in range(2)]
    await two.subscribe(ROOM)
    first = await one.publish(ROOM, b"1", limits=LIMITS)
    world.forget_all()
    found = await one.history(ROOM, epoch=first.epoch, after=1)
    assert not found.is_exact
    assert found.epoch != first.epoch
    assert await one.publish(ROOM, b"2", limits=LIMITS) == Published(found.epoch, 1)
    assert await received(two, 2) == [
        Delivery(ROOM, first.epoch, 1, b"1"),
        Delivery(ROOM, found.epoch, 1, b"2"),
    ]


async def test_concurrent_publishers_have_places_of_their_own(world: World) -> None:
    brokers = [(await world.node()).broker for _ in range(3)]
    await brokers[0].subscribe(ROOM)
    async with trio.open_nursery() as nursery:
        for broker in brokers * 20:
            nursery.start_soon(publish_two, broker)
    offsets = [each.offset for each in await received(brokers[0], 120)]
    assert offsets == list(range(1, 121))


async def publish_two(broker: Broker) -> None:
    for _ in range(2):
        await broker.publish(ROOM, b"event", limits=LIMITS)


@pytest.mark.parametrize("name", ["", "}:l", "a b:\x00", "é\U0001f600", "x" * 300])
async def test_any_name_is_a_room(world: World, name: str) -> None:
    one, two = [(await world.node()).broker for _ in range(2)]
    await two.subscribe(name)
    place = await one.publish(name, b"data", limits=LIMITS, key=f"{name}}}:m")
    assert await received(two, 1) == [Delivery(name, place.epoch, 1, b"data")]
    assert (await two.history(name, epoch=place.epoch, after=0)).is_exact


@pytest.mark.parametrize("kept", [HistoryLimits(events=0, seconds=1), HistoryLimits(events=1)])
async def test_a_room_of_the_server_delivers_with_little_history(
    world: World, kept: HistoryLimits
) -> None:
    one, two = [(await world.node()).broker for _ in range(2)]
    room = ":presence:team:a"
    epoch = (await two.subscribe(room)).epoch
    for at in range(3):
        await one.publish(room, b"%d" % at, limits=kept)
    assert await received(two, 3) == [Delivery(room, epoch, at + 1, b"%d" % at) for at in range(3)]
    found = await one.history(room, epoch=epoch, after=0)
    assert (len(found.events), found.offset, found.is_exact) == (kept.events, 3, False)


# --- the end of a room


async def test_a_forgotten_room_has_a_new_epoch(world: World) -> None:
    one, two = [(await world.node()).broker for _ in range(2)]
    await two.subscribe(ROOM)
    await one.publish("other", b"0", limits=LIMITS)
    first = [await one.publish(ROOM, b"%d" % at, limits=LIMITS, key=f"{at}") for at in (1, 2)]
    await one.forget(ROOM)
    await one.forget(ROOM)
    await one.forget("unknown")
    found = await two.history(ROOM, epoch=first[0].epoch, after=2)
    assert (found.offset, found.events, found.is_exact) == (0, (), False)
    assert found.epoch != first[0].epoch
    again = await one.publish(ROOM, b"3", limits=LIMITS, key="1")  # its event is forgotten too
    assert again == Published(found.epoch, 1)
    assert await one.publish(ROOM, b"4", limits=LIMITS, key="1") == Published(
        found.epoch, 1, is_duplicate=True
    )
    assert [(each.epoch, each.offset) for each in await received(two, 3)] == [
        (first[0].epoch, 1),
        (first[0].epoch, 2),
        (found.epoch, 1),
    ]
    assert (await one.publish("other", b"1", limits=LIMITS)).offset == 2


async def test_a_room_that_is_not_used_starts_a_new_epoch(world: World) -> None:
    one = (await world.node()).broker
    epoch = (await one.publish(ROOM, b"1", limits=LIMITS)).epoch
    world.elapse(ROOM_SECONDS - 1)
    assert await one.publish(ROOM, b"2", limits=LIMITS) == Published(epoch, 2)
    world.elapse(ROOM_SECONDS - 1)
    assert (await one.history(ROOM, epoch=epoch, after=2)).is_exact  # this is a use, too
    world.elapse(ROOM_SECONDS - 1)
    assert await one.publish(ROOM, b"3", limits=LIMITS) == Published(epoch, 3)
    world.elapse(ROOM_SECONDS + 1)
    again = await one.publish(ROOM, b"4", limits=LIMITS)
    assert (again.epoch != epoch, again.offset) == (True, 1)


@pytest.mark.parametrize(
    ("room", "has_event", "is_kept"),
    [(ROOM, False, False), (ROOM, True, True), (":of-nodes", True, False)],
)
async def test_a_room_whose_offsets_are_not_needed_goes_soon_after_its_last_subscriber(
    world: World, room: str, has_event: bool, is_kept: bool
) -> None:
    one, two = (await world.node()).broker, (await world.node()).broker
    epoch = (await one.subscribe(room)).epoch
    assert (await two.subscribe(room)).epoch == epoch
    if has_event:
        await one.publish(room, b"1", limits=KEPT)
    await one.unsubscribe(room)
    world.elapse(EMPTY_ROOM_SECONDS + 1)  # the other node is subscribed
    assert (await two.history(room, epoch="", after=0)).epoch == epoch
    await two.unsubscribe(room)
    world.elapse(EMPTY_ROOM_SECONDS - 1)
    assert (await two.subscribe(room)).epoch == epoch
    await two.unsubscribe(room)
    world.elapse(EMPTY_ROOM_SECONDS + 1)
    assert ((await one.history(room, epoch="", after=0)).epoch == epoch) is is_kept


async def test_joins_and_leaves_of_many_names_keep_no_memory(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = MemoryServer()
    broker = MemoryBackend(server=server).broker
    for round_ in range(4):
        for at in range(100):
            await broker.subscribe(f"room-{round_}-{at}")
            await broker.unsubscribe(f"room-{round_}-{at}")
        assert len(server.rooms) == 100
        await trio.sleep(EMPTY_ROOM_SECONDS)


async def test_rooms_in_memory_go_when_they_have_expired(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = MemoryServer()
    broker = MemoryBackend(server=server).broker
    await broker.subscribe("subscribed")
    for at in range(1000):
        await broker.publish(f"room-{at}", b"data", limits=LIMITS, key="key")
    assert len(server.rooms) == 1001
    await trio.sleep(LIMITS.seconds)
    for _ in range(501):  # each use examines two others
        await broker.publish(ROOM, b"data", limits=HistoryLimits(events=1))
    assert len(server.rooms) == 1002  # the offsets go on
    kept = [name for name, room in server.rooms.items() if room.events or room.keys]
    assert kept == [ROOM]
    await trio.sleep(ROOM_SECONDS - LIMITS.seconds)
    for _ in range(501):
        await broker.publish(ROOM, b"data", limits=HistoryLimits(events=1))
    assert sorted(server.rooms) == [ROOM, "subscribed"]
    await broker.unsubscribe("subscribed")
    await broker.publish(ROOM, b"data", limits=LIMITS)
    assert sorted(server.rooms) == [ROOM]


async def test_a_use_of_a_room_in_memory_drops_a_bounded_number_of_rooms(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = MemoryServer()
    broker = MemoryBackend(server=server).broker
    for at in range(100):
        await broker.publish(f"room-{at}", b"data", limits=LIMITS)
    await trio.sleep(ROOM_SECONDS)
    for expected in (99, 98, 97):  # one is created, and two others are removed
        await broker.history(f"new-{expected}", epoch="", after=0)
        assert len(server.rooms) == expected


async def test_a_room_that_is_only_read_goes_too(autojump_clock: trio.testing.MockClock) -> None:
    server = MemoryServer()
    broker = MemoryBackend(server=server).broker
    epoch = (await broker.history(ROOM, epoch="", after=0)).epoch
    await trio.sleep(EMPTY_ROOM_SECONDS)
    assert (await broker.history(ROOM, epoch=epoch, after=0)).epoch != epoch


# --- cancellation

CALLS: Mapping[str, Callable[[Broker], Awaitable[object]]] = {
    "publish": lambda each: each.publish("cancelled", b"data", limits=LIMITS, key="k"),
    "subscribe": lambda each: each.subscribe("cancelled"),
    "forget": lambda each: each.forget("cancelled"),
    "unsubscribe": lambda each: each.unsubscribe("cancelled"),
    "history": lambda each: each.history("cancelled", epoch="", after=0),
    "receive": lambda each: each.receive(),
}


@pytest.mark.parametrize("name", CALLS)
async def test_cancelling_a_broker_is_safe(world: World, name: str) -> None:
    one = (await world.node()).broker
    for checkpoints in range(4):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_after, checkpoints, scope)
                await CALLS[name](one)
    with trio.CancelScope() as scope:
        scope.cancel()
        await CALLS[name](one)
    assert scope.cancelled_caught
    # Each reply still belongs to its command.
    await one.subscribe(ROOM)
    place = await one.publish(ROOM, b"data", limits=LIMITS)
    assert (await received_of(one, ROOM)) == Delivery(ROOM, place.epoch, 1, b"data")


async def cancel_after(checkpoints: int, scope: trio.CancelScope) -> None:
    for _ in range(checkpoints):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_a_cancelled_receiver_loses_no_event(world: World) -> None:
    one = (await world.node()).broker
    await one.subscribe(ROOM)
    got: list[Delivery] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish_slowly, one)
        while len(got) < 40:
            with trio.move_on_after(0.002):
                got += await one.receive()
    assert [each.offset for each in got] == list(range(1, 41))


async def publish_slowly(broker: Broker) -> None:
    for _ in range(40):
        await broker.publish(ROOM, b"event", limits=LIMITS)
        await trio.sleep(0.0007)


# --- the backend


async def test_a_backend_that_works_is_healthy(world: World) -> None:
    backend = await world.node()
    await backend.check()
    with trio.CancelScope() as scope:
        scope.cancel()
        await backend.check()
    assert scope.cancelled_caught
    figures = backend.statistics()
    assert 0 <= figures["lag"] < 1
    assert backend.directory.node


async def received(broker: Broker, count: int) -> list[Delivery]:
    """Receive so many events."""
    got: list[Delivery] = []
    with trio.fail_after(10):
        while len(got) < count:
            got += await broker.receive()
    return got


async def received_of(broker: Broker, room: str) -> Delivery:
    """Receive the next event of a room."""
    while True:
        for delivery in await received(broker, 1):
            if delivery.room == room:
                return delivery
