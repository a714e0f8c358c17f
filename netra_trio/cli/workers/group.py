"""A worker among the others: it reports on itself, and asks for the reports of all.

group = Group(Channel(sock), app.report)
app.group = group
nursery.start_soon(group.run)
body = await group.merged("health")
"""

from collections.abc import Awaitable, Callable, Collection
from typing import Any

import structlog
import trio
from attrs import define, field

from netra_trio.cli.workers.channel import Channel, Message
from netra_trio.endpoints.overview import Topic
from netra_trio.ids import NodeId

ANSWER_SECONDS = 4.0  # for the merged reports; then a worker answers for itself alone

_log = structlog.get_logger(__name__)


@define(eq=False)
class _Question:
    """A question to the supervisor, which any number of requests wait for."""

    answered: trio.Event = field(factory=trio.Event)
    body: Any = None


class Group:
    """The connection of a worker to its supervisor.

    Args:
        channel: The connection.
        report: Returns the report of this process on a topic; None if there is none now.
        owns_broker: Whether the broker ends with the workers.

    Attributes:
        nodes: The nodes of the workers that are ready.
    """

    def __init__(
        self,
        channel: Channel,
        report: Callable[[Topic], Awaitable[Any]],
        *,
        owns_broker: bool = False,
    ) -> None:
        self.owns_broker = owns_broker
        self.nodes: Collection[NodeId] = ()
        self._channel = channel
        self._report = report
        self._questions: dict[Topic, _Question] = {}
        self._is_open = True

    def post(self, message: Message) -> None:
        """Send a message to the supervisor."""
        self._channel.post(message)

    async def run(self) -> None:
        """Answer the supervisor until the connection ends; cancel it to stop."""
        async with trio.open_nursery() as nursery:

            def receive(message: Message) -> None:
                if message["type"] == "merged":
                    self._end_question(message["topic"], message["body"])
                elif message["type"] == "nodes":
                    self.nodes = frozenset(map(NodeId, message["nodes"]))
                else:
                    nursery.start_soon(self._send_report, message["topic"])

            try:
                await self._channel.run(receive)
            finally:
                self._is_open = False
                for topic in list(self._questions):
                    self._end_question(topic, None)

    async def merged(self, topic: Topic) -> Any:
        """Return the merged reports of all workers; None if they do not arrive in time.

        Requests at the same time share one question.
        """
        question = self._questions.get(topic)
        if question is None:
            if not (self._is_open and self._channel.post({"type": "ask", "topic": topic})):
                return None
            question = self._questions[topic] = _Question()
        with trio.move_on_after(ANSWER_SECONDS):
            await question.answered.wait()
        return question.body

    def _end_question(self, topic: Topic, body: Any) -> None:
        question = self._questions.pop(topic, None)
        if question is not None:
            question.body = body
            question.answered.set()

    async def _send_report(self, topic: Topic) -> None:
        try:
            body = await self._report(topic)
        except Exception:
            _log.exception("report_failed", topic=topic)
            body = None
        self.post({"type": "report", "topic": topic, "body": body})
