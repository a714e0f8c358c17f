"""The reports of all workers, merged by the supervisor for the worker that was asked.

gathering = Gathering(nursery, expected=4)
gathering.add(1, channel)
gathering.receive(1, {"type": "ask", "topic": "health"})     # posts the merged reports to 1
"""

from collections.abc import Mapping
from typing import Any

import structlog
import trio
from attrs import define, field

from netra_trio.cli.workers.channel import Channel, Message
from netra_trio.endpoints.overview import Topic, merged_health
from netra_trio.telemetry.snapshot import Snapshot, Values, merge

OTHERS_SECONDS = 1.0  # for the other workers, after the first one has answered
FIRST_SECONDS = 3.0  # for the first one: a database that does not answer takes 2 s of a check

_log = structlog.get_logger(__name__)


@define(eq=False)
class _Worker:
    """A worker that is ready.

    Attributes:
        channel: The connection to it.
        owed: The topics that it was asked for and has not reported on.
        metrics: Its last report on its metrics.
    """

    channel: Channel
    owed: set[Topic] = field(factory=set)
    metrics: Snapshot | None = None


@define(eq=False)
class _Round:
    """One question to all workers.

    Attributes:
        waiting: The workers whose report is waited for.
        silent: Those that have none, or did not answer in time.
        bodies: The reports of the others.
        askers: The workers that get the result.
    """

    waiting: set[int]
    silent: set[int] = field(factory=set)
    bodies: dict[int, Any] = field(factory=dict)
    askers: set[int] = field(factory=set)
    _patience: trio.CancelScope = field(factory=trio.CancelScope)
    _is_complete: trio.Event = field(factory=trio.Event)

    async def wait(self) -> None:
        """Wait until all have answered, or the time is over."""
        self._patience.deadline = min(self._patience.deadline, trio.current_time() + FIRST_SECONDS)
        with self._patience:
            await self._is_complete.wait()
        self.silent |= self.waiting

    def note(self, number: int, body: Any) -> None:
        """Note a report; None is the answer of a worker that has none."""
        if number not in self.waiting:
            return
        if body is None:
            self.silent.add(number)
        else:
            self.bodies[number] = body
            by = trio.current_time() + OTHERS_SECONDS
            self._patience.deadline = min(self._patience.deadline, by)
        self._remove(number)

    def leave_out(self, number: int) -> Any:
        """Leave out a worker that has ended; return its report, if it has answered before."""
        self.silent.discard(number)
        self._remove(number)
        return self.bodies.pop(number, None)

    def _remove(self, number: int) -> None:
        self.waiting.discard(number)
        if not self.waiting:
            self._is_complete.set()


class Gathering:
    """Asks the workers for reports, and merges these.

    Args:
        nursery: Its tasks run here.
        expected: The number of workers.
    """

    def __init__(self, nursery: trio.Nursery, expected: int) -> None:
        self._nursery = nursery
        self._expected = expected
        self._workers: dict[int, _Worker] = {}
        self._rounds: dict[Topic, _Round] = {}
        self._ended = Snapshot({})  # the counters of workers that have ended

    def add(self, number: int, channel: Channel) -> None:
        """Add a worker that is ready."""
        self._workers[number] = _Worker(channel)

    def remove(self, number: int) -> None:
        """Remove a worker that has ended, if it was ready; its counters stay in the sums."""
        worker = self._workers.pop(number, None)
        if worker is None:
            return
        for topic, asked in self._rounds.items():
            body = asked.leave_out(number)
            if topic == "metrics" and body is not None:
                worker.metrics = Snapshot.of_json(body)
        if worker.metrics is not None:
            self._ended = merge([], [self._ended, worker.metrics])

    def receive(self, number: int, message: Message) -> None:
        """Process a question (`ask`) or a report of a worker."""
        topic: Topic = message["topic"]
        if message["type"] == "ask":
            self._join(number, topic)
        elif (worker := self._workers.get(number)) is not None:
            worker.owed.discard(topic)
            if topic in self._rounds:
                self._rounds[topic].note(number, message["body"])

    def _join(self, number: int, topic: Topic) -> None:
        """Add an asker to the round of a topic, which begins with the first asker."""
        asked = self._rounds.get(topic)
        if asked is None:
            asked = self._rounds[topic] = _Round(set(self._workers))
            for other, worker in self._workers.items():
                if topic in worker.owed:
                    continue  # its answer to an earlier question is still to come
                worker.owed.add(topic)
                if not worker.channel.post({"type": "report", "topic": topic}):
                    asked.note(other, None)
            self._nursery.start_soon(self._answer, topic, asked)
        asked.askers.add(number)

    async def _answer(self, topic: Topic, asked: _Round) -> None:
        await asked.wait()
        del self._rounds[topic]
        try:
            body = self._merged(topic, asked)
        except Exception:
            _log.exception("merge_failed", topic=topic)
            body = None
        message = {"type": "merged", "topic": topic, "body": body}
        for number in asked.askers & set(self._workers):
            self._workers[number].channel.post(message)

    def _merged(self, topic: Topic, asked: _Round) -> Any:
        if not asked.bodies:
            return None
        if topic == "health":
            return merged_health(list(asked.bodies.values()), self._expected)
        return self._merged_metrics(asked.bodies, silent=len(asked.silent))

    def _merged_metrics(self, bodies: Mapping[int, Any], *, silent: int) -> Any:
        live = {number: Snapshot.of_json(body) for number, body in bodies.items()}
        ended = [self._ended]
        for number, worker in self._workers.items():
            if number in live:
                worker.metrics = live[number]
            elif worker.metrics is not None:
                ended.append(worker.metrics)
        starting = self._expected - len(self._workers)
        own: Values = {("starting",): starting, ("silent",): silent}
        return merge([*live.values(), Snapshot({"netra_workers": own})], ended).to_json()
