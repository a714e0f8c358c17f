"""A watched thread: its runs at this node are mirrored to its room.

    thread = WatchedThread(node, publisher)
    thread.begin(runs)                      # the live runs
    thread.add(run)                         # a new run
    part = await thread.part()              # for a connection that begins to watch
    thread.end()

A run of another thread has no mirror: none of its events is encoded or kept for a room.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from attrs import evolve
from orjson import Fragment, loads

from netra_trio.agents.output import Mirror
from netra_trio.ids import NodeId, QuestionId, RunId, SessionId
from netra_trio.protocol.binary import AnyEvent
from netra_trio.protocol.codec import payload_of
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import (
    AgentAsking,
    AgentCompleted,
    RunStatus,
    UserMessage,
)
from netra_trio.protocol.text import EVENT_BYTES, TextTail, cut_front, cut_json
from netra_trio.sessions.thread_publisher import ThreadPublisher
from netra_trio.sessions.thread_snapshot import RunPart, ThreadPart
from netra_trio.sessions.transcript import (
    RUNS_BYTES,
    QuestionList,
    StepsList,
    fit_texts,
    shortened,
)
from netra_trio.stores.base import NewMessage

ENDED_RUNS = 8  # of a thread, kept for connections that join again


class WatchedOutput(Protocol):
    """The part of the output of a run that its mirror uses: see `agents.output.Output`."""

    @property
    def newest_text(self) -> TextTail:
        """The end of its text."""
        ...

    @property
    def length(self) -> int:
        """The number of characters of its whole text."""
        ...

    @property
    def steps(self) -> bytes | None:
        """Its steps as JSON; None if there are none."""
        ...


class WatchedRun(Protocol):
    """The part of a live run that its mirror uses.

    Attributes:
        is_confirmed: Whether its message is confirmed; before that it may be refused.
    """

    is_confirmed: bool

    @property
    def message(self) -> NewMessage:
        """Its message."""
        ...

    @property
    def status(self) -> RunStatus:
        """`queued` or `running`."""
        ...

    @property
    def session_id(self) -> SessionId | None:
        """The session whose own log has its events; None if there is none."""
        ...

    @property
    def output(self) -> WatchedOutput:
        """Its text and its steps."""
        ...

    @property
    def open_questions(self) -> Sequence[JsonObject]:
        """Its open questions, as `resume` lists them."""
        ...

    def set_mirror(self, mirror: "RunMirror | None") -> None:
        """Copy its events to a mirror from now on, or to none."""
        ...


class RunMirror(Mirror):
    """Copies the events of one run to the room of its thread.

    Args:
        run: The run.
        thread: Its thread.
    """

    __slots__ = ("_asked", "_publisher", "_run", "_run_id", "_thread")

    def __init__(
        self, run: WatchedRun, thread: "WatchedThread", publisher: ThreadPublisher
    ) -> None:
        self._run = run
        self._run_id = run.message.run_id
        self._thread = thread
        self._publisher = publisher
        self._asked: dict[QuestionId, JsonObject] = {
            each["question_id"]: shortened(each) for each in run.open_questions
        }

    def confirm(self) -> None:
        """Publish the message of the run, because it is confirmed."""
        message = self._run.message
        content, is_cut = cut_json(message.content, EVENT_BYTES)
        payload: JsonObject = {
            "message_id": message.message_id,
            "run_id": message.run_id,
            "user_id": message.user_id,
            "content": Fragment(content),
        }
        if message.replaces is not None:
            payload["replaces"] = message.replaces
        if message.attachments:
            payload["attachments"] = message.attachments
        if is_cut:
            payload["truncated"] = True
        self._publisher.add(UserMessage.TYPE, payload, self._run.session_id)

    def add(self, event: AnyEvent) -> None:
        """Publish an event, without waiting."""
        payload = payload_of(event)
        if type(event) is AgentAsking:
            self._asked[event.question_id] = shortened(payload)
        self._publisher.add(event.TYPE, payload, self._run.session_id)

    def add_delta(self, text: str, size: int) -> None:
        """Publish a delta, without waiting."""
        self._publisher.add_delta(self._run_id, text, size, self._run.session_id)

    def end(self, completed: bytes) -> None:
        """Publish the end of the run.

        Args:
            completed: The payload of its `agent_completed`, as JSON.
        """
        self._thread.keep(self.part())
        payload = Fragment(completed)
        self._publisher.add(AgentCompleted.TYPE, payload, self._run.session_id)

    def detach(self) -> None:
        """Copy no more events: the run has moved, or the thread is not watched."""
        self._run.set_mirror(None)
        self._thread.remove(self._run_id)

    def part(self) -> RunPart:
        """Return the current state of the run."""
        run, output = self._run, self._run.output
        text = output.newest_text
        return RunPart(
            self._run_id,
            run.message.message_id,
            run.message.agent_name,
            run.status,
            text.text,
            text.is_cut,
            run.open_questions,
            tuple(self._asked.values()),
            output.length,
            loads(output.steps or b"[]"),
        )

    @property
    def is_confirmed(self) -> bool:
        """Whether the message of the run is confirmed."""
        return self._run.is_confirmed


class WatchedThread:
    """The runs of one watched thread at this node.

    Args:
        node: This node.
        publisher: Publishes their events to the room of the thread.
    """

    __slots__ = ("_ended", "_mirrors", "_node", "_publisher")

    def __init__(self, node: NodeId, publisher: ThreadPublisher) -> None:
        self._node = node
        self._publisher = publisher
        self._mirrors: dict[RunId, RunMirror] = {}
        self._ended: deque[RunPart] = deque(maxlen=ENDED_RUNS)

    @property
    def publisher(self) -> ThreadPublisher:
        """Publishes the events."""
        return self._publisher

    def begin(self, runs: Iterable[WatchedRun], *, may_miss: bool) -> None:
        """Mirror the live runs from now on.

        Args:
            runs: The runs.
            may_miss: Whether members of the room may miss earlier events, of ended runs.
        """
        self._publisher.reopen()
        self._ended.clear()
        for run in runs:
            self.add(run)
        if may_miss or any(mirror.is_confirmed for mirror in self._mirrors.values()):
            self._publisher.add_missing()

    def add(self, run: WatchedRun) -> None:
        """Mirror a run from now on."""
        run_id = run.message.run_id
        self._mirrors[run_id] = mirror = RunMirror(run, self, self._publisher)
        run.set_mirror(mirror)

    def remove(self, run_id: RunId) -> None:
        """Remove a run that is no longer mirrored."""
        del self._mirrors[run_id]

    def keep(self, ended: RunPart) -> None:
        """Keep an ended run for connections that join again.

        All kept ones have at most 192 KiB of texts and 64 KiB of steps.
        """
        self._ended.append(ended)
        left = RUNS_BYTES
        steps = StepsList()
        for index in range(len(self._ended) - 1, -1, -1):
            run = self._ended[index]
            content = cut_front(run.content, left)
            self._ended[index] = evolve(
                run,
                content=content,
                is_cut=run.is_cut or len(content) < len(run.content),
                steps=steps.fit(run.steps),
            )
            left -= len(content.encode())

    async def part(self, *, with_ended: bool) -> ThreadPart:
        """Return the current runs; waits until all earlier events are published.

        Args:
            with_ended: Whether to include recently ended runs.
        """
        mirrors = [mirror.part() for mirror in self._mirrors.values() if mirror.is_confirmed]
        ended = tuple(self._ended) if with_ended else ()
        place = await self._publisher.flush()
        return ThreadPart(self._node, place.epoch, place.offset, _fit(mirrors), ended)

    def end(self) -> None:
        """Stop mirroring, because the thread is no longer watched."""
        for mirror in list(self._mirrors.values()):
            mirror.detach()
        self._publisher.close()


def _fit(runs: Sequence[RunPart]) -> list[RunPart]:
    """Return runs with texts, questions and steps within the limits of all of them together."""
    texts = [TextTail(RUNS_BYTES, [run.content], is_cut=run.is_cut) for run in runs]
    questions, steps = QuestionList(), StepsList()
    return [
        evolve(
            run,
            content=content,
            is_cut=is_cut,
            questions=questions.fit(run.questions),
            steps=steps.fit(run.steps),
        )
        for run, (content, is_cut) in zip(runs, fit_texts(texts), strict=True)
    ]
