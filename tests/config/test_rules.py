"""Rules between settings, by environment."""

from pathlib import Path

import pytest
from support.settings import KEY, STRICT, faults, loaded

from netra_trio.config.development import SECRET_SOURCE
from netra_trio.config.loading import describe, load
from netra_trio.config.settings import KEY_SERVER_ALGORITHMS, Settings

JWKS = {"JWT_JWKS_URL": "https://login.example.com/jwks?tenant=5"}
PUBLIC = ("RS256", "ES256", "EdDSA")


@pytest.mark.parametrize("environment", ["staging", "production"])
@pytest.mark.parametrize("missing", sorted(STRICT))
def test_settings_that_only_development_can_omit(
    tmp_path: Path, environment: str, missing: str
) -> None:
    environ = {**STRICT, "ENVIRONMENT": environment}
    assert load(environ, directory=tmp_path).settings.environment == environment
    del environ[missing]
    (line,) = faults(tmp_path, environ)
    assert line.startswith(f"{missing}: got nothing, expected ")
    assert f" in {environment}; set it" in line
    assert list(tmp_path.iterdir()) == [], "no key is made outside development"


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_a_secret_needs_32_bytes_of_utf8(tmp_path: Path, environment: str) -> None:
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
def test_a_key_shorter_than_its_algorithm_needs_is_a_warning(
    tmp_path: Path, algorithm: str, size: int
) -> None:
    environ = {**STRICT, "ENVIRONMENT": "production", "JWT_ALGORITHMS": algorithm}
    for have in (size, max(size - 1, 32)):
        outcome = load({**environ, "JWT_SECRET_KEY": "x" * have}, directory=tmp_path)
        about = [w for w in outcome.warnings if w.startswith("JWT_SECRET_KEY")]
        assert len(about) == (have < size)


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
def test_anonymous_users_are_for_development_only(tmp_path: Path, environment: str) -> None:
    environ = {**STRICT, "ENVIRONMENT": environment, "WEBSOCKET_REQUIRE_AUTH": "false"}
    if environment == "development":
        assert load(environ, directory=tmp_path).settings.require_auth is False
    else:
        (line,) = faults(tmp_path, environ)
        assert line.startswith(f"WEBSOCKET_REQUIRE_AUTH: got false, expected true in {environment}")


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
def test_users_are_created_automatically_in_development(tmp_path: Path, environment: str) -> None:
    environ = {**STRICT, "ENVIRONMENT": environment}
    here = load(environ, directory=tmp_path).settings.auth_auto_provision
    assert here is Settings(environment=environment).auth_auto_provision
    assert here is (environment == "development")
    told = load({**environ, "AUTH_AUTO_PROVISION": "true"}, directory=tmp_path)
    assert told.settings.auth_auto_provision is True


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
def test_the_accepted_algorithms_follow_from_the_keys(
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
def test_faults_of_key_sources(
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
def test_a_key_server_on_this_machine_may_use_http(tmp_path: Path, host: str) -> None:
    environ = {**STRICT, "ENVIRONMENT": "production", "JWT_JWKS_URL": f"http://{host}/jwks"}
    assert load(environ, directory=tmp_path).settings.jwt_jwks_url == f"http://{host}/jwks"


def test_each_invalid_origin_is_a_line(tmp_path: Path) -> None:
    text = "https://*.com,https://u:hunter2@a.example.com,https://fine.example.com"
    lines = faults(tmp_path, {**KEY, "WEBSOCKET_ALLOWED_ORIGINS": text})
    assert len(lines) == 2
    assert all(line.startswith("WEBSOCKET_ALLOWED_ORIGINS: the pattern '") for line in lines)
    assert "hunter2" not in "".join(lines)


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
def test_sqlite_outside_development_is_a_warning(tmp_path: Path, environment: str) -> None:
    environ = {**STRICT, "ENVIRONMENT": environment, "DATABASE_URL": "sqlite:///netra.db"}
    about = [w for w in load(environ, directory=tmp_path).warnings if "SQLite" in w]
    assert len(about) == (environment != "development")


@pytest.mark.parametrize(
    ("environment", "environ", "is_open", "warning"),
    [
        ("development", {}, True, None),
        ("staging", {}, True, None),
        ("production", {}, False, "METRICS_TOKEN: not set, so /metrics answers 404; set it, or"),
        ("production", {"METRICS_PUBLIC": "false"}, False, "METRICS_TOKEN: not set, so"),
        ("production", {"METRICS_PUBLIC": "true"}, True, "METRICS_PUBLIC: anyone who reaches the"),
        ("production", {"METRICS_TOKEN": "t0ken"}, False, None),
        ("production", {"METRICS_TOKEN": "t0ken", "METRICS_PUBLIC": "true"}, False, None),
    ],
)
def test_metrics_in_production_need_a_token_or_a_decision(
    tmp_path: Path,
    environment: str,
    environ: dict[str, str],
    is_open: bool,
    warning: str | None,
) -> None:
    outcome = load({**STRICT, "ENVIRONMENT": environment, **environ}, directory=tmp_path)
    assert outcome.settings.has_open_metrics is is_open
    about = [line for line in outcome.warnings if line.startswith("METRICS_")]
    assert len(about) == (warning is not None)
    assert all(line.startswith(warning or "") for line in about)


def test_the_burst_of_openings_follows_their_rate(tmp_path: Path) -> None:
    for rate, burst in ((10, 200), (1, 20)):
        settings = loaded(tmp_path, WEBSOCKET_OPENING_RATE=str(rate)).settings
        assert (settings.opening_rate, settings.opening_burst) == (rate, burst)


WEBHOOK = {
    "NOTIFY_WEBHOOK": "https://app.example.com/hooks/k3y",
    "NOTIFY_WEBHOOK_SECRET": "w" * 32,
}


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
def test_a_webhook_with_its_secret_is_accepted(tmp_path: Path, environment: str) -> None:
    outcome = load({**STRICT, **WEBHOOK, "ENVIRONMENT": environment}, directory=tmp_path)
    assert outcome.settings.notify_webhook == WEBHOOK["NOTIFY_WEBHOOK"]
    assert outcome.settings.notify_webhook_secret == WEBHOOK["NOTIFY_WEBHOOK_SECRET"]
    assert [line for line in outcome.warnings if line.startswith("NOTIFY_")] == []
    shown = {name: value for name, value, _, _ in describe(outcome)}
    assert shown["NOTIFY_WEBHOOK"] == "https://app.example.com/…"
    assert "k3y" not in repr(outcome.settings)
    assert "www" not in str(shown) + repr(outcome.settings)


def test_the_secret_of_the_webhook_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("w" * 40)
    file.chmod(0o600)
    environ = {"NOTIFY_WEBHOOK": WEBHOOK["NOTIFY_WEBHOOK"], "NOTIFY_WEBHOOK_SECRET_FILE": "secret"}
    assert loaded(tmp_path, **environ).settings.notify_webhook_secret == "w" * 40


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
@pytest.mark.parametrize(
    ("changed", "line", "in_development"),
    [
        ({"NOTIFY_WEBHOOK_SECRET": ""}, "NOTIFY_WEBHOOK_SECRET: got nothing, expected a s", True),
        (
            {"NOTIFY_WEBHOOK_SECRET": "w" * 31},
            "NOTIFY_WEBHOOK_SECRET: got 31 bytes (kept secret), expected",
            False,
        ),
        (
            {"NOTIFY_WEBHOOK": "http://127.0.0.1/k3y"},
            "NOTIFY_WEBHOOK: got http://, expected https",
            False,
        ),
        ({"NOTIFY_WEBHOOK": "ftp://k3y"}, "NOTIFY_WEBHOOK: got 9 bytes (kept secret), e", True),
        ({"NOTIFY_WEBHOOK": "https://u:k3y@h/"}, "NOTIFY_WEBHOOK: got 16 bytes (kept", True),
    ],
)
def test_faults_of_the_webhook(
    tmp_path: Path, environment: str, changed: dict[str, str], line: str, in_development: bool
) -> None:
    environ = {**STRICT, **WEBHOOK, **changed, "ENVIRONMENT": environment}
    if environment == "development" and not in_development:
        load(environ, directory=tmp_path)
        return
    (found,) = faults(tmp_path, environ)
    assert found.startswith(line)
    assert "k3y" not in found


def test_a_secret_without_its_webhook_is_a_warning(tmp_path: Path) -> None:
    outcome = loaded(tmp_path, NOTIFY_WEBHOOK_SECRET="w" * 32)
    [line] = [line for line in outcome.warnings if line.startswith("NOTIFY_")]
    assert line == "NOTIFY_WEBHOOK_SECRET: without NOTIFY_WEBHOOK it has no effect"
