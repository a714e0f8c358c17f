"""The contract of `Limits`, which each implementation passes; two nodes share one server."""

import pytest
import trio
from attrs import define
from support.valkey import Server

from netra_trio.broker.base import Backend
from netra_trio.broker.limits import (
    USER_SECONDS,
    KeptSession,
    KnownSession,
    Limits,
    OpenConnection,
    OpenedConnection,
    UserUpdate,
)
from netra_trio.broker.valkey.backend import ValkeyBackend
from netra_trio.ids import ConnectionId, NodeId, SessionId, UserId, new_node_id

ALICE, BOB = UserId("alice"), UserId("bob {of} \x00 any:characters\u20ac")
GONE = NodeId("own_gone")


@define
class Two:
    """The limits as two nodes see them."""

    one: Limits
    two: Limits
    nodes: tuple[NodeId, NodeId]


@pytest.fixture
def limits(backends: tuple[Backend, Backend]) -> Two:
    """Return the limits on each server in turn."""
    one, two = backends
    return Two(one.limits, two.limits, (one.directory.node, two.directory.node))


async def opening(
    limits: Limits,
    name: str,
    *,
    user: UserId = ALICE,
    session: str | None = None,
    limit: int = 2,
    evicts: bool = True,
    gone: tuple[NodeId, ...] | None = (),
) -> OpenedConnection:
    """Open a connection; the clock passes, so that the order is clear."""
    await trio.sleep(0.01)
    return await limits.open_connection(
        user,
        ConnectionId(name),
        session_id=None if session is None else SessionId(session),
        limit=limit,
        evicts=evicts,
        gone=gone,
    )


def accepted(*evicted: tuple[str, NodeId]) -> OpenedConnection:
    pairs = tuple((ConnectionId(name), node) for name, node in evicted)
    return OpenedConnection(is_accepted=True, evicted=pairs)


REJECTED = OpenedConnection(is_accepted=False)


def closing(*names: str, user: UserId = ALICE) -> list[UserUpdate]:
    return [UserUpdate(user, closed_connections=[ConnectionId(name) for name in names])]


def a_connection(name: str, session: str = "s", seconds: float = 0.0) -> OpenConnection:
    return OpenConnection(ConnectionId(name), SessionId(session), seconds)


# Connections.


async def test_connections_of_all_nodes_count(limits: Two) -> None:
    assert await opening(limits.one, "a", evicts=False) == accepted()
    assert await opening(limits.two, "b", evicts=False) == accepted()
    assert await opening(limits.one, "c", evicts=False) == REJECTED
    assert await opening(limits.two, "d", evicts=False) == REJECTED
    assert await opening(limits.two, "e", user=BOB, evicts=False) == accepted()
    await limits.one.update(closing("a"))
    assert await opening(limits.two, "f", evicts=False) == accepted()
    assert await opening(limits.two, "g", evicts=False) == REJECTED


async def test_the_oldest_connection_of_all_nodes_is_evicted(limits: Two) -> None:
    one, two = limits.nodes
    await opening(limits.one, "a")
    await opening(limits.two, "b")
    assert await opening(limits.two, "c") == accepted(("a", one))
    assert await opening(limits.one, "d") == accepted(("b", two))
    assert await opening(limits.one, "e") == accepted(("c", two))


async def test_connections_beyond_the_limit_are_evicted_together(limits: Two) -> None:
    one, _ = limits.nodes
    for name in "abcd":
        await opening(limits.one, name, limit=4)
    assert await opening(limits.two, "e", limit=2) == accepted(("a", one), ("b", one), ("c", one))


async def test_an_opening_is_counted_once(limits: Two) -> None:
    await opening(limits.one, "a")
    await opening(limits.one, "b")
    assert await opening(limits.one, "b") == accepted()
    assert await opening(limits.one, "b", evicts=False) == accepted()


