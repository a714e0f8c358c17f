"""The rate of uploads: at its limit, one beyond, and without the broker."""

from typing import Any

import trio
from trio.testing import MockClock

from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.errors import BrokerUnavailable
from netra_trio.files.rate import UPLOAD_SECONDS, UPLOADS, LocalUploadRate, SharedUploadRate
from netra_trio.ids import UserId, new_node_id

ALICE, BOB = UserId("alice"), UserId("bob")


async def test_the_last_upload_of_a_minute_and_one_beyond(autojump_clock: MockClock) -> None:
    rate = LocalUploadRate()
    for _ in range(UPLOADS):
        assert await rate.take(ALICE) == 0
        await trio.sleep(1)
    assert await rate.take(ALICE) == UPLOAD_SECONDS - UPLOADS
    assert await rate.take(BOB) == 0
    await trio.sleep(UPLOAD_SECONDS - UPLOADS)
    assert await rate.take(ALICE) == 0
    assert await rate.take(ALICE) == 1


async def test_users_are_forgotten(autojump_clock: MockClock) -> None:
    rate = LocalUploadRate()
    for number in range(100):
        await rate.take(UserId(f"user-{number}"))
    await trio.sleep(UPLOAD_SECONDS)
    await rate.take(ALICE)
    assert rate._begun.keys() == {ALICE}


async def test_a_refused_upload_does_not_keep_others_from_being_forgotten(
    autojump_clock: MockClock,
) -> None:
    rate = LocalUploadRate()
    for _ in range(UPLOADS):
        await rate.take(ALICE)
    await trio.sleep(1)
    await rate.take(BOB)
    assert await rate.take(ALICE) == UPLOAD_SECONDS - 1
    await trio.sleep(UPLOAD_SECONDS - 1)
    await rate.take(UserId("carol"))
    assert rate._begun.keys() == {BOB, UserId("carol")}


async def test_uploads_of_all_nodes_count(autojump_clock: MockClock) -> None:
    server = MemoryServer()
    backends = [MemoryBackend(new_node_id(), server) for _ in range(2)]
    one, two = (SharedUploadRate(backend.limits) for backend in backends)
    for rate in (one, two) * (UPLOADS // 2):
        assert await rate.take(ALICE) == 0
    assert await one.take(ALICE) == UPLOAD_SECONDS
    assert await two.take(ALICE) == UPLOAD_SECONDS


class SilentLimits:
    """Limits that do not answer."""

    async def take_upload(self, *_: object, **__: object) -> float:
        raise BrokerUnavailable("gone")


async def test_without_the_broker_a_node_counts_alone(autojump_clock: MockClock) -> None:
    limits: Any = SilentLimits()
    rate = SharedUploadRate(limits)
    for _ in range(UPLOADS):
        assert await rate.take(ALICE) == 0
    assert await rate.take(ALICE) == UPLOAD_SECONDS
