"""The kinds of values: each bound, each accepted and each refused form."""

from decimal import Decimal
from pathlib import Path

import pytest
from support.settings import KEY, STRICT, faults, loaded

from netra_trio.config.loading import describe, load
from netra_trio.config.settings import TABLE
from netra_trio.config.value_kinds import Amount, Choice, DatabaseUrl, Flag, Integer

INTEGERS = [(name, row, row.kind) for name, row in TABLE.items() if isinstance(row.kind, Integer)]
FLAGS = [(name, row) for name, row in TABLE.items() if isinstance(row.kind, Flag)]


@pytest.mark.parametrize(("name", "row", "kind"), INTEGERS)
def test_a_number_at_its_bounds_and_one_beyond(
    tmp_path: Path, name: str, row: object, kind: Integer
) -> None:
    env = TABLE[name].env
    assert TABLE[name] is row
    highest = 10**17 if kind.maximum is None else kind.maximum
    for value in (kind.minimum, highest):
        outcome = loaded(tmp_path, **{env: f" {value} "})
        assert getattr(outcome.settings, name) == value
        assert outcome.sources[env] == "environment"
    wrong = [kind.minimum - 1] if kind.maximum is None else [kind.minimum - 1, kind.maximum + 1]
    for value in wrong:
        (line,) = faults(tmp_path, {**KEY, env: str(value)})
        assert line.startswith(f"{env}: got '{value}', expected a whole number")


@pytest.mark.parametrize(
    "text", ["five", "5.0", "1e3", "1_000", "0x10", "+5", "--5", "5 ms", "\u0665", "9" * 5000]
)
def test_an_invalid_number_is_a_fault(tmp_path: Path, text: str) -> None:
    (line,) = faults(tmp_path, {**KEY, "WEBSOCKET_MAX_MESSAGE_RATE": text})
    assert line.startswith("WEBSOCKET_MAX_MESSAGE_RATE: got '")
    assert "expected a whole number, 1 or more (messages per minute)" in line
    assert len(line) < 250


@pytest.mark.parametrize(("name", "row"), FLAGS)
def test_a_flag_accepts_each_word_in_any_case(tmp_path: Path, name: str, row: object) -> None:
    env = TABLE[name].env
    assert TABLE[name] is row
    for word in ("true", "TRUE", "1", "Yes", "on"):
        assert getattr(loaded(tmp_path, **{env: word}).settings, name) is True
    for word in ("false", "False", "0", "NO", "off"):
        assert getattr(loaded(tmp_path, **{env: word}).settings, name) is False
    for word in ("maybe", "2", "tru", "t"):
        (line,) = faults(tmp_path, {**KEY, env: word})
        assert line.startswith(f"{env}: got '{word}', expected one of true, 1,")


@pytest.mark.parametrize("name", [n for n, row in TABLE.items() if isinstance(row.kind, Choice)])
def test_a_choice_accepts_its_words_only(tmp_path: Path, name: str) -> None:
    row = TABLE[name]
    (line,) = faults(tmp_path, {**KEY, row.env: "another"})
    assert line.startswith(f"{row.env}: got 'another', expected one of ")
    assert isinstance(row.kind, Choice)
    word = row.kind.words[-1]
    outcome = load({**STRICT, row.env: f" {word.upper()} "}, directory=tmp_path)
    assert getattr(outcome.settings, name) == word


@pytest.mark.parametrize("text", ["none", "RS512", "hs256", "HS256,none", "HS1", ",", "Ed25519"])
def test_an_unknown_algorithm_is_a_fault(tmp_path: Path, text: str) -> None:
    (line,) = faults(tmp_path, {**KEY, "JWT_ALGORITHMS": text})
    assert line.startswith(f"JWT_ALGORITHMS: got '{text}', expected ")
    assert "HS256, HS384, HS512, RS256, ES256, EdDSA" in line


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("login.example.com/jwks", "write it like https://"),
        ("ftp://login.example.com", "write it like https://"),
        ("https:///jwks", "write it like https://"),
        ("https://login.example.com:99999/", "write it like https://"),
        ("https://login.example.com:port/", "write it like https://"),
        ("https://[::1/", "write it like https://"),
        ("https://login.example.com/#keys", "leave out the #"),
        ("https://login.example.com/#", "leave out the #"),
        ("https://hunter2@login.example.com/", "leave out user and password"),
        ("https://u:hunter2@login.example.com/", "leave out user and password"),
        ("https://login.example.com/a b", "percent-encode"),
        ("https://l\u00f6gin.example.com/", "percent-encode"),
        ("https://login.example.com/\x1b", "percent-encode"),
    ],
)
def test_an_invalid_url_of_a_key_server_is_a_fault(tmp_path: Path, url: str, fix: str) -> None:
    (line,) = faults(tmp_path, {**KEY, "JWT_JWKS_URL": url})
    assert line.startswith(f"JWT_JWKS_URL: got {len(url.encode())} bytes (kept secret), expected ")
    assert f"; {fix}" in line
    assert "hunter2" not in line


def test_lists_ignore_blanks_and_repetitions(tmp_path: Path) -> None:
    outcome = loaded(
        tmp_path,
        JWT_ALGORITHMS=" HS512 ,, HS256,HS512 ",
        WEBSOCKET_ALLOWED_ORIGINS=" https://a.example.com , https://*.example.org,",
    )
    assert outcome.settings.jwt_algorithms == ("HS512", "HS256")
    assert outcome.settings.allowed_origins == ("https://a.example.com", "https://*.example.org")
    assert outcome.settings.origins.refusal("https://x.example.org") is None
    assert outcome.settings.origins is outcome.settings.origins


