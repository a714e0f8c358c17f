"""Fixtures for the tests of the log: a stream, and the restored logging of the process."""

import io
import logging
from collections.abc import Iterator

import pytest
import structlog

from netra_trio.telemetry import logs


@pytest.fixture(autouse=True)
def unchanged_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the logging of the process."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    loggers = [logging.getLogger(), logging.getLogger("py.warnings"), logs.host_logger()]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
    logging.captureWarnings(False)
    logs._OUTPUT.open(None)
    logs._CHAIN.clear()
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()
