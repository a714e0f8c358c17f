"""A folder for what development keeps, and a secret in it, the same for all who ask there.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder:
...     kept_secret(Path(folder)) == kept_secret(Path(folder))
True
"""

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

RANDOM_BYTES = 48  # written as 64 characters, the longest key that HS512 asks for


def kept_secret(folder: Path) -> str:
    """Return the secret kept in `folder`, made now where there is none.

    Nobody but the owner may read the folder or the file, and git is told to leave both alone.
    Processes that start together get the same secret, and none sees half of one.

    Raises:
        OSError: The folder cannot be made, or the file not written or read.
        UnicodeDecodeError: The file holds something else.
    """
    keep_folder(folder)
    file = folder / "secret"
    if not file.exists():
        _create(file)
    _restrict(file, 0o600)
    return file.read_text(encoding="utf-8").strip()


def keep_folder(folder: Path) -> None:
    """Make the folder where there is none; only the owner may look into it, and git leaves it out.

    Raises:
        OSError: It cannot be made, or nothing can be written there.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    _restrict(folder, 0o700)
    with contextlib.suppress(FileExistsError), (folder / ".gitignore").open("x") as ignore:
        ignore.write("*\n")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _create(file: Path) -> None:
    """Write a new secret, unless another process is faster: then its own stays."""
    draft = file.with_name(f"secret-{secrets.token_hex(8)}")
    draft.touch(mode=0o600, exist_ok=False)
    try:
        draft.write_text(secrets.token_urlsafe(RANDOM_BYTES), encoding="utf-8")
        # A link, as it comes into being whole and never replaces: a rename would let the second
        # process overwrite what the first has already signed tokens with.
        with contextlib.suppress(FileExistsError):
            file.hardlink_to(draft)
    finally:
        draft.unlink()


def _restrict(path: Path, mode: int) -> None:
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)