def test_a_list_without_words_is_empty(tmp_path: Path) -> None:
    assert loaded(tmp_path, WEBSOCKET_ALLOWED_ORIGINS=",").settings.allowed_origins == ()
    environ = {**STRICT, "ENVIRONMENT": "production", "WEBSOCKET_ALLOWED_ORIGINS": ", ,"}
    (line,) = faults(tmp_path, environ)
    assert line.startswith("WEBSOCKET_ALLOWED_ORIGINS: got nothing")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///netra.db", "sqlite:///netra.db"),
        ("sqlite:////var/lib/netra.db", "sqlite:////var/lib/netra.db"),
        ("sqlite://", "sqlite://"),
        ("postgres://u:hunter2@h/db", "postgres://u:***@h/db"),
        ("postgresql://u:hunter2@h:5432/db", "postgresql://u:***@h:5432/db"),
        ("postgresql+psycopg://u:hunter2@h/db", "postgresql+psycopg://u:***@h/db"),
        ("postgresql:///db", "postgresql:///db"),
        ("postgresql://u@h/db?password=hunter2&sslmode=require", "postgresql://u@h/db"),
    ],
)
def test_valid_database_urls(tmp_path: Path, url: str, shown: str) -> None:
    outcome = loaded(tmp_path, DATABASE_URL=f" {url} ")
    assert outcome.settings.database_url == url
    assert outcome.warnings == ()
    (row,) = [row for row in describe(outcome) if row[0] == "DATABASE_URL"]
    assert row[1:3] == (shown, "environment")
    assert "hunter2" not in repr(outcome)


def test_the_scheme_of_a_database_is_accepted_in_any_case(tmp_path: Path) -> None:
    settings = loaded(tmp_path, DATABASE_URL="PostgreSQL://U:Hunter2@h/Db").settings
    assert settings.database_url == "postgresql://U:Hunter2@h/Db"


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("mysql://u:hunter2@h/db", "use one of these"),
        ("hunter2", "use one of these"),
        ("sqlite3:///x", "use one of these"),
        ("sqlite+aiosqlite:///netra.db", "leave out the driver: sqlite://"),
        ("postgresql+asyncpg://u:hunter2@h/db", "leave out the driver: postgresql://"),
        ("postgres+psycopg2://u:hunter2@h/db", "leave out the driver: postgres://"),
        ("sqlite://netra.db", "write three slashes"),
        ("sqlite:netra.db", "write it like"),
        ("postgresql://u:hunter2@h", "name the database"),
        ("postgresql://u:hunter2@h/", "name the database"),
        ("postgresql://u:hunter2@h:port/db", "write it like"),
        ("postgresql://u:hunter2@[::1/db", "write it like"),
    ],
)
def test_an_invalid_database_url_is_a_fault(tmp_path: Path, url: str, fix: str) -> None:
    (line,) = faults(tmp_path, {**KEY, "DATABASE_URL": url})
    assert line.startswith(f"DATABASE_URL: got {len(url)} bytes (kept secret), expected a URL with")
    assert f"; {fix}" in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("postgresql://a,b/db", "postgresql:///db?host=a,b&port=5432,5432"),
        ("postgres://u:p%40@a:1,b/db", "postgres://u:p%40@/db?host=a,b&port=1,5432"),
        (
            "postgresql://u@[::1]:1,[fe80::2],c:3/db?sslmode=require",
            "postgresql://u@/db?host=::1,fe80::2,c&port=1,5432,3&sslmode=require",
        ),
        ("postgresql://u:a,b@c/db", "postgresql://u:a,b@c/db"),
        ("postgresql://u@/db?host=a,b", "postgresql://u@/db?host=a,b"),
        ("postgresql://h/db,of,several", "postgresql://h/db,of,several"),
        ("sqlite:///a,b", "sqlite:///a,b"),
    ],
)
def test_several_hosts_of_a_database_become_options(given: str, read: str) -> None:
    assert DatabaseUrl().read(given) == read
    assert DatabaseUrl().read(read) == read


def test_the_hosts_of_a_database_are_shown_without_its_other_options() -> None:
    kind = DatabaseUrl()
    shown = kind.show(kind.read("postgresql://u:hunter2@a:5433,b/db?password=hunter2"))
    assert shown == "postgresql://u:***@/db?host=a%2Cb&port=5433%2C5432"


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.000000001", "1e-9"), (" 2.50 ", "2.5"), ("9000000", "9e6"), ("9000000.000000000", "9e6")],
)
def test_amounts_that_are_read(text: str, value: str) -> None:
    assert Amount(9_000_000, 9).read(text) == Decimal(value)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("0", "raise it above 0, or unset it for no limit"),
        ("0.0", "raise it above 0, or unset it for no limit"),
        ("9000000.1", "lower it to 9000000 or less"),
        ("1.0000000001", "write at most 9 decimals"),
        ("-1", "write digits with a point"),
        ("1e3", "write digits with a point"),
        ("1,5", "write digits with a point"),
        ("$2", "write digits with a point"),
        ("1.", "write digits with a point"),
        (".5", "write digits with a point"),
        ("\u0663", "write digits with a point"),
        ("NaN", "write digits with a point"),
        ("1" * 19, "write digits with a point"),
    ],
)
def test_amounts_that_are_refused(text: str, fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        Amount(9_000_000, 9).read(text)


def test_an_amount_is_shown_as_it_was_written() -> None:
    kind = Amount(9_000_000, 9)
    assert kind.show(kind.read("2.50")) == "2.50"
    assert kind.show(Decimal("1E-9")) == "0.000000001"
    assert kind.expected == "a number above 0, up to 9000000, with at most 9 decimals"
