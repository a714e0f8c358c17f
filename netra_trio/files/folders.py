"""Folders of the server's own: how they are made, and how leftovers in them are deleted."""

import errno
import os
import secrets
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

SPOOL_PREFIX = "upload-"  # of the names of temporary files


def new_temporary() -> Path:
    """Return the path of a temporary folder, which does not exist yet."""
    return Path(tempfile.gettempdir()) / f"netra-trio-{secrets.token_hex(8)}"


def make_private(folder: Path) -> None:
    """Create a folder, and those above it, permanently and for the user of the server only.

    Raises:
        OSError: It cannot be created.
    """
    if folder.is_dir():
        return
    if not folder.parent.is_dir():
        make_private(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    with suppress(PermissionError):  # folders may be created in it, and it may not be opened
        sync_folder(folder.parent)  # else a power failure may lose the folder with its files


def sync_folder(folder: Path) -> None:
    """Write the names of the files and folders in a folder permanently to the disk.

    Raises:
        OSError: It cannot be done.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_own(folder: Path) -> None:
    """Create a folder as `make_private`, where other users of the machine can create folders too.

    Raises:
        OSError: It cannot be created, or it is there already and another user can change it.
    """
    make_private(folder)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EACCES, "other users can change it", str(folder))


def sweep_folder(folder: Path, older_than: float) -> int:
    """Delete the temporary files that a killed process has left; return how many.

    Blocks on the file system.

    Args:
        folder: The folder for temporary files; it need not exist.
        older_than: Seconds since the last write to a file.
    """
    deleted, before = 0, time.time() - older_than
    for path in folder.glob(f"{SPOOL_PREFIX}*"):
        with suppress(OSError):  # another process was faster
            if path.stat().st_mtime < before:
                path.unlink()
                deleted += 1
    return deleted
