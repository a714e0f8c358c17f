"""The table of settings and its loader: every bound, every rule between settings, every secret."""

import itertools
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from attrs import evolve
from sqlalchemy.engine import make_url

from netra_trio.config.development_secret import keep_folder, kept_secret
from netra_trio.config.secret_file import FILE_BYTES
from netra_trio.config.settings import (
    KEY_SERVER_ALGORITHMS,
    SECRET_SOURCE,
    STOPS,
    TABLE,
    Loaded,
    Settings,
    describe,
    load,
)
from netra_trio.config.value_kinds import MAX_SHOWN, Choice, Flag, Whole
from netra_trio.errors import SettingsError

NOBODY = 65534  # the account that owns nothing
SECRET = "s3cr3t-" + "x" * 57  # 64 bytes: enough for every algorithm
KEY = {"JWT_SECRET_KEY": SECRET}
STRICT = {
    **KEY,
    "DATABASE_URL": "postgresql://netra:hunter2@db/netra",
    "WEBSOCKET_ALLOWED_ORIGINS": "https://app.example.com",
}

WHOLES = [(name, row, row.kind) for name, row in TABLE.items() if isinstance(row.kind, Whole)]
FLAGS = [(name, row) for name, row in TABLE.items() if isinstance(row.kind, Flag)]


def loaded(directory: Path, **environ: str) -> Loaded:
    return load({**KEY, **environ}, directory=directory)


def faults(directory: Path, environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(environ, directory=directory)
    return str(caught.value).splitlines()


def test_the_table_has_every_field_once() -> None:
    assert len({row.env for row in TABLE.values()}) == len(TABLE) == 30
    assert all(row.meaning and row.kind.expected for row in TABLE.values())
    assert all(row.beyond for name, row, _ in WHOLES), "every limit says what happens beyond it"
    assert all(kind.unit for _, _, kind in WHOLES)


def test_the_defaults_are_the_contracts(tmp_path: Path) -> None:
    assert Settings() == Settings(
        environment="development",
        allowed_origins=(),
        enable_cors=True,
        require_auth=True,
        require_origin=False,
        query_token=True,
        max_connections_per_user=5,
        connection_limit_policy="evict_oldest",
        max_connections=10_000,
        max_message_rate=60,
        burst_queue=20,
        run_queue=32,
        max_message_size=10_240,
        heartbeat_interval_ms=30_000,
        send_timeout_ms=5_000,
        drain_timeout_ms=8_000,
        agent_timeout_ms=300_000,
        replay_events=1000,
        replay_bytes=1_048_576,
        jwt_secret_key=None,
        jwt_jwks_url=None,
        jwt_algorithms=None,
        jwt_issuer=None,
        jwt_audience=None,
        database_url=None,
        history_retention_days=0,
        auth_auto_provision=True,
    )
    outcome = loaded(tmp_path)
    assert outcome.settings == evolve(
        Settings(),
        jwt_secret_key=SECRET,
        jwt_algorithms=("HS256",),
        database_url=f"sqlite:///{tmp_path}/.netra/netra.db",
    )
    assert outcome.warnings == ()
    assert outcome.sources.pop("JWT_SECRET_KEY") == "environment"
    assert set(outcome.sources.values()) == {"default"}


def test_what_is_configured_leaves_the_folder_alone(tmp_path: Path) -> None:
    assert loaded(tmp_path, DATABASE_URL="sqlite://").settings.database_url == "sqlite://"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "row", "kind"), WHOLES)
