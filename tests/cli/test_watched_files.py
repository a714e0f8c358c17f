"""Which files restart the server of `serve --reload`."""

from pathlib import Path

import pytest

from netra_trio.cli.workers.watched_files import WatchedFiles


@pytest.mark.parametrize(
    "name",
    ["agents.py", "package/agents.py", "prompts/system.md", "settings.toml", "a/b/c/tools.json"],
)
def test_sources_are_watched(tmp_path: Path, name: str) -> None:
    assert WatchedFiles(tmp_path).includes(str(tmp_path / name))


@pytest.mark.parametrize(
    "name",
    [
        ".netra/netra.db",
        "netra.db",
        "netra.db-wal",
        "server.log",
        ".git/index.py",
        ".venv/lib/agents.py",
        ".agents.py.swp",
        ".#agents.py",
        "agents.py~",
        "agents.pyc",
        "__pycache__/agents.py",
        "package/__pycache__/agents.py",
        "node_modules/x/package.json",
        "venv/lib/x.py",
        "env/lib/x.py",
        "dist/x.py",
        "picture.png",
        "Makefile",
        "folder",
    ],
)
def test_other_files_are_not(tmp_path: Path, name: str) -> None:
    assert not WatchedFiles(tmp_path).includes(str(tmp_path / name))


def test_a_virtual_environment_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "tools" / "python"
    folder.mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("")
    watched = WatchedFiles(tmp_path)
    assert not watched.includes(str(folder / "lib" / "x.py"))
    assert not watched.includes(str(folder / "x.py"))
    assert watched.includes(str(tmp_path / "tools" / "x.py"))


def test_a_working_directory_inside_of_ignored_folders(tmp_path: Path) -> None:
    root = tmp_path / ".hidden" / "venv"
    root.mkdir(parents=True)
    (root / "pyvenv.cfg").write_text("")
    assert WatchedFiles(root).includes(str(root / "agents.py"))
    assert not WatchedFiles(root).includes(str(tmp_path / "agents.py"))
