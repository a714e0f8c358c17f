"""Messages that a door makes; no frame of the protocol has them.

>>> PostedMessage("hello", history=()).agent is None
True
"""

from netra_trio.protocol.messages import HistoryMessage, UserMessage
from netra_trio.values import frozen


@frozen
class DoorMessage(UserMessage):
    """A message that a client has posted to a door.

    Attributes:
        digests: The values of its files by which messages with the same key are compared: a file
            that is posted again gets another id.
    """

    digests: tuple[str, ...] = ()


@frozen
class PostedMessage(DoorMessage):
    """A message of a client that holds the conversation itself.

    Attributes:
        history: The earlier messages, which the agent reads instead of the stored thread.
    """

    history: tuple[HistoryMessage, ...] = ()