def test_a_number_at_its_bounds_and_one_beyond(
    tmp_path: Path, name: str, row: object, kind: Whole
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


def test_only_the_message_rate_has_no_upper_bound() -> None:
    assert [name for name, _, kind in WHOLES if kind.maximum is None] == ["max_message_rate"]


@pytest.mark.parametrize(
    "text", ["five", "5.0", "1e3", "1_000", "0x10", "+5", "--5", "5 ms", "\u0665", "9" * 5000]
)
def test_what_is_no_number(tmp_path: Path, text: str) -> None:
    (line,) = faults(tmp_path, {**KEY, "WEBSOCKET_MAX_MESSAGE_RATE": text})
    assert line.startswith("WEBSOCKET_MAX_MESSAGE_RATE: got '")
    assert "expected a whole number, 1 or more (messages per minute)" in line
    assert len(line) < 250


@pytest.mark.parametrize(("name", "row"), FLAGS)
def test_a_flag_takes_every_word_in_any_case(tmp_path: Path, name: str, row: object) -> None:
    env = TABLE[name].env
    assert TABLE[name] is row
    for word in ("true", "TRUE", "1", "Yes", "on"):
        assert getattr(loaded(tmp_path, **{env: word}).settings, name) is True
    for word in ("false", "False", "0", "NO", "off"):
        assert getattr(loaded(tmp_path, **{env: word}).settings, name) is False
    for word in ("maybe", "2", "tru", "t"):
        (line,) = faults(tmp_path, {**KEY, env: word})
        assert line.startswith(f"{env}: got '{word}', expected one of true, 1,")


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_blank_is_unset(tmp_path: Path, blank: str) -> None:
    every = [row.env for row in TABLE.values()]
    environ = {**dict.fromkeys([*every, *STOPS, "WEBSOCKET_WRONG"], blank), **KEY}
    assert load(environ, directory=tmp_path) == loaded(tmp_path)


@pytest.mark.parametrize("name", [n for n, row in TABLE.items() if isinstance(row.kind, Choice)])
def test_choices(tmp_path: Path, name: str) -> None:
    row = TABLE[name]
    (line,) = faults(tmp_path, {**KEY, row.env: "another"})
    assert line.startswith(f"{row.env}: got 'another', expected one of ")
    assert isinstance(row.kind, Choice)
    word = row.kind.words[-1]
    outcome = load({**STRICT, row.env: f" {word.upper()} "}, directory=tmp_path)
    assert getattr(outcome.settings, name) == word


def test_every_fault_is_listed_in_one_message(tmp_path: Path) -> None:
    lines = faults(
        tmp_path,
        {
            "ENVIRONMENT": "production",
            "JWT_SECRET_KEY": "short",
            "DATABASE_URL": "mysql://u:hunter2@h/db",
            "WEBSOCKET_ALLOWED_ORIGINS": "*, https://fine.example.com, http://a.example.com",
            "WEBSOCKET_REQUIRE_AUTH": "no",
            "WEBSOCKET_QUERY_TOKEN": "maybe",
            "WEBSOCKET_MAX_CONNECTIONS": "0",
            "WEBSOCKET_RESUME_WINDOW": "-1",
            "JWT_ALGORITHMS": "none",
            "REDIS_URL": "redis://:hunter2@h",
            "JWT_JWKS_URL": "https://u:hunter2@keys.example.com",
        },
    )
    assert sorted(line.partition(":")[0] for line in lines) == [
        "DATABASE_URL",
        "JWT_ALGORITHMS",
        "JWT_JWKS_URL",
        "JWT_SECRET_KEY",
        "REDIS_URL",
        "WEBSOCKET_ALLOWED_ORIGINS",
        "WEBSOCKET_ALLOWED_ORIGINS",
        "WEBSOCKET_MAX_CONNECTIONS",
        "WEBSOCKET_QUERY_TOKEN",
        "WEBSOCKET_REQUIRE_AUTH",
        "WEBSOCKET_RESUME_WINDOW",
    ]
    text = "\n".join(lines)
    assert "hunter2" not in text
    assert "short" not in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("environment", ["staging", "production"])
@pytest.mark.parametrize("missing", sorted(STRICT))
def test_what_development_can_do_without(tmp_path: Path, environment: str, missing: str) -> None:
    environ = {**STRICT, "ENVIRONMENT": environment}
    assert load(environ, directory=tmp_path).settings.environment == environment
    del environ[missing]
    (line,) = faults(tmp_path, environ)
    assert line.startswith(f"{missing}: got nothing, expected ")
    assert f" in {environment}; set it" in line
    assert list(tmp_path.iterdir()) == [], "no key is made outside development"


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_a_secret_has_32_bytes_of_utf8(tmp_path: Path, environment: str) -> None:
    environ = {**STRICT, "ENVIRONMENT": environment}
    for fits in ("x" * 32, "\u00e9" * 16):
        load({**environ, "JWT_SECRET_KEY": fits}, directory=tmp_path)
    for short in ("x" * 31, "\u00e9" * 15):
        (line,) = faults(tmp_path, {**environ, "JWT_SECRET_KEY": short})
        assert line.startswith(f"JWT_SECRET_KEY: got {len(short.encode())} bytes (kept secret)")
        assert short not in line


def test_a_short_secret_is_a_warning_in_development(tmp_path: Path) -> None:
    for size, warned in ((31, True), (32, False)):
        outcome = loaded(tmp_path, JWT_SECRET_KEY="x" * size)
        assert len(outcome.warnings) == warned
        assert all(w.startswith("JWT_SECRET_KEY: 31 bytes") for w in outcome.warnings)


@pytest.mark.parametrize(("algorithm", "size"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_key_shorter_than_its_algorithms_is_a_warning(
    tmp_path: Path, algorithm: str, size: int
) -> None:
    environ = {**STRICT, "ENVIRONMENT": "production", "JWT_ALGORITHMS": algorithm}
    for have in (size, max(size - 1, 32)):
        outcome = load({**environ, "JWT_SECRET_KEY": "x" * have}, directory=tmp_path)
        about = [w for w in outcome.warnings if w.startswith("JWT_SECRET_KEY")]
        assert len(about) == (have < size)


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
def test_anonymous_users_are_for_development(tmp_path: Path, environment: str) -> None:
    environ = {**STRICT, "ENVIRONMENT": environment, "WEBSOCKET_REQUIRE_AUTH": "false"}
    if environment == "development":
        assert load(environ, directory=tmp_path).settings.require_auth is False
    else:
        (line,) = faults(tmp_path, environ)
        assert line.startswith(f"WEBSOCKET_REQUIRE_AUTH: got false, expected true in {environment}")


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
def test_users_are_added_by_themselves_in_development(tmp_path: Path, environment: str) -> None:
    environ = {**STRICT, "ENVIRONMENT": environment}
    here = load(environ, directory=tmp_path).settings.auth_auto_provision
    assert here is Settings(environment=environment).auth_auto_provision
    assert here is (environment == "development")
    told = load({**environ, "AUTH_AUTO_PROVISION": "true"}, directory=tmp_path)
    assert told.settings.auth_auto_provision is True


@pytest.mark.parametrize("text", ["none", "RS512", "hs256", "HS256,none", "HS1", ",", "Ed25519"])
def test_only_known_algorithms(tmp_path: Path, text: str) -> None:
    (line,) = faults(tmp_path, {**KEY, "JWT_ALGORITHMS": text})
    assert line.startswith(f"JWT_ALGORITHMS: got '{text}', expected ")
    assert "HS256, HS384, HS512, RS256, ES256, EdDSA" in line


JWKS = {"JWT_JWKS_URL": "https://login.example.com/jwks?tenant=5"}
PUBLIC = ("RS256", "ES256", "EdDSA")


def test_the_algorithms_of_a_key_server() -> None:
    assert PUBLIC == KEY_SERVER_ALGORITHMS


@pytest.mark.parametrize(
    ("environment", "environ", "algorithms"),
    [
        ("development", {}, ("HS256",)),
        ("development", KEY, ("HS256",)),
        ("development", JWKS, ("HS256", *PUBLIC)),
        ("development", {**JWKS, "JWT_ALGORITHMS": "HS512,ES256"}, ("HS512", "ES256")),
        ("development", {**JWKS, "JWT_ALGORITHMS": "EdDSA"}, ("EdDSA",)),
        ("production", KEY, ("HS256",)),
        ("production", JWKS, PUBLIC),
        ("production", {**KEY, **JWKS}, ("HS256", *PUBLIC)),
        ("staging", {**JWKS, "JWT_ALGORITHMS": "RS256"}, ("RS256",)),
    ],
)
def test_the_algorithms_follow_the_keys(
    tmp_path: Path, environment: str, environ: dict[str, str], algorithms: tuple[str, ...]
) -> None:
    rest = {name: value for name, value in STRICT.items() if name not in KEY}
    outcome = load({**rest, **environ, "ENVIRONMENT": environment}, directory=tmp_path)
    assert outcome.settings.jwt_algorithms == algorithms
    assert outcome.settings.jwt_jwks_url == environ.get("JWT_JWKS_URL")
    shown = {name: value for name, value, *_ in describe(outcome)}
    assert shown["JWT_JWKS_URL"] == environ.get("JWT_JWKS_URL", "not set")
    has_secret = any(name.startswith("HS") for name in algorithms)
    assert (outcome.settings.jwt_secret_key is not None) == has_secret
    is_kept = outcome.sources["JWT_SECRET_KEY"] == SECRET_SOURCE
    assert is_kept == (has_secret and "JWT_SECRET_KEY" not in environ)
    assert (tmp_path / ".netra").exists() == is_kept


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({}, "JWT_SECRET_KEY: got nothing, expected a secret of 32 bytes or more, or JWT_JWKS_URL"),
        ({**KEY, "JWT_ALGORITHMS": "HS256,RS256"}, "JWT_ALGORITHMS: got RS256, expected"),
        ({**JWKS, "JWT_ALGORITHMS": "HS512,RS256"}, "JWT_ALGORITHMS: got HS512, expected"),
        ({**KEY, **JWKS, "JWT_ALGORITHMS": "HS256"}, "JWT_ALGORITHMS: got HS256, expected one of"),
        ({"JWT_JWKS_URL": "http://login.example.com/jwks"}, "JWT_JWKS_URL: got http://, expected"),
        ({"JWT_JWKS_URL": "http://localhost.example.com"}, "JWT_JWKS_URL: got http://, expected"),
        ({"JWT_JWKS_URL": "https://u:hunter2@h/"}, "JWT_JWKS_URL: got 20 bytes (kept secret), exp"),
        ({**KEY, "JWT_ALGORITHMS": "none"}, "JWT_ALGORITHMS: got 'none', expected"),
    ],
)
@pytest.mark.parametrize("environment", ["staging", "production"])
def test_what_is_wrong_with_the_sources_of_keys(
    tmp_path: Path, environment: str, environ: dict[str, str], line: str
) -> None:
    rest = {name: value for name, value in STRICT.items() if name not in KEY}
    (found,) = faults(tmp_path, {**rest, **environ, "ENVIRONMENT": environment})
    assert found.startswith(line)
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"JWT_ALGORITHMS": "RS256"}, "JWT_ALGORITHMS: got RS256, expected algorithms that there"),
        ({**JWKS, "JWT_ALGORITHMS": "HS256,HS512"}, "JWT_ALGORITHMS: got HS256, HS512, expected o"),
    ],
)
def test_algorithms_without_a_key_in_development(
    tmp_path: Path, environ: dict[str, str], line: str
) -> None:
    (found,) = faults(tmp_path, environ)
    assert found.startswith(line)
    assert "JWT_JWKS_URL" in found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "127.5.5.5", "[::1]:80"])
