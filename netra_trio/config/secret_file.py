r"""A secret in a file, as containers and systemd hand it over.

>>> from tempfile import NamedTemporaryFile
>>> with NamedTemporaryFile() as file:
...     _ = Path(file.name).write_text("hunter2\n")
...     read_secret(Path(file.name)).text
'hunter2'
"""

import stat
from pathlib import Path

from attrs import frozen

FILE_BYTES = 64 * 1024  # a thousand times a key; a larger file is another one than was meant


@frozen
class SecretFile:
    """What a file has.

    Attributes:
        text: The secret, without the newline at its end.
        is_open: Whether everybody on the machine may read the file.
    """

    text: str
    is_open: bool


class SecretFileUnusable(Exception):
    """There is no secret in the file.

    Attributes:
        came: What there is instead, to follow "got"; neither the path, which may be the secret
            itself by mistake, nor anything of the file.
        mend: What to do.
    """

    def __init__(self, came: str, mend: str) -> None:
        super().__init__(came)
        self.came = came
        self.mend = mend


def read_secret(path: Path) -> SecretFile:
    """Read a secret; one newline at its end is dropped, every other byte belongs to it.

    Raises:
        SecretFileUnusable: There is none.
    """
    try:
        with path.open("rb") as file:
            mode = path.stat().st_mode
            content = file.read(FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        why = error.strerror if isinstance(error, OSError) and error.strerror else "no path"
        raise SecretFileUnusable(f"a file that cannot be read ({why})", _MEND) from None
    if len(content) > FILE_BYTES:
        raise SecretFileUnusable(f"a file of more than {FILE_BYTES} bytes", _MEND)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise SecretFileUnusable("a file that is not UTF-8", "write it in UTF-8") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise SecretFileUnusable("an empty file", "write the secret into it")
    return SecretFile(text, bool(mode & stat.S_IROTH))


_MEND = "name a file that this process can read"
