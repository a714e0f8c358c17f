"""The part of a thread's history that is sent to a model, within a budget of tokens.

>>> estimate("four"), estimate("")
(5, 4)
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from attrs import field, frozen

from netra_trio.agents.handed_files import Binary, Handed
from netra_trio.protocol.fields import JsonObject

MESSAGE_TOKENS = 4  # of the role and the marks around a message
FILE_TOKENS = 1000  # of an image or a document; models count a large image with about as many
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


@frozen
class ModelMessage:
    """A message for a model.

    Attributes:
        role: `user`, `assistant` or `system`.
        text: The text; the texts of several messages are joined.
        files: The images and documents.
    """

    role: str
    text: str
    files: tuple[Binary, ...] = field(default=(), repr=False)

    @property
    def tokens(self) -> int:
        """An estimate of its tokens."""
        return estimate(self.text) + FILE_TOKENS * len(self.files)

    def json(self) -> JsonObject:
        """Return it as a message of the Chat Completions API."""
        if not self.files:
            return {"role": self.role, "content": self.text}
        parts: list[JsonObject] = [{"type": "text", "text": self.text}] if self.text else []
        return {"role": self.role, "content": [*parts, *map(_part, self.files)]}

    def followed_by(self, text: str, files: tuple[Binary, ...]) -> "ModelMessage":
        """Return it joined with a later message of the same role."""
        joined = "\n\n".join(filter(None, (self.text, text)))
        return ModelMessage(self.role, joined, self.files + files)


def estimate(text: str) -> int:
    """Return an estimate of the tokens of a message: a quarter of its UTF-8 bytes, plus 4.

    It needs no tokenizer (tokenizers differ between models).
    """
    size = len(text.encode(errors="replace"))
    return MESSAGE_TOKENS + -(-size // BYTES_PER_TOKEN)


def messages_within(
    earlier: Sequence[PastMessage], tokens: int, files: Mapping[int, Handed] | None = None
) -> list[ModelMessage]:
    """Return the newest messages that fit into the budget, oldest first, for a request.

    A message is never cut; the first one that does not fit ends the selection. The selection begins
    with a message of the user. Messages without text and files are left out, and messages of the
    same role in a row are joined, because some models accept alternating roles only.

    Args:
        earlier: The messages, oldest first.
        tokens: The budget, see `estimate`; an image or a document counts as 1000.
        files: The files of the messages, by their index.
    """
    chosen: list[ModelMessage] = []
    for message in reversed(list(_joined(earlier, files or {}))):
        tokens -= message.tokens
        if tokens < 0:
            break
        chosen.append(message)
    while chosen and chosen[-1].role != "user":
        chosen.pop()
    return chosen[::-1]


def with_question(
    messages: list[ModelMessage], question: str, files: tuple[Binary, ...] = ()
) -> list[ModelMessage]:
    """Return the messages with the user's new one; joined to an earlier one without an answer."""
    if messages and messages[-1].role == "user":
        return [*messages[:-1], messages[-1].followed_by(question, files)]
    return [*messages, ModelMessage("user", question, files)]


def _joined(earlier: Sequence[PastMessage], files: Mapping[int, Handed]) -> Iterator[ModelMessage]:
    last: ModelMessage | None = None
    for index, message in enumerate(earlier):
        handed = files.get(index, Handed())
        text = handed.text(message.content)
        if not text and not handed.binaries:
            continue
        role = "user" if message.role == "user" else "assistant"
        if last is None or last.role != role:
            if last is not None:
                yield last
            last = ModelMessage(role, text, handed.binaries)
        else:
            last = last.followed_by(text, handed.binaries)
    if last is not None:
        yield last


def _part(file: Binary) -> JsonObject:
    if file.is_image:
        return {"type": "image_url", "image_url": {"url": file.url}}
    return {"type": "file", "file": {"filename": file.name, "file_data": file.url}}