def test_a_key_server_on_this_machine_may_do_without_tls(tmp_path: Path, host: str) -> None:
    environ = {**STRICT, "ENVIRONMENT": "production", "JWT_JWKS_URL": f"http://{host}/jwks"}
    assert load(environ, directory=tmp_path).settings.jwt_jwks_url == f"http://{host}/jwks"


@pytest.mark.parametrize(
    ("url", "mend"),
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
def test_what_is_no_url_of_a_key_server(tmp_path: Path, url: str, mend: str) -> None:
    (line,) = faults(tmp_path, {**KEY, "JWT_JWKS_URL": url})
    assert line.startswith(f"JWT_JWKS_URL: got {len(url.encode())} bytes (kept secret), expected ")
    assert f"; {mend}" in line
    assert "hunter2" not in line


def test_lists_forgive_blanks_and_repetitions(tmp_path: Path) -> None:
    outcome = loaded(
        tmp_path,
        JWT_ALGORITHMS=" HS512 ,, HS256,HS512 ",
        WEBSOCKET_ALLOWED_ORIGINS=" https://a.example.com , https://*.example.org,",
    )
    assert outcome.settings.jwt_algorithms == ("HS512", "HS256")
    assert outcome.settings.allowed_origins == ("https://a.example.com", "https://*.example.org")
    assert outcome.settings.origins.allows("https://x.example.org")
    assert outcome.settings.origins is outcome.settings.origins


def test_a_list_of_nothing_is_nothing(tmp_path: Path) -> None:
    assert loaded(tmp_path, WEBSOCKET_ALLOWED_ORIGINS=",").settings.allowed_origins == ()
    environ = {**STRICT, "ENVIRONMENT": "production", "WEBSOCKET_ALLOWED_ORIGINS": ", ,"}
    (line,) = faults(tmp_path, environ)
    assert line.startswith("WEBSOCKET_ALLOWED_ORIGINS: got nothing")


def test_wrong_origins_are_faults_of_their_own_lines(tmp_path: Path) -> None:
    text = "https://*.com,https://u:hunter2@a.example.com,https://fine.example.com"
    lines = faults(tmp_path, {**KEY, "WEBSOCKET_ALLOWED_ORIGINS": text})
    assert len(lines) == 2
    assert all(line.startswith("WEBSOCKET_ALLOWED_ORIGINS: the pattern '") for line in lines)
    assert "hunter2" not in "".join(lines)


def test_a_wrong_environment_is_judged_alone(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, {"ENVIRONMENT": "prod"})
    assert line.startswith("ENVIRONMENT: got 'prod', expected one of development, staging, produc")


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
def test_databases(tmp_path: Path, url: str, shown: str) -> None:
    outcome = loaded(tmp_path, DATABASE_URL=f" {url} ")
    assert outcome.settings.database_url == url
    assert outcome.warnings == ()
    (row,) = [row for row in describe(outcome) if row[0] == "DATABASE_URL"]
    assert row[1:3] == (shown, "environment")
    assert "hunter2" not in repr(outcome)


def test_the_scheme_of_a_database_is_taken_in_any_case(tmp_path: Path) -> None:
    settings = loaded(tmp_path, DATABASE_URL="PostgreSQL://U:Hunter2@h/Db").settings
    assert settings.database_url == "postgresql://U:Hunter2@h/Db"


@pytest.mark.parametrize(
    ("url", "mend"),
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
def test_what_is_no_database(tmp_path: Path, url: str, mend: str) -> None:
    (line,) = faults(tmp_path, {**KEY, "DATABASE_URL": url})
    assert line.startswith(f"DATABASE_URL: got {len(url)} bytes (kept secret), expected a URL with")
    assert f"; {mend}" in line
    assert "hunter2" not in line


@pytest.mark.parametrize("name", ["plain", "a b", "x?y#z", "50%41", "\u00fc@:&"])
def test_development_keeps_its_database(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    outcome = loaded(directory)
    assert outcome.settings.database_url is not None
    assert outcome.sources["DATABASE_URL"] == "default"
    place = make_url(outcome.settings.database_url)
    assert (place.drivername, place.database) == ("sqlite", f"{directory}/.netra/netra.db")
    folder = directory / ".netra"
    assert [path.name for path in folder.iterdir()] == [".gitignore"]
    assert mode(folder) == 0o700


def test_the_database_of_a_relative_folder_has_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert loaded(Path()).settings.database_url == f"sqlite:///{tmp_path}/.netra/netra.db"


def test_a_folder_that_cannot_be_written_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_folder(tmp_path / ".netra")
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write anywhere
    (line,) = faults(tmp_path, KEY)
    assert line.startswith("DATABASE_URL: got nothing, and one kept in .netra/netra.db fails (Perm")
    assert "make the folder writable, or set it (sqlite:// keeps everything in memory)" in line
    assert loaded(tmp_path, DATABASE_URL="sqlite://").settings.database_url == "sqlite://"


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
def test_sqlite_is_warned_of_outside_development(tmp_path: Path, environment: str) -> None:
    environ = {**STRICT, "ENVIRONMENT": environment, "DATABASE_URL": "sqlite:///netra.db"}
    about = [w for w in load(environ, directory=tmp_path).warnings if "SQLite" in w]
    assert len(about) == (environment != "development")


@pytest.mark.parametrize("name", sorted(STOPS))
@pytest.mark.parametrize("environment", ["development", "production"])
def test_what_stops_the_start(tmp_path: Path, name: str, environment: str) -> None:
    environ = {**STRICT, "ENVIRONMENT": environment, name: "https://:hunter2@h"}
    (line,) = faults(tmp_path, environ)
    assert line == f"{name}: got a value (kept secret), expected none; {STOPS[name]}"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("WEBSOCKET_BURST_QUEU", "WEBSOCKET_BURST_QUEUE"),
        ("WEBSOCKET_HEARTBEAT_INTERVAL_MS", "WEBSOCKET_HEARTBEAT_INTERVAL"),
        ("WEBSOCKET_AGENT_TIMEOUT", "AGENT_TIMEOUT"),
        ("WEBSOCKET_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ", None),
    ],
)
def test_unknown_names_are_warned_of(tmp_path: Path, name: str, meant: str | None) -> None:
    (warning,) = loaded(tmp_path, **{name: "hunter2", "HOME": "/", "WEBSOCKETS": "x"}).warnings
    hint = f"; did you mean {meant}?" if meant else ""
    assert warning == f"{name}: no such setting, so it has no effect{hint}"


def test_a_strange_name_is_shown_safely(tmp_path: Path) -> None:
    (warning,) = loaded(tmp_path, **{"WEBSOCKET_\x1b[31m": "x"}).warnings
    assert warning.startswith(r"'WEBSOCKET_\x1b[31m': no such setting")


def test_wrong_values_are_shown_short_and_without_control_characters(tmp_path: Path) -> None:
    for size in (MAX_SHOWN, MAX_SHOWN + 1):
        (line,) = faults(tmp_path, {**KEY, "WEBSOCKET_ENABLE_CORS": "x" * size})
        shown = line.split("'")[1]
        assert shown == "x" * MAX_SHOWN + ("..." if size > MAX_SHOWN else "")
    (line,) = faults(tmp_path, {**KEY, "WEBSOCKET_ENABLE_CORS": "a\n\x1b\u202e"})
    assert r"got 'a\n\x1b\u202e'" in line


@pytest.mark.parametrize("name", ["JWT_SECRET_KEY", "JWT_ISSUER", "WEBSOCKET_ENABLE_CORS"])
def test_bytes_that_are_no_utf8_are_a_fault(tmp_path: Path, name: str) -> None:
    (line,) = faults(tmp_path, {**KEY, name: "x" * 40 + "\udcff"})
    assert line.startswith(f"{name}: got bytes that are not UTF-8, expected ")


def test_secrets_are_neither_printed_nor_described(tmp_path: Path) -> None:
    environ = {**STRICT, "JWT_SECRET_KEY": "s" + "3" * 42}
    outcome = load(environ, directory=tmp_path)
    rows = describe(outcome)
    everything = f"{outcome!r}{rows}"
    assert environ["JWT_SECRET_KEY"] not in everything
    assert "hunter2" not in everything
    shown = {name: (value, source) for name, value, source, _ in rows}
    assert shown["JWT_SECRET_KEY"] == ("set, 43 bytes", "environment")
    assert shown["WEBSOCKET_MAX_MESSAGE_SIZE"] == ("10240 bytes", "default")
    assert shown["WEBSOCKET_ALLOWED_ORIGINS"] == ("https://app.example.com", "environment")
    assert shown["WEBSOCKET_ENABLE_CORS"] == ("true", "default")
    assert shown["JWT_ISSUER"] == ("not set", "default")
    assert [row[0] for row in rows] == [row.env for row in TABLE.values()]
    meanings = {name: meaning for name, _, _, meaning in rows}
    assert meanings["WEBSOCKET_RUN_QUEUE"].endswith("; beyond it: QUEUE_FULL")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_development_makes_its_key_once(tmp_path: Path) -> None:
    first = load({}, directory=tmp_path)
    assert first.sources["JWT_SECRET_KEY"] == SECRET_SOURCE
    assert len(first.settings.jwt_secret_key or "") == 64
    assert load({}, directory=tmp_path) == first
    folder = tmp_path / ".netra"
    assert (mode(folder), mode(folder / "secret")) == (0o700, 0o600)
    assert (folder / ".gitignore").read_text() == "*\n"
    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "secret"]


