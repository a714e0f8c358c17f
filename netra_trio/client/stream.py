"""Events that wait for their reader, within bounds: rules, no waiting here.

>>> stream = Stream()
>>> for seq, word in enumerate(("Hel", "lo"), start=1):
...     stream.push(Event("partial_result", {"run_id": "run_1", "content": word}, seq), 100)
>>> stream.pop(0.0).payload["content"]
'Hello'

While nobody reads, neighbouring deltas of a run become one event, and what exceeds the bounds is
dropped at the front and told by a `lagged` event. Once a reader has begun, every event is kept as
it came, and `held_from` says from which number on nothing may be acknowledged: the server's log
fills, and the agent waits.
"""

from collections import deque
from itertools import islice

from attrs import define, evolve, field

from netra_trio.client.event import DELTA, Event

EVENTS = 1000  # beside deltas, while nobody reads; api's figure
TEXT_BYTES = 256 * 1024  # of deltas, likewise
BYTES = 16 * 1024 * 1024  # of all else: a thousand tool results of 256 KiB would be too many
READ_EVENTS = 8192  # with a reader: eight full logs of a server, so a few resumes; memory's bound

_CONTINUES = 0x80  # how a byte of UTF-8 begins that does not begin a character (RFC 3629)


@define(eq=False)
class _Kept:
    event: Event
    size: int  # bytes, those of `text` not counted
    first: int | None
    text: bytearray | None = None  # of merged deltas, in UTF-8


@define(eq=False)
class Stream:
    """A queue of events.

    Attributes:
        dropped: How many events were dropped since the last `lagged`.
        cut: How many bytes of text were cut, likewise.
    """

    dropped: int = 0
    cut: int = 0
    _kept: deque[_Kept] = field(factory=deque)
    _others: int = 0  # of `_kept`, how many are no deltas
    _bytes: int = 0
    _text_bytes: int = 0
    _free: int = 0  # of `_kept`, how many at the front came before the reader began
    _is_read: bool = False

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to pop."""
        return not self._kept and not self._lags

    @property
    def _lags(self) -> bool:
        return bool(self.dropped or self.cut)

    @property
    def held_from(self) -> int | None:
        """The oldest number that a reader who has begun has yet to take."""
        if not self._is_read:
            return None
        held = islice(self._kept, self._free, None)
        return next((kept.first for kept in held if kept.first is not None), None)

    def begin(self) -> None:
        """Begin to read: from now on what comes is held for the reader."""
        self._is_read = True
        self._free = len(self._kept)

    def end(self) -> None:
        """Read no longer: what waits is put together as if nobody had read."""
        self._is_read = False
        waiting, self._kept = self._kept, deque()
        self._others = self._bytes = self._text_bytes = 0
        for kept in waiting:
            self.push(self._whole(kept), kept.size)

    def push(self, event: Event, size: int) -> None:
        """Put in an event that took `size` bytes on the wire."""
        if event.type == DELTA and not self._is_read:
            self._push_delta(event)
        else:
            self._kept.append(_Kept(event, size, event.first))
            self._others += 1
            self._bytes += size
        most = READ_EVENTS if self._is_read else EVENTS
        while self._others > most or (self._bytes > BYTES and self._others > 1):
            self._drop_oldest()
        self._cut_text()

    def pop(self, now: float) -> Event | None:
        """Return the next event; None where there is none.

        Args:
            now: Unix seconds, for what the client itself tells.
        """
        if self._lags:
            payload = {"dropped": self.dropped, "cut_bytes": self.cut}
            self.dropped = self.cut = 0
            return Event("lagged", payload, timestamp=now)
        if not self._kept:
            return None
        kept = self._kept.popleft()
        self._free = max(0, self._free - 1)
        self._forget(kept)
        return self._whole(kept)

    def _push_delta(self, event: Event) -> None:
        text = str(event.payload.get("content", "")).encode()
        self._text_bytes += len(text)
        last = self._kept[-1] if self._kept else None
        if last is None or last.text is None or last.event.run_id != event.run_id:
            self._kept.append(_Kept(event, 0, event.first, bytearray(text)))
        else:
            last.text += text
            last.event = event

    def _drop_oldest(self) -> None:
        """Drop the oldest event that is no delta; the text around it stays, and becomes one."""
        index = next(i for i, kept in enumerate(self._kept) if kept.text is None)
        self._remove(index)
        self.dropped += 1
        if 0 < index < len(self._kept):
            before, after = self._kept[index - 1], self._kept[index]
            same_run = before.event.run_id == after.event.run_id
            if before.text is not None and after.text is not None and same_run:
                text = bytes(before.text)
                self._remove(index - 1)
                after.text[:0] = text
                after.first = before.first
                self._text_bytes += len(text)

    def _cut_text(self) -> None:
        """Cut text at its front until it is within the bounds, in bytes and in pieces."""
        while (
            self._text_bytes > TEXT_BYTES
            # Deltas of runs side by side are no neighbours, so there may be many small pieces.
            or len(self._kept) - self._others > EVENTS + 1
        ):
            excess = self._text_bytes - TEXT_BYTES
            index, text = next(
                (i, kept.text) for i, kept in enumerate(self._kept) if kept.text is not None
            )
            if excess <= 0 or excess >= len(text):
                self.cut += len(text)
                self._remove(index)
                continue
            before = len(text)
            del text[:excess]
            while text[0] & 0xC0 == _CONTINUES:  # the rest of a character that was cut in two
                del text[0]
            self._text_bytes -= before - len(text)
            self.cut += before - len(text)

    def _remove(self, index: int) -> None:
        self._forget(self._kept[index])
        del self._kept[index]
        if index < self._free:
            self._free -= 1

    def _forget(self, kept: _Kept) -> None:
        if kept.text is None:
            self._others -= 1
            self._bytes -= kept.size
        else:
            self._text_bytes -= len(kept.text)

    @staticmethod
    def _whole(kept: _Kept) -> Event:
        if kept.text is None:
            return kept.event
        event = kept.event
        payload = {**event.payload, "content": kept.text.decode()}
        return evolve(
            event, payload=payload, seq_from=kept.first if kept.first != event.seq else None
        )
