"""Secrets in files."""

import os
from pathlib import Path

import pytest
from support.settings import KEY, SECRET, STRICT, faults, loaded

from netra_trio.config.loading import describe, load
from netra_trio.config.secret_file import FILE_BYTES

NOBODY = 65534  # the account that owns nothing


def put(directory: Path, content: bytes, name: str = "secret.txt", mode: int = 0o600) -> str:
    file = directory / name
    file.write_bytes(content)
    file.chmod(mode)
    return str(file)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_secrets_are_read_from_files(tmp_path: Path, end: bytes) -> None:
    path = put(tmp_path, b" " + SECRET.encode() + end)
    url = put(tmp_path, b"postgresql://netra:hunter2@db/netra" + end, "url.txt")
    token = put(tmp_path, b"t0ken" + end, "token.txt")
    environ = {
        **STRICT,
        "JWT_SECRET_KEY_FILE": path,
        "DATABASE_URL_FILE": url,
        "METRICS_TOKEN_FILE": token,
    }
    del environ["JWT_SECRET_KEY"], environ["DATABASE_URL"]
    outcome = load({**environ, "ENVIRONMENT": "production"}, directory=tmp_path)
    assert outcome.settings.jwt_secret_key == f" {SECRET}"
    assert outcome.settings.database_url == "postgresql://netra:hunter2@db/netra"
    assert outcome.sources["JWT_SECRET_KEY"] == f"file {path!a}"
    assert outcome.settings.metrics_token == "t0ken"
    assert outcome.sources["DATABASE_URL"] == f"file {url!a}"
    assert outcome.warnings == ()
    assert all("hunter2" not in cell for row in describe(outcome) for cell in row)


WRAPPED = [
    ("{}\n\n", "remove the line feed (U+000A) at its end"),
    ("\n{}", "remove the line feed (U+000A) at its beginning"),
    ("{}\r", "remove the carriage return (U+000D) at its end"),
    ("{}\r\r\n", "remove the carriage return (U+000D) at its end"),
    ("{}\n\r", "remove the carriage return (U+000D) at its end"),
    ("\t{}", "remove the tab (U+0009) at its beginning"),
    ("\ufeff{}", "remove the byte-order mark (U+FEFF) at its beginning"),
    ("\u200b{}", "remove the zero width space (U+200B) at its beginning"),
    ("{}\u00a0", "remove the no-break space (U+00A0) at its end"),
    ("{}\x00", "remove the control character (U+0000) at its end"),
    ('"{}"', "remove the quotation marks (U+0022) around it"),
    ("'{}'\n", "remove the quotation marks (U+0027) around it"),
    ("\u201c{}\u201d", "remove the quotation marks (U+201C) around it"),
]


@pytest.mark.parametrize(("form", "fix"), WRAPPED)
@pytest.mark.parametrize("name", ["JWT_SECRET_KEY", "METRICS_TOKEN"])
def test_a_character_around_a_secret_in_a_file_is_a_fault(
    tmp_path: Path, form: str, fix: str, name: str
) -> None:
    path = put(tmp_path, form.format(SECRET).encode())
    (line,) = faults(tmp_path, {f"{name}_FILE": path})
    assert line.startswith(f"{name}_FILE: got ")
    assert line.endswith(f"; {fix}")
    assert SECRET not in line


@pytest.mark.parametrize(("form", "fix"), [*WRAPPED, ("{}\n", WRAPPED[0][1])])
@pytest.mark.parametrize("name", ["JWT_SECRET_KEY", "METRICS_TOKEN"])
def test_a_character_around_a_secret_in_a_variable_is_a_fault(
    tmp_path: Path, form: str, fix: str, name: str
) -> None:
    text = form.format(SECRET)
    (line,) = faults(tmp_path, {name: text})
    assert line.startswith(f"{name}: got ")
    # No file, so no newline is dropped.
    assert line.endswith("; " + (WRAPPED[0][1] if text.endswith("\n") else fix))
    assert SECRET not in line


@pytest.mark.parametrize("form", ["\ufeff{}", '"{}"', "'{}'\n", "{}\u200b"])
def test_a_character_around_a_database_url_is_a_fault(tmp_path: Path, form: str) -> None:
    text = form.format("postgresql://u:hunter2@h/d")
    (line,) = faults(tmp_path, {**KEY, "DATABASE_URL": text})
    assert line.startswith("DATABASE_URL: got ")
    assert "; remove the " in line
    assert "hunter2" not in line