async def test_a_connection_of_the_resumed_session_does_not_count(limits: Two) -> None:
    await opening(limits.one, "a", session="s1", evicts=False)
    await opening(limits.one, "b", session="s2", evicts=False)
    assert await opening(limits.two, "c", session="s1", evicts=False) == accepted()
    assert await opening(limits.two, "d", session="s3", evicts=False) == REJECTED
    # The end of the one that it replaced changes nothing.
    await limits.one.update(closing("a"))
    assert await opening(limits.two, "d", session="s3", evicts=False) == REJECTED


async def test_the_session_of_a_connection_may_be_reported_later(limits: Two) -> None:
    await opening(limits.one, "a", limit=1, evicts=False)
    assert await opening(limits.two, "b", session="s1", limit=1, evicts=False) == REJECTED
    await limits.one.update([UserUpdate(ALICE, connections=[a_connection("a", "s1")])])
    assert await opening(limits.two, "b", session="s1", limit=1, evicts=False) == accepted()


async def test_connections_of_nodes_that_are_gone_do_not_count(limits: Two) -> None:
    one, two = limits.nodes
    await opening(limits.one, "a", evicts=False)
    await opening(limits.one, "b", evicts=False)
    # Other nodes reach the limit, and it is not known whether they are gone.
    undecided = await opening(limits.two, "c", evicts=False, gone=None)
    assert undecided == OpenedConnection(is_accepted=False, undecided=frozenset({one}))
    assert await opening(limits.two, "c", evicts=True, gone=None) == undecided
    assert await opening(limits.two, "c", evicts=False, gone=(GONE,)) == REJECTED
    assert await opening(limits.two, "c", evicts=False, gone=(GONE, one)) == accepted()
    assert await opening(limits.two, "d", evicts=False, gone=None) == accepted()
    # The own connections alone reach it: then there is nothing to look up.
    assert await opening(limits.two, "e", evicts=False, gone=None) == REJECTED
    assert await opening(limits.two, "e", gone=None) == accepted(("c", two))


async def test_a_node_reports_its_connections_again(limits: Two) -> None:
    """As after an outage, or after the server has lost everything."""
    one, two = limits.nodes
    await opening(limits.two, "b")
    report = [a_connection("a", seconds=60.0), a_connection("c", seconds=0.0)]
    await limits.one.update([UserUpdate(ALICE, connections=report)])
    assert await opening(limits.two, "d", evicts=False) == REJECTED
    assert await opening(limits.two, "d", limit=3) == accepted(("a", one))
    assert await opening(limits.two, "e", limit=3) == accepted(("b", two))


async def test_a_report_keeps_the_age_of_a_connection(limits: Two) -> None:
    one, _ = limits.nodes
    await opening(limits.one, "a")
    await opening(limits.one, "b")
    await limits.one.update([UserUpdate(ALICE, connections=[a_connection("a", seconds=0.0)])])
    assert await opening(limits.two, "c") == accepted(("a", one))


async def test_of_openings_at_once_only_as_many_as_permitted_are_accepted(limits: Two) -> None:
    results: list[bool] = []

    async def open_one(number: int) -> None:
        node = limits.one if number % 2 else limits.two
        opened = await node.open_connection(
            ALICE, ConnectionId(f"c{number}"), session_id=None, limit=5, evicts=False, gone=()
        )
        results.append(opened.is_accepted)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(open_one, number)
    assert sorted(results) == [False] * 15 + [True] * 5


# Openings. On a real server time passes, and more of them are permitted than in virtual time.

RATE, BURST = 4, 5


async def open_until_refused(limits: Two, user: UserId = ALICE) -> tuple[int, float]:
    """Open connections at the nodes in turn; return how many were permitted, and the wait then."""
    for count in range(1000):
        node = limits.two if count % 2 else limits.one
        wait = await node.take_opening(user, rate=RATE, burst=BURST)
        if wait:
            assert 0 < wait <= 1 / RATE
            return count, wait
    raise AssertionError("no opening was refused")


async def test_a_burst_of_openings_counts_over_all_nodes(limits: Two) -> None:
    for user in (ALICE, BOB):
        begin = trio.current_time()
        count, _ = await open_until_refused(limits, user)
        assert BURST <= count <= BURST + (trio.current_time() - begin) * RATE


