"""The compact frames of `netra.v2`: a delta is a short array instead of a JSON object.

    encoder = CompactEncoder()
    encoder.encode_hello(hello, timestamp)
    encoder.encode_event(started)    # {"type":"agent_started","payload":{…,"run":1},…,"seq":2}
    encoder.encode_event(delta)      # [3,"Hel"]

A run has a small number on each connection, which `agent_started` and the runs of the first frame
give to the client. A delta names its run by that number, unless it belongs to the run that an
`agent_started` named last. Every other frame is as in `netra.v1`.
"""

from typing import Any

import orjson
from attrs import evolve

from netra_trio.ids import FileId, RunId
from netra_trio.protocol import codec
from netra_trio.protocol.binary import EVENT_DATA_BYTES, BinaryEvent, join_binary
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.messages import (
    AgentCompleted,
    AgentStarted,
    BinaryResult,
    ConnectionEstablished,
    PartialResult,
)
from netra_trio.values import frozen


@frozen
class DataReference:
    """A binary event that was encoded without its data.

    Attributes:
        frame: The encoded event.
        file_id: The file with the data.
        size: The bytes of the data.
    """

    frame: bytes
    file_id: FileId
    size: int

    def with_data(self, data: bytes) -> bytes:
        """Return the frame of the event with its data."""
        return join_binary(self.frame, data)


class CompactEncoder:
    """Encodes the first frame and the events of one connection, in the order of the frames.

    Attributes:
        references: The encoded binary events whose data is only in the file storage. A caller that
            reads it sends `with_data` in their places, and clears the list.
    """

    __slots__ = ("_last_number", "_named", "_numbers", "references")

    def __init__(self) -> None:
        self.references: list[DataReference] = []
        self._numbers: dict[RunId, int] = {}  # of the runs that have not ended
        self._last_number = 0  # never reused: a late delta cannot be assigned to another run
        self._named: RunId | None = None  # the run that an `agent_started` named last

    def encode_hello(self, message: ConnectionEstablished, timestamp: float) -> bytes:
        """Return the first frame, with the numbers of the runs that it lists.

        Args:
            message: Its message.
            timestamp: Unix seconds.
        """
        resume = message.resume
        runs = tuple({**run, "run": self._number_of(run["run_id"])} for run in resume.runs)
        return codec.encode(evolve(message, resume=evolve(resume, runs=runs)), timestamp)

    def encode_event(self, entry: codec.NumberedEvent) -> bytes:
        """Return the frame of a numbered event."""
        event = entry.event
        if type(event) is PartialResult:
            if event.run_id == self._named and entry.seq_from is None:
                return orjson.dumps((entry.seq, event.content))
            return self._encode_numbered(entry)
        if event.TYPE == AgentStarted.TYPE:
            return self._encode_start(entry)
        if event.TYPE == BinaryResult.TYPE:
            return self._encode_binary(entry)
        if event.TYPE == AgentCompleted.TYPE:
            self._numbers.pop(event.run_id, None)
            if event.run_id == self._named:
                self._named = None
        return codec.encode_event(entry)

    def _encode_numbered(self, entry: codec.NumberedEvent) -> bytes:
        """Return the frame of a delta that needs the number of its run."""
        number = self._numbers.get(entry.event.run_id)
        if number is None:  # neither the first frame nor an `agent_started` named its run
            return codec.encode_event(entry)
        if entry.seq_from is None:
            return orjson.dumps((entry.seq, entry.event.content, number))
        return orjson.dumps((entry.seq, entry.event.content, number, entry.seq_from))

    def _encode_binary(self, entry: codec.NumberedEvent) -> bytes:
        event, frame = entry.event, codec.encode_event(entry)
        if type(event) is BinaryEvent:
            return join_binary(frame, event.data)
        if isinstance(event, codec.Encoded):  # it is from the log of another node
            payload = orjson.loads(event.payload)
            if payload["bytes"] <= EVENT_DATA_BYTES:
                reference = DataReference(frame, FileId(payload["file_id"]), payload["bytes"])
                self.references.append(reference)
        return frame

    def _encode_start(self, entry: codec.NumberedEvent) -> bytes:
        event: Any = entry.event
        payload: JsonObject
        if isinstance(event, codec.Encoded):  # it is from the log of another node
            payload = orjson.loads(event.payload)
        else:
            payload = codec.payload_of(event)
        payload["run"] = self._number_of(event.run_id)
        self._named = event.run_id
        return codec.encode_payload(
            event.TYPE, payload, entry.timestamp, entry.correlation_id, seq=entry.seq
        )

    def _number_of(self, run_id: RunId) -> int:
        """Return the number of a run; a new one if it has none."""
        number = self._numbers.get(run_id)
        if number is None:
            self._last_number = number = self._numbers[run_id] = self._last_number + 1
        return number
