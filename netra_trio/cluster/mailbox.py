"""The mailbox of a node: sends messages to other nodes, and gives received ones to handlers.

mailbox.handle("stop", stop)                            # a task for each message
mailbox.handle_now("link", deliver)                     # in order, without waiting
await mailbox.post(node, "stop", {"run_id": run_id})
answer = await mailbox.ask(node, "claim", {"session_id": session_id}, seconds=1.0)
"""

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import structlog
import trio
from attrs import frozen

from netra_trio.broker.base import Directory, Mail
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import NodeId
from netra_trio.protocol.fields import JsonObject

ANSWER = "answer"  # the kind of an answer to `ask`

Handler = Callable[[NodeId, JsonObject, bytes], Awaitable[None]]
NowHandler = Callable[[NodeId, JsonObject, bytes], None]

_log = structlog.get_logger(__name__)


@frozen
class Answer:
    """An answer to `ask`."""

    header: JsonObject
    data: bytes


class Mailbox:
    """The messages from and to other nodes.

    Args:
        directory: Carries the messages.
    """

    def __init__(self, directory: Directory) -> None:
        self.node = directory.node
        self._directory = directory
        self._handlers: dict[str, Handler] = {}
        self._now_handlers: dict[str, NowHandler] = {ANSWER: self._on_answer}
        self._asked: dict[int, trio.MemorySendChannel[Answer]] = {}
        self._numbers = itertools.count(1)

    def handle(self, kind: str, handler: Handler) -> None:
        """Call an async function in a task of its own for each message of a kind."""
        self._handlers[kind] = handler

    def handle_now(self, kind: str, handler: NowHandler) -> None:
        """Call a function for each message of a kind, in their order; it must not wait."""
        self._now_handlers[kind] = handler

    async def post(self, node: NodeId, kind: str, header: JsonObject, data: bytes = b"") -> None:
        """Send a message to a node. Cancelling is safe: it is sent or not.

        Raises:
            BrokerUnavailable: If it could not be sent.
        """
        mail = Mail(kind, self.node, orjson.dumps(header), data)
        await self._directory.post(node, [mail])

    async def ask(
        self, node: NodeId, kind: str, header: JsonObject, data: bytes = b"", *, seconds: float
    ) -> Answer:
        """Send a message to a node and wait for its answer.

        Raises:
            BrokerUnavailable: If there is no answer within `seconds`.
        """
        number = next(self._numbers)
        send, receive = trio.open_memory_channel[Answer](1)
        self._asked[number] = send
        try:
            with trio.move_on_after(seconds):
                await self.post(node, kind, {**header, "ask": number}, data)
                return await receive.receive()
        finally:
            del self._asked[number]
        raise BrokerUnavailable(f"node {node} did not answer within {seconds:g} s")

    async def answer(
        self, node: NodeId, asked: JsonObject, header: JsonObject, data: bytes = b""
    ) -> None:
        """Answer a message that came from `ask`.

        Args:
            node: The node that asked.
            asked: The header of the message.
            header: The header of the answer.
            data: The data of the answer.

        Raises:
            BrokerUnavailable: If it could not be sent.
        """
        await self.post(node, ANSWER, {**header, "ask": asked["ask"]}, data)

    async def run(self) -> None:
        """Receive messages until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                for mail in await self._directory.receive():
                    self._receive(mail, nursery)

    def _receive(self, mail: Mail, nursery: trio.Nursery) -> None:
        header: dict[str, Any] = orjson.loads(mail.header)
        now_handler, handler = self._now_handlers.get(mail.kind), self._handlers.get(mail.kind)
        if now_handler is not None:
            try:
                now_handler(mail.sender, header, mail.data)
            except Exception:
                _log.exception("mail_failed", kind=mail.kind)
        elif handler is not None:
            nursery.start_soon(self._run_handler, handler, mail, header)
        else:  # of a node with a newer version
            _log.warning("mail_unknown", kind=mail.kind, sender=mail.sender)

    async def _run_handler(self, handler: Handler, mail: Mail, header: JsonObject) -> None:
        try:
            await handler(mail.sender, header, mail.data)
        except BrokerUnavailable as unavailable:
            _log.info("mail_unanswered", kind=mail.kind, reason=str(unavailable))
        except Exception:
            _log.exception("mail_failed", kind=mail.kind)

    def _on_answer(self, _sender: NodeId, header: JsonObject, data: bytes) -> None:
        asked = self._asked.get(header["ask"])
        if asked is not None:  # otherwise it came too late
            try:
                asked.send_nowait(Answer(header, data))
            except trio.WouldBlock:
                return  # a second answer
