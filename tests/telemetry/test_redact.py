"""No line contains a credential, wherever and in whatever form it is written."""

import base64
import io
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
import structlog
from attrs import frozen
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.logs import JWT, KEY, SUBPROTOCOL, TICKET, Terminal, each_format, fail, only

from netra_trio.telemetry import logs
from netra_trio.telemetry.redact import REDACTED, redact

SPACED_JWT = ".".join(  # a header that does not start with {"
    base64.urlsafe_b64encode(part).rstrip(b"=").decode()
    for part in (b'{ "alg": "HS256" }', b'{ "sub": "user_1" }', b"\xfa" * 32)
)

# Forms of credentials, with the part that must never be shown.
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


@each_form
def test_a_credential_is_redacted(text: str, hidden: str) -> None:
    assert hidden in text
    for around in ("{}", "before {} after", "x{}", "«{}»", "\x1b[1m{}\x1b[0m", "a\n{}\nb"):
        cleaned = redact(around.format(text))
        assert hidden not in cleaned
        assert REDACTED in cleaned


def test_other_text_is_unchanged() -> None:
    for text in (
        "max_tokens=100, 5 tickets, no token",
        "http://localhost:8000/thread/7?last_seq=3",
        "jwt.exceptions.ExpiredSignatureError",
        "netra_trio.telemetry.logs.configure",
        "conn_019f2c4ab12000001a1b2c3d4 sess_AAAAAAAAAAAAAAAAAAAAAA",
    ):
        assert redact(text) == text
    assert redact(f"/ws?ticket={TICKET}&last_seq=7 ok") == ("/ws?ticket=[redacted]&last_seq=7 ok")
    assert redact("postgresql://netra:pw@db/netra") == "postgresql://netra:[redacted]@db/netra"


@frozen
class Credential:
    text: str


@each_format
@each_form
def test_no_credential_in_any_place(
    out: io.StringIO, text: str, hidden: str, as_json: bool
) -> None:
    logs.configure(stream=out, json=as_json)
    log = structlog.get_logger("a")
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
    log = structlog.get_logger("a")
    log.info("asked", **{key: "opaque 123"})
    log.info("asked", body={"auth": [{key: "opaque 123"}]}, headers=[(key.encode(), b"opaque 123")])
    log.info("asked", **{key: ["opaque 123", 1234567]})
    template = f"asked %({key})s"
    logging.getLogger("b").info(template, {key: "opaque 123"})
    logging.getLogger("b").info("asked %s", {key: "opaque 123"})
    assert "opaque" not in out.getvalue()
    assert "1234567" not in out.getvalue()
    assert out.getvalue().count(REDACTED) == 6


def test_a_credential_beside_colours_is_redacted() -> None:
    terminal = Terminal()
    logs.configure(stream=terminal)
    for text, _ in FORMS.values():
        structlog.get_logger("a").info(
            text, said=text, ticket=TICKET, deep={"token": TICKET, "x": text}
        )
        logging.getLogger("b").info("%s", text)
    assert TICKET not in terminal.getvalue()
    assert [hidden for _, hidden in FORMS.values() if hidden in terminal.getvalue()] == []


def test_the_presence_of_a_secret_is_shown(out: io.StringIO) -> None:
    logs.configure(stream=out)
    structlog.get_logger("a").info("asked", token=None, ticket=True)
    assert only(out).items() >= {"token": None, "ticket": True}.items()


url_safe = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", min_size=12)
claims = st.dictionaries(st.text(max_size=8), st.integers() | st.text(), max_size=4)
pieces = st.sampled_from(
    ["token=", '"', "'", "\\", "://", "@", ":", "Bearer ", "eyJ", ".", "%", "authorization: "]
)
surroundings = st.text() | st.lists(pieces | st.text(max_size=3), max_size=8).map("".join)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
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
        structlog.get_logger("a").info(text, said=text, deep=[{"key": text}])
        logging.getLogger("b").info("%s", text)
    written = out.getvalue()
    assert token not in written
    assert token.rpartition(".")[2] not in written
    # The surrounding text may happen to contain the ticket.
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
        start = time.process_time()  # not the time that other processes take
        run()
        return time.process_time() - start

    logs.configure(stream=out)
    text = attack * (1_000_000 // len(attack))
    # Measured: 2 to 40 ms, up to 70 ms for the log line. A quadratic pattern takes many seconds.
    assert seconds(lambda: redact(text)) < 1
    assert seconds(lambda: structlog.get_logger("a").info(text, a=text, b=[text])) < 3
    assert only(out)["event"]