def test_a_kept_key_is_closed_to_others_again(tmp_path: Path) -> None:
    first = load({}, directory=tmp_path)
    folder = tmp_path / ".netra"
    folder.chmod(0o755)
    (folder / "secret").chmod(0o644)
    assert load({}, directory=tmp_path) == first
    assert (mode(folder), mode(folder / "secret")) == (0o700, 0o600)


def test_two_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    for turn in range(20):
        folder = tmp_path / str(turn)
        with ThreadPoolExecutor(8) as pool:
            kept = list(pool.map(kept_secret, itertools.repeat(folder, 8)))
        assert len(set(kept)) == 1
        assert len(kept[0]) == 64
        assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "secret"]


def test_the_slower_of_two_takes_the_key_of_the_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = kept_secret(tmp_path / "n")
    monkeypatch.setattr(Path, "exists", lambda _: False)  # both looked before either wrote
    assert kept_secret(tmp_path / "n") == ours


@pytest.mark.parametrize(
    ("content", "came"),
    [
        (b"", "got 0 bytes in .netra/secret"),
        (b"hunter2" * 4 + b"xyz", "got 31 bytes in .netra/secret"),
        (b"\xff" * 64, "got bytes in .netra/secret that are not UTF-8"),
    ],
)
def test_a_spoilt_key_is_a_fault(tmp_path: Path, content: bytes, came: str) -> None:
    load({}, directory=tmp_path)
    file = tmp_path / ".netra" / "secret"
    file.write_bytes(content)
    (line,) = faults(tmp_path, {})
    assert line.startswith(f"JWT_SECRET_KEY: {came}")
    assert line.endswith("delete the file: a new one is made")
    assert "hunter2" not in line
    file.write_bytes(b"y" * 32 + b"\n")
    assert load({}, directory=tmp_path).settings.jwt_secret_key == "y" * 32


