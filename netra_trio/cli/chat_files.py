"""Files in the chat: those that are attached to the first message, and those of answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import trio
from attrs import define

from netra_trio.cli.errors import CommandError
from netra_trio.cli.terminal import Screen
from netra_trio.client import Client, MessageRefused, TransferFailed

_UNITS = ("bytes", "KiB", "MiB", "GiB")
_STEP = 1024


@define
class ChatFiles:
    """The files of one chat.

    Attributes:
        screen: The output.
        paths: The files to attach to the next message.
        folder: Where the files of answers are saved; None to name them only.
    """

    screen: Screen
    paths: Sequence[Path]
    folder: Path | None

    async def upload(self, client: Client) -> list[str]:
        """Upload the files to attach; return their ids.

        Raises:
            CommandError: A file cannot be read or sent.
            MessageRefused: The server refuses one.
        """
        paths, self.paths = self.paths, ()
        found = []
        for path in paths:
            try:
                file = await client.upload(path)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise CommandError(f"cannot read {path}: {reason}") from None
            except TransferFailed as error:
                raise CommandError(f"cannot send {path}: {error}") from None
            self.screen.note(f"[attached] {path.name} ({file.media_type}, {_size(file.bytes)})")
            found.append(file.file_id)
        return found

    async def show(self, client: Client, end: Mapping[str, Any]) -> None:
        """Name the files of an answer, and save them if there is a folder.

        Args:
            client: The client.
            end: The payload of the `agent_completed`.
        """
        for file in end.get("files", ()):
            name = str(file["name"]) or str(file["file_id"])
            about = f"[file] {name} ({file['media_type']}, {_size(int(file['bytes']))})"
            if self.folder is None:
                self.screen.note(f"{about}; --save-files DIR saves it")
                continue
            try:
                path = await self._save(client, str(file["file_id"]), name)
            except OSError as error:
                self.screen.fault(f"{about}: cannot write it: {error.strerror}")
            except MessageRefused as refused:
                self.screen.fault(f"{about}: {refused.error} {refused.help}")
            except TransferFailed as failed:
                self.screen.fault(f"{about}: {failed}")
            else:
                self.screen.note(f"{about}: saved as {path}")

    async def _save(self, client: Client, file_id: str, name: str) -> Path:
        """Save a file under a name that is free; nothing is left of one that broke off."""
        assert self.folder is not None  # noqa: S101 - for mypy: checked by the caller
        self.folder.mkdir(parents=True, exist_ok=True)
        async with client.download(file_id) as download:
            path, file = _create(self.folder, name, file_id)
            try:
                async with trio.wrap_file(file) as output:
                    async for chunk in download:
                        await output.write(chunk)
            except BaseException:
                path.unlink()
                raise
        return path


def _create(folder: Path, name: str, file_id: str) -> tuple[Path, Any]:
    """Open a new file for a name that the server has given."""
    plain = Path(name.replace("\\", "/")).name
    if plain.startswith(".") or not plain.isprintable() or not plain:
        plain = file_id
    given = Path(plain)
    number = 1
    while True:
        shown = plain if number == 1 else f"{given.stem} ({number}){given.suffix}"
        try:
            return folder / shown, (folder / shown).open("xb")
        except FileExistsError:
            number += 1


def _size(count: int) -> str:
    value, unit = float(count), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    return f"{value:.0f} {_UNITS[unit]}"
