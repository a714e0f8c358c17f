"""The messages that a client may send."""

from typing import get_args

from netra_trio.protocol.messages import (
    Ack,
    AgentRequest,
    Answer,
    Auth,
    GetThreadHistory,
    Ping,
    Pong,
    StopAgent,
    UserMessage,
)
from netra_trio.protocol.rooms import (
    GetPresence,
    JoinRoom,
    LeaveRoom,
    RoomMessage,
    UnwatchThread,
    WatchThread,
)
from netra_trio.protocol.threads import (
    DeleteThread,
    Feedback,
    ListThreads,
    MarkRead,
    RenameThread,
)

Inbound = (
    Ping
    | Pong
    | Auth
    | Ack
    | UserMessage
    | AgentRequest
    | StopAgent
    | Answer
    | GetThreadHistory
    | JoinRoom
    | LeaveRoom
    | RoomMessage
    | GetPresence
    | WatchThread
    | UnwatchThread
    | ListThreads
    | RenameThread
    | MarkRead
    | DeleteThread
    | Feedback
)
INBOUND: dict[str, type[Inbound]] = {kind.TYPE: kind for kind in get_args(Inbound)}
"""The messages that a client may send, by type."""
