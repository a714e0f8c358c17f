"""The file storage of an application: by default it keeps content as long as its rows."""

from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve

from netra_trio import Settings, create_app
from netra_trio.config.loading import load
from netra_trio.ids import new_file_id
from netra_trio.server.application import Application
from netra_trio.stores.base import Store
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.sql.store import SqlStore

SETTINGS = evolve(Settings(), jwt_secret_key="s" * 32)
DEFAULT, OWN = ".netra/files", "own"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory, without settings in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JWT_SECRET_KEY", "s" * 32)
    for name in ("DATABASE_URL", "FILES_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def folder_of(app: Application, directory: Path) -> str | None:
    """Return the folder of the content in the directory, None if it is elsewhere."""
    location = Path(app._storage.location(new_file_id()))
    if not location.is_relative_to(directory):
        return None
    return str(location.relative_to(directory).parent.parent)


STORES: dict[str, tuple[Callable[[], Store], str | None]] = {
    "memory": (MemoryStore, None),
    "SQLite in memory": (lambda: SqlStore("sqlite://"), None),
    "SQLite": (lambda: SqlStore("sqlite:///netra.db"), DEFAULT),
}


@pytest.mark.parametrize("name", STORES)
def test_content_is_kept_as_long_as_its_rows(directory: Path, name: str) -> None:
    make, expected = STORES[name]
    for settings in (SETTINGS, None):
        app = create_app(settings=settings, store=make())
        assert folder_of(app, directory) == expected


@pytest.mark.parametrize("name", STORES)
def test_a_folder_that_is_set_is_used(
    directory: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make, _ = STORES[name]
    settings = evolve(SETTINGS, files_url=str(directory / OWN))
    assert folder_of(create_app(settings=settings, store=make()), directory) == OWN
    monkeypatch.setenv("FILES_URL", OWN)
    assert folder_of(create_app(store=make()), directory) == OWN


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_database_in_memory_has_no_folder_by_default(directory: Path, url: str) -> None:
    environ = {"JWT_SECRET_KEY": "s" * 32, "DATABASE_URL": url}
    assert load(environ, directory=directory).settings.files_url is None
    found = load({**environ, "FILES_URL": OWN}, directory=directory).settings.files_url
    assert found == str(directory / OWN)
    kept = load({**environ, "DATABASE_URL": "sqlite:///netra.db"}, directory=directory)
    assert kept.settings.files_url == str(directory / DEFAULT)