def test_a_folder_that_cannot_be_made_is_a_fault(tmp_path: Path) -> None:
    lines = faults(tmp_path / "missing", {})
    assert [line.partition(" (")[0] for line in lines] == [
        "JWT_SECRET_KEY: got nothing, and one kept in .netra/secret fails",
        "DATABASE_URL: got nothing, and one kept in .netra/netra.db fails",
    ]
    assert str(tmp_path) not in "".join(lines)


# Secrets in files.


def put(directory: Path, content: bytes, name: str = "secret.txt", mode: int = 0o600) -> str:
    file = directory / name
    file.write_bytes(content)
    file.chmod(mode)
    return str(file)


def test_which_settings_may_stand_in_a_file() -> None:
    assert [row.file_env for row in TABLE.values() if row.in_file] == [
        "JWT_SECRET_KEY_FILE",
        "DATABASE_URL_FILE",
    ]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_secret_in_a_file(tmp_path: Path, end: bytes) -> None:
    path = put(tmp_path, b" " + SECRET.encode() + end)
    url = put(tmp_path, b"postgresql://netra:hunter2@db/netra" + end, "url.txt")
    environ = {**STRICT, "JWT_SECRET_KEY_FILE": path, "DATABASE_URL_FILE": url}
    del environ["JWT_SECRET_KEY"], environ["DATABASE_URL"]
    outcome = load({**environ, "ENVIRONMENT": "production"}, directory=tmp_path)
    assert outcome.settings.jwt_secret_key == f" {SECRET}"
    assert outcome.settings.database_url == "postgresql://netra:hunter2@db/netra"
    assert outcome.sources["JWT_SECRET_KEY"] == f"file {path!a}"
    assert outcome.sources["DATABASE_URL"] == f"file {url!a}"
    assert outcome.warnings == ()
    assert all("hunter2" not in cell for row in describe(outcome) for cell in row)


