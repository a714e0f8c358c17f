"""The files of development in `.netra` in the working directory: a token key and a database.

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

from sqlalchemy.engine import URL

from netra_trio.config.settings import (
    DATABASE_FILE,
    FOLDER,
    KEY_BYTES,
    SECRET_BYTES,
    SECRET_FILE,
    TABLE,
    Settings,
)
from netra_trio.config.value_kinds import fault_line
from netra_trio.errors import SettingsError

SECRET_SOURCE = f"generated in {SECRET_FILE}"
RANDOM_BYTES = 48  # 64 characters in base64: the key length of HS512, the longest one


def development_defaults(directory: Path, settings: Settings) -> dict[str, str]:
    """Return values for the unset key and database, by field; create their folder and the key.

    Blocks on the file system: call it before the event loop starts.

    Raises:
        SettingsError: The folder or a file cannot be used; one line for each setting concerned.
    """
    makers = {}
    listed = settings.jwt_algorithms
    if settings.jwt_secret_key is None and (listed is None or set(listed) & set(KEY_BYTES)):
        makers["jwt_secret_key"] = _generated_key
    if settings.database_url is None:
        makers["database_url"] = _database_url
    values, faults = {}, []
    for name, make in makers.items():
        try:
            values[name] = make(directory)
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise SettingsError("\n".join(faults))
    return values


def _database_url(directory: Path) -> str:
    """Return the URL of the database in this directory; the store creates the file.

    Raises:
        ValueError: The folder cannot be used; the text is the line for the user.
    """
    row = TABLE["database_url"]
    try:
        make_folder(directory / FOLDER)
    except OSError as error:
        got = f"nothing, and one kept in {DATABASE_FILE} fails ({error.strerror})"
        fix = "make the folder writable, or set it (sqlite:// keeps everything in memory)"
        raise ValueError(fault_line(row.env, got, row.kind.expected, fix)) from None
    path = directory.absolute() / DATABASE_FILE
    return URL.create("sqlite", database=str(path)).render_as_string()


def _generated_key(directory: Path) -> str:
    """Return the key that is kept in this directory.

    Raises:
        ValueError: The key cannot be made or used; the text is the line for the user.
    """
    row = TABLE["jwt_secret_key"]
    try:
        secret = kept_secret(directory / FOLDER)
    except UnicodeDecodeError:
        got = f"bytes in {SECRET_FILE} that are not UTF-8"
        fix = "delete the file: a new one is made"
    except OSError as error:
        got = f"nothing, and one kept in {SECRET_FILE} fails ({error.strerror})"
        fix = "make the folder writable, or set it"
    else:
        if len(secret.encode()) >= SECRET_BYTES:
            return secret
        got = f"{len(secret.encode())} bytes in {SECRET_FILE} (kept secret)"
        fix = "delete the file: a new one is made"
    raise ValueError(fault_line(row.env, got, row.kind.expected, fix))


def kept_secret(folder: Path) -> str:
    """Return the secret stored in `folder`; create it if there is none.

    Only the owner can read the folder and the file, and git ignores both. Processes that start at
    the same time get the same secret, and none of them reads an incomplete one.

    Raises:
        OSError: The folder cannot be created, or the file cannot be written or read.
        UnicodeDecodeError: The file is not UTF-8.
    """
    make_folder(folder)
    file = folder / "secret"
    if not file.exists():
        _create(file)
    _restrict(file, 0o600)
    return file.read_text(encoding="utf-8").strip()


def make_folder(folder: Path) -> None:
    """Create the folder if it is missing; only its owner can open it, and git ignores it.

    Raises:
        OSError: The folder cannot be created, or is not writable.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    _restrict(folder, 0o700)
    with contextlib.suppress(FileExistsError), (folder / ".gitignore").open("x") as ignore:
        ignore.write("*\n")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _create(file: Path) -> None:
    """Write a new secret; if another process is faster, its secret stays."""
    draft = file.with_name(f"secret-{secrets.token_hex(8)}")
    draft.touch(mode=0o600, exist_ok=False)
    try:
        draft.write_text(secrets.token_urlsafe(RANDOM_BYTES), encoding="utf-8")
        # A hard link appears with its whole content and never replaces a file. A rename would let
        # the second process replace the key that the first one has already signed tokens with.
        with contextlib.suppress(FileExistsError):
            file.hardlink_to(draft)
    finally:
        draft.unlink()


def _restrict(path: Path, mode: int) -> None:
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)
