"""The lines of telemetry events: their ids, their levels, and that they equal structlog's lines."""

import io
import json
from typing import Any

import pytest
import structlog
import trio
from structlog.testing import capture_logs
from support.logs import JWT, only

from netra_trio.protocol.messages import RunStatus
from netra_trio.telemetry import logs
from netra_trio.telemetry.events import RunEnded, RunStarted
from netra_trio.telemetry.instruments import Instruments
from netra_trio.telemetry.log_context import LOG_CONTEXT, extend_log_context, set_log_context
from netra_trio.telemetry.logs import EventLog

STARTED = RunStarted("run_1", "demo", 0.25, "sess_1")
ENDED = RunEnded("run_1", "demo", RunStatus.COMPLETED, seconds=1.5, attempts=1, code=None)


@pytest.fixture(autouse=True)
def empty_context() -> None:
    set_log_context()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("level", "events"), [("info", ["run_ended"]), ("debug", ["run_started", "run_ended"])]
)
def test_a_run_has_one_line_at_the_default_level(
    out: io.StringIO, level: str, events: list[str]
) -> None:
    logs.configure(stream=out, level=level)
    instruments = Instruments()
    instruments.note(STARTED)
    instruments.note(ENDED)
    assert [line["event"] for line in lines(out)] == events


def test_a_line_of_an_event_equals_the_line_of_a_logger(out: io.StringIO) -> None:
    logs.configure(stream=out)
    set_log_context(session_id="sess_1", user_id="alice")
    EventLog("a").log("warning", "happened", ("run_id", "seconds", "code"), ("run_1", 0.5, None))
    structlog.get_logger("a").warning("happened", run_id="run_1", seconds=0.5, code=None)
    first, second = lines(out)
    assert first.pop("timestamp") <= second.pop("timestamp")
    assert list(first.items()) == list(second.items())


def test_the_values_of_an_event_are_redacted(out: io.StringIO) -> None:
    logs.configure(stream=out)
    EventLog("a").log("info", "happened", ("error", "token"), (f"bad {JWT}", "abc"))
    line = only(out)
    assert (line["error"], line["token"]) == ("bad [redacted]", "[redacted]")


def test_an_event_can_be_captured(out: io.StringIO) -> None:
    logs.configure(stream=out)
    with capture_logs() as captured:
        EventLog("a").log("info", "happened", ("run_id",), ("run_1",))
    assert captured == [{"event": "happened", "run_id": "run_1", "log_level": "info"}]
    assert out.getvalue() == ""


def test_ids_of_structlog_are_used_where_no_others_are_set(out: io.StringIO) -> None:
    logs.configure(stream=out)
    structlog.contextvars.bind_contextvars(connection_id="conn_1")
    EventLog("a").log("info", "happened", (), ())
    assert only(out)["connection_id"] == "conn_1"


async def test_ids_belong_to_a_task_and_its_children(out: io.StringIO) -> None:
    logs.configure(stream=out)
    log = structlog.get_logger("a")

    async def run(number: int) -> None:
        extend_log_context(run_id=f"run_{number}")
        await trio.lowlevel.checkpoint()
        log.info("run")

    set_log_context(session_id="sess_1")
    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(run, number)
    log.info("session")
    set_log_context(user_id="alice")
    assert LOG_CONTEXT.get() == {"user_id": "alice"}
    found = [(line["event"], line["session_id"], line.get("run_id")) for line in lines(out)]
    assert sorted(found[:2]) == [("run", "sess_1", "run_0"), ("run", "sess_1", "run_1")]
    assert found[2] == ("session", "sess_1", None)
