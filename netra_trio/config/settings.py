"""Every setting: its variable, unit, default and reason, and what happens beyond it.

>>> given = {"WEBSOCKET_BURST_QUEUE": "5", "JWT_SECRET_KEY": "s" * 32, "DATABASE_URL": "sqlite://"}
>>> loaded = load(given, directory=Path())
>>> loaded.settings.burst_queue, loaded.sources["WEBSOCKET_BURST_QUEUE"]
(5, 'environment')
"""

import difflib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from attrs import Factory, define, evolve, field, fields, frozen
from sqlalchemy.engine import URL

from netra_trio.config.development_secret import keep_folder, kept_secret
from netra_trio.config.origins import DEVELOPMENT, ENVIRONMENTS, OriginPolicy
from netra_trio.config.secret_file import SecretFileUnusable, read_secret
from netra_trio.config.value_kinds import (
    FILE_SUFFIX,
    MAX_SHOWN,
    Choice,
    DatabaseUrl,
    Flag,
    Setting,
    Text,
    WebUrl,
    Whole,
    Words,
    fault,
    is_loopback,
    quoted,
)
from netra_trio.errors import SettingsError
from netra_trio.protocol.codec import HARD_SIZE_FACTOR

SECRET_BYTES = 32  # UTF-8 bytes: the hash's own length, below which guessing the key is cheaper
KEY_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""The algorithms of a shared secret, and the bytes RFC 7518 wants of it."""

KEY_SERVER_ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""The algorithms of a key server's keys."""

FOLDER = ".netra"
DATABASE_FILE = f"{FOLDER}/netra.db"
SECRET_FILE = f"{FOLDER}/secret"
SECRET_SOURCE = f"generated in {SECRET_FILE}"

_HOW_TO_MAKE_ONE = (
    'set it, for instance to what `python -c "import secrets; print(secrets.token_urlsafe(48))"` '
    "prints"
)
_TIME = "ms"
_DAY = 86_400_000  # ms
_COUNT_MAX = 1_000_000  # far beyond one process; a number above it is a slip of the keyboard


def _row(*args: Any, **kwargs: Any) -> dict[str, Setting]:
    return {"setting": Setting(*args, **kwargs)}


