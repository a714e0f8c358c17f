"""Moves of sessions between nodes: takes a session over, gives one up, or relays its connection.

    located = await moves.locate(request)   # a session, a link, or why there is none
    await moves.give(session, to=None)      # in a drain

A resume that does not find its session at this node asks the directory. If the owner is gone or has
released the session, this node takes it over. If the owner is alive, it is asked: it gives an idle
session up, and relays the connection of a session with a run at work.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

import structlog
import trio
from attrs import define, evolve, field

from netra_trio.agents.run import RunSpec
from netra_trio.auth.identity import Identity
from netra_trio.broker.base import Directory, SessionRecord
from netra_trio.cluster.claims import claim_of, dump_waiting, load_waiting, request_of
from netra_trio.cluster.link import Link
from netra_trio.cluster.links import Links
from netra_trio.cluster.mailbox import Mailbox
from netra_trio.cluster.membership import Membership
from netra_trio.cluster.replicator import Replicator
from netra_trio.cluster.request import ElsewhereRequest
from netra_trio.errors import BrokerUnavailable, StoreUnavailable
from netra_trio.ids import NodeId, RunId, SessionId, ThreadId
from netra_trio.protocol.codes import EndReason
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.problem import Refused, store_unavailable
from netra_trio.protocol.wire_format import WireFormat
from netra_trio.sessions.log_copy import decode
from netra_trio.sessions.session import Session
from netra_trio.stores.base import Store, StoredEnd, interrupted

CLAIM = "claim"  # the kind of the message to an owner
RELEASED, RELAYED, AHEAD, UNKNOWN, RETRY = "released", "relayed", "ahead", "unknown", "retry"

LOCATE_SECONDS = 4.0  # for which an upgrade waits: a lease, and a second for the owner's answer
ASK_SECONDS = 0.25  # for one answer of an owner, which may be stopped
RETRY_SECONDS = 0.1  # between two attempts
COPY_SECONDS = 1.0  # to copy the rest of a session that moves

_log = structlog.get_logger(__name__)


class Missing(Enum):
    """Why a look-up has no session.

    UNKNOWN: No node has the session, or it is another user's.
    AHEAD: The client has a number that was never sent.
    """

    UNKNOWN = UNKNOWN
    AHEAD = AHEAD


class Host(Protocol):
    """The part of a node that moves use."""

    def find(self, session_id: SessionId) -> Session | None:
        """Return a session of this node."""
        ...

    def check(self, record: SessionRecord, identity: Identity, wire: WireFormat) -> bool:
        """Return whether a session belongs to a user.

        Raises:
            Refused: BAD_REQUEST, if it has another wire format.
        """
        ...

    def make(self, record: SessionRecord) -> Session:
        """Return a new, empty session with the ids of this one; it is not registered."""
        ...

    def dump_run(self, spec: RunSpec) -> JsonObject:
        """Return a waiting run as JSON."""
        ...

    def load_run(self, dumped: JsonObject) -> RunSpec | None:
        """Return a waiting run; None if its agent does not exist at this node."""
        ...

    def adopt(self, session: Session, record: SessionRecord) -> None:
        """Register a session that was restored, and copy it from now on."""
        ...

    def note_end(self, session: Session, thread_id: ThreadId) -> None:
        """Note the end of a run of another node."""
        ...

    def hold(self, session: Session) -> float:
        """Take a session out of the registry; return the seconds that it is kept."""
        ...

    def unhold(self, session: Session, seconds: float, *, stays_held: bool) -> None:
        """Put a session back; with `stays_held` it still refuses messages."""
        ...

    def disown(self, session: Session, why: str, *, reason: EndReason | None) -> None:
        """End a session, because another node has it or may have it.

        Args:
            session: The session.
            why: For the log.
            reason: Why its connection ends; None if it does not end.
        """
        ...

    async def serve_link(self, session: Session, link: Link, request: ElsewhereRequest) -> None:
        """Serve a connection whose socket is at another node, until it ends."""
        ...


@define
class _SessionLock:
    lock: trio.Lock = field(factory=trio.Lock)
    users: int = 0


class Moves:
    """Moves the sessions of one node.

    Args:
        directory: Has the sessions of all nodes.
        mailbox: Sends messages to other nodes.
        membership: The live nodes.
        replicator: Copies the sessions of this node.
        links: The relayed connections.
        store: Has the runs.
        host: The node.
        max_ahead: How many events a client may have that are not in the copy.
        window: The seconds for which a session without a connection is kept.

    Attributes:
        ending: The sessions that have ended at this node, and that the directory still has.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        mailbox: Mailbox,
        membership: Membership,
        replicator: Replicator,
        links: Links,
        store: Store,
        host: Host,
        max_ahead: int,
        window: float,
    ) -> None:
        self._directory = directory
        self._mailbox = mailbox
        self._membership = membership
        self._replicator = replicator
        self._links = links
        self._store = store
        self._host = host
        self._max_ahead = max_ahead
        self._window = window
        self._locks: dict[SessionId, _SessionLock] = {}
        self._moving: set[SessionId] = set()
        self.ending: set[SessionId] = set()

    # At the node that a client asks.

    async def locate(self, request: ElsewhereRequest) -> Session | Link | Missing:
        """Find a session that is not at this node, and take it over if that is possible.

        Cancelling is safe: the session stays with its owner, or has no owner.

        Returns:
            The session, which is at this node from now on; or the open link over which its owner
            serves the connection.

        Raises:
            Refused: BAD_REQUEST, or SERVICE_UNAVAILABLE if there is no answer in time.
        """
        lock = self._locks.setdefault(request.session_id, _SessionLock())
        lock.users += 1
        try:
            with trio.move_on_after(LOCATE_SECONDS):
                async with lock.lock:
                    return await self._locate(request)
        except BrokerUnavailable:
            raise Refused(store_unavailable("The broker does not answer.")) from None
        except StoreUnavailable:
            raise Refused(store_unavailable()) from None
        finally:
            lock.users -= 1
            if not lock.users:
                del self._locks[request.session_id]
        raise Refused(store_unavailable("The node that has the session does not answer."))

    async def _locate(self, request: ElsewhereRequest) -> Session | Link | Missing:
        while True:
            local = self._host.find(request.session_id)  # by an earlier request
            if local is not None:
                return local
            found = await self._directory.find(request.session_id)
            if not found.is_registered:
                self._membership.note_unregistered()
            located = await self._proceed(request, found.record, owner_is_live=found.owner_is_live)
            if located is not None:
                return located
            await trio.sleep(RETRY_SECONDS)

    async def _proceed(
        self, request: ElsewhereRequest, record: SessionRecord | None, *, owner_is_live: bool
    ) -> Session | Link | Missing | None:
        """Do what the record of a session asks for; return None to look again."""
        if record is None:
            return Missing.UNKNOWN if self._membership.settled_in <= 0 else None
        if not self._host.check(record, request.identity, request.wire):
            return Missing.UNKNOWN
        node, owner = self._directory.node, record.owner
        if owner == node:
            return await self._restore_own(request, record)
        if owner is not None and owner_is_live:
            return await self._claim(request, owner)
        # If this node has lost its lease, too, others may be alive, and about to renew theirs.
        may_take = owner is None or self._membership.settled_in <= 0
        if not may_take or not await self._directory.take(
            record.session_id, owner=owner, epoch=record.epoch
        ):
            return None
        return await self._restore(request, evolve(record, owner=node, epoch=record.epoch + 1))

    async def _restore_own(
        self, request: ElsewhereRequest, record: SessionRecord
    ) -> Session | Missing | None:
        """Restore a session that was given to this node; return None to look again."""
        if record.session_id in self.ending:
            return Missing.UNKNOWN
        if record.session_id in self._moving:
            return None
        return await self._restore(request, record)

    async def _claim(
        self, request: ElsewhereRequest, owner: NodeId
    ) -> Session | Link | Missing | None:
        """Ask the owner of a session for it; return None to look again."""
        link = self._links.open(owner)  # before the owner may send the first frame
        state = RETRY
        try:
            header = claim_of(request, link.id)
            answer = await self._mailbox.ask(owner, CLAIM, header, seconds=ASK_SECONDS)
            state = answer.header["state"]
        except BrokerUnavailable:
            return None  # an owner that is stopped loses its lease
        finally:
            if state != RELAYED:
                self._links.close(link)
        if state == RELAYED:
            return link
        if state == RELEASED:
            record = (await self._directory.find(request.session_id)).record
            if record is not None and record.owner == self._directory.node:
                return await self._restore(request, record)
        if state in {AHEAD, UNKNOWN}:
            return Missing(state)
        return None

    async def _restore(self, request: ElsewhereRequest, record: SessionRecord) -> Session | Missing:
        """Make a session out of the copy of one that this node owns."""
        try:
            copy = decode(await self._directory.read(record.session_id))
            if request.last_seq > copy.last + self._max_ahead:
                await self._put_down(record)
                return Missing.AHEAD
            uncopied_from = await self._store.uncopied_from(record.session_id)
            is_whole = uncopied_from is None or uncopied_from <= copy.last
            session = self._host.make(record)
            unfinished = session.events.restore(copy, request.last_seq, is_whole=is_whole)
            waiting = {
                spec.message.run_id: spec
                for dumped in load_waiting(record.waiting)
                if (spec := self._host.load_run(dumped)) is not None
            }
            ends = await self._store.take_over(
                record.session_id,
                owner=record.lease,
                runs=[run_id for run_id, _, _ in unfinished],
                waiting=list(waiting),
            )
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._put_down(record)
            raise
        self._host.adopt(session, evolve(record, lease=self._store.owner, waiting=b""))
        for run_id, thread_id, correlation_id in unfinished:
            end = ends.get(run_id) or interrupted(run_id)
            if ends.get(run_id, end) is None and run_id in waiting:
                session.adopt(waiting[run_id])
            else:
                session.events.end_lost(run_id, end.status, end.completed, correlation_id)
                self._host.note_end(session, thread_id)
        _log.info(
            "session_taken_over",
            session_id=record.session_id,
            user_id=record.user_id,
            runs=len(unfinished),
        )
        return session

    async def _put_down(self, record: SessionRecord) -> None:
        """Release a session that could not be restored, with what it had."""
        lease, waiting = record.lease, record.waiting
        try:
            await self._directory.release(
                record, to=None, lease=lease, waiting=waiting, seconds=self._window
            )
        except BrokerUnavailable:
            return  # it is still this node's: the next attempt restores it

    # At the owner of a session.

    async def on_claim(self, sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """Answer another node whose client resumes a session of this node.

        Raises:
            BrokerUnavailable: If the answer could not be sent.
        """
        request = request_of(header)
        session = self._host.find(request.session_id)
        state = RETRY
        if session is None:
            state = await self._state_of_missing(request.session_id)
        elif request.last_seq > session.events.last_sent:
            state = AHEAD
        elif not session.is_quiet:
            state = RELAYED
        elif await self.give(session, to=sender, closes=True):
            state = RELEASED
        if state != RELAYED or session is None:
            await self._mailbox.answer(sender, header, {"state": state})
            return
        with self._links.accepted(header["link"], sender) as link:
            await self._mailbox.answer(sender, header, {"state": state})
            await self._host.serve_link(session, link, request)

    async def _state_of_missing(self, session_id: SessionId) -> str:
        """Return the answer to a claim of a session that is not at this node.

        Raises:
            BrokerUnavailable: If the directory does not answer.
        """
        if session_id in self._moving or session_id in self._locks:
            return RETRY
        if session_id in self.ending:
            return UNKNOWN
        record = (await self._directory.find(session_id)).record
        is_own = record is not None and record.owner == self._directory.node
        is_idle = session_id not in self._locks and self._host.find(session_id) is None
        if record is not None and is_own and is_idle:
            await self._put_down(record)  # it was given to a client that has gone
        return RETRY

    async def give(self, session: Session, *, to: NodeId | None, closes: bool) -> bool:
        """Release a session that is quiet, with the runs that wait.

        Args:
            session: The session.
            to: The next owner; None for any.
            closes: Whether its connection is closed.

        Returns:
            Whether it was released; if not, it goes on at this node, or another node has it.
        """
        replica, session_id = session.events.replica, session.id
        if replica is None or self._host.find(session_id) is not session:
            return False
        was_held, seconds = session.is_held, self._host.hold(session)
        self._moving.add(session_id)
        try:
            replica.register()  # all of it: the directory may have lost what it once had
            is_copied = await self._replicator.flush(replica, seconds=COPY_SECONDS)
            is_given = is_copied and await self._release(session, replica.record, to, seconds)
        except BaseException:
            self._host.unhold(session, seconds, stays_held=was_held)
            raise
        finally:
            self._moving.discard(session_id)
        if is_given:
            reason = EndReason.TAKEN_OVER if closes else None
            self._host.disown(session, "moved", reason=reason)
        elif not replica.is_fenced:
            self._host.unhold(session, seconds, stays_held=was_held)
            replica.register()  # it may be released all the same: then this node is fenced
        return is_given

    async def _release(
        self, session: Session, record: SessionRecord, to: NodeId | None, seconds: float
    ) -> bool:
        specs = session.surrender()
        lease, waiting = self._store.owner, b""
        run_ids = [spec.message.run_id for spec in specs]
        if specs:
            waiting = dump_waiting(self._host.dump_run(spec) for spec in specs)
        try:
            if specs:
                lease = await self._store.hand_over(run_ids, seconds=seconds)
            if await self._directory.release(
                record, to=to, lease=lease, waiting=waiting, seconds=seconds
            ):
                return True
        except (BrokerUnavailable, StoreUnavailable):
            _log.info("session_not_released", session_id=session.id)
        if specs:
            with trio.CancelScope(shield=True):
                await self._take_back(session, specs, lease)
        return False

    async def _take_back(self, session: Session, specs: Sequence[RunSpec], lease: NodeId) -> None:
        """Continue runs that were handed over, because the session was not released."""
        run_ids = [spec.message.run_id for spec in specs]
        owners: dict[RunId, NodeId] = {}
        ends: Mapping[RunId, StoredEnd | None] = {}
        try:
            ends = await self._store.take_over(
                session.id, owner=lease, runs=run_ids, waiting=run_ids
            )
            for message in [spec.message for spec in specs]:
                found = await self._store.find_run(message.user_id, message.run_id)
                if found is not None:
                    owners[message.run_id] = found.owner
        except StoreUnavailable:
            _log.warning("runs_not_taken_back", session_id=session.id, runs=len(specs))
        for spec in specs:
            message, owner = spec.message, owners.get(spec.message.run_id)
            if owner == self._store.owner:
                session.adopt(spec)
            elif owner is None:  # it has ended, or ends with the lease that it was handed over to
                end = ends.get(message.run_id) or interrupted(message.run_id)
                session.events.end_lost(
                    message.run_id, end.status, end.completed, message.correlation_id
                )
