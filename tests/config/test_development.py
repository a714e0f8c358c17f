"""The folder of development: the key and the database."""

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from support.settings import KEY, faults, loaded, mode

from netra_trio.config.development import SECRET_SOURCE, kept_secret, make_folder
from netra_trio.config.loading import load


def test_a_complete_configuration_writes_no_file(tmp_path: Path) -> None:
    assert loaded(tmp_path, DATABASE_URL="sqlite://").settings.database_url == "sqlite://"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["plain", "a b", "x?y#z", "50%41", "\u00fc@:&"])
def test_development_has_a_database_in_its_folder(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    outcome = loaded(directory)
    assert outcome.settings.database_url is not None
    assert outcome.sources["DATABASE_URL"] == "default"
    place = make_url(outcome.settings.database_url)
    assert (place.drivername, place.database) == ("sqlite", f"{directory}/.netra/netra.db")
    folder = directory / ".netra"
    assert [path.name for path in folder.iterdir()] == [".gitignore"]
    assert mode(folder) == 0o700


def test_the_database_of_a_relative_folder_has_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert loaded(Path()).settings.database_url == f"sqlite:///{tmp_path}/.netra/netra.db"


def test_a_folder_that_cannot_be_written_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path / ".netra")
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write anywhere
    (line,) = faults(tmp_path, KEY)
    assert line.startswith("DATABASE_URL: got nothing, and one kept in .netra/netra.db fails (Perm")
    assert "make the folder writable, or set it (sqlite:// keeps everything in memory)" in line
    assert loaded(tmp_path, DATABASE_URL="sqlite://").settings.database_url == "sqlite://"


def test_development_generates_its_key_once(tmp_path: Path) -> None:
    first = load({}, directory=tmp_path)
    assert first.sources["JWT_SECRET_KEY"] == SECRET_SOURCE
    assert len(first.settings.jwt_secret_key or "") == 64
    assert load({}, directory=tmp_path) == first
    folder = tmp_path / ".netra"
    assert (mode(folder), mode(folder / "secret")) == (0o700, 0o600)
    assert (folder / ".gitignore").read_text() == "*\n"
    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "secret"]


def test_the_permissions_of_a_kept_key_are_restored(tmp_path: Path) -> None:
    first = load({}, directory=tmp_path)
    folder = tmp_path / ".netra"
    folder.chmod(0o755)
    (folder / "secret").chmod(0o644)
    assert load({}, directory=tmp_path) == first
    assert (mode(folder), mode(folder / "secret")) == (0o700, 0o600)


def test_processes_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    for turn in range(20):
        folder = tmp_path / str(turn)
        with ThreadPoolExecutor(8) as pool:
            kept = list(pool.map(kept_secret, itertools.repeat(folder, 8)))
        assert len(set(kept)) == 1
        assert len(kept[0]) == 64
        assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "secret"]


def test_the_slower_process_takes_the_key_of_the_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = kept_secret(tmp_path / "n")
    monkeypatch.setattr(Path, "exists", lambda _: False)  # both looked before either wrote
    assert kept_secret(tmp_path / "n") == ours


@pytest.mark.parametrize(
    ("content", "came"),
    [
        (b"", "got 0 bytes in .netra/secret"),
        (b"hunter2" * 4 + b"xyz", "got 31 bytes in .netra/secret"),
        (b"\xff" * 64, "got bytes in .netra/secret that are not UTF-8"),
    ],
)
def test_an_unusable_key_file_is_a_fault(tmp_path: Path, content: bytes, came: str) -> None:
    load({}, directory=tmp_path)
    file = tmp_path / ".netra" / "secret"
    file.write_bytes(content)
    (line,) = faults(tmp_path, {})
    assert line.startswith(f"JWT_SECRET_KEY: {came}")
    assert line.endswith("delete the file: a new one is made")
    assert "hunter2" not in line
    file.write_bytes(b"y" * 32 + b"\n")
    assert load({}, directory=tmp_path).settings.jwt_secret_key == "y" * 32


def test_a_folder_that_cannot_be_created_is_a_fault(tmp_path: Path) -> None:
    lines = faults(tmp_path / "missing", {})
    assert [line.partition(" (")[0] for line in lines] == [
        "JWT_SECRET_KEY: got nothing, and one kept in .netra/secret fails",
        "DATABASE_URL: got nothing, and one kept in .netra/netra.db fails",
    ]
    assert str(tmp_path) not in "".join(lines)
