"""The copy of a session's log in the directory: how its batches are encoded and decoded.

    data = encode(entries)                              # a batch of new entries
    data = encode(entries, Base(last=7, runs=[...]))    # a batch that replaces all earlier ones
    copy = decode([data, ...])                          # on the node that takes the session over

A batch is JSON. An entry is an array; most are deltas of the same run as the delta before, and have
three elements only.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from attrs import frozen

from netra_trio.ids import RunId
from netra_trio.protocol.codec import Encoded, payload_of
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import PartialResult
from netra_trio.sessions.event_log import Entry

_SHORT = 3  # elements of a delta of the same run as the delta before


@frozen
class Base:
    """The other parts of a batch that replaces all earlier ones, besides the entries of the log.

    Attributes:
        last: The largest number of all events.
        runs: The transcript, see `Transcript.dump`.
    """

    last: int
    runs: Sequence[JsonObject]


@frozen
class LogCopy:
    """The log of a session, as its owner has copied it.

    Attributes:
        base: What the first batch had.
        entries: All entries, oldest first; every event but a delta is an `Encoded`.
    """

    base: Base
    entries: Sequence[Entry]

    @property
    def last(self) -> int:
        """The largest number of all events."""
        return self.entries[-1].seq if self.entries else self.base.last


def encode(entries: Iterable[Entry], base: Base | None = None) -> bytes:
    """Return a batch."""
    encoded: list[list[Any]] = []
    run_id = correlation_id = None
    for entry in entries:
        event = entry.event
        if type(event) is PartialResult and entry.seq_from is None:
            if event.run_id == run_id and entry.correlation_id == correlation_id:
                encoded.append([entry.seq, entry.timestamp, event.content])
                continue
            run_id, correlation_id = event.run_id, entry.correlation_id
        encoded.append(
            [
                entry.seq,
                entry.timestamp,
                event.content if type(event) is PartialResult else payload_of(event),
                event.TYPE,
                event.run_id,
                entry.correlation_id,
                entry.seq_from,
                entry.size,
                entry.reserved,
            ]
        )
    batch: dict[str, Any] = {"entries": encoded}
    if base is not None:
        batch["base"] = {"last": base.last, "runs": base.runs}
    return orjson.dumps(batch)


def decode(batches: Iterable[bytes]) -> LogCopy:
    """Return the copy of a log.

    Args:
        batches: All batches of the log, oldest first. The first one replaced all earlier ones.
    """
    base = Base(0, ())
    entries: list[Entry] = []
    for data in batches:
        batch = orjson.loads(data)
        if "base" in batch:
            base = Base(batch["base"]["last"], batch["base"]["runs"])
            entries.clear()
        entries += _decoded(batch["entries"])
    return LogCopy(base, entries)


def _decoded(listed: Sequence[list[Any]]) -> Iterable[Entry]:
    run_id = correlation_id = None
    for values in listed:
        seq, timestamp, content = values[:_SHORT]
        if len(values) == _SHORT:
            assert run_id is not None  # noqa: S101 - a short entry follows a long one
            size = len(content.encode())
            delta = PartialResult(run_id, content)
            yield Entry(seq, delta, size, False, timestamp, correlation_id)
            continue
        kind, its_run, its_correlation_id, seq_from, size, reserved = values[_SHORT:]
        event: PartialResult | Encoded
        if kind == PartialResult.TYPE:
            event = PartialResult(RunId(its_run), content)
            if seq_from is None:
                run_id, correlation_id = RunId(its_run), its_correlation_id
        else:
            event = Encoded(kind, RunId(its_run), orjson.dumps(content))
        yield Entry(seq, event, size, reserved, timestamp, its_correlation_id, seq_from)