def test_only_one_newline_is_dropped(tmp_path: Path) -> None:
    path = put(tmp_path, SECRET.encode() + b"\n\n")
    outcome = load({"JWT_SECRET_KEY_FILE": path}, directory=tmp_path)
    assert outcome.settings.jwt_secret_key == f"{SECRET}\n"


def test_a_relative_path_begins_where_the_server_starts(tmp_path: Path) -> None:
    put(tmp_path, SECRET.encode())
    outcome = load({"JWT_SECRET_KEY_FILE": "secret.txt"}, directory=tmp_path)
    assert outcome.settings.jwt_secret_key == SECRET


def test_a_blank_path_counts_as_unset(tmp_path: Path) -> None:
    assert loaded(tmp_path, JWT_SECRET_KEY_FILE=" ") == loaded(tmp_path)


@pytest.mark.parametrize("is_open", [False, True])
def test_a_file_that_everybody_can_read_is_warned_of(tmp_path: Path, is_open: bool) -> None:
    path = put(tmp_path, SECRET.encode(), mode=0o644 if is_open else 0o640)
    outcome = load({"JWT_SECRET_KEY_FILE": path}, directory=tmp_path)
    told = ("JWT_SECRET_KEY_FILE: everybody on this machine can read the file; chmod o-r it",)
    assert outcome.warnings == (told if is_open else ())


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "a file that cannot be read (No such file or directory)"),
        (b"", "an empty file"),
        (b" \r\n", "an empty file"),
        (b"\xff" * 40, "a file that is not UTF-8"),
        (b"x" * (FILE_BYTES + 1), "a file of more than 65536 bytes"),
    ],
)
def test_a_file_that_has_no_secret(tmp_path: Path, content: bytes | None, text: str) -> None:
    path = str(tmp_path / "none") if content is None else put(tmp_path, content)
    (line,) = faults(tmp_path, {"JWT_SECRET_KEY_FILE": path})
    assert line.startswith(f"JWT_SECRET_KEY_FILE: got {text}, expected the path of a file with")
    assert str(tmp_path) not in line, "the path may be the secret itself, by mistake"


