"""What is said on a connection: frames in, frames out, and who waits for which.

    conversation.welcome(Event.parse(first_frame))
    conversation.take(frame)
    frame = conversation.next_frame(now)

Nothing here waits or touches a socket, so a frame is taken in whole before the next one is. What
outlives a connection (the outbox, the runs, the questions) lives here; the connection itself is
`Connection`'s.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import trio
from attrs import define, field

from netra_trio.client.delivery import Delivery
from netra_trio.client.errors import ClientError, MessageRefused, OutboxFull
from netra_trio.client.event import END, Event, NoEvent
from netra_trio.client.journal import Journal
from netra_trio.client.outbox import ENTRIES, ENTRY_BYTES, Entry, Outbox
from netra_trio.client.run import LOST, Feed, Run
from netra_trio.client.stats import Stats
from netra_trio.ids import new_correlation_id
from netra_trio.protocol.codes import BAD_FRAME, ErrorCode

CATCH_UP_SECONDS = 5.0  # for what was in the log; then unconfirmed messages go out all the same
KEY_SECONDS = 24 * 3600.0  # for which a server keeps a key at least; the contract, section 3
HEARTBEAT_MS = 30_000  # until a welcome says; the contract's default
MESSAGE_BYTES = 10_240  # likewise

# What answers the client itself, and says nothing to anybody else.
_PRIVATE = frozenset({"heartbeat", "pong", "thread_history", "auth_ok", "connection_established"})


@define(eq=False)
class Wait:
    """Somebody who waits for an answer."""

    done: trio.Event = field(factory=trio.Event)
    answer: Any = None
    failure: ClientError | None = None

    def settle(self, answer: Any = None, failure: ClientError | None = None) -> None:
        """Give the answer, or say why there is none."""
        self.answer, self.failure = answer, failure
        self.done.set()

    async def result(self) -> Any:
        """Wait for the answer. Cancelling is safe.

        Raises:
            ClientError: There is none.
        """
        await self.done.wait()
        if self.failure is not None:
            raise self.failure
        return self.answer


@define(eq=False)
class Question(Wait):
    """A request that is no message: it is asked again on every new connection.

    Attributes:
        text: The frame.
        run_id: The run that is to be stopped, where that is what is asked for.
    """

    text: str = field(default="", kw_only=True)
    run_id: str | None = field(default=None, kw_only=True)


@define(eq=False)
class _Watched:
    """A confirmed message whose run goes on, and who looks at the run."""

    text: str
    key: str
    confirmed_at: float  # Unix seconds
    runs: list[Run] = field(factory=list)


class Conversation:
    """What the client and the server have to say to each other.

    Args:
        stats: Where it counts.
        journal: The file of the outbox; None where there is none.
        stop: What `Run.stop` calls.
        wall_clock: Returns Unix seconds.

    Attributes:
        bell: Set when there may be something to write.
        token_ends: Set when the server wants a new token.
        token_ended: Whether the token is of no use any more.
        reconnect_after: Seconds that the server wants to be left alone after this connection.
        has_news: Whether this connection brought anything that was not known.
        heartbeat_ms: Milliseconds from one heartbeat of the server to the next.
        limits: The server's limits, as it gave them.
        feed: Where `Client.events` reads.
    """

    def __init__(
        self,
        *,
        stats: Stats,
        journal: Journal | None,
        stop: Callable[[Run], Any],
        wall_clock: Callable[[], float],
    ) -> None:
        self._stats = stats
        self._journal = journal
        self._stop = stop
        self._wall_clock = wall_clock
        self.bell = trio.Event()
        self.token_ends = trio.Event()
        self.token_ended = False
        self.reconnect_after = 0.0
        self.has_news = False
        self.heartbeat_ms = HEARTBEAT_MS
        self.limits: Mapping[str, Any] = {}
        self._delivery = Delivery()
        self._outbox = Outbox()
        self._senders: dict[Entry, Wait] = {}
        self._questions: dict[str, Question] = {}
        self._control: deque[str] = deque()
        self._owes_pong = False
        self._watched: dict[str, _Watched] = {}  # by run id
        self._asking: dict[Entry, tuple[str, _Watched]] = {}
        self._readers: set[Feed] = set()
        self.feed = self._new_feed()
        for entry in journal.entries if journal is not None else []:
            self._outbox.add(entry)

    # For the connection.

    def query(self) -> dict[str, str]:
        """Return what an opening has to say about the session."""
        return self._delivery.query()

    def welcome(self, event: Event) -> None:
        """Take in the first frame of a connection.

        Raises:
            NoEvent: It is no welcome.
        """
        if event.type != "connection_established":
            raise NoEvent(f"the first frame is {event.type}")
        payload = event.payload
        try:
            resume = payload["resume"]
            verdict, last_seq = str(resume["verdict"]), int(resume["last_seq"])
            replayed, heartbeat_ms = int(resume["replayed"]), int(payload["heartbeat_interval"])
            session_id, connection_id = str(payload["session_id"]), str(payload["connection_id"])
            runs = [dict(run) for run in resume["runs"]]
        except (KeyError, TypeError, ValueError):
            raise NoEvent("a welcome without what it has to have") from None
        is_first = self._delivery.session_id is None
        if verdict == "exact":  # then it is the client's own number, whatever is said
            replayed += last_seq - self._delivery.last_seq
            last_seq = self._delivery.last_seq
        self._delivery.begin(session_id, last_seq=last_seq, replayed=max(0, replayed))
        self.heartbeat_ms = heartbeat_ms
        self.limits = {**self.limits, **as_object(payload.get("limits"))}
        self.has_news = self.token_ended = False
        self.reconnect_after = 0.0
        self.token_ends = trio.Event()

        stats = self._stats
        stats.messages_received += 1
        stats.reconnections += 0 if is_first else 1
        stats.last_resume_verdict = verdict
        stats.connected_at = stats.last_activity = self._wall_clock()
        stats.connection_id, stats.session_id = connection_id, session_id

        self._begin_line(replayed)
        self.tell("connected", {"verdict": verdict, "session_id": session_id})
        if verdict == "gap":
            self._mend_gap(last_seq, runs)
        elif verdict != "exact" and not is_first:
            self._start_over(str(resume.get("reason", "")))
        self.ring()

    def take(self, text: str) -> None:
        """Take in a frame.

        Raises:
            NoEvent: It is none of this contract.
        """
        self._stats.messages_received += 1
        self._stats.last_activity = self._wall_clock()
        event = Event.parse(text)
        if event.seq is not None and event.first is not None:
            self._take_numbered(event, event.first, event.seq, len(text))
        else:
            self._take_control(event, len(text))
        self.ring()

    def next_frame(self, now: float) -> str | None:
        """Return what to write now, None where there is nothing: control, then messages."""
        if self._owes_pong:
            self._owes_pong = False
            return frame_of("pong", {})
        if self._control:
            return self._control.popleft()
        seq = self._delivery.ack(now, self._held_from)
        if seq is not None:
            return frame_of("ack", {"seq": seq})
        entry = self._outbox.next(now)
        if entry is None:
            return None
        self._stats.messages_sent += 1
        return entry.text

    def next_at(self) -> float:
        """Return when there is something to write again, if nothing happens before."""
        return min(self._delivery.ack_at(self._held_from), self._outbox.next_at())

    def authenticate(self, token: str) -> None:
        """Send a new token."""
        self._control.append(frame_of("auth", {"token": token}, new_correlation_id()))
        self.ring()

    def tell(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Tell the readers of all events about something that the client itself knows."""
        self.feed.push(Event(kind, dict(payload), timestamp=self._wall_clock()))

    def ring(self) -> None:
        """Say that there may be something to write."""
        self.bell.set()

    # For the client.

    def __len__(self) -> int:
        return len(self._outbox)

    def entry_of(self, kind: str, payload: Mapping[str, Any], key: str) -> Entry:
        """Make a message.

        Raises:
            MessageRefused: It is larger than the server takes.
        """
        entry = Entry(key, frame_of(kind, payload, key))
        if entry.size > self._max_bytes:
            raise self._too_large(entry)
        return entry

    def check_room(self, entry: Entry) -> None:
        """Look whether one more message may wait.

        Raises:
            OutboxFull: It may not.
        """
        waiting, running = len(self._outbox), len(self._watched)
        size = self._outbox.size + sum(len(each.text) for each in self._watched.values())
        if waiting + running >= ENTRIES or size + entry.size > ENTRY_BYTES:
            raise OutboxFull(
                f"{waiting} messages are not confirmed and {running} runs go on: wait for one"
            )

    def post(self, entry: Entry) -> Wait:
        """Send a message, in its turn; the answer is its `Run`."""
        self._outbox.add(entry)
        self._senders[entry] = Wait()
        self.ring()
        return self._senders[entry]

    def abandon(self, entry: Entry) -> None:
        """Nobody waits for the answer any more: a message that is not written yet is not sent."""
        self._senders.pop(entry, None)
        if not entry.is_written:
            self._outbox.withdraw(entry)
            self._forget(entry)

    def ask(self, kind: str, payload: Mapping[str, Any], *, run_id: str | None = None) -> Question:
        """Ask a question; the answer is an `Event`, or None where the run has ended."""
        key = new_correlation_id()
        question = Question(text=frame_of(kind, payload, key), run_id=run_id)
        self._questions[key] = question
        self._control.append(question.text)
        self.ring()
        return question

    def withdraw(self, question: Question) -> None:
        """Ask no more; nothing where it is answered."""
        for key, asked in list(self._questions.items()):
            if asked is question:
                del self._questions[key]

    def fail(self, failure: ClientError | None, to_runs: ClientError) -> None:
        """Tell everybody who waits that nothing more comes.

        Args:
            failure: What readers of all events get; None for a plain end.
            to_runs: What everybody else gets.
        """
        waits = [*self._senders.values(), *self._questions.values()]
        self._senders.clear()
        self._questions.clear()
        for wait in waits:
            wait.settle(failure=to_runs)
        self.feed.finish(failure)
        for watched in self._watched.values():
            for run in watched.runs:
                run.feed.finish(to_runs)

    def revive(self) -> None:
        """Go on after a failure."""
        self.feed.resume()
        for watched in self._watched.values():
            for run in watched.runs:
                run.feed.resume()

    # What a welcome says.

    def _begin_line(self, replayed: int) -> None:
        """Begin on a new connection: what is not answered is said again."""
        self._outbox.new_line()
        if replayed:
            # What is not confirmed may be confirmed in what was lost on the way.
            self._outbox.rest(trio.current_time() + CATCH_UP_SECONDS)
        for entry in self._outbox.beyond(self._max_bytes):  # it may be another server's limit
            self._give_up_on(entry, self._too_large(entry))
        self._control.clear()
        self._control.extend(question.text for question in self._questions.values())
        self._owes_pong = False

    def _mend_gap(self, last_seq: int, listed: list[dict[str, Any]]) -> None:
        """Tell what the server still knows of each run, as some events are gone."""
        self.tell("gap", {"last_seq": last_seq, "runs": listed})
        known = {run.get("run_id"): run for run in listed}
        for run_id, watched in list(self._watched.items()):
            state = known.get(run_id)
            if state is None:  # it ended in the gap
                self._tell_runs(watched, "gap", {"run_id": run_id})
                self._ask_for_end(run_id, watched)
            else:
                self._tell_runs(watched, "gap", state)

    def _start_over(self, reason: str) -> None:
        """Tell that the session is gone, and look for the ends of its runs."""
        self.tell("reset", {"reason": reason})
        for run_id, watched in list(self._watched.items()):
            self._tell_runs(watched, "reset", {"run_id": run_id, "reason": reason})
            self._ask_for_end(run_id, watched)

    def _ask_for_end(self, run_id: str, watched: _Watched) -> None:
        """Send a confirmed message again: as its key is known, its run's end comes in return.

        The key is kept for a day at least; later the same message could start a second run.
        """
        if self._wall_clock() - watched.confirmed_at > KEY_SECONDS:
            self._lose(run_id, watched, "the server may have forgotten its key by now")
        elif all(asked is not watched for _, asked in self._asking.values()):
            entry = Entry(watched.key, watched.text, asks=True)
            self._asking[entry] = (run_id, watched)
            self._outbox.ask(entry)

    def _lose(self, run_id: str, watched: _Watched, reason: str) -> None:
        if self._watched.pop(run_id, None) is not None:
            payload = {"run_id": run_id, "reason": reason}
            self._tell_runs(watched, LOST, payload)
            self.tell(LOST, payload)
            self._settle_stops(run_id)

    def _tell_runs(self, watched: _Watched, kind: str, payload: dict[str, Any]) -> None:
        event = Event(kind, payload, timestamp=self._wall_clock(), correlation_id=watched.key)
        for run in watched.runs:
            run.push(event, len(str(payload.get("content", ""))))

    # What comes in.

    def _take_numbered(self, event: Event, first: int, seq: int, size: int) -> None:
        taken = self._delivery.take(first, seq)
        if taken.missing is not None:
            low, high = taken.missing
            self.tell("gap", {"from": low, "to": high})
        if taken.is_new:
            self.has_news = True
            self.feed.push(event, size)
            if event.type == "message_confirmed":
                self._confirmed(event)
            elif event.run_id in self._watched:
                self._happened(event, event.run_id, size)
        if self._delivery.caught_up():
            self._outbox.wake()

    def _happened(self, event: Event, run_id: str, size: int) -> None:
        """Give an event to those who look at its run."""
        watched = self._watched[run_id]
        for run in watched.runs:
            run.push(event, size)
        if event.type == END:
            del self._watched[run_id]
            self._settle_stops(run_id)
            for entry, (_, asked) in list(self._asking.items()):
                if asked is watched:  # it is known before it was asked for
                    del self._asking[entry]
                    self._outbox.withdraw(entry)

    def _confirmed(self, event: Event) -> None:
        """Turn a confirmed message into a run."""
        if (
            event.run_id is None
            or not {"message_id", "thread_id", "status"} <= event.payload.keys()
        ):
            raise NoEvent("a confirmation without what it has to have")
        entry = self._outbox.confirm(event.correlation_id)
        if entry is None:
            return
        if entry.asks:
            self._answered(entry, event.run_id)
            return
        self._forget(entry)
        wait = self._senders.pop(entry, None)
        if wait is not None:
            run = Run(event, self._new_feed(), self._stop)
            watched = self._watched.setdefault(
                event.run_id, _Watched(entry.text, entry.key, self._wall_clock())
            )
            watched.runs.append(run)
            wait.settle(run)

    def _answered(self, entry: Entry, run_id: str) -> None:
        """Heed the confirmation of a message that was confirmed before."""
        known_as, watched = self._asking.pop(entry)
        if run_id != known_as:
            # The server has forgotten the key, and begun anew. What an agent does is not to be
            # done twice, so that run is stopped as soon as it is known.
            self._control.append(frame_of("stop_agent", {"run_id": run_id}, new_correlation_id()))
            self._lose(known_as, watched, "the server has forgotten the message")

    def _take_control(self, event: Event, size: int) -> None:
        question = self._questions.pop(event.correlation_id or "", None)
        if event.type == "error":
            self._stats.errors_encountered += 1
            self._refused(event, question)
        elif question is not None:
            question.settle(event)
        elif event.type == "heartbeat":
            self._owes_pong = True
        elif event.type == "auth_expiring":
            self.token_ends.set()
        elif event.type == "server_draining":
            # It takes no messages any more: they are for the next connection.
            wait = event.payload.get("reconnect_after_ms")
            self.reconnect_after = max(0, wait) / 1000 if type(wait) is int else 0.0
            self._outbox.rest(math.inf)
        if event.type not in _PRIVATE:
            self.feed.push(event, size)

    def _refused(self, event: Event, question: Question | None) -> None:
        code = str(event.payload.get("code"))
        wait = event.payload.get("retry_after_ms")
        retry_after_ms = wait if type(wait) is int else None
        if question is not None:
            # A run that has ended, or never was, is as stopped as can be.
            is_done = question.run_id is not None and code == ErrorCode.RUN_NOT_FOUND
            question.settle(event, None if is_done else _refusal(event, code, retry_after_ms))
            return
        self.token_ended = self.token_ended or code == ErrorCode.TOKEN_EXPIRED
        key, on_its_way = event.correlation_id, self._outbox.on_its_way
        if key is None and on_its_way is not None and code in BAD_FRAME:
            key = on_its_way.key  # nothing else that this client writes can be a bad frame
        entry = self._outbox.refuse(key, code, retry_after_ms, trio.current_time())
        if entry is not None:
            self._give_up_on(entry, _refusal(event, code, retry_after_ms))

    def _give_up_on(self, entry: Entry, refusal: MessageRefused) -> None:
        """Tell who sent a message that it is refused, or who waits for the end of its run."""
        self._forget(entry)
        asked = self._asking.pop(entry, None)
        if asked is not None:
            self._lose(*asked, "the server did not say how it ended")
        wait = self._senders.pop(entry, None)
        if wait is not None:
            wait.settle(failure=refusal)

    def _settle_stops(self, run_id: str) -> None:
        for key, question in list(self._questions.items()):
            if question.run_id == run_id:
                del self._questions[key]
                question.settle()

    # Odds and ends.

    @property
    def _held_from(self) -> int | None:
        """The oldest number that a reader has yet to take."""
        held = (feed.stream.held_from for feed in self._readers)
        return min((first for first in held if first is not None), default=None)

    def _new_feed(self) -> Feed:
        return Feed(self._readers, self._wall_clock, self.ring)

    @property
    def _max_bytes(self) -> int:
        limit = self.limits.get("max_message_size")
        return limit if type(limit) is int else MESSAGE_BYTES

    def _too_large(self, entry: Entry) -> MessageRefused:
        return MessageRefused(
            ErrorCode.MESSAGE_TOO_LARGE,
            f"Expected a frame of at most {self._max_bytes} bytes, got {entry.size}.",
            "Send a shorter message.",
            correlation_id=entry.key,
        )

    def _forget(self, entry: Entry) -> None:
        if self._journal is not None:
            self._journal.remove(entry)


def frame_of(kind: str, payload: Mapping[str, Any], key: str | None = None) -> str:
    """Return a frame; what is None is left out of the payload."""
    frame: dict[str, Any] = {"type": kind}
    frame["payload"] = {name: value for name, value in payload.items() if value is not None}
    if key is not None:
        frame["correlation_id"] = key
    return orjson.dumps(frame).decode()


def as_object(value: Any) -> Mapping[str, Any]:
    """Return a JSON object, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def _refusal(event: Event, code: str, retry_after_ms: int | None) -> MessageRefused:
    return MessageRefused(
        code,
        str(event.payload.get("error", "")),
        str(event.payload.get("help", "")),
        retry_after_ms=retry_after_ms,
        correlation_id=event.correlation_id,
    )
