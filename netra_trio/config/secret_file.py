r"""Read a secret from a file, as containers and systemd provide it.

>>> from tempfile import NamedTemporaryFile
>>> with NamedTemporaryFile() as file:
...     _ = Path(file.name).write_text("hunter2\n")
...     read_secret(Path(file.name)).text
'hunter2'
"""

import stat
from pathlib import Path

from attrs import frozen

FILE_BYTES = 64 * 1024  # a thousand keys: a larger file is the wrong file


@frozen
class SecretFile:
    """The content of a secret file.

    Attributes:
        text: The secret, without the newline at its end.
        is_open: Whether every account on the machine can read the file.
    """

    text: str
    is_open: bool


class SecretFileUnusable(Exception):
    """The file does not contain a usable secret.

    Attributes:
        got: What was found, to follow the word "got"; contains neither the path, which may be the
            secret itself by mistake, nor anything of the file.
        fix: How to fix it.
    """

    def __init__(self, got: str, fix: str) -> None:
        super().__init__(got)
        self.got = got
        self.fix = fix


def read_secret(path: Path) -> SecretFile:
    """Read a secret; one newline at its end is dropped, every other byte belongs to it.

    Raises:
        SecretFileUnusable: The file cannot be read, or contains no secret.
    """
    try:
        with path.open("rb") as file:
            mode = path.stat().st_mode
            content = file.read(FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # `open` raises ValueError for a null byte
        why = error.strerror if isinstance(error, OSError) and error.strerror else "no path"
        raise SecretFileUnusable(f"a file that cannot be read ({why})", _FIX) from None
    if len(content) > FILE_BYTES:
        raise SecretFileUnusable(f"a file of more than {FILE_BYTES} bytes", _FIX)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise SecretFileUnusable("a file that is not UTF-8", "write it in UTF-8") from None
    text = text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")
    if not text.strip():
        raise SecretFileUnusable("an empty file", "write the secret into it")
    return SecretFile(text, bool(mode & stat.S_IROTH))


_FIX = "name a file that this process can read"
