"""A message that a door makes; no frame of the protocol has it.

>>> PostedMessage("hello", history=()).agent is None
True
"""

from netra_trio.protocol.messages import HistoryMessage, UserMessage
from netra_trio.values import frozen


@frozen
class PostedMessage(UserMessage):
    """A message of a client that holds the conversation itself.

    Attributes:
        history: The earlier messages, which the agent reads instead of the stored thread.
    """

    history: tuple[HistoryMessage, ...] = ()
