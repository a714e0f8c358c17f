"""What a client that comes back is told of runs whose end it does not know.

    >>> from netra_trio.ids import CorrelationId, RunId, ThreadId
    >>> transcript = Transcript()
    >>> transcript.begin(RunId("r1"), ThreadId("main"), CorrelationId("c1"))
    >>> [run["status"].value for run in transcript.runs()]
    ['queued']

The text of a run up to a number is what was emitted and has left the log before it, so this keeps
the text that leaves. A run leaves when its end does.
"""

from collections.abc import Iterable
from typing import Any

from attrs import define, field

from netra_trio.ids import CorrelationId, RunId, ThreadId
from netra_trio.protocol.messages import AgentCompleted, JsonObject, PartialResult, RunStatus
from netra_trio.protocol.text import cut_front
from netra_trio.sessions.event_log import Entry

RUNS_BYTES = 192 * 1024  # of all texts together, the contract's bound, section 4
_SLACK = 64 * 1024  # that a text may be longer than it is ever shown, before it is cut


@define(eq=False)
class _Told:
    """What was told of one run, as far as it has left the log."""

    thread_id: ThreadId
    correlation_id: CorrelationId
    status: RunStatus = RunStatus.QUEUED
    chunks: list[str] = field(factory=list)
    size: int = 0
    is_cut: bool = False

    def add(self, text: str, size: int) -> None:
        self.chunks.append(text)
        self.size += size
        if self.size > RUNS_BYTES + _SLACK:
            kept = cut_front("".join(self.chunks), RUNS_BYTES)
            self.chunks, self.is_cut = [kept], True
            self.size = len(kept.encode())


class Transcript:
    """The runs of a session whose end a client may not know."""

    __slots__ = ("_told",)

    def __init__(self) -> None:
        self._told: dict[RunId, _Told] = {}

    def begin(self, run_id: RunId, thread_id: ThreadId, correlation_id: CorrelationId) -> None:
        """Add a run, which waits."""
        self._told[run_id] = _Told(thread_id, correlation_id)

    def note(self, run_id: RunId, status: RunStatus) -> None:
        """Note what has become of a run."""
        if run_id in self._told:
            self._told[run_id].status = status

    def drop(self, run_id: RunId) -> None:
        """Forget a run that came to nothing."""
        self._told.pop(run_id, None)

    def forget(self, entries: Iterable[Entry]) -> None:
        """Take in what has left the log."""
        run_id, told = None, None
        for entry in entries:
            event = entry.event
            if type(event) is PartialResult:
                if event.run_id != run_id:
                    run_id, told = event.run_id, self._told.get(event.run_id)
                if told is not None:
                    told.add(event.content, entry.size)
            elif event.TYPE == AgentCompleted.TYPE:
                self._told.pop(event.run_id, None)

    def runs(self) -> tuple[JsonObject, ...]:
        """Return the runs as a welcome lists them, within the bound."""
        texts = {run_id: "".join(told.chunks) for run_id, told in self._told.items()}
        limit = _fair_limit([len(text.encode()) for text in texts.values()])
        listed = []
        for run_id, told in self._told.items():
            content = cut_front(texts[run_id], limit)
            run: dict[str, Any] = {
                "run_id": run_id,
                "thread_id": told.thread_id,
                "correlation_id": told.correlation_id,
                "status": told.status,
                "content": content,
            }
            if told.is_cut or len(content) < len(texts[run_id]):
                run["truncated"] = True
            listed.append(run)
        return tuple(listed)


def _fair_limit(sizes: list[int]) -> int:
    """Return what each text may have at most, so that all together keep to the bound."""
    left = RUNS_BYTES
    for count, size in zip(range(len(sizes), 0, -1), sorted(sizes), strict=True):
        if size * count > left:
            return left // count
        left -= size
    return RUNS_BYTES