@frozen
class Settings:
    """Everything that can be set; each field's metadata is its row of the table.

    Without arguments it is what development has, without a key to check tokens with. The
    constructor trusts its caller: what comes from outside goes through `load`.
    """

    environment: str = field(
        default=DEVELOPMENT,
        metadata=_row("ENVIRONMENT", Choice(ENVIRONMENTS), "how strict the start and origins are"),
    )
    allowed_origins: tuple[str, ...] = field(
        default=(),
        metadata=_row(
            "WEBSOCKET_ALLOWED_ORIGINS",
            Words("origins like https://app.example.com or https://*.example.com"),
            "pages that may connect; in production no others, else http pages on this machine too",
            "403 ORIGIN_NOT_ALLOWED",
            "set it to the origins of your pages, like https://app.example.com",
        ),
    )
    enable_cors: bool = field(
        default=True,
        metadata=_row(
            "WEBSOCKET_ENABLE_CORS",
            Flag(),
            "CORS headers on HTTP answers; without them the check of the upgrade stays",
        ),
    )
    require_auth: bool = field(
        default=True,
        metadata=_row(
            "WEBSOCKET_REQUIRE_AUTH",
            Flag(),
            "every connection needs a credential; false, in development only: anonymous users",
            "401 AUTH_REQUIRED",
        ),
    )
    require_origin: bool = field(
        default=False,
        metadata=_row(
            "WEBSOCKET_REQUIRE_ORIGIN",
            Flag(),
            "refuse clients that send no Origin, which is all but browsers",
            "403 ORIGIN_NOT_ALLOWED",
        ),
    )
    query_token: bool = field(
        default=True,
        metadata=_row("WEBSOCKET_QUERY_TOKEN", Flag(), "accept a token as ?token= in the URL"),
    )
    max_connections_per_user: int = field(
        default=5,
        metadata=_row(
            "WEBSOCKET_MAX_CONNECTIONS_PER_USER",
            Whole(1, _COUNT_MAX, "connections"),
            "connections of one user at once",
            "as WEBSOCKET_CONNECTION_LIMIT_POLICY says",
        ),
    )
    connection_limit_policy: str = field(
        default="evict_oldest",
        metadata=_row(
            "WEBSOCKET_CONNECTION_LIMIT_POLICY",
            Choice(("evict_oldest", "reject")),
            "who gives way at the limit: the user's oldest connection (4429) or the new one (429)",
        ),
    )
    max_connections: int = field(
        default=10_000,
        metadata=_row(
            "WEBSOCKET_MAX_CONNECTIONS",
            Whole(1, _COUNT_MAX, "connections"),
            "connections of all users at once, in this process",
            "503 SERVER_FULL",
        ),
    )
    max_message_rate: int = field(
        default=60,
        metadata=_row(
            "WEBSOCKET_MAX_MESSAGE_RATE",
            Whole(1, None, "messages per minute"),
            "messages of one user, over all connections, in any minute",
            "they wait in the burst queue",
        ),
    )
    burst_queue: int = field(
        default=20,
        metadata=_row(
            "WEBSOCKET_BURST_QUEUE",
            Whole(0, 10_000, "messages"),
            "messages of one user beyond the rate that wait their turn",
            "RATE_LIMIT_EXCEEDED",
        ),
    )
    run_queue: int = field(
        default=32,
        metadata=_row(
            "WEBSOCKET_RUN_QUEUE",
            Whole(1, 10_000, "runs"),
            "runs of one session that wait for another to end",
            "QUEUE_FULL",
        ),
    )
    max_message_size: int = field(
        default=10_240,
        metadata=_row(
            "WEBSOCKET_MAX_MESSAGE_SIZE",
            Whole(64, 16_777_216, "bytes"),
            "one message from a client",
            "MESSAGE_TOO_LARGE, and close code 1009 beyond 16 times that",
        ),
    )
    heartbeat_interval_ms: int = field(
        default=30_000,
        metadata=_row(
            "WEBSOCKET_HEARTBEAT_INTERVAL",
            Whole(50, 3_600_000, _TIME),
            "time from one heartbeat to the next",
            "close code 4408 after two intervals and a half of silence",
        ),
    )
    send_timeout_ms: int = field(
        default=5_000,
        metadata=_row(
            "WEBSOCKET_SEND_TIMEOUT",
            Whole(10, 600_000, _TIME),
            "time a peer may take nothing while there is something to send",
            "the connection is given up",
        ),
    )
    drain_timeout_ms: int = field(
        default=8_000,
        metadata=_row(
            "WEBSOCKET_DRAIN_TIMEOUT",
            Whole(0, 600_000, _TIME),
            "time to end runs, flush and close at shutdown; give your supervisor 2 s more",
            "what still runs is cut off",
        ),
    )
    agent_timeout_ms: int = field(
        default=300_000,
        metadata=_row(
            "AGENT_TIMEOUT",
            Whole(1, _DAY, _TIME),
            "time of one run from its start, retries included",
            "the run ends timed_out",
        ),
    )
    replay_events: int = field(
        default=1000,
        metadata=_row(
            "WEBSOCKET_REPLAY_EVENTS",
            Whole(1, _COUNT_MAX, "events"),
            "events a session keeps until they are acknowledged",
            "the agent waits",
        ),
    )
    replay_bytes: int = field(
        default=1_048_576,
        metadata=_row(
            "WEBSOCKET_REPLAY_BYTES",
            Whole(1_024, 1_073_741_824, "bytes"),
            "memory of those events",
            "the agent waits",
        ),
    )
    resume_window_ms: int = field(
        default=120_000,
        metadata=_row(
            "WEBSOCKET_RESUME_WINDOW",
            Whole(0, _DAY, _TIME),
            "how long a session outlives its connection; 0 turns resume off",
            "its runs end `cancelled`",
        ),
    )
    max_sessions_per_user: int = field(
        default=20,
        metadata=_row(
            "WEBSOCKET_MAX_SESSIONS_PER_USER",
            Whole(1, _COUNT_MAX, "sessions"),
            "sessions of one user, with and without a connection",
            "the oldest one without a connection ends",
        ),
    )
    jwt_secret_key: str | None = field(
        default=None,
        repr=False,
        metadata=_row(
            "JWT_SECRET_KEY",
            Text(f"a secret of {SECRET_BYTES} bytes or more", secret=True),
            "the key that tokens are signed with; development makes its own, staging and "
            "production need it or JWT_JWKS_URL",
            in_file=True,
        ),
    )
    jwt_jwks_url: str | None = field(
        default=None,
        metadata=_row(
            "JWT_JWKS_URL",
            WebUrl(),
            "where the login publishes the keys of its tokens; https outside development, but for "
            "this machine",
        ),
    )
    jwt_algorithms: tuple[str, ...] | None = field(
        default=None,
        metadata=_row(
            "JWT_ALGORITHMS",
            Words("signing algorithms", (*KEY_BYTES, *KEY_SERVER_ALGORITHMS)),
            "algorithms a token may be signed with; by default HS256 where there is a secret, and "
            "RS256, ES256 and EdDSA where there is a key server",
            "401 INVALID_TOKEN",
        ),
    )
    jwt_issuer: str | None = field(
        default=None,
        metadata=_row(
            "JWT_ISSUER", Text("a text"), "the iss a token must have", "401 INVALID_TOKEN"
        ),
    )
    jwt_audience: str | None = field(
        default=None,
        metadata=_row(
            "JWT_AUDIENCE", Text("a text"), "the aud a token must have", "401 INVALID_TOKEN"
        ),
    )
    metrics_token: str | None = field(
        default=None,
        repr=False,
        metadata=_row(
            "METRICS_TOKEN",
            Text("a secret", secret=True),
            "what reads /metrics has to send as `Authorization: Bearer`; without it, whoever "
            "reaches the port may read them",
            "401 INVALID_TOKEN",
        ),
    )
    database_url: str | None = field(
        default=None,
        repr=False,
        metadata=_row(
            "DATABASE_URL",
            DatabaseUrl(),
            f"the database of users, threads and history; development has {DATABASE_FILE}, and "
            "sqlite:// keeps everything in memory",
            required="set it, for instance to sqlite:///netra.db",
            in_file=True,
        ),
    )
    history_retention_days: int = field(
        default=0,
        metadata=_row(
            "HISTORY_RETENTION_DAYS",
            Whole(0, 36_500, "days"),
            "how long messages are kept whose run has ended; 0 keeps them for ever",
            "they are deleted",
        ),
    )
    auth_auto_provision: bool = field(
        default=Factory(lambda self: self.environment == DEVELOPMENT, takes_self=True),
        metadata=_row(
            "AUTH_AUTO_PROVISION",
            Flag(),
            "add a user at first sight; by default in development only",
            "403 USER_NOT_FOUND",
        ),
    )

    @property
    def hard_message_size(self) -> int:
        """The bytes beyond which a message ends its connection."""
        return self.max_message_size * HARD_SIZE_FACTOR

    @cached_property
    def origins(self) -> OriginPolicy:
        """Which origins may enter, parsed at the first use and kept.

        Raises:
            ValueError: A pattern is wrong, which after `load` none is.
        """
        return OriginPolicy.parse(self.environment, self.allowed_origins)


