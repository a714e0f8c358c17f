"""The storage that FILES_URL names, and what is wrong with it."""

import builtins
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from support.s3 import BUCKET, S3Server

from netra_trio.cli.check_services import check_files
from netra_trio.config.settings import Settings
from netra_trio.config.value_kinds import FilesUrl
from netra_trio.errors import ContentMissing, SettingsError, StorageUnavailable
from netra_trio.files.choice import storage_of
from netra_trio.files.folder import FolderStorage
from netra_trio.files.s3 import S3Storage
from netra_trio.files.spool import Spool
from netra_trio.ids import FileId, new_file_id


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("/var/files", "/var/files"),
        ("/var/files/", "/var/files"),
        (" files ", "files"),
        ("/", "/"),
        ("s3://bucket", "s3://bucket"),
        ("S3://bucket/", "s3://bucket"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://my-bucket.name_1/p", "s3://my-bucket.name_1/p"),
    ],
)
def test_where_files_are_kept(text: str, url: str) -> None:
    kind = FilesUrl()
    assert kind.read(text) == url
    assert kind.read(url) == url
    assert kind.show(url) == url


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("file:///var/files", "write a folder without file://, or use s3://"),
        ("https://bucket.s3.amazonaws.com", "write a folder without file://, or use s3://"),
        ("s3://", "name the bucket: s3://bucket/prefix"),
        ("s3://a", "name the bucket: s3://bucket/prefix"),
        ("s3:///prefix", "name the bucket: s3://bucket/prefix"),
        (
            "s3://key:secret@bucket/a",
            "leave out the key: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        (
            "s3://bucket/a?region=x",
            "use a prefix of letters, digits and slashes; options have variables",
        ),
        ("s3://bucket/a b", "use a prefix of letters, digits and slashes; options have variables"),
        ("a\x00b", "leave out the NUL"),
    ],
)
def test_invalid_places_for_files(text: str, fix: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(fix)}$"):
        FilesUrl().read(text)


def test_the_storage_of_a_url(tmp_path: Path) -> None:
    folder = storage_of(str(tmp_path))
    assert isinstance(folder, FolderStorage)
    assert (folder.spool_folder, folder.is_temporary) == (tmp_path / "spool", False)
    temporary = storage_of(None)
    assert isinstance(temporary, FolderStorage)
    assert temporary.is_temporary
    assert temporary.spool_folder.is_relative_to(tempfile.gettempdir())
    assert not temporary.spool_folder.exists()
    assert isinstance(storage_of("s3://bucket/prefix"), S3Storage)


def test_a_missing_library_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def import_without_botocore(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("botocore"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "netra_trio.files.s3")
    monkeypatch.setattr(builtins, "__import__", import_without_botocore)
    with pytest.raises(SettingsError, match=r'pip install "netra-trio\[s3\]"'):
        storage_of("s3://bucket")


@pytest.mark.parametrize("is_link", [False, True])
async def test_a_folder_that_other_users_can_change_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_link: bool
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    storage = S3Storage("bucket", "")
    if is_link:
        storage.spool_folder.symlink_to(tmp_path)
    else:
        storage.spool_folder.mkdir()
        storage.spool_folder.chmod(0o770)
    with pytest.raises(SettingsError, match=r"FILES_URL: .* other users can change it; set TMPDIR"):
        async with storage.open():
            pass


# What `netra-trio check` says.


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_a_folder_is_tried_out(tmp_path: Path) -> None:
    settings = Settings(files_url=str(tmp_path))
    assert await check_files(settings) == (True, f"{tmp_path} takes writes")
    assert files_below(tmp_path) == []


async def test_a_folder_that_does_not_exist_is_not_created(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    is_well, text = await check_files(Settings(files_url=str(folder)))
    assert (is_well, text) == (True, f"{folder} does not exist yet; the first upload creates it")
    assert not folder.exists()


async def test_a_folder_that_cannot_be_used() -> None:
    is_well, text = await check_files(Settings(files_url="/dev/null/files"))
    assert not is_well
    assert text.startswith("/dev/null/files cannot be used: ")
    assert text.endswith("; set FILES_URL to another place")


# S3.


@pytest.fixture
def variables(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> pytest.MonkeyPatch:
    """Set the variables for the server."""
    for name, value in s3_server.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return monkeypatch


async def test_a_bucket_is_tried_out(s3_server: S3Server, variables: pytest.MonkeyPatch) -> None:
    del variables
    before = s3_server.objects
    assert await check_files(Settings(files_url=s3_server.url)) == (
        True,
        f"{s3_server.url} takes writes",
    )
    assert s3_server.objects == before


@pytest.mark.parametrize(
    ("url", "name", "value", "reason"),
    [
        (f"s3://{BUCKET}", "AWS_SECRET_ACCESS_KEY", "another", "S3 answers"),
        ("s3://no-such-bucket", "AWS_REGION", "us-east-1", "S3 answers 404"),
        (f"s3://{BUCKET}", "AWS_ENDPOINT_URL", "http://127.0.0.1:9", "ConnectionError"),
        (f"s3://{BUCKET}", "AWS_ENDPOINT_URL", "nonsense", "FILES_URL: S3 cannot be used"),
    ],
)
async def test_a_bucket_that_cannot_be_used(
    variables: pytest.MonkeyPatch, url: str, name: str, value: str, reason: str
) -> None:
    variables.setenv(name, value)
    variables.setattr("netra_trio.files.s3.ATTEMPTS", 1)
    is_well, text = await check_files(Settings(files_url=url))
    assert not is_well
    assert reason in text
    assert "another" not in text.replace("another place", "")


async def test_a_service_that_refuses(variables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variables.setenv("AWS_SECRET_ACCESS_KEY", "another")
    storage = S3Storage(BUCKET, "")
    async with storage.open():
        async with Spool(tmp_path, limit=10, threads=storage.threads) as spool:
            await spool.write(b"x")
            await spool.finish()
            with pytest.raises(StorageUnavailable, match="SignatureDoesNotMatch"):
                await storage.put(new_file_id(), spool.path)
        with pytest.raises(StorageUnavailable):
            await storage.delete(new_file_id())
        with pytest.raises(StorageUnavailable):
            async with storage.read(new_file_id()):
                pass
        with pytest.raises(ContentMissing):
            await storage.delete(FileId("../x"))
