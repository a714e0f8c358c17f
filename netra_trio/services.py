"""The services that the components of one application share.

services = Services(settings=settings, store=store, verifier=verifier, instruments=instruments)
"""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from attrs import Factory, field, frozen

from netra_trio.auth.tickets import LocalTickets, Tickets
from netra_trio.auth.tokens import TokenVerifier
from netra_trio.broker.base import Broker, HistoryLimits
from netra_trio.broker.memory import MemoryBackend
from netra_trio.broker.threads import SharedAdmission
from netra_trio.config.settings import Settings
from netra_trio.files.base import FileStorage
from netra_trio.files.choice import storage_of
from netra_trio.files.files import Files
from netra_trio.files.rate import LocalUploadRate, UploadRate
from netra_trio.ids import CorrelationId, NodeId, QuestionId, RunId, SessionId, ThreadId, UserId
from netra_trio.protocol.messages import Answer, Event
from netra_trio.protocol.threads import ThreadChange
from netra_trio.rooms.permission import PermissionCheck
from netra_trio.rooms.presence import Presence
from netra_trio.rooms.publisher import Publisher
from netra_trio.rooms.rooms import Rooms
from netra_trio.rooms.snapshot import Snapshot
from netra_trio.stores.base import NewMessage, Store
from netra_trio.stores.threads import StoredThread
from netra_trio.stores.usage import Usage
from netra_trio.telemetry.instruments import Instruments
from netra_trio.webhook.notifier import Notifier


class OtherNodes(Protocol):
    """The runs of a user on other nodes. Cancelling is safe; the request may arrive all the same.

    Every method raises `Refused` with SERVICE_UNAVAILABLE if the other node does not answer.
    """

    async def stop_run(self, user_id: UserId, run_id: RunId) -> bool:
        """Stop a run that is not live on this node.

        Returns:
            Whether another node stopped it, or it ends because its node is gone.

        Raises:
            StoreUnavailable: If the store cannot answer now.
        """
        ...

    async def answer(
        self,
        node: NodeId,
        given: Answer,
        *,
        owner: UserId,
        user_id: UserId,
        session_id: SessionId,
        correlation_id: CorrelationId | None,
    ) -> bool:
        """Answer a question of a run of another node.

        Args:
            node: The node of the run.
            given: The answer.
            owner: The user of the run.
            user_id: The user who answers.
            session_id: The session that answers, which gets a copy of how the question is closed.
            correlation_id: The correlation id of the answer.

        Returns:
            Whether the question is open there.

        Raises:
            Refused: ANSWER_REJECTED.
        """
        ...


class EventReader(Protocol):
    """The events of a session."""

    def append_now(self, event: Event, size: int, correlation_id: str | None) -> None:
        """Append an event of another session, without waiting for room."""
        ...


class OpenQuestion(Protocol):
    """A question of a run of this node."""

    def answer(
        self,
        given: Answer,
        *,
        user_id: UserId,
        reader: EventReader,
        correlation_id: str | None,
    ) -> None:
        """Answer it; the reader gets a copy of how it is closed.

        Raises:
            Refused: ANSWER_REJECTED.
        """
        ...


class UserThreads(Protocol):
    """The threads of users, for the sessions of this node."""

    def question(self, user_id: UserId, question_id: QuestionId) -> OpenQuestion | None:
        """Return a question of a run of this user that is open at this node, or None."""
        ...

    def note(self, session_id: SessionId, message: NewMessage, change: ThreadChange) -> None:
        """Send a change of a thread by a message or its run to sessions; does not wait.

        `updated` is sent to the other sessions of the user, shortly later and once for several
        changes; `renamed` is sent to all sessions at once.

        Args:
            session_id: The session of the run.
            message: The message.
            change: `updated` or `renamed`.
        """
        ...

    def publish(
        self, user_id: UserId, thread_id: ThreadId, change: ThreadChange, *, excluded: SessionId
    ) -> None:
        """Send a change of a thread to all sessions of a user except one; does not wait.

        Args:
            user_id: The user.
            thread_id: The thread.
            change: The kind of change.
            excluded: The session that has changed it, which gets a reply.
        """
        ...

    async def read(self, user_id: UserId, thread_id: ThreadId) -> StoredThread | None:
        """Return a thread as it is after all changes that were sent to sessions of this node.

        None if the user has no thread of this id.

        Raises:
            StoreUnavailable: If the store cannot answer now.
        """
        ...

    async def wait_until_ready(self, user_id: UserId) -> None:
        """Wait until changes by other nodes are received here, for a second at most."""
        ...

    async def delete(self, user_id: UserId, thread_id: ThreadId, *, by: SessionId) -> bool:
        """Stop the runs of a thread on all nodes, delete it, and notify all sessions except one.

        Cancelling is safe: the deletion goes on.

        Args:
            user_id: The user.
            thread_id: The thread.
            by: The session of the request, which gets a reply.

        Returns:
            Whether there was such a thread.

        Raises:
            StoreUnavailable: If the store cannot answer now.
        """
        ...