async def test_openings_have_a_rate_behind_the_burst(limits: Two) -> None:
    begin = trio.current_time()
    count, wait = await open_until_refused(limits)
    for _ in range(3):
        await trio.sleep(wait + 0.01)
        more, wait = await open_until_refused(limits)
        assert more >= 1  # a refused opening takes no place
        count += more
    assert BURST + 3 <= count <= BURST + (trio.current_time() - begin) * RATE
    await trio.sleep(BURST / RATE)
    assert (await open_until_refused(limits))[0] >= BURST


# Sessions.


def a_session(
    name: str, detached: float | None = None, *, is_busy: bool = False, is_claimed: bool = False
) -> KeptSession:
    return KeptSession(SessionId(name), detached, is_busy, is_claimed)


async def keep(
    limits: Limits,
    *sessions: KeptSession,
    more_than: int | None = 0,
    closed: tuple[str, ...] = (),
    gone: tuple[str, ...] = (),
) -> dict[str, KnownSession]:
    """Report sessions; return those that the user has."""
    update = UserUpdate(
        ALICE,
        sessions=sessions,
        closed_sessions=[SessionId(name) for name in closed],
        gone_sessions=[SessionId(name) for name in gone],
        max_sessions=more_than,
    )
    [known] = await limits.update([update])
    return {each.session_id: each for each in known}


async def test_the_sessions_of_all_nodes_are_returned_beyond_the_limit(limits: Two) -> None:
    one, two = limits.nodes
    assert await keep(limits.one, a_session("a", 5.0, is_busy=True), more_than=1) == {}
    assert await keep(limits.two, a_session("b"), more_than=2) == {}
    assert await keep(limits.two, more_than=None) == {}
    await trio.sleep(0.2)
    known = await keep(limits.two, more_than=1)
    assert known.keys() == {"a", "b"}
    assert known["b"] == KnownSession(SessionId("b"), two, None, is_busy=False)
    a = known["a"]
    assert (a.node, a.is_busy) == (one, True)
    assert a.detached is not None
    assert 5.2 <= a.detached < 60.0


async def test_the_last_report_of_a_session_counts(limits: Two) -> None:
    await keep(limits.one, a_session("a", 5.0, is_busy=True))
    known = await keep(limits.one, a_session("a"))
    assert known["a"] == KnownSession(SessionId("a"), limits.nodes[0], None, is_busy=False)


async def test_a_session_stays_with_the_node_that_claimed_it(limits: Two) -> None:
    one, two = limits.nodes
    await keep(limits.one, a_session("a", is_claimed=True))
    assert (await keep(limits.two, a_session("a", is_claimed=True)))["a"].node == two
    # The first node does not know yet that it has lost the session; then it ends its copy.
    assert (await keep(limits.one, a_session("a", 1.0)))["a"].node == two
    assert (await keep(limits.one, closed=("a",)))["a"].node == two
    assert one != two


async def test_a_released_session_counts_until_another_node_reports_its_end(limits: Two) -> None:
    one, two = limits.nodes
    released = KeptSession(SessionId("a"), 0.0, is_busy=False, is_released=True)
    await keep(limits.one, a_session("a", is_claimed=True))
    known = (await keep(limits.one, released))["a"]
    assert (known.node, known.detached is None) == (one, False)
    assert (await keep(limits.two, a_session("a", is_claimed=True)))["a"].node == two
    assert (await keep(limits.one, released))["a"].node == two
    assert await keep(limits.two, closed=("a",)) == {}
    assert await keep(limits.one, released) == {}


async def test_ended_sessions_do_not_count(limits: Two) -> None:
    await keep(limits.one, a_session("a"), a_session("b"))
    await keep(limits.two, a_session("c"))
    assert (await keep(limits.one, closed=("a", "never"))).keys() == {"b", "c"}
    assert (await keep(limits.one, gone=("c", "never"))).keys() == {"b"}
    assert await keep(limits.one, closed=("b",)) == {}


