"""The storage that FILES_URL names; the library for S3 is imported only if it is used."""

import secrets
import tempfile
from pathlib import Path

from netra_trio.config.value_kinds import S3_SCHEME
from netra_trio.files.base import FileStorage
from netra_trio.files.folder import FolderStorage


def storage_of(url: str | None) -> FileStorage:
    """Return the storage for a value of FILES_URL; None is a folder that ends with the storage.

    Raises:
        SettingsError: If the URL is one of S3, and its library is not installed.
    """
    if url is None:
        folder = Path(tempfile.gettempdir()) / f"netra-trio-{secrets.token_hex(8)}"
        return FolderStorage(folder, is_temporary=True)
    if not url.startswith(S3_SCHEME):
        return FolderStorage(Path(url))
    from netra_trio.files.s3 import S3Storage  # noqa: PLC0415 - an optional dependency

    bucket, _, prefix = url.removeprefix(S3_SCHEME).partition("/")
    return S3Storage(bucket, prefix)
