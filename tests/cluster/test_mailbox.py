"""The mailbox of a node: handlers, questions and answers."""

import orjson
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from netra_trio.broker.base import Mail
from netra_trio.broker.memory import MemoryBackend, MemoryServer
from netra_trio.cluster.mailbox import ANSWER, Mailbox
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import NodeId
from netra_trio.protocol.fields import JsonObject

Taken = list[tuple[str, JsonObject, bytes]]


def mailboxes() -> tuple[Mailbox, Mailbox]:
    server = MemoryServer()
    return (
        Mailbox(MemoryBackend(NodeId("one"), server).directory),
        Mailbox(MemoryBackend(NodeId("two"), server).directory),
    )


async def test_messages_reach_their_handlers_in_order(autojump_clock: MockClock) -> None:
    one, two = mailboxes()
    now: Taken = []
    later: Taken = []

    async def take_later(sender: NodeId, header: JsonObject, data: bytes) -> None:
        await trio.sleep(1)
        later.append((sender, header, data))

    two.handle_now("now", lambda sender, header, data: now.append((sender, header, data)))
    two.handle("later", take_later)
    for number in range(3):
        await one.post(two.node, "later", {"number": number})
        await one.post(two.node, "now", {"number": number}, b"\x00")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(two.run)
        await wait_all_tasks_blocked()
        assert now == [("one", {"number": number}, b"\x00") for number in range(3)]
        await trio.sleep(1.5)  # the tasks run side by side
        assert len(later) == 3
        nursery.cancel_scope.cancel()


async def test_a_handler_that_raises_is_logged(autojump_clock: MockClock) -> None:
    one, two = mailboxes()

    def fail_now(*_: object) -> None:
        raise ValueError("now")

    async def fail(*_: object) -> None:
        raise ValueError("later")

    async def is_unavailable(*_: object) -> None:
        raise BrokerUnavailable("gone")

    two.handle_now("now", fail_now)
    two.handle("later", fail)
    two.handle("unavailable", is_unavailable)
    for kind in ("now", "later", "unavailable", "of a newer version"):
        await one.post(two.node, kind, {})
    with capture_logs() as logged:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(two.run)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert sorted(line["event"] for line in logged) == [
        *("mail_failed", "mail_failed", "mail_unanswered", "mail_unknown")
    ]


async def test_a_question_is_answered(autojump_clock: MockClock) -> None:
    one, two = mailboxes()

    async def double(sender: NodeId, header: JsonObject, data: bytes) -> None:
        await two.answer(sender, header, {"result": 2 * header["number"]}, data * 2)

    two.handle("double", double)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        nursery.start_soon(two.run)
        answer = await one.ask(two.node, "double", {"number": 4}, seconds=1)
        assert (answer.header["result"], answer.data) == (8, b"")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("after", "is_in_time"), [(0.99, True), (1.01, False)])
async def test_an_answer_has_to_come_in_time(
    after: float, *, is_in_time: bool, autojump_clock: MockClock
) -> None:
    one, two = mailboxes()

    async def answer_twice(sender: NodeId, header: JsonObject, _data: bytes) -> None:
        await trio.sleep(after)
        await two.answer(sender, header, {})
        await two.answer(sender, header, {})

    two.handle("question", answer_twice)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        nursery.start_soon(two.run)
        if is_in_time:
            await one.ask(two.node, "question", {}, seconds=1)
        else:
            with pytest.raises(BrokerUnavailable, match="node two did not answer within 1 s"):
                await one.ask(two.node, "question", {}, seconds=1)
        await trio.sleep(1)  # the second answer, and a late one, change nothing
        nursery.cancel_scope.cancel()


async def test_a_second_answer_before_the_first_is_read() -> None:
    one, two = mailboxes()
    answers = [Mail(ANSWER, two.node, orjson.dumps({"ask": 1, "n": n})) for n in (1, 2)]

    async def answer_at_once(sender: NodeId, _header: JsonObject, _data: bytes) -> None:
        await MemoryBackend(two.node, server).directory.post(sender, answers)

    server = two._directory._server  # type: ignore[attr-defined]
    two.handle("question", answer_at_once)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        nursery.start_soon(two.run)
        assert (await one.ask(two.node, "question", {}, seconds=1)).header["n"] == 1
        nursery.cancel_scope.cancel()


async def test_cancelling_a_question_is_safe(autojump_clock: MockClock) -> None:
    one, two = mailboxes()
    with trio.move_on_after(0.5):
        await one.ask(two.node, "question", {}, seconds=10)
    assert not one._asked