async def test_several_users_are_updated_together(limits: Two) -> None:
    one = [a_session("a")]
    updates = [UserUpdate(user, sessions=one, max_sessions=0) for user in (ALICE, BOB)]
    known = await limits.one.update(updates)
    assert [[each.session_id for each in of_user] for of_user in known] == [["a"], ["a"]]
    assert await limits.one.update([]) == []


# Tickets.


async def add(limits: Limits, digest: str, *, user: UserId = ALICE, per_user: int = 20) -> None:
    await trio.sleep(0.01)
    await limits.add_ticket(
        user, digest, digest.encode() + b"\x00\xff", seconds=30, per_user=per_user
    )


async def test_a_ticket_is_taken_once_by_any_node(limits: Two) -> None:
    await add(limits.one, "first")
    await add(limits.one, "second", user=BOB)
    assert await limits.two.take_ticket("first") == b"first\x00\xff"
    assert await limits.one.take_ticket("first") is None
    assert await limits.two.take_ticket("first") is None
    assert await limits.one.take_ticket("second") == b"second\x00\xff"
    assert await limits.one.take_ticket("unknown") is None


async def test_a_ticket_expires(limits: Two) -> None:
    for seconds in (60, 0.1):
        await limits.one.add_ticket(ALICE, f"for {seconds}", b"", seconds=seconds, per_user=20)
    await trio.sleep(0.15)
    assert await limits.two.take_ticket("for 0.1") is None
    assert await limits.two.take_ticket("for 60") == b""


async def test_an_expired_ticket_makes_room(limits: Two) -> None:
    await limits.one.add_ticket(ALICE, "first", b"", seconds=60, per_user=2)
    await limits.one.add_ticket(ALICE, "short", b"", seconds=0.05, per_user=2)
    await trio.sleep(0.1)
    await add(limits.one, "last", per_user=2)
    assert await limits.one.take_ticket("first") == b""


async def test_of_many_that_take_a_ticket_at_once_one_gets_it(limits: Two) -> None:
    await add(limits.one, "it")
    taken: list[bytes | None] = []

    async def take(limits: Limits) -> None:
        taken.append(await limits.take_ticket("it"))

    async with trio.open_nursery() as nursery:
        for each in (limits.one, limits.two) * 10:
            nursery.start_soon(take, each)
    assert sorted(data for data in taken if data is not None) == [b"it\x00\xff"]
    assert len(taken) == 20


async def test_the_oldest_ticket_of_a_user_is_dropped(limits: Two) -> None:
    for number in range(8):
        await add(limits.one, f"t{number}", per_user=8)
    await add(limits.one, "bobs", user=BOB, per_user=8)
    await add(limits.two, "t8", per_user=8)
    assert await limits.one.take_ticket("t0") is None
    # A ticket that was taken makes room.
    assert await limits.one.take_ticket("t1") is not None
    await add(limits.one, "t9", per_user=8)
    left = [await limits.one.take_ticket(f"t{number}") for number in range(2, 10)]
    assert None not in [*left, await limits.two.take_ticket("bobs")]


# Tickets for files.


async def add_for_file(
    limits: Limits, digest: str, *, user: UserId = ALICE, seconds: float = 30, per_user: int = 20
) -> None:
    await trio.sleep(0.01)
    data = digest.encode() + b"\x00\xff"
    await limits.add_file_ticket(user, digest, data, seconds=seconds, per_user=per_user)


async def test_a_ticket_for_a_file_is_found_again_by_any_node(limits: Two) -> None:
    await add_for_file(limits.one, "first")
    for each in (limits.one, limits.two, limits.one):
        assert await each.find_file_ticket("first") == b"first\x00\xff"
    assert await limits.two.find_file_ticket("unknown") is None


async def test_the_kinds_of_tickets_are_apart(limits: Two) -> None:
    await add(limits.one, "ordinary", per_user=1)
    await add_for_file(limits.one, "for a file", per_user=1)
    assert await limits.one.find_file_ticket("ordinary") is None
    assert await limits.one.take_ticket("for a file") is None
    assert await limits.one.find_file_ticket("for a file") is not None
    assert await limits.one.take_ticket("ordinary") is not None


