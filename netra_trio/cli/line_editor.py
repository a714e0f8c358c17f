"""The line editor of a terminal (readline), and the lines of earlier chats that it recalls.

    history = History.open(os.environ)
    line = input("> ")
    history.keep(line)

The file is `netra-trio/chat_history` in `$XDG_STATE_HOME`, by default `~/.local/state`. Only its
user may read it. If it cannot be used, the lines of the present chat are recalled all the same.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from attrs import frozen

try:
    import readline
except ImportError:  # Python may be built without it
    HAS_READLINE = False
else:
    HAS_READLINE = True
    # Without this, readline would write control sequences around each prompt.
    readline.parse_and_bind("set enable-bracketed-paste off")

LINES = 1_000  # in the file; the oldest are dropped
LINE_CHARACTERS = 4_000  # of a line that is kept

_FOLDER = Path("netra-trio")
_NAME = "chat_history"


@frozen
class History:
    """The lines that the line editor recalls.

    Attributes:
        file: Where they are kept; None if they are not.
    """

    file: Path | None = None

    @classmethod
    def open(cls, environ: Mapping[str, str]) -> Self:
        """Read the lines of earlier chats; create the file if there is none."""
        if not HAS_READLINE:
            return cls()
        try:
            folder = _state_folder(environ) / _FOLDER
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = folder / _NAME
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
            os.fchmod(descriptor, 0o600)  # it may have been created with another mode
            os.close(descriptor)
            readline.set_history_length(LINES)
            readline.read_history_file(file)
        except (OSError, RuntimeError):
            return cls()
        return cls(file)

    def keep(self, line: str) -> None:
        """Keep the line that was typed last, unless it begins with a blank or is very long."""
        if line.startswith(" ") or len(line) > LINE_CHARACTERS:
            self.forget(line)
        elif self.file is not None and line and line == _last():
            with contextlib.suppress(OSError):
                _append(self.file)
                self.file.chmod(0o600)  # a shortened file is another one

    def forget(self, line: str) -> None:
        """Do not recall the line that was typed last."""
        if HAS_READLINE and line and line == _last():
            readline.remove_history_item(readline.get_current_history_length() - 1)


def line_buffer() -> str:
    """Return what is typed in the present line; empty without readline."""
    return readline.get_line_buffer() if HAS_READLINE else ""


def _append(file: Path) -> None:
    try:
        append = readline.append_history_file
    except AttributeError:  # libedit, which stands for readline on macOS
        readline.write_history_file(file)
    else:
        append(1, file)


def _last() -> str | None:
    return readline.get_history_item(readline.get_current_history_length())


def _state_folder(environ: Mapping[str, str]) -> Path:
    given = Path(environ.get("XDG_STATE_HOME", ""))
    return given if given.is_absolute() else Path.home() / ".local" / "state"
