"""Loading: all faults in one message, unknown names, and safe texts."""

from pathlib import Path

import pytest
from support.settings import KEY, faults, loaded

from netra_trio.config.loading import load
from netra_trio.config.settings import TABLE
from netra_trio.config.value_kinds import MAX_SHOWN


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_blank_variable_is_unset(tmp_path: Path, blank: str) -> None:
    every = [row.env for row in TABLE.values()]
    environ = {**dict.fromkeys([*every, "WEBSOCKET_WRONG"], blank), **KEY}
    assert load(environ, directory=tmp_path) == loaded(tmp_path)


def test_all_faults_are_in_one_message(tmp_path: Path) -> None:
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
            "REDIS_URL": "http://:hunter2@h",
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


def test_an_invalid_environment_is_reported_alone(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, {"ENVIRONMENT": "prod"})
    assert line.startswith("ENVIRONMENT: got 'prod', expected one of development, staging, produc")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("WEBSOCKET_BURST_QUEU", "WEBSOCKET_BURST_QUEUE"),
        ("WEBSOCKET_HEARTBEAT_INTERVAL_MS", "WEBSOCKET_HEARTBEAT_INTERVAL"),
        ("WEBSOCKET_AGENT_TIMEOUT", "AGENT_TIMEOUT"),
        ("ROOM_HISTORY_EVENT", "ROOM_HISTORY_EVENTS"),
        ("FILES_MAX_BYTE", "FILES_MAX_BYTES"),
        ("USAGE_LIMIT_TOKEN", "USAGE_LIMIT_TOKENS"),
        ("USAGE_DAYS", None),
        ("NOTIFY_URL", None),
        ("OIDC_ISSUERS", "OIDC_ISSUER"),
        ("OIDC_JWT_ISSUER", "JWT_ISSUER"),
        ("WEBSOCKET_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ", None),
    ],
)
def test_an_unknown_name_is_a_warning(tmp_path: Path, name: str, meant: str | None) -> None:
    (warning,) = loaded(tmp_path, **{name: "hunter2", "HOME": "/", "WEBSOCKETS": "x"}).warnings
    hint = f"; did you mean {meant}?" if meant else ""
    assert warning == f"{name}: no such setting, so it has no effect{hint}"


def test_a_name_with_control_characters_is_escaped(tmp_path: Path) -> None:
    (warning,) = loaded(tmp_path, **{"WEBSOCKET_\x1b[31m": "x"}).warnings
    assert warning.startswith(r"'WEBSOCKET_\x1b[31m': no such setting")


def test_invalid_values_are_shown_short_and_escaped(tmp_path: Path) -> None:
    for size in (MAX_SHOWN, MAX_SHOWN + 1):
        (line,) = faults(tmp_path, {**KEY, "WEBSOCKET_ENABLE_CORS": "x" * size})
        shown = line.split("'")[1]
        assert shown == "x" * MAX_SHOWN + ("..." if size > MAX_SHOWN else "")
    (line,) = faults(tmp_path, {**KEY, "WEBSOCKET_ENABLE_CORS": "a\n\x1b\u202e"})
    assert r"got 'a\n\x1b\u202e'" in line


@pytest.mark.parametrize("name", ["JWT_SECRET_KEY", "JWT_ISSUER", "WEBSOCKET_ENABLE_CORS"])
def test_bytes_that_are_not_utf8_are_a_fault(tmp_path: Path, name: str) -> None:
    (line,) = faults(tmp_path, {**KEY, name: "x" * 40 + "\udcff"})
    assert line.startswith(f"{name}: got bytes that are not UTF-8, expected ")
