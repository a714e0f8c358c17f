"""The part of a thread's history that is sent to a model, within a budget of tokens.

>>> estimate("four"), estimate("")
(5, 4)
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from netra_trio.protocol.fields import JsonObject

MESSAGE_TOKENS = 4  # of the role and the marks around a message
BYTES_PER_TOKEN = (
    4  # of English text; in other scripts a token has fewer characters, not fewer bytes
)


class PastMessage(Protocol):
    """A message of the history."""

    @property
    def role(self) -> str:
        """`user` or `agent`."""
        ...

    @property
    def content(self) -> str:
        """The text."""
        ...


def estimate(text: str) -> int:
    """Return an estimate of the tokens of a message: a quarter of its UTF-8 bytes, plus 4.

    It needs no tokenizer (tokenizers differ between models).
    """
    size = len(text.encode(errors="replace"))
    return MESSAGE_TOKENS + -(-size // BYTES_PER_TOKEN)


def messages_within(earlier: Sequence[PastMessage], tokens: int) -> list[JsonObject]:
    """Return the newest messages that fit into the budget, oldest first, for a request.

    A message is never cut; the first one that does not fit ends the selection. The selection begins
    with a message of the user. Messages without text are left out, and messages of the same role in
    a row are joined, because some models accept alternating roles only.
    """
    chosen: list[JsonObject] = []
    for message in reversed(list(_joined(earlier))):
        tokens -= estimate(str(message["content"]))
        if tokens < 0:
            break
        chosen.append(message)
    while chosen and chosen[-1]["role"] != "user":
        chosen.pop()
    return chosen[::-1]


def with_question(messages: list[JsonObject], question: str) -> list[JsonObject]:
    """Return the messages with the user's new one; joined to an earlier one without an answer."""
    if messages and messages[-1]["role"] == "user":
        last = {**messages[-1], "content": f"{messages[-1]['content']}\n\n{question}"}
        return [*messages[:-1], last]
    return [*messages, {"role": "user", "content": question}]


def _joined(earlier: Sequence[PastMessage]) -> Iterator[JsonObject]:
    role, texts = "", list[str]()
    for message in earlier:
        if not message.content:
            continue
        if message.role != role and texts:
            yield _message(role, texts)
            texts = []
        role = message.role
        texts.append(message.content)
    if texts:
        yield _message(role, texts)


def _message(role: str, texts: Sequence[str]) -> JsonObject:
    name = "user" if role == "user" else "assistant"
    return {"role": name, "content": "\n\n".join(texts)}
