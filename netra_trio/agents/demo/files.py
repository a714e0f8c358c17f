"""Files of the demo agent: descriptions of received files, and the file that it attaches."""

from collections.abc import Iterable

from netra_trio.agents.attachments import Attachment
from netra_trio.agents.demo.quoting import quoted
from netra_trio.errors import FilesNotFound, StorageUnavailable

READ_BYTES = 2048  # of a text, for its first lines
LINES = 3  # of a text that are quoted
PNG_HEAD = 24  # bytes: the signature, and the size of the image

_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = ("text/", "application/json", "application/xml")


async def description(attachment: Attachment) -> str:
    """Return a line about a file: its name, type and size, and how it begins."""
    size = "1 byte" if attachment.bytes == 1 else f"{attachment.bytes} bytes"
    known = f"{quoted(attachment.name)}, {quoted(attachment.media_type)}, {size}"
    try:
        return known + await _begin(attachment)
    except (FilesNotFound, StorageUnavailable):
        return f"{known}; I cannot read it right now"


async def _begin(attachment: Attachment) -> str:
    if attachment.media_type == "image/png":
        head = await attachment.read(size=PNG_HEAD)
        if len(head) < PNG_HEAD or not head.startswith(_PNG):
            return ""
        width, height = int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
        return f", {width} by {height} pixels"
    if not attachment.media_type.startswith(_TEXTS) or attachment.bytes == 0:
        return ""
    text = (await attachment.read(size=READ_BYTES)).decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()][:LINES]
    return "; it begins with " + ", ".join(map(quoted, lines)) if lines else ""


def conversation_file(messages: Iterable[tuple[str, str]]) -> bytes:
    """Return a conversation as Markdown, from the author and the text of each message."""
    return "\n".join(f"## {author}\n\n{text}\n" for author, text in messages).encode()
