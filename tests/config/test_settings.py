"""The table of settings: its rows, its defaults, and that secrets are not shown."""

from pathlib import Path

from attrs import evolve
from support.settings import SECRET, STRICT, loaded

from netra_trio.config.loading import describe, load
from netra_trio.config.settings import TABLE, Settings
from netra_trio.config.value_kinds import Integer

INTEGERS = [(name, row, row.kind) for name, row in TABLE.items() if isinstance(row.kind, Integer)]


def test_the_table_has_each_field_once() -> None:
    assert len({row.env for row in TABLE.values()}) == len(TABLE) == 47
    assert all(row.meaning and row.kind.expected for row in TABLE.values())
    assert all(row.beyond for name, row, _ in INTEGERS), "every limit says what happens beyond it"
    assert all(kind.unit for _, _, kind in INTEGERS)


def test_the_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
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
        opening_rate=10,
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
        oidc_issuer=None,
        oidc_client_id=None,
        oidc_scope="openid profile",
        jwt_algorithms=None,
        jwt_issuer=None,
        jwt_audience=None,
        metrics_token=None,
        metrics_public=False,
        database_url=None,
        redis_url=None,
        history_retention_days=0,
        files_url=None,
        files_max_bytes=25 * 1024 * 1024,
        files_user_max_bytes=1024 * 1024 * 1024,
        auth_auto_provision=True,
    )
    outcome = loaded(tmp_path)
    assert outcome.settings == evolve(
        Settings(),
        jwt_secret_key=SECRET,
        jwt_algorithms=("HS256",),
        database_url=f"sqlite:///{tmp_path}/.netra/netra.db",
        files_url=f"{tmp_path}/.netra/files",
    )
    assert outcome.warnings == ()
    assert outcome.sources.pop("JWT_SECRET_KEY") == "environment"
    assert set(outcome.sources.values()) == {"default"}


def test_only_the_message_rate_has_no_upper_bound() -> None:
    assert [name for name, _, kind in INTEGERS if kind.maximum is None] == ["max_message_rate"]


def test_the_settings_that_may_be_in_a_file() -> None:
    assert [row.file_env for row in TABLE.values() if row.in_file] == [
        "JWT_SECRET_KEY_FILE",
        "METRICS_TOKEN_FILE",
        "DATABASE_URL_FILE",
        "REDIS_URL_FILE",
        "NOTIFY_WEBHOOK_SECRET_FILE",
    ]


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