class Budgets(Protocol):
    """The budgets of users and agents."""

    async def check(self, user_id: UserId, agent_name: str) -> None:
        """Return if an agent may be used for a user now. Cancelling is safe.

        Raises:
            Refused: BUDGET_EXCEEDED, or SERVICE_UNAVAILABLE if it is not known now.
        """
        ...

    async def record_usage(self, usage: Usage) -> None:
        """Store what a run has used, and stop it with the others if its budget is used up.

        Cancelling is safe: the report counts all the same.
        """
        ...


class ThreadWatch(Protocol):
    """The runs of watched threads, on all nodes."""

    def hold(self, user_id: UserId, thread_id: ThreadId) -> AbstractAsyncContextManager[None]:
        """Mirror the runs of a thread to its room, in the block and while it is watched.

        The room is subscribed in the block. Entering raises `BrokerUnavailable`.
        """
        ...

    async def take_snapshot(
        self, user_id: UserId, thread_id: ThreadId, *, with_ended: bool
    ) -> Snapshot:
        """Return the runs of a held thread; cancelling is safe.

        Args:
            user_id: The user of the thread.
            thread_id: The thread.
            with_ended: Whether the client may get events of runs that have ended.

        Raises:
            Refused: SERVICE_UNAVAILABLE, if a live node does not answer.
            BrokerUnavailable: If the broker does not answer.
        """
        ...


def _rooms(services: "Services") -> Rooms:
    return Rooms(
        services.broker,
        services.store.find_room,
        limits=history_limits(services.settings),
        may=services.may,
        metrics=services.instruments.metrics,
        wall_clock=services.wall_clock,
    )


def _files(services: "Services") -> Files:
    return Files(
        services.storage,
        services.store,
        settings=services.settings,
        wall_clock=services.wall_clock,
    )


@frozen(kw_only=True)
class Services:
    """Objects that the endpoints, the node and its connections share.

    Attributes:
        settings: The limits.
        store: Holds users, threads, messages and runs.
        verifier: Verifies tokens.
        instruments: Receive the telemetry.
        threads: The threads of users, for the sessions of this node.
        storage: Keeps the content of files; `files` uses it.
        tickets: The issued tickets that are valid.
        upload_rate: Counts the uploads of users.
        files: The files of users.
        other_nodes: Reaches the runs of other nodes; None if there is one node.
        wall_clock: Returns Unix seconds.
        admission: Admits messages over all nodes; None if there is only this one.
        broker: The broker of rooms; in the memory of this process if there is only this node.
        may: The function for permissions in rooms; None if there are only the server's own rooms.
        publisher: Publishes messages to rooms.
        rooms: The rooms with members at this node.
        watch: The watched threads; set by the node.
        presence: The users in the rooms.
        budgets: The budgets of users and agents; None without limits.
        notifier: Notifies the webhook about runs that have left their session; None without one.
    """

    settings: Settings
    store: Store
    verifier: TokenVerifier
    instruments: Instruments
    threads: UserThreads
    storage: FileStorage = field(
        default=Factory(lambda self: storage_of(self.settings.files_url), takes_self=True)
    )
    tickets: Tickets = field(factory=LocalTickets)
    upload_rate: UploadRate = field(factory=LocalUploadRate)
    other_nodes: OtherNodes | None = None
    wall_clock: Callable[[], float] = time.time
    admission: SharedAdmission | None = None
    budgets: Budgets | None = None
    notifier: Notifier | None = None
    broker: Broker = field(factory=lambda: MemoryBackend().broker)
    may: PermissionCheck | None = None
    publisher: Publisher = field(
        init=False,
        default=Factory(
            lambda self: Publisher(self.broker, history_limits(self.settings), self.wall_clock),
            takes_self=True,
        ),
    )
    files: Files = field(init=False, default=Factory(_files, takes_self=True))
    watch: ThreadWatch | None = None
    rooms: Rooms = field(init=False, default=Factory(_rooms, takes_self=True))
    presence: Presence = field(
        init=False,
        default=Factory(
            lambda self: Presence(self.rooms, self.broker, self.wall_clock), takes_self=True
        ),
    )


def history_limits(settings: Settings) -> HistoryLimits:
    """Return how much of a room is kept."""
    return HistoryLimits(settings.room_history_events, settings.room_history_seconds)
