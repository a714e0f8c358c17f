"""The actions of an administrator, for a run, a session, a user or a node: of this node or another.

    actions = AdminActions(…)
    nodes = await actions.perform(AdminAction.STOP_RUN, "run_1")

Each node that may have the target is asked at the same time; a repeated action changes nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import trio

from netra_trio.auth.identity import user_refusal
from netra_trio.cluster.cluster import Cluster
from netra_trio.connections.connection import Connection
from netra_trio.errors import BrokerUnavailable, NotStorable, StoreUnavailable
from netra_trio.ids import NodeId, RunId, SessionId, UserId
from netra_trio.node.registry import Sessions
from netra_trio.protocol.admin import AdminAction
from netra_trio.protocol.codes import EndReason, ErrorCode
from netra_trio.protocol.fields import JsonObject
from netra_trio.protocol.problem import Refused, broker_unavailable, problem, store_unavailable
from netra_trio.sessions.session import Session
from netra_trio.sessions.users import Users
from netra_trio.stores.base import Store, User

ACT = "admin_act"  # the kind of a message to another node
REPLY_SECONDS = 2.0  # for the reply of another node
CLOSING_SECONDS = 2.0  # for the runs of an ended session, before its connection is closed
DRAIN_DELAY_SECONDS = 0.1  # for the answer to the request, before the node drains
ENDED_BY_ADMINISTRATOR = "ended_by_administrator"  # why a session ends


class DrainNode(Protocol):
    """Drains the node, as SIGTERM does."""

    async def __call__(self) -> None:
        """Drain it."""
        ...


class AdminActions:
    """Performs the actions; see the module.

    Args:
        node: This node.
        users: Its users.
        sessions: Its sessions.
        newest: The newest connection of each session.
        store: Has the users.
        cluster: Its part in a cluster; None without other nodes.
        start_soon: Starts a task of the node.
        drain: Drains the node.

    Attributes:
        drain: Drains the node; the process may replace it, to end then.
    """

    def __init__(
        self,
        *,
        node: NodeId,
        users: Users,
        sessions: Sessions,
        newest: Mapping[SessionId, Connection],
        store: Store,
        cluster: Cluster | None,
        start_soon: Callable[..., Any],
        drain: DrainNode,
    ) -> None:
        self.drain = drain
        self._node = node
        self._users = users
        self._sessions = sessions
        self._newest = newest
        self._store = store
        self._cluster = cluster
        self._start_soon = start_soon
        self._here: dict[AdminAction, Callable[[str], bool]] = {
            AdminAction.STOP_RUN: self._stop_run,
            AdminAction.END_SESSION: self._end_session,
            AdminAction.DISABLE_USER: self._end_connections,
            AdminAction.DRAIN_NODE: self._drain_node,
        }
        if cluster is not None:
            cluster.mailbox.handle(ACT, self._on_act)

    async def perform(self, action: AdminAction, target: str) -> list[NodeId]:
        """Perform an action. Cancelling is safe; it may be performed all the same.

        Args:
            action: The action.
            target: The id of a run, a session, a user or a node.

        Returns:
            The nodes that perform it; of `DISABLE_USER` those with connections of the user.

        Raises:
            Refused: RUN_NOT_FOUND, USER_NOT_FOUND or BAD_REQUEST, with status 404, if there is no
                such target; SERVICE_UNAVAILABLE if that is not known, or it cannot be done now.
        """
        if action is AdminAction.DISABLE_USER:
            await self._disable(UserId(target))
        nodes = [self._node] if self._here[action](target) else []
        if not nodes or action is AdminAction.DISABLE_USER:
            others, silent = await self._ask_others(action, target)
            nodes += others
            # A node without an answer sees in the store that the user is disabled.
            if silent and not nodes and action is not AdminAction.DISABLE_USER:
                raise Refused(broker_unavailable("Another node does not answer now."))
        if not nodes and action is not AdminAction.DISABLE_USER:
            raise _not_found(action)
        return nodes

    # At this node.

    def _stop_run(self, run_id: str) -> bool:
        live = self._users.find_run(RunId(run_id))
        if live is not None:
            live.stop()
        return live is not None

    def _end_session(self, session_id: str) -> bool:
        session = self._sessions.get(SessionId(session_id))
        if session is None:
            return False
        connection = self._newest.get(session.id)
        self._sessions.close(session, ENDED_BY_ADMINISTRATOR)
        if connection is not None:
            self._start_soon(_close, session, connection)
        return True

    def _end_connections(self, user_id: str) -> bool:
        user = self._users.find(UserId(user_id))
        connections = [] if user is None else list(user.connections)
        for connection in connections:
            refusal = user_refusal(User(UserId(user_id), enabled=False))
            connection.end(EndReason.USER_DISABLED, refusal)
        return bool(connections)

    def _drain_node(self, node: str) -> bool:
        if node == self._node:
            self._start_soon(self._drain_soon)
        return node == self._node

    async def _drain_soon(self) -> None:
        await trio.sleep(DRAIN_DELAY_SECONDS)
        await self.drain()

    async def _disable(self, user_id: UserId) -> None:
        """Disable a user in the store.

        Raises:
            Refused: USER_NOT_FOUND, or SERVICE_UNAVAILABLE.
        """
        try:
            is_known = await self._store.set_user_enabled(user_id, enabled=False)
        except StoreUnavailable:
            raise Refused(store_unavailable()) from None
        except NotStorable:
            is_known = False
        if not is_known:
            raise _not_found(AdminAction.DISABLE_USER)

    # At other nodes.

    async def _ask_others(
        self, action: AdminAction, target: str
    ) -> tuple[list[NodeId], list[NodeId]]:
        """Return the other nodes that perform an action, and those that do not answer."""
        performing: list[NodeId] = []
        silent: list[NodeId] = []
        if self._cluster is None:
            return [], []
        peers = await self._cluster.membership.find_peers()
        if action is AdminAction.DRAIN_NODE:
            peers = [node for node in peers if node == target]
        async with trio.open_nursery() as nursery:
            for node in peers:
                nursery.start_soon(self._ask, node, action, target, performing, silent)
        return performing, silent

    async def _ask(
        self,
        node: NodeId,
        action: AdminAction,
        target: str,
        performing: list[NodeId],
        silent: list[NodeId],
    ) -> None:
        assert self._cluster is not None  # noqa: S101 - for mypy: there are other nodes
        header = {"action": action, "target": target}
        try:
            answer = await self._cluster.mailbox.ask(node, ACT, header, seconds=REPLY_SECONDS)
        except BrokerUnavailable:
            silent.append(node)
            return
        if answer.header["is_here"]:
            performing.append(node)

    async def _on_act(self, sender: NodeId, header: JsonObject, _data: bytes) -> None:
        """Perform an action of another node, if its target is here."""
        assert self._cluster is not None  # noqa: S101 - for mypy: this came from another node
        is_here = self._here[AdminAction(header["action"])](header["target"])
        await self._cluster.mailbox.answer(sender, header, {"is_here": is_here})


async def _close(session: Session, connection: Connection) -> None:
    """Close the connection of a session that has ended, once the ends of its runs are sent."""
    with trio.move_on_after(CLOSING_SECONDS):
        await session.wait_idle()
    connection.end(EndReason.SESSION_ENDED)


def _not_found(action: AdminAction) -> Refused:
    """Return the error for a target that does not exist."""
    code, text = {
        AdminAction.STOP_RUN: (ErrorCode.RUN_NOT_FOUND, "The run does not exist or has ended."),
        AdminAction.END_SESSION: (
            ErrorCode.BAD_REQUEST,
            "The session does not exist or has ended.",
        ),
        AdminAction.DISABLE_USER: (ErrorCode.USER_NOT_FOUND, "There is no such user."),
        AdminAction.DRAIN_NODE: (ErrorCode.BAD_REQUEST, "There is no such node, or it has ended."),
    }[action]
    return Refused(problem(code, text, status=404, help="Read the ids on the live page again."))