@pytest.mark.parametrize("secret", [f" {SECRET} ", f'"{SECRET}', f"{SECRET}'", f"a\n{SECRET}", '"'])
def test_other_characters_belong_to_the_secret(tmp_path: Path, secret: str) -> None:
    path = put(tmp_path, secret.encode() + b"\n")
    outcome = load({"JWT_SECRET_KEY_FILE": path}, directory=tmp_path)
    assert outcome.settings.jwt_secret_key == secret
    assert loaded(tmp_path, JWT_SECRET_KEY=secret).settings.jwt_secret_key == secret


def test_a_relative_path_starts_at_the_working_directory(tmp_path: Path) -> None:
    put(tmp_path, SECRET.encode())
    outcome = load({"JWT_SECRET_KEY_FILE": "secret.txt"}, directory=tmp_path)
    assert outcome.settings.jwt_secret_key == SECRET


def test_a_blank_path_counts_as_unset(tmp_path: Path) -> None:
    assert loaded(tmp_path, JWT_SECRET_KEY_FILE=" ") == loaded(tmp_path)


@pytest.mark.parametrize("is_open", [False, True])
def test_a_file_that_every_account_can_read_is_a_warning(tmp_path: Path, is_open: bool) -> None:
    path = put(tmp_path, SECRET.encode(), mode=0o644 if is_open else 0o640)
    outcome = load({"JWT_SECRET_KEY_FILE": path}, directory=tmp_path)
    warning = (
        "JWT_SECRET_KEY_FILE: every account on this machine can read the file; chmod o-r it",
    )
    assert outcome.warnings == (warning if is_open else ())


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
def test_a_file_without_a_usable_secret_is_a_fault(
    tmp_path: Path, content: bytes | None, text: str
) -> None:
    path = str(tmp_path / "none") if content is None else put(tmp_path, content)
    (line,) = faults(tmp_path, {"JWT_SECRET_KEY_FILE": path})
    assert line.startswith(f"JWT_SECRET_KEY_FILE: got {text}, expected the path of a file with")
    assert str(tmp_path) not in line, "the path may be the secret itself, by mistake"


def test_a_file_of_the_greatest_size(tmp_path: Path) -> None:
    path = put(tmp_path, b"x" * FILE_BYTES)
    outcome = load({"JWT_SECRET_KEY_FILE": path}, directory=tmp_path)
    assert len(outcome.settings.jwt_secret_key or "") == FILE_BYTES


def test_a_path_that_is_no_file_is_a_fault(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, {"JWT_SECRET_KEY_FILE": str(tmp_path)})
    assert "cannot be read (Is a directory)" in line
    (line,) = faults(tmp_path, {"JWT_SECRET_KEY_FILE": "nul\0byte"})
    assert "cannot be read (no path)" in line


def test_a_secret_given_as_the_path_is_not_shown(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, {"DATABASE_URL_FILE": "postgresql://netra:hunter2@db/netra"})
    assert "hunter2" not in line


def test_a_file_without_read_permission_is_a_fault(tmp_path: Path) -> None:
    path = put(tmp_path, SECRET.encode(), mode=0)
    account = os.geteuid()
    if account == 0:  # who is root reads everything
        os.seteuid(NOBODY)
    try:
        (line,) = faults(tmp_path, {"JWT_SECRET_KEY_FILE": path})
    finally:
        os.seteuid(account)
    assert "cannot be read (Permission denied)" in line


def test_a_secret_and_a_file_together_are_a_fault(tmp_path: Path) -> None:
    path = put(tmp_path, SECRET.encode())
    (line,) = faults(tmp_path, {**KEY, "JWT_SECRET_KEY_FILE": path})
    assert line.startswith("JWT_SECRET_KEY_FILE: got a file beside JWT_SECRET_KEY, expected one;")
    assert line.endswith("unset JWT_SECRET_KEY or JWT_SECRET_KEY_FILE")


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_a_fault_in_a_file_is_reported_once(tmp_path: Path, environment: str) -> None:
    environ = {
        **STRICT,
        "ENVIRONMENT": environment,
        "DATABASE_URL_FILE": put(tmp_path, b"mysql://u:hunter2@h/d"),
    }
    del environ["DATABASE_URL"]
    (line,) = faults(tmp_path, environ)
    assert line.startswith("DATABASE_URL_FILE: got 21 bytes (kept secret), expected a URL with")
    assert "hunter2" not in line


@pytest.mark.parametrize("name", ["JWT_ISSUER", "WEBSOCKET_MAX_CONNECTIONS"])
def test_a_setting_that_is_no_secret_is_not_read_from_a_file(tmp_path: Path, name: str) -> None:
    outcome = loaded(tmp_path, **{f"{name}_FILE": "/etc/hostname"})
    assert outcome.warnings == (
        f"{name}_FILE: only secrets are read from files, so it has no effect; set {name}",
    )
