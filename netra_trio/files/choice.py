"""The storage that FILES_URL names; the library for S3 is imported only if it is used."""

from pathlib import Path

from netra_trio.config.value_kinds import S3_SCHEME
from netra_trio.files.base import FileStorage
from netra_trio.files.folder import FolderStorage
from netra_trio.files.folders import new_temporary


def storage_of(url: str | None) -> FileStorage:
    """Return the storage for a value of FILES_URL; None is a folder that ends with the storage.

    Raises:
        SettingsError: If the URL is one of S3, and its library is not installed.
    """
    if url is None:
        return FolderStorage(new_temporary(), is_temporary=True)
    if not url.startswith(S3_SCHEME):
        return FolderStorage(Path(url))
    from netra_trio.files.s3 import S3Storage  # noqa: PLC0415 - an optional dependency

    bucket, _, prefix = url.removeprefix(S3_SCHEME).partition("/")
    return S3Storage(bucket, prefix)
