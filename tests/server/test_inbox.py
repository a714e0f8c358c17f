"""The inbox of an application that Hypercorn hosts: its bound, and what does not wait for room."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.server.hypercorn.inbox import AppInbox

SIZE = 3
END = {"type": "websocket.disconnect", "code": 1000}


def message(n: int) -> dict[str, object]:
    return {"type": "websocket.receive", "text": str(n)}


async def test_it_holds_its_size_and_blocks_the_next_message(autojump_clock: MockClock) -> None:
    inbox = AppInbox(SIZE)
    with trio.fail_after(1):
        for n in range(SIZE):
            await inbox.put(message(n))
    with trio.move_on_after(1) as scope:
        await inbox.put(message(SIZE))
    assert scope.cancelled_caught
    assert await inbox.receive() == message(0)
    with trio.fail_after(1):
        await inbox.put(message(SIZE))
    assert [await inbox.receive() for _ in range(SIZE)] == [message(n) for n in (1, 2, 3)]


async def test_the_disconnect_needs_no_room_and_comes_last(autojump_clock: MockClock) -> None:
    inbox = AppInbox(SIZE)
    for n in range(SIZE):
        await inbox.put(message(n))
    with trio.fail_after(1):
        await inbox.put(END)
    await inbox.put(message(9))  # dropped
    received = [await inbox.receive() for _ in range(SIZE + 2)]
    assert received == [message(0), message(1), message(2), END, END]


async def test_a_blocked_put_ends_with_the_inbox(autojump_clock: MockClock) -> None:
    for end in (AppInbox.close, lambda inbox: inbox.end(END)):
        inbox = AppInbox(1)
        await inbox.put(message(0))
        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(inbox.put, message(1))
                await wait_all_tasks_blocked()
                end(inbox)


async def test_life_signs_are_coalesced_and_dropped_without_room() -> None:
    inbox = AppInbox(SIZE)
    inbox.life_sign()
    inbox.life_sign()
    await inbox.put(message(0))
    await inbox.put(message(1))
    assert await inbox.receive() == {"type": "netra_trio.alive"}
    await inbox.put(message(2))
    inbox.life_sign()  # no room
    inbox.end(END)
    received = [await inbox.receive() for _ in range(4)]
    assert received == [message(0), message(1), message(2), END]


@pytest.mark.parametrize("waiting", [0, SIZE])
async def test_too_big_needs_no_room_and_comes_once(waiting: int) -> None:
    inbox = AppInbox(SIZE)
    for n in range(waiting):
        await inbox.put(message(n))
    inbox.too_big()
    inbox.life_sign()
    inbox.end(END)
    received = [await inbox.receive() for _ in range(waiting + 3)]
    assert received[waiting:] == [{"type": "netra_trio.too_big"}, END, END]
