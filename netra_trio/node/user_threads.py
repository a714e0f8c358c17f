"""The threads of the users of a node: sends their changes to sessions, and deletes threads.

threads = NodeThreads(users, store, start_soon)         # `Services.threads`
threads.connect(services, cluster, watch)
threads.attached(connection), threads.detached(connection)
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import structlog
import trio
from attrs import define, field

from netra_trio.agents.questions import Question
from netra_trio.broker.base import Broker
from netra_trio.cluster.cluster import Cluster
from netra_trio.connections.connection import Connection
from netra_trio.errors import BrokerUnavailable, StoreUnavailable
from netra_trio.files.files import Files
from netra_trio.ids import QuestionId, RunId, SessionId, ThreadId, UserId
from netra_trio.node.shared_changes import SharedChanges
from netra_trio.node.thread_changes import Change, ThreadChanges
from netra_trio.node.thread_watch import ThreadWatch
from netra_trio.protocol.problem import Refused
from netra_trio.protocol.rooms import thread_room
from netra_trio.protocol.threads import ThreadChange
from netra_trio.services import OtherNodes, Services
from netra_trio.sessions.users import Users
from netra_trio.stores.base import NewMessage, Store
from netra_trio.stores.threads import StoredThread

STOP_SECONDS = 5.0  # for the runs of a thread to end: docs/protocol.md, Threads
POLL_SECONDS = 0.1  # between two polls of the runs of a thread that is being deleted

_log = structlog.get_logger(__name__)


@define(eq=False)
class _Deletion:
    """A deletion of a thread.

    Attributes:
        was_there: Whether there was such a thread.
        failure: The exception, if it failed.
    """

    user_id: UserId
    thread_id: ThreadId
    by: SessionId
    was_there: bool = False
    failure: Exception | None = None
    has_ended: trio.Event = field(factory=trio.Event)


def starting_in(nursery: trio.Nursery) -> Callable[..., None]:
    """Return a function that starts tasks in a nursery, until it is cancelled.

    A connection may end later than the nursery of its node.
    """

    def start_soon(function: Callable[..., Awaitable[object]], *args: object) -> None:
        if not nursery.cancel_scope.cancel_called:
            nursery.start_soon(function, *args)

    return start_soon


class NodeThreads:
    """The threads of users, for the sessions of one node; it is the `UserThreads` of the services.

    Args:
        users: The users of this node.
        store: Has the threads.
        start_soon: Starts a task that ends with the node.
    """

    def __init__(self, users: Users, store: Store, start_soon: Callable[..., Any]) -> None:
        self._users = users
        self._store = store
        self._start_soon = start_soon
        self._changes = ThreadChanges(users, store, start_soon)
        self._broker: Broker
        self._files: Files
        self._shared: SharedChanges | None = None
        self._other_nodes: OtherNodes | None = None

    def connect(self, services: Services, cluster: Cluster | None, watch: ThreadWatch) -> None:
        """Connect to the rooms and the other nodes; called before any client connects.

        Args:
            services: The services of the node.
            cluster: The other nodes; None if there is one node.
            watch: Tells of threads with runs of killed nodes.
        """
        watch.on_lost = self._note_lost
        self._broker, self._files = services.broker, services.files
        self._other_nodes = services.other_nodes
        if cluster is None:
            return
        self._shared = SharedChanges(
            services.rooms,
            services.broker,
            cluster.node,
            deliver=self._changes.deliver,
            is_attached=self._is_attached,
            nodes=cluster.membership,
            start_soon=self._start_soon,
        )
        self._changes.relay = self._shared.publish

    def attached(self, connection: Connection) -> None:
        """Note a connection that was added to its user."""
        if self._shared is not None:
            self._shared.watch(connection.session.user.id)

    def detached(self, connection: Connection) -> None:
        """Note a connection that was removed from its user."""
        self._changes.forget(connection)
        if self._shared is not None:
            self._shared.watch(connection.session.user.id)

    def _note_lost(self, user_id: UserId, thread_id: ThreadId) -> None:
        """Tell the sessions at this node that runs of a thread have ended with their node."""
        self._changes.deliver(Change(user_id, thread_id, ThreadChange.UPDATED))

    def _is_attached(self, user_id: UserId) -> bool:
        user = self._users.find(user_id)
        return user is not None and bool(user.connections)

    # For the sessions.

    def note(self, session_id: SessionId, message: NewMessage, change: ThreadChange) -> None:
        """Send a change of a thread by a message or its run to sessions."""
        if change is ThreadChange.UPDATED:
            self._changes.note(session_id, message.user_id, message.thread_id)
        else:
            self._changes.publish(Change(message.user_id, message.thread_id, change))

    def publish(
        self, user_id: UserId, thread_id: ThreadId, change: ThreadChange, *, excluded: SessionId
    ) -> None:
        """Send a change of a thread to all sessions of a user except one."""
        self._changes.publish(Change(user_id, thread_id, change, excluded))

    async def read(self, user_id: UserId, thread_id: ThreadId) -> StoredThread | None:
        """Return a thread as it is now, None if the user has none of this id."""
        return await self._changes.read(user_id, thread_id)

    def question(self, user_id: UserId, question_id: QuestionId) -> Question | None:
        """Return a question of a run of this user that is open at this node, or None."""
        user = self._users.find(user_id)
        return None if user is None else user.questions.get(question_id)

    async def wait_until_ready(self, user_id: UserId) -> None:
        """Wait until changes by other nodes are received here, for a second at most."""
        if self._shared is not None:
            await self._shared.wait_until_ready(user_id)

    # Deletion.

    async def delete(self, user_id: UserId, thread_id: ThreadId, *, by: SessionId) -> bool:
        """Stop the runs of a thread on all nodes, delete it, and notify all sessions except one.

        A task of the node does this, so the end of the connection does not cancel it.
        """
        deletion = _Deletion(user_id, thread_id, by)
        self._start_soon(self._run_deletion, deletion)
        await deletion.has_ended.wait()
        if deletion.failure is not None:
            raise deletion.failure
        return deletion.was_there

    async def _run_deletion(self, deletion: _Deletion) -> None:
        try:
            await self._delete(deletion)
        except Exception as failure:  # raised again in the task of the request
            deletion.failure = failure
        finally:
            deletion.has_ended.set()

    async def _delete(self, deletion: _Deletion) -> None:
        user_id, thread_id = deletion.user_id, deletion.thread_id
        if await self._store.get_thread(user_id, thread_id) is None:
            return
        await self._stop_runs(user_id, thread_id)
        deletion.was_there = await self._store.delete_thread(user_id, thread_id)
        if not deletion.was_there:
            return
        self._files.collect_soon()
        with suppress(BrokerUnavailable):  # the room expires
            await self._broker.forget(thread_room(user_id, thread_id))
        self._changes.publish(Change(user_id, thread_id, ThreadChange.DELETED, deletion.by))

    async def _stop_runs(self, user_id: UserId, thread_id: ThreadId) -> None:
        """Stop the runs of a thread, also new ones, for at most `STOP_SECONDS`."""
        stopped: set[RunId] = set()
        with trio.move_on_after(STOP_SECONDS):
            while True:
                here = self._users.runs_of(user_id, thread_id)
                known = await self._store.unfinished_runs(user_id, thread_id)
                elsewhere = {run.run_id for run in known} - here.keys()
                if not here and not elsewhere:
                    return
                for run_id in here.keys() - stopped:
                    here[run_id].stop()
                for run_id in elsewhere - stopped:
                    self._start_soon(self._stop_elsewhere, user_id, run_id)
                stopped |= here.keys() | elsewhere
                await trio.sleep(POLL_SECONDS)

    async def _stop_elsewhere(self, user_id: UserId, run_id: RunId) -> None:
        """Stop a run of another node; if that is not possible, its end is dropped by the store."""
        if self._other_nodes is None:
            return
        try:
            await self._other_nodes.stop_run(user_id, run_id)
        except (Refused, StoreUnavailable) as reason:
            _log.warning("run_not_stopped", run_id=run_id, reason=str(reason))
