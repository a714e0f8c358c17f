"""A real server that is killed, emptied, stopped, slow or full, and connections that are killed."""

import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest
import structlog
import trio
from attrs import evolve
from support.valkey import Server, server
from support.valkey_nodes import (
    LIMITS,
    RECOVERY_SECONDS,
    everything_works,
    hold,
    opened,
    until,
    until_true,
)
from support.worlds import batch, session_of

from netra_trio.broker.base import (
    ANSWER_SECONDS,
    DELIVERIES,
    Appended,
    Delivery,
    Mail,
)
from netra_trio.broker.valkey import backend as backend_module
from netra_trio.broker.valkey import keys, listening
from netra_trio.broker.valkey.backend import ValkeyBackend
from netra_trio.broker.valkey.calls import evaluation
from netra_trio.broker.valkey.connection import OUTSTANDING_BYTES, Connection
from netra_trio.broker.valkey.dialing import Dialer
from netra_trio.broker.valkey.lasting import BACK_OFF_SECONDS
from netra_trio.broker.valkey.rooms import CHANNELS, ROOMS
from netra_trio.broker.valkey.scripts import NODES, SCRIPTS
from netra_trio.config.redis_url import RedisAddress
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import new_node_id, new_session_id

STORED, FENCED, STALE = Appended.STORED, Appended.FENCED, Appended.STALE


# --- the server goes away


async def test_the_server_restarts_empty(own_server: Server, nursery: trio.Nursery) -> None:
    one, two = [await opened(own_server.url, nursery) for _ in range(2)]
    await one.directory.renew()
    await one.broker.subscribe("lobby")
    own_server.kill()
    with pytest.raises(BrokerUnavailable):
        await one.directory.renew()
    with pytest.raises(BrokerUnavailable):
        await one.check()
    with trio.move_on_after(0.1) as waited:
        await one.directory.receive()
    assert waited.cancelled_caught
    with trio.move_on_after(0.1) as waited:
        await one.broker.receive()
    assert waited.cancelled_caught
    own_server.start()
    assert not await until(one.directory.renew)
    await everything_works(one, two)
    await until(one.check)
    # The subscription goes on, in a new epoch.
    place = await two.broker.publish("lobby", b"again", limits=LIMITS)
    assert Delivery("lobby", place.epoch, 1, b"again") in await one.broker.receive()


async def test_the_server_restarts_with_its_data(own_server: Server, nursery: trio.Nursery) -> None:
    one, two = [await opened(own_server.url, nursery) for _ in range(2)]
    record = session_of(one.directory)
    await one.directory.append([batch(record, None, 1, b"1")])
    late = new_node_id()
    await one.directory.post(late, [Mail("waits", one.node)])
    own_server.command("SAVE")
    own_server.kill()
    own_server.start()
    assert (await until(lambda: two.directory.find(record.session_id))).record == record
    assert await until(lambda: one.directory.append([batch(record, 1, 2, b"2")])) == [STORED]
    assert await two.directory.read(record.session_id) == [b"1", b"2"]
    later = ValkeyBackend(late, own_server.url)
    await nursery.start(hold, later)
    assert await later.directory.receive() == [Mail("waits", one.node)]
    await everything_works(one, two)


async def test_the_server_comes_after_the_node(nursery: trio.Nursery) -> None:
    with server("valkey") as valkey:
        valkey.kill()
        valkey.socket.unlink(missing_ok=True)
        started = trio.current_time()
        one = await opened(valkey.url, nursery)
        assert trio.current_time() - started < ANSWER_SECONDS
        with pytest.raises(BrokerUnavailable, match=r"socket cannot be reached: No such file"):
            await one.directory.renew()
        with pytest.raises(BrokerUnavailable, match=r"socket cannot be reached: No such file"):
            await one.broker.subscribe("lobby")
        valkey.start()
        await everything_works(one, await opened(valkey.url, nursery))
        nursery.cancel_scope.cancel()


