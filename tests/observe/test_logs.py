"""Every line that leaves the process: its format, its bounds, and what must not be in it."""

import base64
import io
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import jwt
import pytest
import structlog
from attrs import frozen
from hypercorn.config import Config
from hypercorn.logging import AccessLogAtoms, Logger
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from netra_trio.observe import logs

KEY = "k" * 32
JWT = jwt.encode({"sub": "user_1", "exp": 4_102_444_800}, KEY, algorithm="HS256")
SPACED_JWT = ".".join(  # a header that does not begin with {"
    base64.urlsafe_b64encode(part).rstrip(b"=").decode()
    for part in (b'{ "alg": "HS256" }', b'{ "sub": "user_1" }', b"\xfa" * 32)
)
SUBPROTOCOL = "jwt." + base64.urlsafe_b64encode(JWT.encode()).rstrip(b"=").decode()
TICKET = "tk-Zm9vYmFy_0123456789"

# How a credential can be written, and the part of it that must never be seen.
FORMS = {
    "jwt": (JWT, JWT),
    "jwt, spaced header": (SPACED_JWT, SPACED_JWT),
    "jwt, dots encoded": (JWT.replace(".", "%2E"), JWT.split(".")[1]),
    "jwt, cut short": (JWT[: len(JWT) // 2], JWT[4 : len(JWT) // 2]),
    "subprotocol": (f"netra.v1, {SUBPROTOCOL}", SUBPROTOCOL[4:]),
    "bearer": ("Authorization: Bearer opaque-123", "opaque-123"),
    "bearer alone": ("bearer opaque-123", "opaque-123"),
    "basic": ("authorization: Basic dXNlcjpwdw==", "dXNlcjpwdw"),
    "authorization, bytes": ("(b'authorization', b'Basic dXNlcjpwdw==')", "dXNlcjpwdw"),
    "ticket in a query": (f"GET /ws?ticket={TICKET}&last_seq=7", TICKET),
    "token in a query": ("GET /ws?last_seq=7&token=opaque-123", "opaque-123"),
    "upper case": ("/ws?TOKEN=opaque-123", "opaque-123"),
    "query, encoded": ("next=%2Fws%3Fticket%3Dopaque-123%26a%3D1", "opaque-123"),
    "query, encoded twice": ("next=%252Fws%253Ftoken%253Dopaque-123", "opaque-123"),
    "query, name encoded": ("/ws?%74oke%6E=opaque-123&a=1", "opaque-123"),
    "JSON": ('{"type": "auth", "token": "opaque-123"}', "opaque-123"),
    "JSON in JSON": ('{\\"token\\": \\"opaque-123\\"}', "opaque-123"),
    "a dict's repr": ("{'ticket': 'opaque-123', 'a': 1}", "opaque-123"),
    "a value with a quote": ("{'password': 'it\\'s-123', 'a': 1}", "s-123"),
    "a repr": ("Ticket(token='opaque-123', user_id='u')", "opaque-123"),
    "first letters": ("token=bruopaque", "bru"),
    "password": ("password: opaque-123", "opaque-123"),
    "key": ("JWT_SECRET_KEY=opaque-123", "opaque-123"),
    "database": ("postgresql+psycopg://netra:pa:ss/wd@db:5432/netra", "ss/wd"),
    "database, no user": ("redis://:opaque-123@cache:6379", "opaque-123"),
    "databases": ("a://u:one-123@h,b://u:two-123@h", "two-123"),
}
SECRET_KEYS = (
    "token",
    "ticket",
    "secret",
    "password",
    "authorization",
    "Authorization",
    "jwt_secret_key",
    "access_token",
    "accessToken",
    "X-Api-Key",
)
each_form = pytest.mark.parametrize(("text", "hidden"), FORMS.values(), ids=FORMS)
each_format = pytest.mark.parametrize("as_json", [True, False], ids=["json", "console"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def unchanged_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the process's logging back as it was."""
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
    logs._SINK.stream = None
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def only(out: io.StringIO) -> dict[str, Any]:
    """Return the one JSON line that was written."""
    text = out.getvalue()
    assert text.count("\n") == 1
    line: dict[str, Any] = json.loads(text)
    return line


def fail(text: str) -> None:
    raise ValueError(text)


# Formats


def test_json_has_one_object_a_line(out: io.StringIO) -> None:
    logs.configure(stream=out)
    structlog.contextvars.bind_contextvars(connection_id="conn_1")
    logs.get_logger("netra_trio.hub").info("opened\nnow", session_id="sess_1", n=3, ratio=0.5)
    line = only(out)
    stamp = datetime.fromisoformat(line.pop("timestamp"))
    assert stamp.utcoffset() == timedelta(0)
    assert line == {
        "level": "info",
        "logger": "netra_trio.hub",
        "event": "opened\nnow",
        "connection_id": "conn_1",
        "session_id": "sess_1",
        "n": 3,
        "ratio": 0.5,
    }


def test_console_is_for_people(out: io.StringIO) -> None:
    logs.configure(stream=out, json=False)
    structlog.contextvars.bind_contextvars(connection_id="conn_1")
    logs.get_logger("netra_trio.hub").warning("slow peer", why="reads nothing", waited={"s": 2})
    _, _, rest = out.getvalue().partition("Z ")
    assert rest == (
        'warning  slow peer connection_id=conn_1 why="reads nothing" waited={"s":2}'
        " [netra_trio.hub]\n"
    )


def test_the_stream_picks_the_format() -> None:
    terminal = Terminal()
    logs.configure(stream=terminal)
    logs.get_logger("a").info("hello")
    assert "\x1b[32minfo" in terminal.getvalue()
    file = io.StringIO()
    logs.configure(stream=file)
    logs.get_logger("a").info("hello")
    assert only(file)["event"] == "hello"


def test_the_default_is_stderr(monkeypatch: pytest.MonkeyPatch, out: io.StringIO) -> None:
    monkeypatch.setattr(sys, "stderr", out)
    logs.configure()
    logs.get_logger("a").info("hello")
    assert only(out)["event"] == "hello"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_can_be_declined(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    terminal = Terminal()
    logs.configure(stream=terminal)
    logs.get_logger("a").info("hello")
    assert "\x1b" not in terminal.getvalue()
    assert "info     hello" in terminal.getvalue()


def test_no_colour_away_from_a_terminal(out: io.StringIO) -> None:
    logs.configure(stream=out, json=False)
    logs.get_logger("a").error("hello", a=1)
    assert "\x1b" not in out.getvalue()


def test_an_exception_is_text_without_locals(out: io.StringIO) -> None:
    logs.configure(stream=out)
    hidden_local = "local-123"
    try:
        fail("broken")
    except ValueError:
        logs.get_logger("a").exception("run failed", run_id="run_1")
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
        logs.get_logger("a").exception("run failed", stack_info=True)
    first, *others = out.getvalue().splitlines()
    assert first.endswith("run failed [a]")
    assert others[0] == "    Stack (most recent call last):"
    assert all(line.startswith("    ") for line in others)
    assert others[-1] == "    2026-01-01T00:00:00Z critical forged \\x1b[31m"


# Levels


def test_the_level_filters_both_kinds_of_logger(out: io.StringIO) -> None:
    logs.configure(stream=out, level="WARNING")
    log = logs.get_logger("a")
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
    log = logs.get_logger("a")
    log.info("there")
    logs.configure(stream=out)
    log.info("here")
    assert only(out)["event"] == "here"


def test_lines_can_be_captured(out: io.StringIO) -> None:
    logs.configure(stream=out)
    log = logs.get_logger("a")
    log.info("before")
    with structlog.testing.capture_logs() as captured:
        log.info("inside")
        logging.getLogger("b").info("inside too")
    assert [line["event"] for line in captured] == ["inside", "inside too"]
    assert only(out)["event"] == "before"


# The standard library


def test_records_take_the_same_way(out: io.StringIO) -> None:
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


def test_records_bring_their_exception(out: io.StringIO) -> None:
    logs.configure(stream=out)
    try:
        fail(f"bad {JWT}")
    except ValueError:
        logging.getLogger("b").exception("failed", stack_info=True)
    line = only(out)
    assert line["exception"].endswith("ValueError: bad [redacted]")
    assert line["stack"].startswith("Stack")


def test_arguments_that_do_not_fit_go_nowhere_else(
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


def test_handlers_that_were_there_are_gone(out: io.StringIO) -> None:
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
    assert line["logger"] == "netra_trio.host"
    assert line["event"] == (
        'GET /ws?ticket=[redacted]&last_seq=7 1.1 101 "[redacted]" "netra.v1, jwt.[redacted]"'
    )
    await host.error("token=%s", TICKET)
    assert TICKET not in out.getvalue()
    assert capsys.readouterr() == ("", "")


# Redaction


@each_form
def test_redact(text: str, hidden: str) -> None:
    assert hidden in text
    for around in ("{}", "before {} after", "x{}", "«{}»", "\x1b[1m{}\x1b[0m", "a\n{}\nb"):
        cleaned = logs.redact(around.format(text))
        assert hidden not in cleaned
        assert logs.REDACTED in cleaned


def test_redact_leaves_the_rest() -> None:
    for text in (
        "max_tokens=100, 5 tickets, no token",
        "http://localhost:8000/thread/7?last_seq=3",
        "jwt.exceptions.ExpiredSignatureError",
        "netra_trio.observe.logs.configure",
        "conn_019f2c4ab12000001a1b2c3d4 sess_AAAAAAAAAAAAAAAAAAAAAA",
    ):
        assert logs.redact(text) == text
    assert logs.redact(f"/ws?ticket={TICKET}&last_seq=7 ok") == (
        "/ws?ticket=[redacted]&last_seq=7 ok"
    )
    assert logs.redact("postgresql://netra:pw@db/netra") == "postgresql://netra:[redacted]@db/netra"


@frozen
class Credential:
    text: str


@each_format
@each_form
def test_no_credential_in_any_place(
    out: io.StringIO, text: str, hidden: str, as_json: bool
) -> None:
    logs.configure(stream=out, json=as_json)
    log = logs.get_logger("a")
    log.info(text)
    log.info("asked %s", text)
    log.info("asked", said=text, headers={"h": [{"deep": (text, {text})}], text: 1})
    log.info("asked", raw=text.encode(), thing=Credential(text), error=ValueError(text))
    log.info("asked", **{text: text})
    log.bind(bound=text).info("asked")
    logging.getLogger("b").info(text)
    logging.getLogger("b").info("asked %s, %r", text, {"said": text})
    logging.getLogger("b").info("asked %(said)s", {"said": text})
    logging.getLogger(text).info("asked")
    try:
        try:
            fail(text)
        except ValueError as cause:
            raise ExceptionGroup("several", [KeyError(text), cause]) from cause
    except ExceptionGroup as group:
        group.add_note(text)
        log.exception("failed")
        logging.getLogger("b").warning("failed %s", group, exc_info=True)
    structlog.contextvars.bind_contextvars(asked=text)
    log.info("asked")
    written = out.getvalue()
    assert written.count("asked") > 8
    assert hidden not in written
    if as_json:
        for line in written.splitlines():
            json.loads(line)


@each_format
@pytest.mark.parametrize("key", SECRET_KEYS)
def test_values_of_secret_keys(out: io.StringIO, key: str, as_json: bool) -> None:
    logs.configure(stream=out, json=as_json)
    log = logs.get_logger("a")
    log.info("asked", **{key: "opaque 123"})
    log.info("asked", body={"auth": [{key: "opaque 123"}]}, headers=[(key.encode(), b"opaque 123")])
    log.info("asked", **{key: ["opaque 123", 1234567]})
    template = f"asked %({key})s"
    logging.getLogger("b").info(template, {key: "opaque 123"})
    logging.getLogger("b").info("asked %s", {key: "opaque 123"})
    assert "opaque" not in out.getvalue()
    assert "1234567" not in out.getvalue()
    assert out.getvalue().count(logs.REDACTED) == 6


def test_colours_hide_nothing() -> None:
    terminal = Terminal()
    logs.configure(stream=terminal)
    for text, _ in FORMS.values():
        logs.get_logger("a").info(text, said=text, ticket=TICKET, deep={"token": TICKET, "x": text})
        logging.getLogger("b").info("%s", text)
    assert TICKET not in terminal.getvalue()
    assert [hidden for _, hidden in FORMS.values() if hidden in terminal.getvalue()] == []


def test_ids_are_not_what_is_cut(out: io.StringIO) -> None:
    logs.configure(stream=out)
    structlog.contextvars.bind_contextvars(connection_id="conn_1")
    logs.get_logger("a").bind(run_id="run_1").info("x" * 20_000, said="y" * 20_000)
    assert only(out).items() >= {"connection_id": "conn_1", "run_id": "run_1"}.items()


def test_whether_there_was_a_secret_may_be_said(out: io.StringIO) -> None:
    logs.configure(stream=out)
    logs.get_logger("a").info("asked", token=None, ticket=True)
    assert only(out).items() >= {"token": None, "ticket": True}.items()


url_safe = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", min_size=12)
claims = st.dictionaries(st.text(max_size=8), st.integers() | st.text(), max_size=4)
pieces = st.sampled_from(
    ["token=", '"', "'", "\\", "://", "@", ":", "Bearer ", "eyJ", ".", "%", "authorization: "]
)
surroundings = st.text() | st.lists(pieces | st.text(max_size=3), max_size=8).map("".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(before=surroundings, after=surroundings, body=claims, ticket=url_safe, as_json=st.booleans())
@example(before="a://u:", after="@", body={}, ticket="ticketticket", as_json=True)
@example(before='token="', after="", body={}, ticket="ticketticket", as_json=False)
def test_no_token_survives_any_surroundings(
    before: str, after: str, body: dict[str, Any], ticket: str, as_json: bool
) -> None:
    out = io.StringIO()
    logs.configure(stream=out, json=as_json)
    token = jwt.encode({**body, "sub": "u", "iss": "i", "aud": "a"}, KEY, algorithm="HS256")
    query = f"{before}ticket={ticket}{after}"
    for text in (before + token + after, query):
        logs.get_logger("a").info(text, said=text, deep=[{"key": text}])
        logging.getLogger("b").info("%s", text)
    written = out.getvalue()
    assert token not in written
    assert token.rpartition(".")[2] not in written
    # The ticket may happen to be part of what surrounds it.
    if ticket not in before + after:
        assert f"={ticket}" not in written
    assert len(written.splitlines()) == written.count("\n") == 4
    if as_json:
        for line in written.splitlines():
            json.loads(line)


@pytest.mark.parametrize(
    "attack",
    [
        "eyJ",
        "eyJ.",
        "ZXlK",
        "a",
        "a.",
        "aaaaaaaaaaaaaaaaaaaaaaaa.",
        "token",
        "token=",
        "token ",
        "token='",
        'token="\\',
        "token=\\\\\\'",
        "%25",
        "%2525252525",
        "%74%6f%6b%65%6e",
        "token%25",
        "://",
        "://a:",
        "://a:@",
        "bearer ",
        "authorization",
        "authorization: ",
        "authorization:    ",
        "jwt.",
        "\\",
        '"',
        " ",
        "\x1b[",
        "\u202e",
    ],
)
def test_hostile_text_takes_linear_time(out: io.StringIO, attack: str) -> None:
    def seconds(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    logs.configure(stream=out)
    text = attack * (1_000_000 // len(attack))
    # Measured: 2 to 40 ms, up to 70 ms for the log line. A quadratic pattern takes many seconds.
    assert seconds(lambda: logs.redact(text)) < 1
    assert seconds(lambda: logs.get_logger("a").info(text, a=text, b=[text])) < 3
    assert only(out)["event"]


# Bounds


@each_format
@pytest.mark.parametrize(
    "text", ["x" * 50_000, "\x00" * 50_000, "😀 \u202e" * 20_000, "\ud800" * 9_000]
)
def test_a_line_is_bounded(out: io.StringIO, text: str, as_json: bool) -> None:
    logs.configure(stream=out, json=as_json)
    logs.get_logger("a").info(text, a=text, deep=[text] * 100, run_id="run_1")
    written = out.getvalue()
    assert len(written.encode()) <= logs.LINE + 1
    assert logs.CUT in written
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
    logs.get_logger("a").info("asked", value=value, values=[value] * 50)
    assert len(out.getvalue().encode()) <= logs.LINE + 1
    assert len(out.getvalue().splitlines()) == 1
    if as_json:
        json.loads(out.getvalue())


def test_a_long_traceback_keeps_both_ends_and_the_ids(out: io.StringIO) -> None:
    logs.configure(stream=out)
    try:
        fail("x" * 20_000 + " the end")
    except ValueError:
        logs.get_logger("a").exception("failed", run_id="run_1")
    line = only(out)
    assert line["run_id"] == "run_1"
    assert line["exception"].startswith("Traceback")
    assert logs.CUT in line["exception"]
    assert line["exception"].endswith("x the end")


def test_more_than_a_log_can_show_is_cut(out: io.StringIO) -> None:
    logs.configure(stream=out)
    loop: list[Any] = []
    loop.append(loop)
    logs.get_logger("a").info(
        "asked", loop=loop, many=list(range(100)), keys=dict.fromkeys(range(99))
    )
    line = only(out)
    assert str(line["loop"]).count("[") == logs.DEPTH - 1
    assert line["many"][-2:] == [logs.ITEMS - 1, logs.CUT]
    assert list(line["keys"])[-2:] == [str(logs.ITEMS - 1), logs.CUT]


@each_format
def test_an_event_need_not_be_text(out: io.StringIO, as_json: bool) -> None:
    logs.configure(stream=out, json=as_json)
    structlog.get_logger().info({"token": TICKET, "n": 1})
    assert '{"token":"[redacted]","n":1}' in out.getvalue()


def test_many_long_values_are_cut(out: io.StringIO) -> None:
    logs.configure(stream=out)
    logs.get_logger("a").info("asked", **{f"k{n}": "x" * 1000 for n in range(40)})
    line = only(out)
    assert line[logs.CUT] is True
    assert line["k0"] == "x" * 1000
    assert len(out.getvalue()) <= logs.LINE


def test_values_json_does_not_know(out: io.StringIO) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    logs.configure(stream=out)
    logs.get_logger("a").info("asked", a=Broken(), b=2**80, c=float("nan"), d="\ud800", e=b"\xff")
    line = only(out)
    assert line["a"] == "<Broken without a repr>"
    assert line["b"] == str(2**80)
    assert line["c"] is None
    assert line["d"] == "\\ud800"
    assert line["e"] == "b'\\xff'"


# Injection


INJECTION = "x\r\n2026 critical forged \x1b[31m\x07\x08\x7f\x9b2J\u2028\u202e\x00"


def test_nothing_a_client_says_moves_the_cursor(out: io.StringIO) -> None:
    logs.configure(stream=out, json=False)
    logs.get_logger("a").info(INJECTION, a=INJECTION, b=[INJECTION], **{INJECTION: "\x1b[31m"})
    logging.getLogger(INJECTION).info(INJECTION)
    written = out.getvalue()
    assert len(written.splitlines()) == 2
    assert all(char.isprintable() for char in written.replace("\n", ""))
    assert "x\\r\\n2026 critical forged \\x1b[31m\\x07" in written


def test_a_value_cannot_pass_for_two(out: io.StringIO) -> None:
    logs.configure(stream=out, json=False)
    logs.get_logger("a").info("asked", said="hi user_id=admin", other='"')
    assert 'said="hi user_id=admin" other="\\""' in out.getvalue()


def test_json_has_no_raw_control_character(out: io.StringIO) -> None:
    logs.configure(stream=out)
    logs.get_logger("a").info(INJECTION)
    assert only(out)["event"] == INJECTION
    assert all(char.isprintable() for char in out.getvalue().replace("\n", ""))


# The stream


def test_a_stream_that_cannot_say_it_says_less() -> None:
    raw = io.BytesIO()
    logs.configure(stream=io.TextIOWrapper(raw, encoding="ascii"))
    logs.get_logger("a").info("größer")
    assert json.loads(raw.getvalue())["event"] == "gr??er"


def test_a_stream_that_is_gone_ends_nothing() -> None:
    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError

    logs.configure(stream=Full())
    logs.get_logger("a").info("hello")
    closed = io.StringIO()
    logs.configure(stream=closed)
    closed.close()
    logs.get_logger("a").info("hello")