async def test_a_ticket_for_a_file_expires(limits: Two) -> None:
    await add_for_file(limits.one, "short", seconds=0.1)
    await add_for_file(limits.one, "long")
    await trio.sleep(0.2)
    assert await limits.two.find_file_ticket("short") is None
    assert await limits.two.find_file_ticket("long") is not None


async def test_the_oldest_ticket_for_a_file_is_dropped(limits: Two) -> None:
    for number in range(4):
        await add_for_file(limits.one, f"t{number}", per_user=3)
    await add_for_file(limits.two, "bobs", user=BOB, per_user=3)
    found = [await limits.two.find_file_ticket(f"t{number}") for number in range(4)]
    assert [data is None for data in found] == [True, False, False, False]
    assert await limits.one.find_file_ticket("bobs") is not None


# Uploads.


async def test_uploads_of_all_nodes_count(limits: Two) -> None:
    for each in (limits.one, limits.two, limits.one):
        assert await each.take_upload(ALICE, limit=3, seconds=60) == 0
    for each in (limits.one, limits.two):
        wait = await each.take_upload(ALICE, limit=3, seconds=60)
        assert 0 < wait <= 60
    assert await limits.two.take_upload(BOB, limit=3, seconds=60) == 0


async def test_an_upload_counts_for_the_period(limits: Two) -> None:
    assert await limits.one.take_upload(ALICE, limit=2, seconds=0.5) == 0
    await trio.sleep(0.3)
    assert await limits.one.take_upload(ALICE, limit=2, seconds=0.5) == 0
    wait = await limits.one.take_upload(ALICE, limit=2, seconds=0.5)
    assert 0 < wait <= 0.2
    await trio.sleep(wait + 0.01)
    assert await limits.two.take_upload(ALICE, limit=2, seconds=0.5) == 0
    assert await limits.two.take_upload(ALICE, limit=2, seconds=0.5) > 0


async def test_of_many_uploads_at_once_the_limit_is_counted(limits: Two) -> None:
    waits: list[float] = []

    async def take(limits: Limits) -> None:
        waits.append(await limits.take_upload(ALICE, limit=5, seconds=60))

    async with trio.open_nursery() as nursery:
        for each in (limits.one, limits.two) * 10:
            nursery.start_soon(take, each)
    assert waits.count(0) == 5


# On a real server.


async def test_everything_of_a_user_expires_and_names_nobody(
    valkey_server: Server, valkey_url: str
) -> None:
    """A node that is gone leaves nothing for ever; keys tell neither users nor tickets."""
    backend = ValkeyBackend(new_node_id(), valkey_url)
    async with backend.open():
        limits = backend.limits
        await opening(limits, "a", user=BOB)
        await keep(limits, a_session("s"))
        await add(limits, "digest", user=BOB)
        assert await limits.take_opening(BOB, rate=10, burst=5) == 0
        assert await limits.take_upload(BOB, limit=5, seconds=60) == 0
        await add_for_file(limits, "digest", user=BOB)
        keys = valkey_server.command("KEYS", "nt:*")
        assert len(keys) >= 9
        for key in keys:
            assert b"alice" not in key
            assert b"any" not in key
            left = valkey_server.command("PTTL", key)
            assert 0 < left <= USER_SECONDS * 1000
        assert await limits.take_ticket("digest") is not None
        assert valkey_server.command("KEYS", "*}:t") == []


async def test_limits_work_again_after_the_scripts_are_gone(
    valkey_server: Server, valkey_url: str
) -> None:
    backend = ValkeyBackend(new_node_id(), valkey_url)
    async with backend.open():
        await opening(backend.limits, "a", limit=1)
        valkey_server.command("SCRIPT", "FLUSH")
        opened = await opening(backend.limits, "b", limit=1)
        assert opened == accepted(("a", backend.node))
