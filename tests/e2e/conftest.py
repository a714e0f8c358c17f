"""Fixtures of the end-to-end tests."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.commands import Typed
from support.server import clean_environ

from netra_trio.cli.main import main


@pytest.fixture
def typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Typed:
    """Return a function that runs a command in this process, in an empty directory."""

    def run_here(*arguments: str, **environ: str) -> tuple[int, str, str]:
        clean = clean_environ(tmp_path, {"COLUMNS": "200", **environ})
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            for name in os.environ:
                patch.delenv(name)
            for name, value in clean.items():
                patch.setenv(name, value)
            # Loggers keep their first configuration, and this process is not the command's.
            patch.setattr("netra_trio.telemetry.logs.configure", lambda: None)
            code: object = 0
            try:
                with capture_logs():
                    main(arguments)
            except SystemExit as end:
                code = end.code or 0
        assert isinstance(code, int)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run_here


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the url of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'netra.db'}"
    return str(request.getfixturevalue("database_url"))