TABLE: dict[str, Setting] = {row.name: row.metadata["setting"] for row in fields(Settings)}
"""Every setting by the name of its field."""

STOPS = {
    "REDIS_URL": "there is no broker yet: unset it",
}
"""Settings of the contract that stop the start: to go on without them would be no kindness."""


@frozen
class Loaded:
    """The settings and where they come from.

    Attributes:
        settings: What holds.
        sources: For each variable `environment`, `default`, the file or what made its value.
        warnings: What the operator should know though it stops nothing; never a secret.
    """

    settings: Settings
    sources: dict[str, str]
    warnings: tuple[str, ...]


def load(environ: Mapping[str, str], *, directory: Path) -> Loaded:
    """Read, check and complete the settings.

    In development a missing key is made and kept below `directory`, and so is the folder of a
    database that nobody named; nothing else is written, and nothing at all where there is a fault
    before. A variable that is blank counts as unset. A secret may stand in a file instead, which
    `<variable>_FILE` names.

    Raises:
        SettingsError: Settings are wrong: one line for each, with what came, what was expected
            and how to mend it.
    """
    given = {name: text for name, text in environ.items() if text.strip()}
    files = _read_files(given, directory)
    values, wrong = _read(given, files)
    # What is wrong has its default here. So after a wrong ENVIRONMENT only development's rules are
    # asked: which of the others was meant is not ours to guess.
    settings = Settings(**values)
    faults = [*wrong.values(), *_joint_faults(settings, wrong), *_faults_of_later(given)]
    if faults:
        raise SettingsError("\n".join(faults))
    sources = {
        row.env: "environment" if row.env in given else files.sources.get(row.env, "default")
        for row in TABLE.values()
    }
    kept: dict[str, Any] = {}
    if settings.environment == DEVELOPMENT:
        kept = _kept_in(directory, settings)
    if "jwt_secret_key" in kept:
        sources[TABLE["jwt_secret_key"].env] = SECRET_SOURCE
    settings = evolve(settings, **kept)
    settings = evolve(settings, jwt_algorithms=_algorithms(settings))
    return Loaded(settings, sources, (*files.warnings, *_warnings(settings, given)))