async def test_a_server_that_does_not_answer_is_not_waited_for(nursery: trio.Nursery) -> None:
    with server("valkey") as valkey:
        valkey.stop()
        started = trio.current_time()
        one = await opened(valkey.url, nursery)
        assert trio.current_time() - started < ANSWER_SECONDS + 0.5
        with pytest.raises(BrokerUnavailable):
            await one.directory.renew()
        valkey.go_on()
        await everything_works(one, await opened(valkey.url, nursery))
        nursery.cancel_scope.cancel()


# --- its data go away


async def test_the_server_is_emptied(own_server: Server, nursery: trio.Nursery) -> None:
    one, two = [await opened(own_server.url, nursery) for _ in range(2)]
    await one.directory.post(one.node, [Mail("before", one.node)])
    await one.directory.receive()
    own_server.command("FLUSHALL")
    await everything_works(one, two)
    assert one.statistics()["reconnects"] == 0


async def test_the_scripts_are_lost(own_server: Server, nursery: trio.Nursery) -> None:
    one, two = [await opened(own_server.url, nursery) for _ in range(2)]
    record = session_of(one.directory)
    own_server.command("SCRIPT", "FLUSH")
    assert not await one.directory.renew()  # loaded again, and repeated
    own_server.command("SCRIPT", "FLUSH")
    # Repeated batches could be overtaken by later ones: the caller replaces the log.
    answers = [one.directory.append([batch(record, None, at)]) for at in range(3)]
    for answer in answers:
        with pytest.raises(BrokerUnavailable, match="NOSCRIPT"):
            await answer
    assert await one.directory.append([batch(record, None, 3)]) == [STORED]
    calls = own_server.command("INFO", "COMMANDSTATS").decode()
    assert f"cmdstat_script|load:calls={4 * len(SCRIPTS)}," in calls  # once each time
    await everything_works(one, two)


async def test_of_several_commands_only_those_without_a_script_are_repeated(
    own_server: Server, nursery: trio.Nursery
) -> None:
    one = await opened(own_server.url, nursery)
    flush = ("SCRIPT", "FLUSH")
    nodes, count = evaluation(NODES, [keys.NODES], [keys.LEASE_PREFIX]), ("INCR", "counter")
    values = await one._calls.run_all([count, nodes, flush, nodes, count])
    assert values == [1, [], b"OK", [], 2]


# --- connections go away


async def test_each_connection_is_killed(own_server: Server, nursery: trio.Nursery) -> None:
    one, two = [await opened(own_server.url, nursery) for _ in range(2)]
    await everything_works(one, two)
    mine = [each for each in own_server.clients() if each["name"].endswith(one.node)]
    assert len(mine) == 3
    for client in mine:
        assert own_server.command("CLIENT", "KILL", "ID", client["id"]) == 1
        await until_true(lambda: len(own_server.clients()) == 6)
        await everything_works(one, two)
    assert one.statistics()["reconnects"] == 3


async def test_what_was_missed_is_delivered(own_server: Server, nursery: trio.Nursery) -> None:
    one, two = [await opened(own_server.url, nursery) for _ in range(2)]
    for room in ("lobby", "other", "quiet"):
        await one.broker.subscribe(room)
    first = await two.broker.publish("lobby", b"0", limits=LIMITS)
    assert [each.offset for each in await one.broker.receive()] == [1]
    with cut_off(own_server, one, "events"):
        for at in range(1, 20):
            await two.broker.publish("lobby", b"%d" % at, limits=LIMITS)
        await two.broker.publish("other", b"a", limits=LIMITS)
    got: list[Delivery] = []
    with trio.fail_after(RECOVERY_SECONDS):
        while len(got) < 20:
            got += await one.broker.receive()
    lobby = [Delivery("lobby", first.epoch, at + 1, b"%d" % at) for at in range(1, 20)]
    assert [each for each in got if each.room == "lobby"] == lobby
    assert [each.data for each in got if each.room == "other"] == [b"a"]


