"""The messages that a client may send."""

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

Inbound = (
    Ping | Pong | Auth | Ack | UserMessage | AgentRequest | StopAgent | Answer | GetThreadHistory
)
INBOUND: dict[str, type[Inbound]] = {
    cls.TYPE: cls
    for cls in (
        *(Ping, Pong, Auth, Ack),
        *(UserMessage, AgentRequest, StopAgent, Answer, GetThreadHistory),
    )
}
"""The messages that a client may send, by type."""
