"""A `FileStorage` in a bucket of S3, or of a service that is compatible with it.

    storage = S3Storage("bucket", "prefix")

It needs the extra `s3`: botocore, whose calls run in threads. botocore finds endpoint, region and
credentials itself: in the variables AWS_*, in ~/.aws, or from the machine that it runs on. The
frameworks for agents depend on it too, so that one version serves both.
"""

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import trio

from netra_trio.errors import ContentMissing, SettingsError, StorageUnavailable
from netra_trio.files.base import check_id
from netra_trio.files.chunks import Chunks
from netra_trio.files.folders import make_own, sweep_folder
from netra_trio.files.threads import THREADS, Guarded, StorageThreads
from netra_trio.ids import FileId

try:
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError
except ImportError:
    raise SettingsError(
        "FILES_URL: s3:// needs a library that is not installed; run "
        '`pip install "netra-trio[s3]"`, or set it to the path of a folder'
    ) from None

CONNECT_SECONDS = 3.0
READ_SECONDS = 30.0  # without a byte
ATTEMPTS = 3  # of one request, with a growing pause between them

_MISSING = frozenset({"NoSuchKey", "404"})

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class S3Storage:
    """The content of files as objects of a bucket.

    Args:
        bucket: The bucket, which must exist.
        prefix: Begins the key of each object; without slashes around it.

    Attributes:
        threads: Call the service, and the file system for temporary files.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self.threads = StorageThreads()
        self._client: Any = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold the connections to the service open, which are made when they are needed.

        Raises:
            SettingsError: The settings of botocore are wrong, or the folder for temporary files
                cannot be used.
        """
        try:
            await trio.to_thread.run_sync(make_own, self.spool_folder)
        except OSError as error:
            text = f"{self.spool_folder} for temporary files cannot be used: {error.strerror}"
            raise SettingsError(f"FILES_URL: {text}; set TMPDIR to another folder") from None
        try:
            self._client = await trio.to_thread.run_sync(_connect)
        except (BotoCoreError, ValueError) as error:
            raise SettingsError(f"FILES_URL: S3 cannot be used: {error}") from None
        try:
            yield
        finally:
            self._client.close()

    @property
    def spool_folder(self) -> Path:
        """The folder for temporary files, in that of the system."""
        return Path(tempfile.gettempdir()) / f"netra-trio-{os.getuid()}"

    def location(self, file_id: FileId) -> str:
        """Return the address of the object."""
        return f"s3://{self._bucket}/{self._prefix}{file_id}"

    async def check(self) -> None:
        """Return if the service answers and the bucket can be used."""
        await self._run(self._check)

    async def put(self, file_id: FileId, path: Path) -> None:
        """Store the content of a temporary file, in one request."""
        key = self._key(file_id)
        with _failing():
            await self.threads.run_undoable(
                partial(self._put, key, path), partial(self._delete, key)
            )

    @asynccontextmanager
    async def read(
        self, file_id: FileId, *, start: int = 0, size: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read content in chunks; leaving the block ends the transfer."""
        wanted: dict[str, Any] = {"Bucket": self._bucket, "Key": self._key(file_id)}
        if size is not None and size > 0:
            wanted["Range"] = f"bytes={start}-{start + size - 1}"
        elif start > 0:
            wanted["Range"] = f"bytes={start}-"
        with _Object() as content:
            await self._run(content.open, self._client.get_object, wanted)

            async def read(_: int, most: int) -> bytes:
                return await self._run(content.read, most)

            yield Chunks(read, start, size)

    async def delete(self, file_id: FileId) -> None:
        """Delete content; no effect if there is none."""
        await self._run(self._delete, self._key(file_id))

    async def sweep(self, older_than: float) -> int:
        """Delete temporary files that killed processes have left; return how many."""
        return await self.threads.run(sweep_folder, self.spool_folder, older_than)

    def _key(self, file_id: FileId) -> str:
        check_id(file_id)
        return self._prefix + file_id

    async def _run(self, function: Callable[[*_Ts], _T], *args: *_Ts) -> _T:
        """Call a function in a thread; it raises as `_failing`."""
        with _failing():
            return await self.threads.run(function, *args)

    def _check(self) -> None:
        make_own(self.spool_folder)
        try:
            self._client.head_bucket(Bucket=self._bucket)
        except ClientError as error:  # 404 is of the bucket here
            raise StorageUnavailable(f"S3 answers {_code_of(error)}") from error

    def _put(self, key: str, path: Path) -> None:
        with path.open("rb") as content:
            self._client.put_object(Bucket=self._bucket, Key=key, Body=content)

    def _delete(self, key: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=key)


class _Object(Guarded):
    """The content of an object that is being received."""

    def __init__(self) -> None:
        super().__init__()
        self._body: Any = None

    def open(self, get: Callable[..., Any], wanted: dict[str, Any]) -> None:
        """Request the object, or the part of it that a range names."""
        with self.in_use():
            self._body = get(**wanted)["Body"]

    def read(self, most: int) -> bytes:
        """Return the next bytes; none at the end, or if it is closed."""
        with self.in_use():
            return b"" if self._body is None else bytes(self._body.read(most))

    def close(self) -> None:
        """End the transfer."""
        if self._body is not None:
            self._body.close()
            self._body = None


@contextmanager
def _failing() -> Iterator[None]:
    """Raise what a caller expects for an error of botocore, or of urllib3 below it.

    Raises:
        ContentMissing: There is no such object.
        StorageUnavailable: The service does not answer, or refuses the request.
    """
    try:
        yield
    except ClientError as error:
        code = _code_of(error)
        if code in _MISSING:
            raise ContentMissing("there is no such object") from None
        raise StorageUnavailable(f"S3 answers {code}") from error
    except (BotoCoreError, HTTPError) as error:  # botocore translates some while content is read
        raise StorageUnavailable(type(error).__name__) from error


def _connect() -> Any:
    """Return a client, which opens its connections when they are needed."""
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=THREADS,
        # Not all compatible services know the checksums that newer clients send by default.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return botocore.session.get_session().create_client("s3", config=config)


def _code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "an error"))