@contextmanager
def cut_off(valkey: Server, backend: ValkeyBackend, name: str) -> Iterator[None]:
    """Kill a connection of a node, and let it not come back during the block."""
    (lasting,) = [each for each in backend._lasting if each.name == name]
    dialer, connection = lasting.dialer, lasting.connection
    assert connection is not None
    lasting.dialer = RefusingDialer()
    connection.close("cut off")
    yield
    lasting.dialer = dialer


class RefusingDialer(Dialer):
    """Refuses every attempt."""

    def __init__(self) -> None:
        super().__init__(RedisAddress(), "refusing")
        self.attempts: list[float] = []

    async def dial(self, **_: object) -> NoReturn:
        self.attempts.append(trio.current_time())
        raise BrokerUnavailable("refused")


async def test_many_rooms_are_subscribed_again(own_server: Server, nursery: trio.Nursery) -> None:
    one, two = [await opened(own_server.url, nursery) for _ in range(2)]
    rooms = [f"room {at}" for at in range(CHANNELS + 1)]
    for room in rooms:
        await one.broker.subscribe(room)
    missed = rooms[:: ROOMS - 1]
    with cut_off(own_server, one, "events"):
        for room in missed:
            await two.broker.publish(room, b"missed", limits=LIMITS)
    connections = one._lasting[2].connections
    await until_true(lambda: one._lasting[2].connections > connections)
    await until_true(lambda: one.broker._held is None)
    for room in rooms:
        await two.broker.publish(room, b"later", limits=LIMITS)
    got: list[Delivery] = []
    with trio.fail_after(RECOVERY_SECONDS):
        while len(got) < len(rooms) + len(missed):
            got += await one.broker.receive()
    assert [each.room for each in got if each.data == b"missed"] == missed
    assert [each.room for each in got if each.data == b"later"] == rooms


async def test_waiting_events_are_bounded() -> None:
    broker = ValkeyBackend(new_node_id(), "redis://localhost").broker
    channel = keys.room_channel(0, "lobby").encode()
    broker._rooms[channel] = "lobby"
    for at in range(1, DELIVERIES + 2):
        broker._on_push([b"message", channel, b"epoch %d data" % at])
    assert [each.offset for each in await broker.receive()] == list(range(2, DELIVERIES + 2))


async def test_events_that_arrive_while_missed_ones_are_read(
    own_server: Server, nursery: trio.Nursery
) -> None:
    one, two = [await opened(own_server.url, nursery) for _ in range(2)]
    await one.broker.subscribe("lobby")
    stop = trio.Event()
    nursery.start_soon(publish_until, stop, two)
    got: list[Delivery] = []
    with trio.fail_after(2 * RECOVERY_SECONDS):
        for _ in range(3):
            events = one._lasting[2].connection
            assert events is not None
            events.close("cut")
            before = one._lasting[2].connections
            while one._lasting[2].connections == before or len(got) < 50:
                with trio.move_on_after(0.02):
                    got += await one.broker.receive()
        stop.set()
    offsets = [each.offset for each in got]
    assert offsets == list(range(1, len(got) + 1))


async def publish_until(stop: trio.Event, backend: ValkeyBackend) -> None:
    while not stop.is_set():
        await backend.broker.publish("lobby", b"x", limits=LIMITS)
        await trio.sleep(0.001)


async def test_a_connection_that_is_killed_loses_no_message(
    own_server: Server, nursery: trio.Nursery
) -> None:
    one, two = [await opened(own_server.url, nursery) for _ in range(2)]
    sent = [Mail("k", two.node, b"%d" % at) for at in range(100)]
    got: list[Mail] = []
    nursery.start_soon(receive_all, one, got)
    for at, mail in enumerate(sent):
        if at % 20 == 10:
            connection = one._lasting[1].connection
            if connection is not None:
                connection.close("cut")
        await two.directory.post(one.node, [mail])
    await until_true(lambda: len(got) >= len(sent))
    assert got == sent


async def receive_all(backend: ValkeyBackend, got: list[Mail]) -> None:
    while True:
        got += await backend.directory.receive()


# --- the server is slow


