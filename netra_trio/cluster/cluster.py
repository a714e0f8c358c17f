"""The part that a node has in a cluster: made by the node if there is a backend.

cluster = Cluster(backend, store=store, settings=settings, start_soon=node.start_soon)
cluster.host(host)
nursery.start_soon(cluster.run)
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from netra_trio.broker.base import Backend, SessionRecord
from netra_trio.cluster.link import LINK
from netra_trio.cluster.links import Links
from netra_trio.cluster.mailbox import Mailbox
from netra_trio.cluster.membership import Membership
from netra_trio.cluster.moves import CLAIM, Host, Moves
from netra_trio.cluster.replicator import HOLD_SECONDS, Replicator
from netra_trio.config.settings import Settings
from netra_trio.errors import BrokerUnavailable
from netra_trio.ids import NodeId
from netra_trio.protocol.codes import EndReason
from netra_trio.sessions.replica import Replica
from netra_trio.sessions.session import Session
from netra_trio.stores.base import Store

KEEP_SHARE = 1 / 4  # of the resume window: between two extensions of the life of the copies
SPARE_SHARE = 1 / 2  # of the resume window: a copy lives longer, as its owner may be late
STOP_SECONDS = 1.0  # to delete the lease when the node is closed


class Cluster:
    """The connections of one node with the others.

    Args:
        backend: The directory and the broker.
        store: Has the runs.
        settings: The limits.
        start_soon: Starts a task of the node.

    Attributes:
        backend: The directory and the broker.
        mailbox: Sends messages to other nodes.
        membership: The live nodes.
        replicator: Copies the sessions of this node.
        links: The relayed connections.
        on_lost: Called when this node found its lease gone: the directory may have lost everything.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        store: Store,
        settings: Settings,
        start_soon: Callable[..., Any],
    ) -> None:
        directory = backend.directory
        self.backend = backend
        self.mailbox = Mailbox(directory)
        self.membership = Membership(directory)
        self.replicator = Replicator(directory, store.note_uncopied)
        self.links = Links(self.mailbox.post, start_soon)
        self.moves: Moves
        self._directory = directory
        self._store = store
        self._settings = settings
        self._window = settings.resume_window_ms / 1000
        self._sessions: dict[Session, Replica] = {}
        self._seconds_left: Callable[[Session], float]
        self._host: Host
        self.on_lost: list[Callable[[], None]] = []
        self._dropped: list[SessionRecord] = []
        self._has_dropped = trio.Event()
        self.mailbox.handle_now(LINK, self.links.deliver)
        self.membership.on_gone.append(self.links.break_all)
        self.membership.on_lost = self._copy_all_again

    @property
    def node(self) -> NodeId:
        """The id of this node."""
        return self._directory.node

    def host(self, host: Host, seconds_left: Callable[[Session], float]) -> None:
        """Move the sessions of a host.

        Args:
            host: Has the sessions.
            seconds_left: Returns for how long a session is kept without a connection.
        """
        self._host = host
        self._seconds_left = seconds_left
        self.moves = Moves(
            self._directory,
            mailbox=self.mailbox,
            membership=self.membership,
            replicator=self.replicator,
            links=self.links,
            store=self._store,
            host=host,
            max_ahead=self._settings.replay_events,
            window=self._window,
        )
        self.mailbox.handle(CLAIM, self.moves.on_claim)

    def replicate(self, session: Session, record: SessionRecord | None = None) -> None:
        """Copy a session of this node from now on.

        Args:
            session: The session.
            record: The session as it was taken over; None for a new one.
        """
        if not self._window:
            return
        if record is None:
            record = SessionRecord(
                session.id,
                session.user.id,
                self.node,
                epoch=1,
                acknowledging=session.events.acknowledging,
                is_anonymous=session.is_anonymous,
                thread_id=session.default_thread,
                lease=self._store.owner,
            )
        replica = Replica(
            record,
            session.events,
            seconds=partial(self._seconds_to_keep, session),
            changed=self.replicator.note,
            fenced=partial(self._on_fenced, session),
            flush=partial(self.replicator.flush, seconds=HOLD_SECONDS),
        )
        self._sessions[session] = replica
        session.events.replicate(replica)
        self.replicator.note(replica, is_held=False)
        self.replicator.hurry()  # its client may resume it at another node in a moment

    def forget(self, session: Session, *, has_moved: bool = False) -> None:
        """Copy a session no longer.

        Args:
            session: The session.
            has_moved: Whether another node has it; otherwise its copy is deleted.
        """
        replica = self._sessions.pop(session, None)
        if replica is None:
            return
        self.replicator.forget(replica)
        if has_moved:
            replica.retire()
        else:
            session.events.replicate(None)
            self.moves.ending.add(session.id)
            self._dropped.append(replica.record)
            self._has_dropped.set()

    def gauges(self) -> dict[str, Any]:
        """Return the fields of `Gauges` that only a node in a cluster has."""
        return {
            "broker_lag": self.backend.statistics()["lag"],
            "nodes": 1 + len(self.membership.peers),
            "relayed": len(self.links),
            "uncopied": self.replicator.unreplicated,
        }

    async def give_to_any(self, session: Session) -> bool:
        """Release a session to the other nodes; return whether it was released.

        Its connection stays open. It has no active run; runs may wait.
        """
        return await self.moves.give(session, to=None, closes=False)

    async def is_owned(self, session: Session) -> bool:
        """Return whether a session of this node is to be resumed here; end it if it is not.

        This node may have been stopped, or cut off from the directory, until another node took the
        session over; or the directory may have lost newer data. If the directory does not answer,
        the session goes on here. Cancelling is safe.
        """
        replica = self._sessions.get(session)
        if replica is None:  # without a resume window
            return True
        record = None
        with suppress(BrokerUnavailable):
            record = (await self._directory.find(session.id)).record
        own = replica.record
        if self._sessions.get(session) is not replica:  # it has ended or moved meanwhile
            return False
        if record is None or record.epoch < own.epoch or record.owner == self.node:
            return True
        replica.fence()
        return False

    async def run(self) -> None:
        """Run the tasks of the cluster until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.membership.run)
            nursery.start_soon(self.mailbox.run)
            nursery.start_soon(self.replicator.run)
            nursery.start_soon(self._keep)
            nursery.start_soon(self._drop)

    async def stop(self) -> None:
        """Delete the lease and what has ended, so that other nodes need not wait."""
        with trio.move_on_after(STOP_SECONDS, shield=True):
            try:
                await self._drop_now()
                await self.membership.resign()
            except BrokerUnavailable:
                return

    def _seconds_to_keep(self, session: Session) -> float:
        return self._seconds_left(session) + self._window * SPARE_SHARE

    def _on_fenced(self, session: Session) -> None:
        self._host.disown(session, "taken_over", reason=EndReason.FENCED)

    def _copy_all_again(self) -> None:
        for replica in self._sessions.values():
            replica.register()
        for function in self.on_lost:
            function()

    async def _keep(self) -> None:
        """Extend the life of the copies, until cancelled."""
        while True:
            await trio.sleep(max(self._window * KEEP_SHARE, 0.5))
            kept = {session.id: self._seconds_to_keep(session) for session in self._sessions}
            try:
                if kept:
                    await self._directory.keep(kept)
            except BrokerUnavailable:
                continue  # the next one is in time

    async def _drop(self) -> None:
        """Delete the copies of sessions that have ended, until cancelled."""
        while True:
            await self._has_dropped.wait()
            self._has_dropped = trio.Event()
            try:
                await self._drop_now()
            except BrokerUnavailable:
                continue  # what is left is dropped with the next one, or ends by itself

    async def _drop_now(self) -> None:
        dropped, self._dropped = self._dropped, []
        try:
            await self._directory.drop(dropped)
        finally:
            self.moves.ending.difference_update(record.session_id for record in dropped)
