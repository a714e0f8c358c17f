"""Files in the chat of the terminal: names that are safe to save, and what may fail."""

import io
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from attrs import define, field

from netra_trio.cli.chat_files import ChatFiles
from netra_trio.cli.errors import CommandError
from netra_trio.cli.terminal import Screen
from netra_trio.client import Client, File, MessageRefused, TransferFailed


@define
class FakeClient:
    """Has the content of one file, or fails.

    Attributes:
        failure: What both methods raise; None for nothing.
        breaks: What a download raises behind its first chunk; None for nothing.
    """

    failure: Exception | None = None
    breaks: Exception | None = None
    uploaded: list[Path] = field(factory=list)

    async def upload(self, path: Path) -> File:
        """Note an upload."""
        if self.failure is not None:
            raise self.failure
        self.uploaded.append(path)
        return File(f"file_{len(self.uploaded)}", "text/plain", 2048, "00")

    @asynccontextmanager
    async def download(self, _: str) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """Return two chunks."""
        if self.failure is not None:
            raise self.failure

        async def chunks() -> AsyncGenerator[bytes, None]:
            yield b"he"
            if self.breaks is not None:
                raise self.breaks
            yield b"llo"

        content = chunks()
        try:
            yield content
        finally:
            await content.aclose()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Chat:
    """The files of a chat, and what they show."""

    def __init__(
        self, paths: Iterable[Path] = (), folder: Path | None = None, **fails: Any
    ) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()
        self.client = FakeClient(**fails)
        self.files = ChatFiles(Screen(self.out), [*paths], folder)

    async def upload(self) -> list[str]:
        return await self.files.upload(cast("Client", self.client))

    async def show(self, *names: str, size: int = 5) -> list[str]:
        """Show files of an answer; return the new lines."""
        listed = [
            {"file_id": f"file_{at}", "name": name, "media_type": "text/plain", "bytes": size}
            for at, name in enumerate(names)
        ]
        await self.files.show(cast("Client", self.client), {"files": listed})
        return self.out.getvalue().splitlines()


async def test_files_are_attached_to_the_first_message_only(tmp_path: Path) -> None:
    chat = Chat([tmp_path / "a", tmp_path / "b"])
    assert await chat.upload() == ["file_1", "file_2"]
    assert await chat.upload() == []
    assert chat.client.uploaded == [tmp_path / "a", tmp_path / "b"]
    assert chat.out.getvalue().splitlines()[0] == "[attached] a (text/plain, 2 KiB)"


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (FileNotFoundError(2, "No such file or directory"), "cannot read a: No such file"),
        (ValueError("it has changed"), "cannot read a: it has changed"),
        (TransferFailed("no answer"), "cannot send a: no answer"),
    ],
)
async def test_a_file_that_cannot_be_sent(failure: Exception, text: str) -> None:
    with pytest.raises(CommandError, match=text):
        await Chat([Path("a")], failure=failure).upload()


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("report.pdf", "report.pdf"),
        ("a/b/../../../etc/passwd", "passwd"),
        ("..\\windows.ini", "windows.ini"),
        ("..", "file_0"),
        (".bashrc", "file_0"),
        ("", "file_0"),
        ("a\x1b[31m", "file_0"),
    ],
)
async def test_names_of_saved_files(tmp_path: Path, name: str, saved: str) -> None:
    folder = tmp_path / "new" / "folder"
    shown = (await Chat(folder=folder).show(name))[-1]
    assert shown.endswith(f": saved as {folder / saved}")
    assert (folder / saved).read_bytes() == b"hello"
    assert names_in(folder) == [saved]


async def test_no_file_is_overwritten(tmp_path: Path) -> None:
    await Chat(folder=tmp_path).show("a.txt", "a.txt", "a.txt")
    assert names_in(tmp_path) == [
        "a (2).txt",
        "a (3).txt",
        "a.txt",
    ]


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (5 * 1024**2, "5 MiB"), (2**60, "GiB")],
)
async def test_sizes(size: int, shown: str) -> None:
    [line] = await Chat().show("a", size=size)
    assert shown in line
    assert line.endswith("--save-files DIR saves it")


@pytest.mark.parametrize(
    ("fails", "text"),
    [
        ({"failure": MessageRefused("FILE_NOT_FOUND", "Gone.", "Ask.")}, "Gone. Ask."),
        ({"failure": TransferFailed("no answer")}, "no answer"),
        ({"breaks": TransferFailed("broke off")}, "broke off"),
        ({"breaks": OSError(28, "No space left on device")}, "cannot write it: No space left"),
    ],
)
async def test_a_file_that_cannot_be_saved_leaves_nothing(
    tmp_path: Path, fails: dict[str, Any], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = await Chat(folder=tmp_path, **fails).show("a.txt")
    assert text in "".join(shown) + capsys.readouterr().err
    assert names_in(tmp_path) == []