async def test_a_paused_server_is_waited_for(own_server: Server, nursery: trio.Nursery) -> None:
    one = await opened(own_server.url, nursery)
    own_server.command("CLIENT", "PAUSE", 300)
    started = trio.current_time()
    assert not await one.directory.renew()
    assert 0.2 < trio.current_time() - started < ANSWER_SECONDS + 0.2
    assert one.statistics()["reconnects"] == 0


DIRECTORY_CALLS: tuple[Callable[[ValkeyBackend], Awaitable[object]], ...] = (
    lambda each: each.directory.renew(),
    lambda each: each.directory.resign(),
    lambda each: each.directory.nodes(),
    lambda each: each.directory.post(each.node, [Mail("kind", each.node)]),
    lambda each: each.directory.find(new_session_id()),
    lambda each: each.directory.append([batch(session_of(each.directory), None, 1)]),
    lambda each: each.directory.read(new_session_id()),
    lambda each: each.directory.take(new_session_id(), owner=None, epoch=1),
    lambda each: each.directory.release(
        session_of(each.directory), to=None, lease=each.node, seconds=1
    ),
    lambda each: each.directory.keep({new_session_id(): 1.0}),
    lambda each: each.directory.drop([session_of(each.directory)]),
    lambda each: each.broker.publish("lobby", b"x", limits=LIMITS),
    lambda each: each.broker.subscribe("lobby"),
    lambda each: each.broker.unsubscribe("lobby"),
    lambda each: each.broker.history("lobby", epoch="", after=0),
    lambda each: each.check(),
)


async def test_a_stopped_server_is_given_up(own_server: Server, nursery: trio.Nursery) -> None:
    one, two = [await opened(own_server.url, nursery) for _ in range(2)]
    durations: list[float] = []
    own_server.stop()
    async with trio.open_nursery() as calls:
        for call in DIRECTORY_CALLS:
            calls.start_soon(takes_too_long, call, one, durations)
    assert len(durations) == len(DIRECTORY_CALLS)
    assert max(durations) < ANSWER_SECONDS + 0.5
    started = trio.current_time()
    with pytest.raises(BrokerUnavailable):
        await one.directory.renew()
    assert trio.current_time() - started < 0.1  # nothing waits for a server that is known to hang
    assert one.statistics()["lag"] > ANSWER_SECONDS / 2
    own_server.go_on()
    await everything_works(one, two)


async def takes_too_long(
    call: Callable[[ValkeyBackend], Awaitable[object]],
    backend: ValkeyBackend,
    durations: list[float],
) -> None:
    started = trio.current_time()
    with pytest.raises(BrokerUnavailable, match="the server does not answer"):
        await call(backend)
    durations.append(trio.current_time() - started)


async def test_logs_do_not_fill_the_memory(nursery: trio.Nursery) -> None:
    with server("valkey") as valkey:
        one = await opened(valkey.url, nursery)
        record = session_of(one.directory)
        valkey.stop()
        megabyte = b"x" * (1024 * 1024 - 500)
        answers = [
            one.directory.append([batch(record, at or None, at + 1, megabyte)]) for at in range(8)
        ]
        assert one.statistics()["outstanding_bytes"] < OUTSTANDING_BYTES
        with pytest.raises(BrokerUnavailable, match=f"more than {OUTSTANDING_BYTES} bytes"):
            await one.directory.append([batch(record, 8, 9, megabyte)])
        async with trio.open_nursery() as calls:
            calls.start_soon(go_on_after, valkey, 0.3)
            await one.directory.renew()  # from the reserve
        assert [await answer for answer in answers] == [[STORED]] * 8
        assert await one.directory.append([batch(record, 8, 9)]) == [STORED]
        assert len(await one.directory.read(record.session_id)) == 9  # 8 MiB in one reply
        nursery.cancel_scope.cancel()


async def go_on_after(valkey: Server, seconds: float) -> None:
    await trio.sleep(seconds)
    valkey.go_on()


# --- the server is full


