"""Local variables are not logged, also in a program that does not configure the log."""

from collections.abc import Iterator

import pytest
import structlog
from support.settings import SECRET

from netra_trio.config.settings import Settings
from netra_trio.server.application import create_app
from netra_trio.telemetry.logs import leave_locals_out


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    """Let structlog have its defaults, as in a program that does not configure it."""
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
    if before is not None:
        structlog.configure(**before)


def fail() -> None:
    password = "hunter2-secret"
    raise ValueError(len(password))


def log_failure() -> None:
    try:
        fail()
    except ValueError:
        structlog.get_logger("test").exception("run_failed")


async def test_an_application_logs_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    app = create_app(settings=Settings(jwt_secret_key=SECRET))
    async with app.running():
        log_failure()
    out = capsys.readouterr().out
    assert "run_failed" in out
    assert "ValueError: 14" in out
    assert "hunter2" not in out


def test_a_configuration_of_the_program_stays() -> None:
    structlog.configure(processors=[structlog.processors.JSONRenderer()])
    leave_locals_out()
    (renderer,) = structlog.get_config()["processors"]
    assert isinstance(renderer, structlog.processors.JSONRenderer)
