"""The format of a line, its bounds, and that input cannot break it."""

import io
import json
import logging
from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from support.logs import TICKET, each_format, fail, only

from netra_trio.telemetry import logs
from netra_trio.telemetry.redact import CUT, LINE
from netra_trio.telemetry.render import DEPTH, ITEMS

# Formats


def test_json_has_one_object_per_line(out: io.StringIO) -> None:
    logs.configure(stream=out)
    structlog.contextvars.bind_contextvars(connection_id="conn_1")
    structlog.get_logger("netra_trio.node.node").info(
        "opened\nnow", session_id="sess_1", n=3, ratio=0.5
    )
    line = only(out)
    stamp = datetime.fromisoformat(line.pop("timestamp"))
    assert stamp.utcoffset() == timedelta(0)
    assert line == {
        "level": "info",
        "logger": "netra_trio.node.node",
        "event": "opened\nnow",
        "connection_id": "conn_1",
        "session_id": "sess_1",
        "n": 3,
        "ratio": 0.5,
    }


def test_console_is_for_people(out: io.StringIO) -> None:
    logs.configure(stream=out, json=False)
    structlog.contextvars.bind_contextvars(connection_id="conn_1")
    structlog.get_logger("netra_trio.node.node").warning(
        "slow peer", why="reads nothing", waited={"s": 2}
    )
    _, _, rest = out.getvalue().partition("Z ")
    assert rest == (
        'warning  slow peer connection_id=conn_1 why="reads nothing" waited={"s":2}'
        " [netra_trio.node.node]\n"
    )


def test_an_exception_is_text_without_locals(out: io.StringIO) -> None:
    logs.configure(stream=out)
    hidden_local = "local-123"
    try:
        fail("broken")
    except ValueError:
        structlog.get_logger("a").exception("run failed", run_id="run_1")
    line = only(out)
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("\nValueError: broken")
    assert hidden_local not in out.getvalue()
    assert "exc_info" not in line


def test_exceptions_in_the_console_are_indented(out: io.StringIO) -> None:
    logs.configure(stream=out, json=False)
    try:
        fail("broken\n2026-01-01T00:00:00Z critical forged \x1b[31m")
    except ValueError:
        structlog.get_logger("a").exception("run failed", stack_info=True)
    first, *others = out.getvalue().splitlines()
    assert first.endswith("run failed [a]")
    assert others[0] == "    Stack (most recent call last):"
    assert all(line.startswith("    ") for line in others)
    assert others[-1] == "    2026-01-01T00:00:00Z critical forged \\x1b[31m"


# Bounds


def test_ids_are_never_cut(out: io.StringIO) -> None:
    logs.configure(stream=out)
    structlog.contextvars.bind_contextvars(connection_id="conn_1")
    structlog.get_logger("a").bind(run_id="run_1").info("x" * 20_000, said="y" * 20_000)
    assert only(out).items() >= {"connection_id": "conn_1", "run_id": "run_1"}.items()


@each_format
@pytest.mark.parametrize(
    "text", ["x" * 50_000, "\x00" * 50_000, "😀 \u202e" * 20_000, "\ud800" * 9_000]
)
def test_a_line_is_bounded(out: io.StringIO, text: str, as_json: bool) -> None:
    logs.configure(stream=out, json=as_json)
    structlog.get_logger("a").info(text, a=text, deep=[text] * 100, run_id="run_1")
    written = out.getvalue()
    assert len(written.encode()) <= LINE + 1
    assert CUT in written
    assert written.count("\n") == 1
    if as_json:
        json.loads(written)


@settings(deadline=None, max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
        max_leaves=300,
    ),
    st.booleans(),
)
def test_any_value_makes_one_bounded_line(value: Any, as_json: bool) -> None:
    out = io.StringIO()
    logs.configure(stream=out, json=as_json)
    structlog.get_logger("a").info("asked", value=value, values=[value] * 50)
    assert len(out.getvalue().encode()) <= LINE + 1
    assert len(out.getvalue().splitlines()) == 1
    if as_json:
        json.loads(out.getvalue())


def test_a_long_traceback_keeps_both_ends_and_the_ids(out: io.StringIO) -> None:
    logs.configure(stream=out)
    try:
        fail("x" * 20_000 + " the end")
    except ValueError:
        structlog.get_logger("a").exception("failed", run_id="run_1")
    line = only(out)
    assert line["run_id"] == "run_1"
    assert line["exception"].startswith("Traceback")
    assert CUT in line["exception"]
    assert line["exception"].endswith("x the end")


def test_large_containers_are_cut(out: io.StringIO) -> None:
    logs.configure(stream=out)
    loop: list[Any] = []
    loop.append(loop)
    structlog.get_logger("a").info(
        "asked", loop=loop, many=list(range(100)), keys=dict.fromkeys(range(99))
    )
    line = only(out)
    assert str(line["loop"]).count("[") == DEPTH - 1
    assert line["many"][-2:] == [ITEMS - 1, CUT]
    assert list(line["keys"])[-2:] == [str(ITEMS - 1), CUT]


@each_format
def test_an_event_need_not_be_text(out: io.StringIO, as_json: bool) -> None:
    logs.configure(stream=out, json=as_json)
    structlog.get_logger().info({"token": TICKET, "n": 1})
    assert '{"token":"[redacted]","n":1}' in out.getvalue()


def test_many_long_values_are_cut(out: io.StringIO) -> None:
    logs.configure(stream=out)
    structlog.get_logger("a").info("asked", **{f"k{n}": "x" * 1000 for n in range(40)})
    line = only(out)
    assert line[CUT] is True
    assert line["k0"] == "x" * 1000
    assert len(out.getvalue()) <= LINE


def test_values_that_json_cannot_express(out: io.StringIO) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    logs.configure(stream=out)
    structlog.get_logger("a").info(
        "asked", a=Broken(), b=2**80, c=float("nan"), d="\ud800", e=b"\xff"
    )
    line = only(out)
    assert line["a"] == "<Broken without a repr>"
    assert line["b"] == str(2**80)
    assert line["c"] is None
    assert line["d"] == "\\ud800"
    assert line["e"] == "b'\\xff'"


# Injection


INJECTION = "x\r\n2026 critical forged \x1b[31m\x07\x08\x7f\x9b2J\u2028\u202e\x00"


def test_input_of_a_client_cannot_move_the_cursor(out: io.StringIO) -> None:
    logs.configure(stream=out, json=False)
    structlog.get_logger("a").info(INJECTION, a=INJECTION, b=[INJECTION], **{INJECTION: "\x1b[31m"})
    logging.getLogger(INJECTION).info(INJECTION)
    written = out.getvalue()
    assert len(written.splitlines()) == 2
    assert all(char.isprintable() for char in written.replace("\n", ""))
    assert "x\\r\\n2026 critical forged \\x1b[31m\\x07" in written


def test_a_value_cannot_look_like_two(out: io.StringIO) -> None:
    logs.configure(stream=out, json=False)
    structlog.get_logger("a").info("asked", said="hi user_id=admin", other='"')
    assert 'said="hi user_id=admin" other="\\""' in out.getvalue()


def test_json_has_no_raw_control_character(out: io.StringIO) -> None:
    logs.configure(stream=out)
    structlog.get_logger("a").info(INJECTION)
    assert only(out)["event"] == INJECTION
    assert all(char.isprintable() for char in out.getvalue().replace("\n", ""))