async def test_a_full_server(own_server: Server, nursery: trio.Nursery) -> None:
    one, two = [await opened(own_server.url, nursery) for _ in range(2)]
    record, dropped, taken = [session_of(one.directory) for _ in range(3)]
    await one.directory.append([batch(each, None, 1) for each in (record, dropped, taken)])
    await one.directory.renew()
    own_server.command("CONFIG", "SET", "maxmemory", 1)
    full = "the server answered: OOM"
    for answer in [one.directory.append([batch(record, 1, 2)]) for _ in range(2)]:
        with pytest.raises(BrokerUnavailable, match=full):
            await answer
    with pytest.raises(BrokerUnavailable, match=full):
        await one.directory.post(two.node, [Mail("kind", one.node)])
    with pytest.raises(BrokerUnavailable, match=full):
        await one.broker.publish("lobby", b"x", limits=LIMITS)
    # Leases live on, and sessions change their owner and end.
    assert await one.directory.renew()
    assert await one.directory.renew(draining=True)
    assert await two.directory.nodes() == {one.node: True}
    assert await one.directory.release(record, to=None, lease=one.node, seconds=60)
    assert await two.directory.take(record.session_id, owner=None, epoch=2)
    found = (await one.directory.find(record.session_id)).record
    assert found == evolve(record, owner=two.node, epoch=3)
    await one.directory.drop([dropped])
    assert (await one.directory.find(dropped.session_id)).record is None
    await one.directory.keep({taken.session_id: 10})
    assert one.statistics()["reconnects"] == 0
    three = await opened(own_server.url, nursery)  # connects, as memory may be freed later
    assert await three.directory.nodes() == {one.node: True}
    own_server.command("CONFIG", "SET", "maxmemory", 0)
    await everything_works(one, two)


# --- fences that only a network needs


async def test_an_append_of_an_earlier_connection_arrives_late(
    own_server: Server, nursery: trio.Nursery
) -> None:
    one = await opened(own_server.url, nursery)
    record = session_of(one.directory)
    early, early_first = (
        one.directory._append(batch(record, *place, b"early"), 1) for place in [(1, 2), (None, 1)]
    )
    later = [batch(record, None, 1, b"1"), batch(record, 1, 2, b"2")]
    one._lasting[0].connections = 2
    assert await one.directory.append(later) == [STORED, STORED]
    late = own_server.commands([tuple(early), tuple(early_first)])
    assert late == [b"stale", b"stale"]
    assert await one.directory.read(record.session_id) == [b"1", b"2"]
    # The numbers of another owner start again.
    two = await opened(own_server.url, nursery)
    await two.directory.take(record.session_id, owner=one.node, epoch=1)
    taken = evolve(record, owner=two.node, epoch=2)
    assert await two.directory.append([batch(taken, 2, 3)]) == [STORED]


async def test_a_log_without_its_beginning_is_stale(
    own_server: Server, nursery: trio.Nursery
) -> None:
    one = await opened(own_server.url, nursery)
    record = session_of(one.directory)
    await one.directory.append([batch(record, None, 1)])
    own_server.command("DEL", keys.log(record.session_id))
    assert await one.directory.append([batch(record, 1, 2)]) == [STALE]


# --- listeners


async def test_a_malformed_message_is_logged_and_skipped(
    own_server: Server, nursery: trio.Nursery
) -> None:
    one, two = [await opened(own_server.url, nursery) for _ in range(2)]
    with structlog.testing.capture_logs() as logs:
        own_server.command("XADD", keys.inbox(one.node), "*", "what", "ever")
        await everything_works(one, two)
    faults = [each for each in logs if each["event"] == "broker_failed"]
    assert [each["fault"] for each in faults] == ["KeyError"]


