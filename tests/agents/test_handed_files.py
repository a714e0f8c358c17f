"""The files of a message that are passed to a model, and their bounds."""

from typing import Any

import pytest
from attrs import define, field
from support.kept_files import KeptFiles

from netra_trio.agents.attachments import Attachment
from netra_trio.agents.handed_files import (
    EARLIER_FILES,
    FILES_BYTES,
    TEXT_BYTES,
    TEXTS_BYTES,
    Handed,
    HandOver,
    is_text,
)
from netra_trio.errors import FilesNotFound, RetryableAgentError, StoreUnavailable
from netra_trio.ids import FileId, MessageId
from netra_trio.protocol.messages import HistoryMessage


@define
class Owner:
    """A run with files."""

    files: KeptFiles = field(factory=KeptFiles)
    attachments: list[Attachment] = field(factory=list)
    is_down: bool = False

    def add(self, data: bytes, media_type: str, name: str = "a") -> Attachment:
        """Add a file."""
        return Attachment(self.files.put(data, name, media_type), self.files)

    async def attachment(self, file_id: FileId | str) -> Attachment:
        """Return a file."""
        if self.is_down:
            raise StoreUnavailable("down")
        found = self.files.files.get(FileId(file_id))
        if found is None:
            raise FilesNotFound([file_id])
        return Attachment(found[0], self.files)


async def handed(*files: Attachment, images: bool = True, pdfs: bool = True) -> Handed:
    return await HandOver(images=images, pdfs=pdfs).load(files)


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/gif", "image/webp"])
async def test_images(media_type: str) -> None:
    image = Owner().add(b"\x89PNG", media_type)
    [binary] = (await handed(image, pdfs=False)).binaries
    assert (binary.name, binary.is_image, binary.data) == ("a", True, b"\x89PNG")
    assert binary.url == f"data:{media_type};base64,iVBORw=="
    without = await handed(image, images=False)
    note = f'[File "a" ({media_type}), 4 bytes: its content is not available.]'
    assert (without.notes, without.binaries) == ((note,), ())
    assert without.text("Look!") == f"Look!\n\n{note}"
    assert without.text("") == note


async def test_documents() -> None:
    owner = Owner()
    document = owner.add(b"%PDF", "application/pdf", "")
    [binary] = (await handed(document, images=False)).binaries
    assert (binary.name, binary.is_image) == (document.file_id, False)
    without = await handed(document, pdfs=False)
    name = f'[File "{document.file_id}" (application/pdf), 4 bytes'
    assert without.notes[0].startswith(name)


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("text/plain", True),
        ("text/csv; charset=utf-8", True),
        ("application/json", True),
        ("application/ld+json", True),
        ("image/svg+xml", True),
        ("application/zip", False),
        ("image/bmp", False),
        ("audio/mpeg", False),
    ],
)
async def test_types_of_text(media_type: str, expected: bool) -> None:
    assert is_text(media_type) is expected
    note = (await handed(Owner().add(b"hello", media_type))).notes[0]
    assert ("hello" in note) is expected
    assert note.startswith(f'[File "a" ({media_type})')


async def test_texts_are_cut_between_characters() -> None:
    owner = Owner()
    whole = (await handed(owner.add(b"x" * TEXT_BYTES, "text/plain"))).notes[0]
    assert whole == f'[File "a" (text/plain)]\n{"x" * TEXT_BYTES}'
    cut = (await handed(owner.add("é".encode() * TEXT_BYTES, "text/plain"))).notes[0]
    assert cut.endswith(f"é\n[Cut: it has {2 * TEXT_BYTES} bytes.]")
    assert cut.count("é") == TEXT_BYTES // 2
    odd = (await handed(owner.add(b"x" + "é".encode() * TEXT_BYTES, "text/plain"))).notes[0]
    assert odd.count("é") == TEXT_BYTES // 2 - 1
    assert "\ufffd" not in odd
    assert (await handed(owner.add(b"a\xff", "text/plain"))).notes[0].endswith("\na\ufffd")


async def test_all_texts_have_a_limit_together() -> None:
    owner = Owner()
    files = [owner.add(b"x" * TEXT_BYTES, "text/plain") for _ in range(3)]
    notes = (await handed(*files)).notes
    assert [note.count("x" * 9) > 0 for note in notes] == [True, True, False]
    assert TEXTS_BYTES == 2 * TEXT_BYTES


async def test_images_and_documents_have_a_limit_together() -> None:
    owner = Owner()
    half = owner.add(b"x" * (FILES_BYTES // 2), "image/png")
    rest = owner.add(b"x" * (FILES_BYTES // 2), "application/pdf")
    more = owner.add(b"x", "image/png", "more")
    found = await handed(half, rest, more)
    assert [len(each.data) for each in found.binaries] == [FILES_BYTES // 2] * 2
    assert found.notes == ('[File "more" (image/png), 1 bytes: its content is not available.]',)


async def test_a_file_that_was_deleted_is_named() -> None:
    owner = Owner()
    image, text = owner.add(b"x", "image/png"), owner.add(b"x", "text/plain")
    owner.files.files.clear()
    found = await handed(image, text)
    assert (len(found.notes), found.binaries) == (2, ())
    assert all("not available" in note for note in found.notes)


async def test_a_storage_that_is_down_is_tried_again() -> None:
    owner = Owner()
    image = owner.add(b"x", "image/png")
    owner.files.is_down = True
    with pytest.raises(RetryableAgentError):
        await handed(image)


def message(role: str, *files: Attachment) -> HistoryMessage:
    ids: Any = tuple(each.file_id for each in files)
    return HistoryMessage(MessageId("m"), role, "text", 0.0, attachments=ids or None)


async def test_the_files_of_earlier_messages_of_the_user() -> None:
    owner = Owner()
    images = [owner.add(b"x", "image/png", f"{number}") for number in range(EARLIER_FILES + 3)]
    gone = owner.add(b"x", "image/png")
    del owner.files.files[gone.file_id]
    messages = [
        message("user", *images[:4]),
        message("agent", images[0]),
        message("user"),
        message("user", gone),
        message("user", *images[4:-1]),
        message("user", images[-1]),
    ]
    found = await HandOver(images=True, pdfs=True).load_earlier(owner, messages)
    names = {at: [each.name for each in files.binaries] for at, files in found.items()}
    assert names == {5: ["10"], 4: ["4", "5", "6", "7", "8", "9"], 0: ["0"]}
    owner.is_down = True
    with pytest.raises(RetryableAgentError):
        await HandOver(images=True, pdfs=True).load_earlier(owner, messages)
