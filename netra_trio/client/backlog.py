"""Events that no task reads at present: merged and bounded; no waiting in here.

>>> backlog = Backlog()
>>> for seq, word in enumerate(("Hel", "lo"), start=1):
...     backlog.push(Event("partial_result", {"run_id": "run_1", "content": word}, seq), 100)
>>> backlog.pop().payload["content"]
'Hello'

Neighbouring deltas of a run become one event. Beyond the bounds the oldest events are dropped and
the oldest text is cut; both are counted.
"""

from collections import deque

from attrs import define, evolve, field

from netra_trio.client.event import DELTA, Event

EVENTS = 1000  # besides deltas (docs/client.md, Bounds)
TEXT_BYTES = 256 * 1024  # of deltas (docs/client.md, Bounds)
BYTES = 16 * 1024 * 1024  # of all other events: a thousand tool results of 256 KiB are too much

_CONTINUATION = 0x80  # the two top bits of a byte of UTF-8 that does not begin a character


@define(eq=False)
class _Item:
    event: Event
    size: int  # bytes, without those of `text`
    first: Event  # of merged ones
    text: bytearray | None = None  # of merged deltas, in UTF-8

    def whole(self) -> Event:
        """Return the event with all of its text."""
        if self.text is None:
            return self.event
        event, seq, offset = self.event, self.first.first, self.first.first_offset
        return evolve(
            event,
            payload={**event.payload, "content": self.text.decode()},
            seq_from=seq if seq != event.seq else None,
            offset_from=offset if offset != event.offset else None,
        )


@define(eq=False)
class Backlog:
    """A bounded sequence of events, with merged deltas.

    Attributes:
        dropped: How many events were dropped.
        cut: How many bytes of text were cut.
        others: How many of the events are not deltas.
        size: The bytes of the events that are not deltas.
    """

    dropped: int = 0
    cut: int = 0
    others: int = 0
    size: int = 0
    _items: deque[_Item] = field(factory=deque)
    _text_bytes: int = 0

    def __len__(self) -> int:
        return len(self._items)

    def push(self, event: Event, size: int) -> None:
        """Append an event that took `size` bytes on the wire."""
        if event.type == DELTA:
            self._push_delta(event)
        else:
            self._items.append(_Item(event, size, event))
            self.others += 1
            self.size += size
        while self.others > EVENTS or (self.size > BYTES and self.others > 1):
            self.drop_oldest()
        self._cut_text()

    def pop(self) -> Event | None:
        """Return the oldest event; None if there is none."""
        if not self._items:
            return None
        item = self._items.popleft()
        self._uncount(item)
        return item.whole()

    def drop_oldest(self) -> None:
        """Drop the oldest event that is not a delta; the text on both sides of it is merged."""
        index = next(i for i, item in enumerate(self._items) if item.text is None)
        self._remove(index)
        self.dropped += 1
        if 0 < index < len(self._items):
            before, after = self._items[index - 1], self._items[index]
            same_run = before.event.run_id == after.event.run_id
            if before.text is not None and after.text is not None and same_run:
                text = bytes(before.text)
                self._remove(index - 1)
                after.text[:0] = text
                after.first = before.first
                self._text_bytes += len(text)

    def _push_delta(self, event: Event) -> None:
        text = str(event.payload.get("content", "")).encode()
        self._text_bytes += len(text)
        last = self._items[-1] if self._items else None
        if last is None or last.text is None or last.event.run_id != event.run_id:
            self._items.append(_Item(event, 0, event, bytearray(text)))
        else:
            last.text += text
            last.event = event

    def _cut_text(self) -> None:
        """Cut the oldest text until bytes and pieces are within the bounds."""
        while (
            self._text_bytes > TEXT_BYTES
            # Deltas of concurrent runs are not neighbours, so there may be many small pieces.
            or len(self._items) - self.others > EVENTS + 1
        ):
            excess = self._text_bytes - TEXT_BYTES
            index, text = next(
                (i, item.text) for i, item in enumerate(self._items) if item.text is not None
            )
            if excess <= 0 or excess >= len(text):
                self.cut += len(text)
                self._remove(index)
                continue
            before = len(text)
            del text[:excess]
            while text[0] & 0xC0 == _CONTINUATION:  # the rest of a character that was cut in two
                del text[0]
            self._text_bytes -= before - len(text)
            self.cut += before - len(text)

    def _remove(self, index: int) -> None:
        self._uncount(self._items[index])
        del self._items[index]

    def _uncount(self, item: _Item) -> None:
        if item.text is None:
            self.others -= 1
            self.size -= item.size
        else:
            self._text_bytes -= len(item.text)