def test_a_file_as_large_as_may_be(tmp_path: Path) -> None:
    path = put(tmp_path, b"x" * FILE_BYTES)
    outcome = load({"JWT_SECRET_KEY_FILE": path}, directory=tmp_path)
    assert len(outcome.settings.jwt_secret_key or "") == FILE_BYTES


def test_what_is_no_path_of_a_file(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, {"JWT_SECRET_KEY_FILE": str(tmp_path)})
    assert "cannot be read (Is a directory)" in line
    (line,) = faults(tmp_path, {"JWT_SECRET_KEY_FILE": "nul\0byte"})
    assert "cannot be read (no path)" in line


def test_the_secret_instead_of_a_path(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, {"DATABASE_URL_FILE": "postgresql://netra:hunter2@db/netra"})
    assert "hunter2" not in line


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = put(tmp_path, SECRET.encode(), mode=0)
    account = os.geteuid()
    if account == 0:  # who is root reads everything
        os.seteuid(NOBODY)
    try:
        (line,) = faults(tmp_path, {"JWT_SECRET_KEY_FILE": path})
    finally:
        os.seteuid(account)
    assert "cannot be read (Permission denied)" in line


def test_a_secret_and_a_file(tmp_path: Path) -> None:
    path = put(tmp_path, SECRET.encode())
    (line,) = faults(tmp_path, {**KEY, "JWT_SECRET_KEY_FILE": path})
    assert line.startswith("JWT_SECRET_KEY_FILE: got a file beside JWT_SECRET_KEY, expected one;")
    assert line.endswith("unset JWT_SECRET_KEY or JWT_SECRET_KEY_FILE")


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_what_is_wrong_in_a_file_is_told_once(tmp_path: Path, environment: str) -> None:
    environ = {
        **STRICT,
        "ENVIRONMENT": environment,
        "DATABASE_URL_FILE": put(tmp_path, b"mysql://u:hunter2@h/d"),
    }
    del environ["DATABASE_URL"]
    (line,) = faults(tmp_path, environ)
    assert line.startswith("DATABASE_URL_FILE: got 21 bytes (kept secret), expected a URL with")
    assert "hunter2" not in line


def test_a_broker_in_a_file_stops_the_start_too(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, {**KEY, "REDIS_URL_FILE": "/run/secrets/redis"})
    assert line.startswith("REDIS_URL_FILE: ")


@pytest.mark.parametrize("name", ["JWT_ISSUER", "WEBSOCKET_MAX_CONNECTIONS"])
def test_what_is_no_secret_is_not_read_from_a_file(tmp_path: Path, name: str) -> None:
    outcome = loaded(tmp_path, **{f"{name}_FILE": "/etc/hostname"})
    assert outcome.warnings == (
        f"{name}_FILE: only secrets are read from files, so it has no effect; set {name}",
    )
