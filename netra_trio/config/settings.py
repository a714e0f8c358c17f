"""The table of settings: for each one its variable, unit, bounds, default and effect.

>>> Settings().burst_queue
20
>>> TABLE["burst_queue"].env
'WEBSOCKET_BURST_QUEUE'

`netra_trio.config.loading` reads and checks them.
"""

from decimal import Decimal
from functools import cached_property
from typing import Any

from attrs import Factory, field, fields, frozen

from netra_trio.config.origins import DEVELOPMENT, ENVIRONMENTS, PRODUCTION, OriginPolicy
from netra_trio.config.redis_url import RedisUrl
from netra_trio.config.value_kinds import (
    Amount,
    Choice,
    DatabaseUrl,
    FilesUrl,
    Flag,
    Integer,
    Scope,
    Setting,
    Text,
    WebUrl,
    WordList,
)
from netra_trio.protocol.codec import HARD_SIZE_FACTOR
from netra_trio.protocol.doors import DOOR_PATHS

SECRET_BYTES = 32  # UTF-8 bytes: the length of the hash; a shorter key is easier to guess
KEY_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""The algorithms of a shared secret, with the key length in bytes that RFC 7518 requires."""

KEY_SERVER_ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""The algorithms that the keys of a key server are used with."""

OPENING_BURST_SECONDS = 20  # of openings at once: all tabs of a user reconnect after a restart

FOLDER = ".netra"
DATABASE_FILE = f"{FOLDER}/netra.db"
SECRET_FILE = f"{FOLDER}/secret"
"""The folder for the database and the key of development, below the directory of the server."""

FILES_FOLDER = f"{FOLDER}/files"  # where files are kept by default, in every environment

_MS = "ms"
_DAY = 86_400_000  # ms
MEBIBYTE = 1024 * 1024
COST_PLACES = 9  # decimals of a cost that count for a budget
_MAX_TOKENS = 10**15
_MAX_COST = 9_000_000  # with COST_PLACES, it is exact as a number of JSON and of Lua
_MAX_COUNT = 1_000_000  # more than one process can hold: a larger number is a typing error


def _row(*args: Any, **kwargs: Any) -> dict[str, Setting]:
    return {"setting": Setting(*args, **kwargs)}


