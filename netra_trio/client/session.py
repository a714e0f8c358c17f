"""The client's half of a session: frames in, frames out, over one connection after the other.

    session.begin(Hello.parse(first_event))
    session.receive(event, size)
    frame = session.next_frame(now)

Nothing here waits or touches a socket, so each frame is handled completely before the next one.
The state that outlives a connection (the outbox, the runs, the requests) is kept here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakSet

import trio
from attrs import define, field

from netra_trio.client.errors import ClientError, MessageRefused, OutboxFull
from netra_trio.client.event import ANSWERED, Event, InvalidEvent
from netra_trio.client.feed import Feed
from netra_trio.client.frames import HELLO, Hello, frame_of, message_of
from netra_trio.client.memberships import ROOM_FRAMES, Memberships
from netra_trio.client.messages import Messages, check_key
from netra_trio.client.notifier import Notifier
from netra_trio.client.outbox import MESSAGE_BYTES, MESSAGES, Outbox, OutboxMessage
from netra_trio.client.outbox_file import OutboxFile
from netra_trio.client.refusals import refusal_of
from netra_trio.client.requests import Request, Requests
from netra_trio.client.run import Run
from netra_trio.client.runs import Runs
from netra_trio.client.sequence import SequenceTracker
from netra_trio.client.stats import Stats
from netra_trio.ids import new_correlation_id
from netra_trio.protocol.codes import BAD_FRAME, ErrorCode

HELD_EVENTS = 8192  # eight full logs of a server, which sends no more without an acknowledgement
HELD_BYTES = 16 * 1024 * 1024  # likewise sixteen of them
REPLAY_SECONDS = 5.0  # wait for the replay before unconfirmed messages are sent all the same
PROBE = "netra-probe"  # the correlation id of a ping of the client itself
HEARTBEAT_MS = 30_000  # until a server says more (docs/protocol.md)

# Frames that the client answers itself, and does not deliver as events.
_INTERNAL = frozenset(
    {
        *("heartbeat", "pong", "auth_ok", HELLO),
        *("thread_history", "thread_list", "room_confirmed", "presence"),
    }
)


@define
class ConnectionState:
    """The state of a session's present connection, or of the last one.

    Attributes:
        heartbeat_ms: Milliseconds between two heartbeats of the server.
        made_progress: Whether a new event was received.
        token_ended: Whether the server said that the token has expired.
        token_seconds: Seconds that the token lasts, by the last warning of the server.
        draining: Set when the server said that it is about to close the connection.
        asked_at: When the first frame was written that needs an answer, and that nothing was
            received after, on Trio's clock; None if there is none.
        unheard: Bytes that were written since something was received.
        reconnect_at: When the server wants the next connection of an idle client at the earliest,
            on Trio's clock.
        is_urgent: Set when a message waits that the draining server does not accept.
    """

    heartbeat_ms: int = HEARTBEAT_MS
    made_progress: bool = False
    token_ended: bool = False
    token_seconds: float = math.inf
    draining: trio.Event = field(factory=trio.Event)
    asked_at: float | None = None
    unheard: int = 0
    reconnect_at: float = -math.inf
    is_urgent: trio.Event = field(factory=trio.Event)

    def reconnect_after(self, now: float) -> float:
        """Return how many seconds the server wants to pass before the next connection."""
        return max(0.0, self.reconnect_at - now)


class _Held:
    """Numbered events that came on a connection while another one was being opened."""

    def __init__(self) -> None:
        self.events: list[tuple[Event, int]] = []
        self._size = 0

    def append(self, event: Event, size: int) -> None:
        self.events.append((event, size))
        self._size += size
        if len(self.events) > HELD_EVENTS or self._size > HELD_BYTES:
            raise InvalidEvent("events beyond every log, without an acknowledgement")


class ClientSession:
    """Handles the frames of a session.

    Args:
        stats: Counters.
        file: The file of the outbox; None if there is none.
        stop: Called by `Run.stop`.
        wall_clock: Returns Unix seconds.

    Attributes:
        feed: The events of the session, for `Client.events`.
        messages: The messages of the application.
        requests: The requests of the application.
        connection: The state of the connection.
        rooms: The joined rooms and watched threads.
        thread_changes: Feeds of the changes of threads.
        user_id, user_room, agents: From the first frame of the server.
        wall_clock: Returns Unix seconds.
        to_write: Notified when there may be a frame to write.
        token_expiring: Notified when the server asks for a new token.
    """

    def __init__(
        self,
        *,
        stats: Stats,
        file: OutboxFile | None,
        stop: Callable[[Run], Any],
        wall_clock: Callable[[], float],
    ) -> None:
        self._stats = stats
        self._stop = stop
        self.wall_clock = wall_clock
        self._sequence = SequenceTracker()
        self._outbox = Outbox()
        self._readers: set[Feed] = set()
        self._limits: dict[str, Any] = {}
        self._owes_pong = False
        self._held: _Held | None = None
        self._lost_at: float | None = None  # on Trio's clock
        self._reconnecting = 0.0  # seconds, of all reconnections
        self.to_write = Notifier()
        self.token_expiring = Notifier()
        self.feed = self._new_feed()
        self.connection = ConnectionState()
        self.messages = Messages(self._outbox, file, self._changed)
        self.requests = Requests(self.to_write.notify, self._note_sent)
        self.rooms = Memberships(self.to_write.notify)
        self.thread_changes: WeakSet[Feed] = WeakSet()
        self.user_id = self.user_room = ""
        self.agents: Sequence[Mapping[str, Any]] = ()
        self._runs = Runs(self._outbox, self.requests, self.tell, wall_clock)

    # For the connection.

    def query(self) -> dict[str, str]:
        """Return the query parameters of an upgrade request."""
        return self._sequence.query()

    def set_limits(self, limits: Mapping[str, Any]) -> None:
        """Take over limits that the server gives."""
        self._limits |= limits
        max_bytes = self._limits.get("max_message_size")
        if type(max_bytes) is int:
            self.messages.max_bytes = max_bytes

    def hold(self) -> dict[str, str]:
        """Return the query parameters of an upgrade request while a connection is open.

        From now on its numbered events are held back.
        """
        self._held = _Held()
        return self._sequence.query()

    def release(self) -> None:
        """Take the events that were held back: the open connection goes on.

        Raises:
            InvalidEvent: One of them is not a valid event.
        """
        held, self._held = self._held, None
        for event, size in () if held is None else held.events:
            self._receive_numbered(event, size)
        self.to_write.notify()

    def discard(self) -> None:
        """Note the end of a connection: the next one gets the events that were held back."""
        if self._lost_at is None:
            self._lost_at = trio.current_time()
        self._held = None
        self.rooms.end_connection()

    def is_unwanted(self, hello: Hello) -> bool:
        """Return whether a new connection would cost runs that the open one may still end."""
        return hello.verdict in {"new", "reset"} and len(self._runs) > 0

    def begin(self, hello: Hello, *, takes_binary: bool = False) -> None:
        """Handle the first frame of a connection, which may take binary frames."""
        self.discard()
        is_first = self._sequence.session_id is None
        last_seq, replayed = hello.last_seq, hello.replayed
        if hello.verdict == "exact":  # then the client's own number counts
            replayed += last_seq - self._sequence.last_seq
            last_seq = self._sequence.last_seq
        self._sequence.begin(hello.session_id, last_seq=last_seq, replayed=max(0, replayed))
        self.connection = ConnectionState(heartbeat_ms=hello.heartbeat_ms)
        self.token_expiring.clear()
        self.set_limits(hello.limits)
        self.messages.takes_binary = takes_binary

        stats = self._stats
        if not is_first:
            self._note_reconnection()
        self._lost_at = None
        stats.last_resume_verdict = hello.verdict
        stats.connected_at = stats.last_activity = self.wall_clock()
        stats.connection_id, stats.session_id = hello.connection_id, hello.session_id
        self.user_id, self.user_room, self.agents = hello.user_id, hello.user_room, hello.agents

        self._repeat_unanswered(is_replayed=bool(replayed))
        self.tell("connected", {"verdict": hello.verdict, "session_id": hello.session_id})
        if hello.verdict == "gap":
            runs = list(hello.runs)
            self.tell("gap", {"last_seq": last_seq, "runs": runs})
            self._runs.recover_from_gap(runs)
            self.rooms.lose_own(runs)
        elif hello.verdict != "exact" and not is_first:
            self.tell("reset", {"reason": hello.reason})
            self._runs.recover_from_reset(hello.reason)
            self.rooms.lose_own(None)
        if not is_first:
            self._push_thread_change(Event("gap", timestamp=self.wall_clock()))
        self.to_write.notify()

    def receive(self, event: Event, size: int) -> None:
        """Handle the event of a frame that took `size` bytes on the wire.

        Raises:
            InvalidEvent: It lacks a required field.
        """
        self._stats.last_activity = self.wall_clock()
        self.connection.asked_at = None
        self.connection.unheard = 0
        if event.seq is None:
            self._receive_control(event, size)
        elif self._held is not None:
            self._held.append(event, size)
        else:
            self._receive_numbered(event, size)
        self._changed()

    def next_frame(self, now: float) -> str | bytes | None:
        """Return the next frame to write, or None: control frames first, then messages."""
        frame, is_asking = self._next(now)
        if frame is None:
            return None
        if is_asking and self.connection.asked_at is None:
            self.connection.asked_at = now
        self.connection.unheard += len(frame)
        self._stats.last_activity = self.wall_clock()
        return frame

    def _next(self, now: float) -> tuple[str | bytes | None, bool]:
        """Return the next frame, and whether the server has to answer it."""
        if self._owes_pong:
            self._owes_pong = False
            return frame_of("pong", {}), False
        control = self.requests.next(now)
        if control is None:
            control = self.rooms.next_frame(now)
        if control is not None:
            return control, True
        seq = self._sequence.ack(now, self._held_from)
        if seq is not None:
            return frame_of("ack", {"seq": seq}), False
        message = self._outbox.next(now)
        if message is None:
            return None, False
        if not (message.is_counted or message.is_repeat):
            message.is_counted = True
            self._note_sent()
        return message.frame, True

    def next_at(self) -> float:
        """Return when there will be a frame to write, if nothing happens before."""
        due = (self._sequence.ack_at(self._held_from), self._outbox.next_at(), self.rooms.next_at())
        return min(due)

    def authenticate(self, token: str) -> None:
        """Send a new token."""
        self.requests.send(frame_of("auth", {"token": token}, new_correlation_id()))

    def probe(self) -> None:
        """Send a ping that the server has to answer."""
        self.requests.send(frame_of("ping", {}, PROBE))

    def tell(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Deliver an event of the client itself to the readers of all events."""
        self.feed.push(Event(kind, dict(payload), timestamp=self.wall_clock()))

    # For the client.

    def __len__(self) -> int:
        return len(self._outbox)

    def check_size(self, kind: str, payload: Mapping[str, Any], key: str | None = None) -> None:
        """Check that a request is not too large: the error of the server has no correlation id.

        Raises:
            MessageRefused: It is too large.
            TypeError: It cannot be encoded as JSON.
        """
        self.messages.make(kind, payload, new_correlation_id() if key is None else key)

    async def ask(
        self,
        kind: str,
        payload: Mapping[str, Any],
        *,
        key: str | None = None,
        key_seconds: float | None = None,
    ) -> Event:
        """Send a request, and repeat it after temporary errors; return its answer.

        Cancelling is safe; the request may have been sent.

        Args:
            kind: Its type.
            payload: Its payload.
            key: Its correlation id; a new one if None.
            key_seconds: How long the server keeps the key, see `Requests.ask`.

        Raises:
            MessageRefused: The server refused it, or it is too large.
            MessageUncertain: No answer came, and the server has forgotten the key.
            ClientError: The client ended first.
            ValueError: The key is not 1 to 128 characters.
            TypeError: It cannot be encoded as JSON.
        """
        if key is not None:
            check_key(key)
        self.check_size(kind, payload, key)
        requests = self.requests
        return await requests.ask_again(kind, payload, key=key, key_seconds=key_seconds)

    def check_room(self, message: OutboxMessage) -> None:
        """Check that one more message fits.

        Raises:
            OutboxFull: It does not.
        """
        waiting, running = len(self._outbox), len(self._runs)
        size = self._outbox.size + self._runs.size
        if waiting + running >= MESSAGES or size + message.size > MESSAGE_BYTES:
            raise OutboxFull(
                f"{waiting} messages are not confirmed and {running} runs are not over: "
                "wait for one of them"
            )

    def fail(self, failure: ClientError | None, for_tasks: ClientError) -> None:
        """End every wait of the application.

        Args:
            failure: Raised in readers of all events; None ends their iteration.
            for_tasks: Raised in every other task that waits.
        """
        self.messages.fail(for_tasks)
        self.requests.fail(for_tasks)
        self.rooms.fail(failure, for_tasks)
        for feed in [self.feed, *self.thread_changes]:
            feed.finish(failure)
        self._runs.finish(for_tasks)

    def resume(self) -> None:
        """Continue after `fail`."""
        self.requests.resume()
        self.rooms.resume()
        for feed in [self.feed, *self.thread_changes]:
            feed.resume()
        self._runs.resume()

    # Internals.

    def _note_sent(self) -> None:
        self._stats.messages_sent += 1

    def _note_reconnection(self) -> None:
        stats, now = self._stats, trio.current_time()
        self._reconnecting += now - (now if self._lost_at is None else self._lost_at)
        stats.reconnections += 1
        stats.average_reconnection_ms = self._reconnecting * 1000 / stats.reconnections

    def _changed(self) -> None:
        """Notify the tasks of the connection that there may be a message to send."""
        self.to_write.notify()
        if self.connection.draining.is_set() and self._outbox.is_waiting:
            self.connection.is_urgent.set()

    def _repeat_unanswered(self, *, is_replayed: bool) -> None:
        """Send unanswered frames again, on a new connection."""
        self._outbox.begin_connection()
        if is_replayed:
            # The replay may have the confirmation of a message that seems unconfirmed.
            self._outbox.pause(trio.current_time() + REPLAY_SECONDS)
            self.rooms.pause(trio.current_time() + REPLAY_SECONDS)
        else:
            self.rooms.end_pause()
        # The limit may be that of another server than the one the messages were made for.
        for message in self._outbox.take_larger_than(self.messages.max_bytes):
            self._refuse(message, self.messages.too_large(message))
        if not self.messages.takes_binary:
            for message in self._outbox.take_binary():
                self._refuse(message, self.messages.not_binary(message))
        self.requests.begin_connection(trio.current_time(), is_replayed=is_replayed)
        self._owes_pong = False

    def _receive_numbered(self, event: Event, size: int) -> None:
        assert event.seq is not None  # noqa: S101 - the callers have checked
        assert event.first is not None  # noqa: S101 - then it has a first number, too
        receipt = self._sequence.receive(event.first, event.seq)
        if receipt.missing is not None:
            low, high = receipt.missing
            self.tell("gap", {"from": low, "to": high})
        if receipt.is_new:
            self.connection.made_progress = True
            self.feed.push(event, size)
            if event.type == "message_confirmed":
                self._confirm(event)
            else:
                self._stats.messages_received += 1
                self._runs.deliver(event, size)
                self.rooms.receive_own(event, size)
                if event.type == ANSWERED:
                    self._receive_answered(event)
        if self._sequence.caught_up():
            self._outbox.resume()
            self.rooms.end_pause()
            self.requests.end_replay()

    def _receive_answered(self, event: Event) -> None:
        """Settle an answer; of a run of another session the event has the answer's own key."""
        request = self.requests.take(event.correlation_id)
        if request is not None:
            request.reply.settle(event)
        else:
            self.requests.question_closed(event)

    def _confirm(self, event: Event) -> None:
        """Handle the confirmation of a message."""
        required = {"message_id", "thread_id", "status"}
        if event.run_id is None or not required <= event.payload.keys():
            raise InvalidEvent("a confirmation lacks a required field")
        message = self._outbox.confirm(event.correlation_id)
        if event.payload["status"] != "duplicate":
            shown = message_of(event, None if message is None else message.text, self.user_id)
            self.rooms.receive_own(event, len(str(shown.payload)), shown)
        if message is None:
            return
        if message.is_repeat:
            self._runs.repeat_confirmed(message, event.run_id)
            return
        reply = self.messages.settle(message)
        if reply is not None:
            run = Run(event, self._new_feed(), self._stop)
            self._runs.track(run, message)
            reply.settle(run)

    def _receive_control(self, event: Event, size: int) -> None:
        if event.type in ROOM_FRAMES:
            is_message = event.type == "room_event"
            self.connection.made_progress |= is_message
            self._stats.messages_received += is_message
            self.rooms.receive(event, size)
            return
        request = self.requests.take(event.correlation_id)
        if event.type == "error":
            if request is None and event.payload.get("code") == ErrorCode.ANSWER_REJECTED:
                return  # to an answer that another one, which says the same, has settled
            self._stats.errors_encountered += 1
            self._receive_error(event, request)
        elif request is not None:
            request.reply.settle(event)
        elif event.type == "heartbeat":
            self._owes_pong = True
        elif event.type == "auth_expiring":
            self._receive_expiring(event)
        elif event.type == "server_draining":
            self._receive_draining(event)
        if event.type == "thread_changed":
            self._push_thread_change(event, size)
        if event.type not in _INTERNAL:
            self.feed.push(event, size)

    def _receive_expiring(self, event: Event) -> None:
        """Note when the token ends, by the clock of the server."""
        ends_at = event.payload.get("expires_at")
        if isinstance(ends_at, int | float) and event.timestamp is not None:
            self.connection.token_seconds = ends_at - event.timestamp
        self.token_expiring.notify()

    def _receive_draining(self, event: Event) -> None:
        """Note that the server accepts no more messages; they wait for the next connection."""
        wait = event.payload.get("reconnect_after_ms")
        seconds = max(0, wait) / 1000 if type(wait) is int else 0.0
        self.connection.reconnect_at = trio.current_time() + seconds
        self.connection.draining.set()
        self._outbox.pause(math.inf)

    def _push_thread_change(self, event: Event, size: int = 0) -> None:
        for feed in self.thread_changes:
            feed.push(event, size)

    def _receive_error(self, event: Event, request: Request | None) -> None:
        refusal = refusal_of(event)
        code, now = refusal.code, trio.current_time()
        if request is not None:
            # A run that has ended, or does not exist, need not be stopped.
            is_done = request.run_id is not None and code == ErrorCode.RUN_NOT_FOUND
            request.reply.settle(event, None if is_done else refusal)
            return
        if self.rooms.refuse(refusal, now):
            return
        if code == ErrorCode.TOKEN_EXPIRED:
            self.connection.token_ended = True
        key, in_flight = event.correlation_id, self._outbox.in_flight
        if key is None and in_flight is not None and code in BAD_FRAME:
            key = in_flight.key  # no other frame that this client writes can be a bad one
        message = self._outbox.refuse(key, code, refusal.retry_after_ms, now)
        if message is not None:
            self._refuse(message, refusal)

    def _refuse(self, message: OutboxMessage, refusal: MessageRefused) -> None:
        if message.is_repeat:
            self._runs.repeat_refused(message)
        else:
            self.messages.refuse(message, refusal)

    @property
    def _held_from(self) -> int | None:
        """The oldest number that some reader has not taken yet."""
        held = (feed.held_from for feed in self._readers)
        return min((first for first in held if first is not None), default=None)

    def _new_feed(self) -> Feed:
        return Feed(self._readers, self.wall_clock, self.to_write.notify)

    def new_room_feed(self) -> Feed:
        """Return a feed whose reader holds no acknowledgements back: room events have none."""
        return Feed(set(), self.wall_clock, lambda: None)
