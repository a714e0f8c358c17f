"""Tickets of several nodes: each is used once, on whichever node; 503 without the broker."""

import math
from typing import Any
from unittest.mock import ANY

import pytest
import trio
from support.memory import EPOCH, token
from support.shared_nodes import LinkedNode, open_nodes
from trio.testing import MockClock

from netra_trio.auth.identity import Identity
from netra_trio.auth.tickets import TICKET_SECONDS, TICKETS_PER_USER, SharedTickets
from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.endpoints.call import Call
from netra_trio.endpoints.checks import check_upgrade
from netra_trio.endpoints.request import Request
from netra_trio.endpoints.tickets import ticket
from netra_trio.ids import UserId
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused

ALICE = Identity(UserId("alice"), 1_900_000_000.25, frozenset({"netra:admin", "a b"}))


def two_nodes(server: MemoryServer) -> tuple[SharedTickets, SharedTickets]:
    one, two = (SharedTickets(MemoryBackend(server=server).limits) for _ in range(2))
    return one, two


async def refused(tickets: SharedTickets, value: str) -> ErrorCode:
    with pytest.raises(Refused) as caught:
        await tickets.redeem(value, 0.0)
    assert value not in caught.value.problem.error
    return caught.value.problem.code


async def test_a_ticket_is_used_once_on_whichever_node(autojump_clock: MockClock) -> None:
    server = MemoryServer()
    one, two = two_nodes(server)
    issued = await one.issue(ALICE, 0.0)
    assert len(issued) == 32
    [(digest, kept)] = server.limits.tickets.items()
    assert issued not in digest
    assert issued.encode() not in kept.data
    assert await two.redeem(issued, 0.0) == ALICE
    for tickets in (one, two):
        assert await refused(tickets, issued) is ErrorCode.INVALID_TOKEN
    assert server.limits.tickets == {}


async def test_a_ticket_expires(autojump_clock: MockClock) -> None:
    one, two = two_nodes(MemoryServer())
    first, second = await one.issue(ALICE, 0.0), await one.issue(ALICE, 0.0)
    await trio.sleep(TICKET_SECONDS - 0.25)
    assert await two.redeem(first, 0.0) == ALICE
    await trio.sleep(0.25)
    assert await refused(two, second) is ErrorCode.INVALID_TOKEN


async def test_the_oldest_ticket_of_a_user_is_dropped(autojump_clock: MockClock) -> None:
    one, two = two_nodes(MemoryServer())
    first = await one.issue(ALICE, 0.0)
    kept = [await two.issue(ALICE, 0.0) for _ in range(TICKETS_PER_USER)]
    assert await refused(one, first) is ErrorCode.INVALID_TOKEN
    assert [await one.redeem(each, 0.0) for each in kept] == [ALICE] * TICKETS_PER_USER


async def test_an_identity_without_expiry(autojump_clock: MockClock) -> None:
    one, two = two_nodes(MemoryServer())
    anonymous = Identity(UserId("\u00e9 'anonymous'"))
    found = await two.redeem(await one.issue(anonymous, 0.0), 0.0)
    assert found == anonymous
    assert found.expires_at == math.inf


@pytest.mark.parametrize("value", ["guess", "\ud800", "\u00e9" * 32, "x" * 100_000])
async def test_an_unknown_ticket_is_refused(autojump_clock: MockClock, value: str) -> None:
    one, _ = two_nodes(MemoryServer())
    assert await refused(one, value) is ErrorCode.INVALID_TOKEN


# The endpoints.


def request_for_ticket() -> Request:
    return Request(
        {"authorization": [f"Bearer {token(expires_at=EPOCH + 60)}"]}, {}, (), "127.0.0.1"
    )


def upgrade_with(value: str) -> Request:
    return Request({}, {"ticket": [value]}, (), "127.0.0.1")


async def issued_at(node: LinkedNode) -> str:
    async def no_body() -> dict[str, Any]:
        return {"type": "http.request"}

    answer = await ticket(
        node.node.capacity.check_room,
        Call("POST", "/ws/ticket", request_for_ticket(), node.node.services, no_body, ANY),
    )
    assert answer.status == 200
    value: str = answer.body["ticket"]
    return value


async def test_an_upgrade_at_another_node_takes_the_ticket(autojump_clock: MockClock) -> None:
    async with open_nodes(2) as (one, two):
        value = await issued_at(one)
        accepted = await check_upgrade(
            upgrade_with(value), two.node.services, now=trio.current_time()
        )
        assert accepted.identity.user_id == "alice"
        assert accepted.identity.expires_at == EPOCH + 60
        for node in (one, two):
            with pytest.raises(Refused) as caught:
                await check_upgrade(upgrade_with(value), node.node.services, now=0.0)
            assert caught.value.problem.code is ErrorCode.INVALID_TOKEN


async def test_without_the_broker_tickets_are_unavailable(autojump_clock: MockClock) -> None:
    async with open_nodes(2) as (one, two):
        value = await issued_at(one)
        two.link.is_cut = True
        for call in (
            issued_at(two),
            check_upgrade(upgrade_with(value), two.node.services, now=0.0),
        ):
            with pytest.raises(Refused) as caught:
                await call
            problem = caught.value.problem
            assert problem.code is ErrorCode.SERVICE_UNAVAILABLE
            assert problem.status == 503
            assert problem.retry_after_ms == 1000
        # The ticket was not used by that.
        two.link.is_cut = False
        await check_upgrade(upgrade_with(value), two.node.services, now=0.0)
