"""Loads settings in tests: minimal valid environments, and the errors of invalid ones.

lines = faults(tmp_path, {**KEY, "WEBSOCKET_MAX_CONNECTIONS": "0"})
"""

import stat
from pathlib import Path

import pytest

from netra_trio.config.loading import Loaded, load
from netra_trio.errors import SettingsError

SECRET = "s3cr3t-" + "x" * 57  # 64 bytes: enough for every algorithm
KEY = {"JWT_SECRET_KEY": SECRET}
STRICT = {
    **KEY,
    "DATABASE_URL": "postgresql://netra:hunter2@db/netra",
    "WEBSOCKET_ALLOWED_ORIGINS": "https://app.example.com",
}
"""The variables that production requires."""


def loaded(directory: Path, **environ: str) -> Loaded:
    """Load these variables and a key."""
    return load({**KEY, **environ}, directory=directory)


def faults(directory: Path, environ: dict[str, str]) -> list[str]:
    """Return the lines of the error that these variables raise."""
    with pytest.raises(SettingsError) as caught:
        load(environ, directory=directory)
    return str(caught.value).splitlines()


def mode(path: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)
