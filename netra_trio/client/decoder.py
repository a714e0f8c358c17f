"""Decodes the frames of one connection into events, for each subprotocol.

    decoder = FrameDecoder(wall_clock)
    hello = Hello.parse(decoder.decode(text))
    event = decoder.decode(frame)

In `netra.v2` a delta is a short array, which names its run by a number of this connection, and the
data of a `binary_result` comes with it in a binary frame. The decoder returns the same events as
for `netra.v1`.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import orjson
from attrs import evolve, frozen

from netra_trio.client.event import BINARY, DELTA, END, Event, InvalidEvent
from netra_trio.client.frames import HELLO
from netra_trio.protocol.binary import BadBinaryFrame, split_binary

_START = "agent_started"
_NAMED, _NUMBERED, _MERGED = 2, 3, 4  # elements of a compact delta


@frozen
class _NumberedRun:
    """A run that compact deltas can name.

    Attributes:
        correlation_id: The key of its message.
    """

    run_id: str
    correlation_id: str | None


class FrameDecoder:
    """Decodes the frames of one connection, in the order in which they came.

    Args:
        wall_clock: Returns Unix seconds. A compact delta has no timestamp: its event has the time
            at which it was decoded, by the clock of the server.
    """

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._ahead = 0.0  # seconds by which the clock of the server is ahead of `wall_clock`
        self._runs: dict[int, _NumberedRun] = {}
        self._named: _NumberedRun | None = None  # the run that an `agent_started` named last

    def decode(self, frame: str | bytes) -> Event:
        """Return the event of the next frame; unknown fields are ignored.

        Args:
            frame: The text of a text frame, or the bytes of a binary one.

        Raises:
            InvalidEvent: It is not a frame of the protocol.
        """
        if isinstance(frame, bytes):
            return _binary_event(frame)
        try:
            value = orjson.loads(frame)
        except orjson.JSONDecodeError:
            raise InvalidEvent("not JSON") from None
        if type(value) is list:
            return self._delta(value)
        event = Event.of(value)
        if event.type == _START:
            self._named = self._number(event.payload, event.correlation_id)
        elif event.type == END:
            self._forget(event.run_id)
        elif event.type == HELLO:
            self._ahead = event.timestamp - self._wall_clock() if event.timestamp else 0.0
            self._number_listed(event.payload)
        return event

    def _delta(self, elements: list[Any]) -> Event:
        """Return the event of a compact delta."""
        if not _NAMED <= len(elements) <= _MERGED:
            _refuse("$", f"a delta of {_NAMED} to {_MERGED} elements")
        seq, content = elements[:_NAMED]
        run, seq_from = self._named, None
        if len(elements) >= _NUMBERED:
            number = elements[_NUMBERED - 1]
            run = self._runs.get(number) if type(number) is int else None
        if len(elements) == _MERGED:
            seq_from = elements[_MERGED - 1]
        if type(seq) is not int or seq < 1:
            _refuse("$[0]", "a number of an event")
        if type(content) is not str:
            _refuse("$[1]", "a text")
        if run is None:
            _refuse("$[2]", "the number of a run")
        if seq_from is not None and (type(seq_from) is not int or not 1 <= seq_from <= seq):
            _refuse("$[3]", "the first number of the event")
        return Event(
            DELTA,
            {"run_id": run.run_id, "content": content},
            seq,
            seq_from,
            self._wall_clock() + self._ahead,
            run.correlation_id,
        )

    def _number_listed(self, payload: dict[str, Any]) -> None:
        """Note the numbers of the runs of the first frame."""
        resume = payload.get("resume")
        listed = resume.get("runs") if isinstance(resume, dict) else None
        for run in listed if isinstance(listed, list) else ():
            if isinstance(run, dict):
                key = run.get("correlation_id")
                self._number(run, key if isinstance(key, str) else None)

    def _number(self, payload: dict[str, Any], correlation_id: str | None) -> _NumberedRun | None:
        """Note the number of a run, and remove it from the payload: only this decoder uses it."""
        number, run_id = payload.pop("run", None), payload.get("run_id")
        if type(number) is not int or not isinstance(run_id, str):
            return None
        run = self._runs[number] = _NumberedRun(run_id, correlation_id)
        return run

    def _forget(self, run_id: str | None) -> None:
        """Forget the number of a run that has ended."""
        if self._named is not None and self._named.run_id == run_id:
            self._named = None
        for number, run in self._runs.items():
            if run.run_id == run_id:
                del self._runs[number]
                return


def _binary_event(frame: bytes) -> Event:
    """Return the event of a binary frame, with its data."""
    try:
        text, data = split_binary(frame)
    except BadBinaryFrame as bad:
        raise InvalidEvent(f"$: {bad}") from None
    event = Event.parse(text)
    if event.type != BINARY:
        raise InvalidEvent(f"$.type: expected {BINARY} in a binary frame")
    if event.payload.get("bytes") != len(data):
        raise InvalidEvent("$.payload.bytes: expected the size of the data")
    return evolve(event, data=data)


def _refuse(path: str, expected: str) -> NoReturn:
    raise InvalidEvent(f"{path}: expected {expected}")