async def test_a_listener_that_receives_nothing_is_connected_again(
    own_server: Server, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(listening, "SILENT_SECONDS", 0.3)
    one, two = [await opened(own_server.url, nursery) for _ in range(2)]
    await everything_works(one, two)
    # As after a fail-over to a server whose clock is behind: the next ids are smaller.
    inbox, events = one._lasting[1:]
    one._inbox._position = "99999999999999-0"
    assert inbox.connection is not None
    inbox.connection.close("cut")
    inbox.use = one._inbox.listen
    await until_true(lambda: inbox.connections >= 2)
    await everything_works(one, two)
    # The server forgets the subscriptions.
    own_channel = keys.node_channel(0, one.node)
    assert events.connection is not None
    await events.connection.subscribe(("UNSUBSCRIBE", own_channel))
    await until_true(lambda: events.connections >= 2)
    await everything_works(one, two)


async def test_waiting_messages_are_no_silence(
    own_server: Server, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "PROBE_SECONDS", 1000.0)
    monkeypatch.setattr(listening, "SILENT_SECONDS", 0.0)
    one, two = [await opened(own_server.url, nursery) for _ in range(2)]
    sent = [Mail("k", two.node, b"%d" % at) for at in range(200)]
    await two.directory.post(one.node, sent)
    own = one._inbox.listening
    await until_true(lambda: not own.is_reading)
    own.note_probe(trio.current_time())
    assert not own.is_silent
    got: list[Mail] = []
    while len(got) < len(sent):
        got += await one.directory.receive()
    assert got == sent
    await until_true(lambda: own.is_reading)
    own.note_probe(trio.current_time())
    await until_true(lambda: own.is_silent)
    own.note_probe(trio.current_time())  # the first one counts
    await until_true(lambda: own.is_silent)
    own.note_received()
    await until_true(lambda: not own.is_silent)
    assert own.lag < ANSWER_SECONDS


async def test_a_listener_that_ends_is_started_again(
    own_server: Server, nursery: trio.Nursery
) -> None:
    one, two = [await opened(own_server.url, nursery) for _ in range(2)]
    inbox = one._lasting[1]
    listen = inbox.use

    async def end(_: Connection) -> None:
        await trio.lowlevel.checkpoint()

    inbox.use = end
    assert inbox.connection is not None
    inbox.connection.close("cut")
    await until_true(lambda: inbox.connections >= 3)
    assert inbox.fault == "the listener has ended"
    inbox.use = listen
    await everything_works(one, two)


async def test_health_names_a_listener_that_receives_nothing(
    own_server: Server, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await opened(own_server.url, nursery)
    await one.check()
    monkeypatch.setattr(backend_module, "UNHEALTHY_SECONDS", 0.0)
    with pytest.raises(BrokerUnavailable, match="the listener of the inbox has received nothing"):
        await one.check()


async def test_databases_of_one_server_are_separate(
    own_server: Server, nursery: trio.Nursery
) -> None:
    zero, one, other = [
        await opened(f"{own_server.url}{option}", nursery) for option in ("", "?db=1", "?db=1")
    ]
    for backend in (zero, one):
        await backend.broker.subscribe("lobby")
        await backend.directory.renew()
    await everything_works(one, other)
    await zero.broker.publish("lobby", b"0", limits=LIMITS)
    assert [each.data for each in await zero.broker.receive()] == [b"0"]
    assert set(await zero.directory.nodes()) == {zero.node}
    assert set(await one.directory.nodes()) == {one.node, other.node}


async def test_pauses_grow_to_a_bound(autojump_clock: trio.testing.MockClock) -> None:
    one = ValkeyBackend(new_node_id(), "unix:///no/such/socket")
    one._lasting[0].dialer = dialer = RefusingDialer()
    first, longest = BACK_OFF_SECONDS
    with structlog.testing.capture_logs() as logs, trio.move_on_after(60):
        await one._lasting[0].run()
    pauses = [later - before for before, later in itertools.pairwise(dialer.attempts)]
    for number, pause in enumerate(pauses):
        ceiling = min(longest, first * 2 ** (number + 1))
        assert ceiling / 2 <= pause <= ceiling
    assert len(set(pauses)) == len(pauses)
    assert [(each["event"], each["reason"]) for each in logs] == [("broker_unavailable", "refused")]
