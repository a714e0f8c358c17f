"""The files whose change restarts the server.

>>> watched = WatchedFiles(Path("/home/me"))
>>> [watched.includes(f"/home/me/{name}") for name in ("my_agents.py", ".git/x.py", "x.log")]
[True, False, False]
"""

from functools import lru_cache
from pathlib import Path

from attrs import frozen

# Of the files that agents and their settings consist of. Other files may be written while the
# server works: databases, logs, pictures.
SUFFIXES = frozenset(
    {".py", ".pyi", ".toml", ".yaml", ".yml", ".json", ".md", ".txt", ".j2", ".jinja", ".html"}
)
IGNORED_FOLDERS = frozenset(
    {"__pycache__", "node_modules", "site-packages", "venv", "env", "build", "dist"}
)

_VENV_MARK = "pyvenv.cfg"


@frozen
class WatchedFiles:
    """Which files below a folder are watched.

    Hidden ones are not, nor are those in virtual environments and in folders of packages, logs and
    databases.

    Attributes:
        root: The folder, resolved.
    """

    root: Path

    def includes(self, name: str) -> bool:
        """Return whether a changed file, given as an absolute path, is watched."""
        path = Path(name)
        if path.suffix not in SUFFIXES or not path.is_relative_to(self.root):
            return False
        parts = path.relative_to(self.root).parts
        if any(part.startswith(".") or part in IGNORED_FOLDERS for part in parts):
            return False
        folders = list(path.relative_to(self.root).parents)[:-1]  # without the root itself
        return not any(_is_virtual_environment(self.root / folder) for folder in folders)


@lru_cache(maxsize=1_000)
def _is_virtual_environment(folder: Path) -> bool:
    return (folder / _VENV_MARK).is_file()
