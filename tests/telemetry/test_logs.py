"""Logging of the process: its configuration, the standard library, and the output."""

import io
import json
import logging
import sys
import warnings
from typing import Any

import pytest
import structlog
from hypercorn.config import Config
from hypercorn.logging import AccessLogAtoms, Logger
from support.logs import JWT, SUBPROTOCOL, TICKET, Terminal, fail, only

from netra_trio.telemetry import logs

# Configuration


def test_the_stream_decides_the_format() -> None:
    terminal = Terminal()
    logs.configure(stream=terminal)
    structlog.get_logger("a").info("hello")
    assert "\x1b[32minfo" in terminal.getvalue()
    file = io.StringIO()
    logs.configure(stream=file)
    structlog.get_logger("a").info("hello")
    assert only(file)["event"] == "hello"


def test_the_default_is_stderr(monkeypatch: pytest.MonkeyPatch, out: io.StringIO) -> None:
    monkeypatch.setattr(sys, "stderr", out)
    logs.configure()
    structlog.get_logger("a").info("hello")
    assert only(out)["event"] == "hello"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_disabled(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    terminal = Terminal()
    logs.configure(stream=terminal)
    structlog.get_logger("a").info("hello")
    assert "\x1b" not in terminal.getvalue()
    assert "info     hello" in terminal.getvalue()


def test_a_file_gets_no_colours(out: io.StringIO) -> None:
    logs.configure(stream=out, json=False)
    structlog.get_logger("a").error("hello", a=1)
    assert "\x1b" not in out.getvalue()


# Levels


def test_the_level_filters_both_kinds_of_logger(out: io.StringIO) -> None:
    logs.configure(stream=out, level="WARNING")
    log = structlog.get_logger("a")
    log.debug("no")
    log.info("no")
    log.warning("yes 1")
    logging.getLogger("b").info("no")
    logging.getLogger("b").warning("yes 2")
    events = [json.loads(line)["event"] for line in out.getvalue().splitlines()]
    assert events == ["yes 1", "yes 2"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a log level of debug, .*; got 'loud'"):
        logs.configure(level="loud")


def test_a_logger_that_was_used_follows_a_new_stream(out: io.StringIO) -> None:
    logs.configure(stream=io.StringIO())
    log = structlog.get_logger("a")
    log.info("there")
    logs.configure(stream=out)
    log.info("here")
    assert only(out)["event"] == "here"


def test_lines_can_be_captured(out: io.StringIO) -> None:
    logs.configure(stream=out)
    log = structlog.get_logger("a")
    log.info("before")
    with structlog.testing.capture_logs() as captured:
        log.info("inside")
        logging.getLogger("b").info("inside too")
    assert [line["event"] for line in captured] == ["inside", "inside too"]
    assert only(out)["event"] == "before"


# The standard library


def test_records_have_the_same_fields(out: io.StringIO) -> None:
    logs.configure(stream=out)
    structlog.contextvars.bind_contextvars(connection_id="conn_1")
    logging.getLogger("hypercorn.error").warning("took %d ms", 5)
    line = only(out)
    assert line.pop("timestamp")
    assert line == {
        "level": "warning",
        "logger": "hypercorn.error",
        "event": "took 5 ms",
        "connection_id": "conn_1",
    }


def test_records_show_their_exception(out: io.StringIO) -> None:
    logs.configure(stream=out)
    try:
        fail(f"bad {JWT}")
    except ValueError:
        logging.getLogger("b").exception("failed", stack_info=True)
    line = only(out)
    assert line["exception"].endswith("ValueError: bad [redacted]")
    assert line["stack"].startswith("Stack")


def test_arguments_that_do_not_fit_the_format_are_not_printed(
    out: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(stream=out)
    logging.getLogger("b").warning("took %d ms", TICKET)
    assert only(out)["event"] == "'took %d ms' (its arguments do not fit it)"
    assert capsys.readouterr() == ("", "")


def test_warnings_are_logged(out: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure(stream=out)
        warnings.warn(f"deprecated: token={TICKET}", UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    line = only(out)
    assert line["logger"] == "py.warnings"
    assert "deprecated" in line["event"]
    assert TICKET not in out.getvalue()


def test_existing_handlers_are_removed(out: io.StringIO) -> None:
    other = io.StringIO()
    logging.getLogger("hypercorn.access").addHandler(logging.StreamHandler(other))
    logging.getLogger("hypercorn.access").propagate = False
    logs.configure(stream=out)
    logging.getLogger("hypercorn.access").warning("hello")
    assert other.getvalue() == ""
    assert only(out)["event"] == "hello"


async def test_hypercorn_writes_through_the_host_logger(
    out: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(stream=out)
    config = Config()
    config.errorlog = config.accesslog = logs.host_logger()
    config.access_log_format = '%(R)s %(s)s "%({authorization}i)s" "%({sec-websocket-protocol}i)s"'
    host = Logger(config)
    scope: Any = {
        "type": "websocket",
        "headers": [
            (b"authorization", b"Basic dXNlcjpwdw=="),
            (b"sec-websocket-protocol", f"netra.v1, {SUBPROTOCOL}".encode()),
        ],
        "path": "/ws",
        "query_string": f"ticket={TICKET}&last_seq=7".encode(),
        "scheme": "ws",
        "http_version": "1.1",
        "client": ("127.0.0.1", 5),
    }
    assert isinstance(host.atoms(scope, None, 0.1), AccessLogAtoms)
    await host.access(scope, {"status": 101, "headers": []}, 0.1)
    line = only(out)
    assert line["logger"] == "netra_trio.server.hypercorn.install"
    assert line["event"] == (
        'GET /ws?ticket=[redacted]&last_seq=7 1.1 101 "[redacted]" "netra.v1, jwt.[redacted]"'
    )
    await host.error("token=%s", TICKET)
    assert TICKET not in out.getvalue()
    assert capsys.readouterr() == ("", "")


# The stream


def test_a_stream_with_a_small_encoding_gets_replacements() -> None:
    raw = io.BytesIO()
    logs.configure(stream=io.TextIOWrapper(raw, encoding="ascii"))
    structlog.get_logger("a").info("größer")
    assert json.loads(raw.getvalue())["event"] == "gr??er"


def test_a_broken_stream_raises_nothing() -> None:
    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError

    logs.configure(stream=Full())
    structlog.get_logger("a").info("hello")
    closed = io.StringIO()
    logs.configure(stream=closed)
    closed.close()
    structlog.get_logger("a").info("hello")


@pytest.mark.parametrize("asks", ["exc_info", "stack_info"])
def test_an_info_line_can_have_a_traceback(out: io.StringIO, asks: str) -> None:
    logs.configure(stream=out)
    try:
        fail("the fault")
    except ValueError:
        structlog.get_logger("a").info("it happened", **{asks: True})
    line = only(out)
    shown = line["exception"] if asks == "exc_info" else line["stack"]
    assert "test_logs.py" in shown
    assert asks not in line


def test_an_info_line_can_have_arguments_and_bound_values(out: io.StringIO) -> None:
    logs.configure(stream=out)
    log = structlog.get_logger("a").bind(more=1)
    log.info("%s of %s", 1, 2)
    line = only(out)
    assert (line["event"], line["more"], line["level"]) == ("1 of 2", 1, "info")