def usual_algorithms(*, has_secret: bool, has_keys: bool) -> tuple[str, ...]:
    """Return the algorithms that are accepted where nobody says which."""
    return (*(["HS256"] if has_secret else []), *(KEY_SERVER_ALGORITHMS if has_keys else []))


def describe(loaded: Loaded) -> list[tuple[str, str, str, str]]:
    """Return a row for each setting: variable, value, source and meaning; no secret's value."""
    return [
        (
            row.env,
            row.show(getattr(loaded.settings, name)),
            loaded.sources[row.env],
            row.explanation,
        )
        for name, row in TABLE.items()
    ]


@define
class _Files:
    """What files have, by the variable that it is for."""

    texts: dict[str, str] = field(factory=dict)
    sources: dict[str, str] = field(factory=dict)
    wrong: dict[str, str] = field(factory=dict)
    warnings: list[str] = field(factory=list)


def _read_files(given: Mapping[str, str], directory: Path) -> _Files:
    """Read every secret that stands in a file; a relative path begins at `directory`."""
    files = _Files()
    for row in TABLE.values():
        if not row.in_file or row.file_env not in given:
            continue
        if row.env in given:
            mend = f"unset {row.env} or {row.file_env}"
            files.wrong[row.env] = fault(row.file_env, f"a file beside {row.env}", "one", mend)
            continue
        path = directory / given[row.file_env]
        try:
            secret = read_secret(path)
        except SecretFileUnusable as error:
            expected = f"the path of a file with {row.kind.expected}"
            files.wrong[row.env] = fault(row.file_env, error.came, expected, error.mend)
            continue
        files.texts[row.env] = secret.text
        files.sources[row.env] = f"file {str(path)!a}"
        if secret.is_open:
            files.warnings.append(
                f"{row.file_env}: everybody on this machine can read the file; chmod o-r it"
            )
    return files