@frozen
class Settings:
    """The value of every setting; the metadata of each field is its row of `TABLE`.

    Without arguments it has the defaults of development, without a key for tokens. The
    constructor checks nothing: read untrusted values with `netra_trio.config.loading.load`.
    """

    environment: str = field(
        default=DEVELOPMENT,
        metadata=_row(
            "ENVIRONMENT",
            Choice(ENVIRONMENTS),
            "how strict the checks at the start and of origins are",
        ),
    )
    allowed_origins: tuple[str, ...] = field(
        default=(),
        metadata=_row(
            "WEBSOCKET_ALLOWED_ORIGINS",
            WordList("origins like https://app.example.com or https://*.example.com"),
            "pages that may connect; outside production http pages on this machine may, too",
            "403 ORIGIN_NOT_ALLOWED",
            "set it to the origins of your pages, like https://app.example.com",
        ),
    )
    enable_cors: bool = field(
        default=True,
        metadata=_row(
            "WEBSOCKET_ENABLE_CORS",
            Flag(),
            "CORS headers on HTTP answers; the origin of an upgrade is checked in any case",
        ),
    )
    require_auth: bool = field(
        default=True,
        metadata=_row(
            "WEBSOCKET_REQUIRE_AUTH",
            Flag(),
            "every connection needs a credential; false (development only) admits anonymous users",
            "401 AUTH_REQUIRED",
        ),
    )
    require_origin: bool = field(
        default=False,
        metadata=_row(
            "WEBSOCKET_REQUIRE_ORIGIN",
            Flag(),
            "refuse clients that send no Origin header; usually only browsers send one",
            "403 ORIGIN_NOT_ALLOWED",
        ),
    )
    query_token: bool = field(
        default=True,
        metadata=_row("WEBSOCKET_QUERY_TOKEN", Flag(), "accept a token as ?token= in the URL"),
    )
    doors: tuple[str, ...] = field(
        default=(),
        metadata=_row(
            "DOORS",
            WordList("doors", tuple(DOOR_PATHS)),
            "other protocols through which clients reach the agents; the option --door sets it too",
        ),
    )
    max_connections_per_user: int = field(
        default=5,
        metadata=_row(
            "WEBSOCKET_MAX_CONNECTIONS_PER_USER",
            Integer(1, _MAX_COUNT, "connections"),
            "simultaneous connections of one user",
            "see WEBSOCKET_CONNECTION_LIMIT_POLICY",
        ),
    )
    connection_limit_policy: str = field(
        default="evict_oldest",
        metadata=_row(
            "WEBSOCKET_CONNECTION_LIMIT_POLICY",
            Choice(("evict_oldest", "reject")),
            "at the limit, close the user's oldest connection (4429) or refuse the new one (429)",
        ),
    )
    max_connections: int = field(
        default=10_000,
        metadata=_row(
            "WEBSOCKET_MAX_CONNECTIONS",
            Integer(1, _MAX_COUNT, "connections"),
            "simultaneous connections of all users, in this process",
            "503 SERVER_FULL",
        ),
    )
    opening_rate: int = field(
        default=10,
        metadata=_row(
            "WEBSOCKET_OPENING_RATE",
            Integer(1, 10_000, "openings per second"),
            "upgrades of one user per second, after a burst of 20 seconds' worth",
            "429 RATE_LIMIT_EXCEEDED",
        ),
    )
    max_message_rate: int = field(
        default=60,
        metadata=_row(
            "WEBSOCKET_MAX_MESSAGE_RATE",
            Integer(1, None, "messages per minute"),
            "messages of one user in any minute, over all connections",
            "they wait in the burst queue",
        ),
    )
    burst_queue: int = field(
        default=20,
        metadata=_row(
            "WEBSOCKET_BURST_QUEUE",
            Integer(0, 10_000, "messages"),
            "messages of one user beyond the rate that wait for a rate slot",
            "RATE_LIMIT_EXCEEDED",
        ),
    )
    run_queue: int = field(
        default=32,
        metadata=_row(
            "WEBSOCKET_RUN_QUEUE",
            Integer(1, 10_000, "runs"),
            "runs of one session that wait for another run to end",
            "QUEUE_FULL",
        ),
    )
    max_message_size: int = field(
        default=10_240,
        metadata=_row(
            "WEBSOCKET_MAX_MESSAGE_SIZE",
            Integer(64, 16_777_216, "bytes"),
            "size of one message from a client",
            "MESSAGE_TOO_LARGE, and close code 1009 beyond 16 times that",
        ),
    )
    compression: bool = field(
        default=False,
        metadata=_row(
            "WEBSOCKET_COMPRESSION",
            Flag(),
            "compress messages of 1 KiB or more with clients that offer it (permessage-deflate)",
        ),
    )
    heartbeat_interval_ms: int = field(
        default=30_000,
        metadata=_row(
            "WEBSOCKET_HEARTBEAT_INTERVAL",
            Integer(50, 3_600_000, _MS),
            "interval between heartbeats",
            "close code 4408 after 2.5 intervals without a frame from the client",
        ),
    )
    send_timeout_ms: int = field(
        default=5_000,
        metadata=_row(
            "WEBSOCKET_SEND_TIMEOUT",
            Integer(10, 600_000, _MS),
            "how long a peer may accept no bytes while there are some to send",
            "the connection is closed",
        ),
    )
    drain_timeout_ms: int = field(
        default=8_000,
        metadata=_row(
            "WEBSOCKET_DRAIN_TIMEOUT",
            Integer(0, 600_000, _MS),
            "time to end runs, flush and close at shutdown; give your supervisor 2 s more",
            "remaining runs and connections are cut off",
        ),
    )
    agent_timeout_ms: int = field(
        default=300_000,
        metadata=_row(
            "AGENT_TIMEOUT",
            Integer(1, _DAY, _MS),
            "duration of one run from its start, retries included",
            "the run ends timed_out",
        ),
    )
    replay_events: int = field(
        default=1000,
        metadata=_row(
            "WEBSOCKET_REPLAY_EVENTS",
            Integer(1, _MAX_COUNT, "events"),
            "events a session keeps until they are acknowledged",
            "the agent is paused",
        ),
    )
    replay_bytes: int = field(
        default=1_048_576,
        metadata=_row(
            "WEBSOCKET_REPLAY_BYTES",
            Integer(1_024, 1_073_741_824, "bytes"),
            "size of those events",
            "the agent is paused",
        ),
    )
    resume_window_ms: int = field(
        default=120_000,
        metadata=_row(
            "WEBSOCKET_RESUME_WINDOW",
            Integer(0, _DAY, _MS),
            "how long a session is kept without a connection; 0 turns resume off",
            "the session ends and its runs end `cancelled`",
        ),
    )
    max_sessions_per_user: int = field(
        default=20,
        metadata=_row(
            "WEBSOCKET_MAX_SESSIONS_PER_USER",
            Integer(1, _MAX_COUNT, "sessions"),
            "sessions of one user, with and without a connection",
            "the oldest session without a connection ends",
        ),
    )
    jwt_secret_key: str | None = field(
        default=None,
        repr=False,
        metadata=_row(
            "JWT_SECRET_KEY",
            Text(f"a secret of {SECRET_BYTES} bytes or more", secret=True),
            "the key that signs tokens; generated in development, staging and production require "
            "it, JWT_JWKS_URL or OIDC_ISSUER",
            in_file=True,
        ),
    )
    jwt_jwks_url: str | None = field(
        default=None,
        metadata=_row(
            "JWT_JWKS_URL",
            WebUrl(),
            "where the login service publishes the keys of its tokens; by default OIDC_ISSUER is "
            "asked for it; outside development it must be https or a loopback address",
        ),
    )
    oidc_issuer: str | None = field(
        default=None,
        metadata=_row(
            "OIDC_ISSUER",
            WebUrl("https://login.example.com", has_query=False),
            "the OpenID Connect provider at which the users of the pages sign in, and whose tokens "
            "are accepted; it must be https, in development also http on this machine",
        ),
    )
    oidc_client_id: str | None = field(
        default=None,
        metadata=_row(
            "OIDC_CLIENT_ID",
            Text("a text"),
            "the id of the pages at this provider, as a public client; OIDC_ISSUER requires it",
        ),
    )
    oidc_scope: str = field(
        default="openid profile",
        metadata=_row(
            "OIDC_SCOPE",
            Scope(),
            "the scopes that the pages request at this provider",
        ),
    )
    jwt_algorithms: tuple[str, ...] | None = field(
        default=None,
        metadata=_row(
            "JWT_ALGORITHMS",
            WordList("signing algorithms", (*KEY_BYTES, *KEY_SERVER_ALGORITHMS)),
            "algorithms a token may be signed with; by default HS256 with a secret, and RS256, "
            "ES256 and EdDSA with a key server or a provider",
            "401 INVALID_TOKEN",
        ),
    )
    jwt_issuer: str | None = field(
        default=Factory(lambda self: self.oidc_issuer, takes_self=True),
        metadata=_row(
            "JWT_ISSUER",
            Text("a text"),
            "the iss claim a token must have; by default OIDC_ISSUER, if that is set",
            "401 INVALID_TOKEN",
        ),
    )
    jwt_audience: str | None = field(
        default=Factory(
            lambda self: None if self.oidc_issuer is None else self.oidc_client_id, takes_self=True
        ),
        metadata=_row(
            "JWT_AUDIENCE",
            Text("a text"),
            "the aud claim a token must contain; by default OIDC_CLIENT_ID, with OIDC_ISSUER",
            "401 INVALID_TOKEN",
        ),
    )
    metrics_token: str | None = field(
        default=None,
        repr=False,
        metadata=_row(
            "METRICS_TOKEN",
            Text("a secret", secret=True),
            "the token that /metrics requires as `Authorization: Bearer`",
            "401 INVALID_TOKEN",
            in_file=True,
        ),
    )
    metrics_public: bool = field(
        default=False,
        metadata=_row(
            "METRICS_PUBLIC",
            Flag(),
            "in production, serve /metrics without METRICS_TOKEN to anyone who reaches the port",
            "404 in production",
        ),
    )
    database_url: str | None = field(
        default=None,
        repr=False,
        metadata=_row(
            "DATABASE_URL",
            DatabaseUrl(),
            f"the database of users, threads and history; {DATABASE_FILE} in development, and "
            "sqlite:// keeps everything in memory",
            required="set it, for instance to sqlite:///netra.db",
            in_file=True,
        ),
    )
    redis_url: str | None = field(
        default=None,
        repr=False,
        metadata=_row(
            "REDIS_URL",
            RedisUrl(),
            "the Valkey or Redis server through which several processes share users, sessions and "
            "rooms; without it there is one process",
            in_file=True,
        ),
    )
    room_history_events: int = field(
        default=1000,
        metadata=_row(
            "ROOM_HISTORY_EVENTS",
            Integer(1, 100_000, "events"),
            "events of a room that are kept, for members that come back",
            "the oldest are dropped",
        ),
    )
    room_history_seconds: int = field(
        default=300,
        metadata=_row(
            "ROOM_HISTORY_SECONDS",
            Integer(1, 86_400, "s"),
            "how long events of a room are kept",
            "they are dropped",
        ),
    )
    usage_limit_tokens: int | None = field(
        default=None,
        metadata=_row(
            "USAGE_LIMIT_TOKENS",
            Integer(1, _MAX_TOKENS, "tokens"),
            "tokens, read and written together, that one agent may use for one user in a day of "
            "UTC; no limit by default",
            "BUDGET_EXCEEDED",
        ),
    )
    usage_limit_cost: Decimal | None = field(
        default=None,
        metadata=_row(
            "USAGE_LIMIT_COST",
            Amount(_MAX_COST, COST_PLACES),
            "what one agent may cost for one user in a day of UTC, in the currency of the reports; "
            "no limit by default",
            "BUDGET_EXCEEDED",
        ),
    )
    notify_webhook: str | None = field(
        default=None,
        repr=False,
        metadata=_row(
            "NOTIFY_WEBHOOK",
            WebUrl("https://app.example.com/hooks/netra", hides_path=True),
            "where the server reports that a run without a session has ended or asks a "
            "question, while its user has no connection; outside development it must be https",
        ),
    )
    notify_webhook_secret: str | None = field(
        default=None,
        repr=False,
        metadata=_row(
            "NOTIFY_WEBHOOK_SECRET",
            Text(f"a secret of {SECRET_BYTES} bytes or more", secret=True),
            "the key that signs these reports; NOTIFY_WEBHOOK requires it",
            in_file=True,
        ),
    )
    history_retention_days: int = field(
        default=0,
        metadata=_row(
            "HISTORY_RETENTION_DAYS",
            Integer(0, 36_500, "days"),
            "how long messages are kept after their run has ended; 0 keeps them permanently",
            "they are deleted",
        ),
    )
    files_url: str | None = field(
        default=None,
        metadata=_row(
            "FILES_URL",
            FilesUrl(),
            f"where the files of users are kept; {FILES_FOLDER} in the working directory by "
            "default, a temporary folder if the database is in memory; several nodes need a folder "
            "that all of them share, or S3",
        ),
    )
    files_max_bytes: int = field(
        default=25 * MEBIBYTE,
        metadata=_row(
            "FILES_MAX_BYTES",
            Integer(1, 4096 * MEBIBYTE, "bytes"),
            "size of one file",
            "413 MESSAGE_TOO_LARGE",
        ),
    )
    files_user_max_bytes: int = field(
        default=1024 * MEBIBYTE,
        metadata=_row(
            "FILES_USER_MAX_BYTES",
            Integer(1, 1024**3 * MEBIBYTE, "bytes"),
            "size of all files of one user together",
            "429 QUEUE_FULL",
        ),
    )
    auth_auto_provision: bool = field(
        default=Factory(lambda self: self.environment == DEVELOPMENT, takes_self=True),
        metadata=_row(
            "AUTH_AUTO_PROVISION",
            Flag(),
            "create a user at the first valid token; by default in development only",
            "403 USER_NOT_FOUND",
        ),
    )

    @property
    def has_public_keys(self) -> bool:
        """Whether tokens are verified with the keys of a key server or a provider."""
        return self.jwt_jwks_url is not None or self.oidc_issuer is not None

    @property
    def opening_burst(self) -> int:
        """The number of upgrades that a user may make at once."""
        return self.opening_rate * OPENING_BURST_SECONDS

    @property
    def has_open_metrics(self) -> bool:
        """Whether /metrics is served to requests without a token."""
        return self.metrics_token is None and (
            self.metrics_public or self.environment != PRODUCTION
        )

    @property
    def hard_message_size(self) -> int:
        """The size in bytes above which a message closes its connection."""
        return self.max_message_size * HARD_SIZE_FACTOR

    @cached_property
    def origins(self) -> OriginPolicy:
        """The origin policy, parsed at the first use and cached.

        Raises:
            ValueError: A pattern is invalid; `load` has excluded that.
        """
        return OriginPolicy.parse(self.environment, self.allowed_origins)


TABLE: dict[str, Setting] = {row.name: row.metadata["setting"] for row in fields(Settings)}
"""Every setting by the name of its field."""


def default_algorithms(*, has_secret: bool, has_keys: bool) -> tuple[str, ...]:
    """Return the algorithms that are accepted when none are configured."""
    return (*(["HS256"] if has_secret else []), *(KEY_SERVER_ALGORITHMS if has_keys else []))