def _read(given: Mapping[str, str], files: _Files) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what is given and right by field, and a line for each that is wrong by variable."""
    values: dict[str, Any] = {}
    wrong = dict(files.wrong)
    for name, row in TABLE.items():
        is_in_file = row.env in files.texts
        text = files.texts[row.env] if is_in_file else given.get(row.env)
        if text is None or row.env in wrong:
            continue
        try:
            values[name] = (evolve(row, env=row.file_env) if is_in_file else row).read(text)
        except ValueError as error:
            wrong[row.env] = str(error)
    return values, wrong


def _joint_faults(settings: Settings, wrong: Mapping[str, str]) -> Iterator[str]:
    """Find what is wrong only beside another setting."""
    try:
        _ = settings.origins
    except ValueError as error:
        for line in str(error).splitlines():
            yield f"{TABLE['allowed_origins'].env}: {line}"
    yield from _faults_of_keys(settings, wrong)
    if settings.environment == DEVELOPMENT:
        return
    for name, row in TABLE.items():
        if row.required and row.env not in wrong and not getattr(settings, name):
            expected = f"{row.kind.expected} in {settings.environment}"
            yield fault(row.env, "nothing", expected, row.required)
    key = settings.jwt_secret_key
    if key is not None and len(key.encode()) < SECRET_BYTES:
        row = TABLE["jwt_secret_key"]
        expected = f"{row.kind.expected} in {settings.environment}"
        yield fault(row.env, f"{len(key.encode())} bytes (kept secret)", expected, row.required)
    if not settings.require_auth:
        expected = f"true in {settings.environment}"
        mend = "unset it: anonymous users are for development only"
        yield fault(TABLE["require_auth"].env, "false", expected, mend)


def _faults_of_keys(settings: Settings, wrong: Mapping[str, str]) -> Iterator[str]:
    """Find what is wrong with where keys come from, and with what they are used for."""
    secret, server, algorithms = (
        TABLE[name] for name in ("jwt_secret_key", "jwt_jwks_url", "jwt_algorithms")
    )
    if {secret.env, server.env, algorithms.env} & wrong.keys():
        return
    url, environment = settings.jwt_jwks_url, settings.environment
    makes_secret = environment == DEVELOPMENT
    if not (settings.jwt_secret_key or url or makes_secret):
        expected = f"{secret.kind.expected}, or {server.env}, in {environment}"
        mend = f"{_HOW_TO_MAKE_ONE}, or set {server.env} to where your login publishes its keys"
        yield fault(secret.env, "nothing", expected, mend)
        return
    if url and not (makes_secret or url.lower().startswith("https:") or is_loopback(url)):
        expected = f"https:// in {environment}, or a host that is this machine"
        yield fault(server.env, "http://", expected, "use https: keys must come unchanged")
    listed = settings.jwt_algorithms or ()
    shared = [name for name in listed if name in KEY_BYTES]
    public = [name for name in listed if name in KEY_SERVER_ALGORITHMS]
    if shared and not (settings.jwt_secret_key or makes_secret):
        mend = f"set {secret.env}, or leave out {', '.join(shared)}"
        yield fault(algorithms.env, ", ".join(shared), "algorithms that there is a key for", mend)
    if public and not url:
        mend = f"set {server.env}, or leave out {', '.join(public)}"
        yield fault(algorithms.env, ", ".join(public), "algorithms that there is a key for", mend)
    if url and listed and not public:
        expected = f"one of {', '.join(KEY_SERVER_ALGORITHMS)} too, for the key server"
        mend = f"add what your login signs with, or unset {server.env}"
        yield fault(algorithms.env, ", ".join(listed), expected, mend)


def _algorithms(settings: Settings) -> tuple[str, ...]:
    """Return the algorithms that are accepted, listed or not."""
    if settings.jwt_algorithms is not None:
        return settings.jwt_algorithms
    has_secret, has_keys = settings.jwt_secret_key is not None, settings.jwt_jwks_url is not None
    return usual_algorithms(has_secret=has_secret, has_keys=has_keys)


def _faults_of_later(given: Mapping[str, str]) -> Iterator[str]:
    """Judge what stops the start as long as this version does not follow it."""
    for stop, mend in STOPS.items():
        for name in (stop, f"{stop}{FILE_SUFFIX}"):
            if name in given:
                yield fault(name, "a value (kept secret)", "none", mend)


def _warnings(settings: Settings, given: Mapping[str, str]) -> Iterator[str]:
    key = settings.jwt_secret_key
    shared = [name for name in settings.jwt_algorithms or () if name in KEY_BYTES]
    wanted = max((KEY_BYTES[name] for name in shared), default=0)
    if key is not None and len(key.encode()) < wanted:
        yield (
            f"JWT_SECRET_KEY: {len(key.encode())} bytes are fewer than the {wanted} that "
            f"{', '.join(shared)} can use; {_HOW_TO_MAKE_ONE}"
        )
    if settings.environment != DEVELOPMENT and (settings.database_url or "").startswith("sqlite:"):
        yield "DATABASE_URL: SQLite serves one process on one machine; for more use postgresql://"
    for name in sorted(given):
        bare = name.removesuffix(FILE_SUFFIX)
        if bare != name and bare in _KNOWN - _IN_FILES:
            yield f"{name}: only secrets are read from files, so it has no effect; set {bare}"
        elif name.startswith("WEBSOCKET_") and name not in _KNOWN:
            yield f"{_shown_name(name)}: no such setting, so it has no effect{_did_you_mean(name)}"


_KNOWN = {row.env for row in TABLE.values()} | set(STOPS)
_IN_FILES = {row.env for row in TABLE.values() if row.in_file} | set(STOPS)


def _did_you_mean(name: str) -> str:
    bare = name.removeprefix("WEBSOCKET_")
    close = [bare] if bare in _KNOWN else difflib.get_close_matches(name, sorted(_KNOWN), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _shown_name(name: str) -> str:
    # Almost any byte may stand in a variable's name; a plain one needs no quotes.
    return name if name.isidentifier() and len(name) <= MAX_SHOWN else quoted(name)


def _kept_in(directory: Path, settings: Settings) -> dict[str, str]:
    """Return what development keeps in this directory, by field; called before any task.

    Raises:
        SettingsError: It cannot be kept there.
    """
    missing = {"database_url": _kept_database} if settings.database_url is None else {}
    listed = settings.jwt_algorithms
    if settings.jwt_secret_key is None and (listed is None or set(listed) & set(KEY_BYTES)):
        missing = {"jwt_secret_key": _development_secret, **missing}
    kept, faults = {}, []
    for name, keep in missing.items():
        try:
            kept[name] = keep(directory)
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise SettingsError("\n".join(faults))
    return kept


def _kept_database(directory: Path) -> str:
    """Return the URL of the database in this directory; the store makes the file.

    Raises:
        ValueError: There can be none; the text is the whole line that says so.
    """
    row = TABLE["database_url"]
    try:
        keep_folder(directory / FOLDER)
    except OSError as error:
        came = f"nothing, and one kept in {DATABASE_FILE} fails ({error.strerror})"
        mend = "make the folder writable, or set it (sqlite:// keeps everything in memory)"
        raise ValueError(fault(row.env, came, row.kind.expected, mend)) from None
    path = directory.absolute() / DATABASE_FILE
    return URL.create("sqlite", database=str(path)).render_as_string()


def _development_secret(directory: Path) -> str:
    """Return the key that this directory keeps.

    Raises:
        ValueError: There can be none; the text is the whole line that says so.
    """
    row = TABLE["jwt_secret_key"]
    try:
        secret = kept_secret(directory / FOLDER)
    except UnicodeDecodeError:
        came = f"bytes in {SECRET_FILE} that are not UTF-8"
        mend = "delete the file: a new one is made"
    except OSError as error:
        came = f"nothing, and one kept in {SECRET_FILE} fails ({error.strerror})"
        mend = "make the folder writable, or set it"
    else:
        if len(secret.encode()) >= SECRET_BYTES:
            return secret
        came = f"{len(secret.encode())} bytes in {SECRET_FILE} (kept secret)"
        mend = "delete the file: a new one is made"
    raise ValueError(fault(row.env, came, row.kind.expected, mend))
