"""Read the settings from the environment and from secret files; report all faults at once.

>>> given = {"WEBSOCKET_BURST_QUEUE": "5", "JWT_SECRET_KEY": "s" * 32, "DATABASE_URL": "sqlite://"}
>>> loaded = load(given, directory=Path())
>>> loaded.settings.burst_queue, loaded.sources["WEBSOCKET_BURST_QUEUE"]
(5, 'environment')
"""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import define, evolve, field, frozen

from netra_trio.config.development import SECRET_SOURCE, development_defaults
from netra_trio.config.origins import DEVELOPMENT
from netra_trio.config.rules import combined_faults, combined_warnings
from netra_trio.config.secret_file import SecretFileUnusable, read_secret
from netra_trio.config.settings import FILES_FOLDER, TABLE, Settings, default_algorithms
from netra_trio.config.value_kinds import (
    FILE_SUFFIX,
    MAX_SHOWN,
    S3_SCHEME,
    fault_line,
    quoted,
)
from netra_trio.errors import SettingsError

PREFIXES = ("WEBSOCKET_", "ROOM_", "FILES_", "USAGE_", "NOTIFY_", "OIDC_")
"""The beginnings of names that are reserved for settings: an unknown one is a warning."""

SIMILARITY = 0.8  # of a name to a suggested one: two or three different characters in most names

_KNOWN = {row.env for row in TABLE.values()}
_IN_FILES = {row.env for row in TABLE.values() if row.in_file}


@frozen
class Loaded:
    """The settings, with their sources.

    Attributes:
        settings: The values.
        sources: The source of each variable: `environment`, `default`, its file, or how it was
            generated.
        warnings: Lines for the operator, about what does not stop the start; without any secret.
    """

    settings: Settings
    sources: dict[str, str]
    warnings: tuple[str, ...]


def load(environ: Mapping[str, str], *, directory: Path) -> Loaded:
    """Read, check and complete the settings.

    In development a missing key, and the folder of a missing database, are created below
    `directory`; nothing is written if there is a fault. A blank variable counts as unset. A secret
    may be in a file instead, which `<variable>_FILE` names. Blocks on the file system: call it
    before the event loop starts.

    Raises:
        SettingsError: Settings are wrong: one line for each, with what was given, what is expected
            and how to fix it.
    """
    given = {name: text for name, text in environ.items() if text.strip()}
    files = _read_files(given, directory)
    values, invalid = _read_values(given, files)
    # An invalid value is replaced by its default. After an invalid ENVIRONMENT only the rules of
    # development are checked: which environment was intended is unknown.
    settings = Settings(**values)
    faults = [*invalid.values(), *combined_faults(settings, set(invalid))]
    if faults:
        raise SettingsError("\n".join(faults))
    sources = {
        row.env: "environment" if row.env in given else files.sources.get(row.env, "default")
        for row in TABLE.values()
    }
    if settings.environment == DEVELOPMENT:
        defaults: dict[str, Any] = development_defaults(directory, settings)
        if "jwt_secret_key" in defaults:
            sources[TABLE["jwt_secret_key"].env] = SECRET_SOURCE
        settings = evolve(settings, **defaults)
    settings = evolve(
        settings,
        jwt_algorithms=_accepted_algorithms(settings),
        files_url=_files_url(settings, directory),
    )
    warnings = (*files.warnings, *combined_warnings(settings), *_unknown_names(given))
    return Loaded(settings, sources, warnings)


def describe(loaded: Loaded) -> list[tuple[str, str, str, str]]:
    """Return a row for each setting: variable, value, source and meaning; secrets are hidden."""
    return [
        (
            row.env,
            row.show(getattr(loaded.settings, name)),
            loaded.sources[row.env],
            row.explanation,
        )
        for name, row in TABLE.items()
    ]


_IN_MEMORY = frozenset({None, "sqlite://", "sqlite:///", "sqlite:///:memory:"})
"""The values of DATABASE_URL that name no file and no server."""


@define
class _Files:
    """The contents of the secret files, by the variable of the secret."""

    texts: dict[str, str] = field(factory=dict)
    sources: dict[str, str] = field(factory=dict)
    faults: dict[str, str] = field(factory=dict)
    warnings: list[str] = field(factory=list)


def _read_files(given: Mapping[str, str], directory: Path) -> _Files:
    """Read every secret that is in a file; a relative path starts at `directory`."""
    files = _Files()
    for row in TABLE.values():
        if not row.in_file or row.file_env not in given:
            continue
        if row.env in given:
            fix = f"unset {row.env} or {row.file_env}"
            got = f"a file beside {row.env}"
            files.faults[row.env] = fault_line(row.file_env, got, "one", fix)
            continue
        path = directory / given[row.file_env]
        try:
            secret = read_secret(path)
        except SecretFileUnusable as error:
            expected = f"the path of a file with {row.kind.expected}"
            files.faults[row.env] = fault_line(row.file_env, error.got, expected, error.fix)
            continue
        files.texts[row.env] = secret.text
        files.sources[row.env] = f"file {str(path)!a}"
        if secret.is_open:
            files.warnings.append(
                f"{row.file_env}: every account on this machine can read the file; chmod o-r it"
            )
    return files


def _read_values(given: Mapping[str, str], files: _Files) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the valid values by field, and a line for each invalid one by variable."""
    values: dict[str, Any] = {}
    invalid = dict(files.faults)
    for name, row in TABLE.items():
        is_in_file = row.env in files.texts
        text = files.texts[row.env] if is_in_file else given.get(row.env)
        if text is None or row.env in invalid:
            continue
        try:
            values[name] = (evolve(row, env=row.file_env) if is_in_file else row).read(text)
        except ValueError as error:
            invalid[row.env] = str(error)
    return values, invalid


def _accepted_algorithms(settings: Settings) -> tuple[str, ...]:
    if settings.jwt_algorithms is not None:
        return settings.jwt_algorithms
    has_secret = settings.jwt_secret_key is not None
    return default_algorithms(has_secret=has_secret, has_keys=settings.has_public_keys)


def _files_url(settings: Settings, directory: Path) -> str | None:
    """Return where files are kept; a relative folder begins at `directory`.

    None if that is not set, and the rows of the files end with the process.
    """
    if settings.files_url is None and settings.database_url in _IN_MEMORY:
        return None
    url = FILES_FOLDER if settings.files_url is None else settings.files_url
    return url if url.startswith(S3_SCHEME) else str(directory.absolute() / url)


def _unknown_names(given: Mapping[str, str]) -> Iterator[str]:
    """Return a warning for each variable that looks like a setting and is none."""
    for name in sorted(given):
        bare = name.removesuffix(FILE_SUFFIX)
        if bare != name and bare in _KNOWN - _IN_FILES:
            yield f"{name}: only secrets are read from files, so it has no effect; set {bare}"
        elif name.startswith(PREFIXES) and name not in _KNOWN:
            yield f"{_shown_name(name)}: no such setting, so it has no effect{_did_you_mean(name)}"


def _did_you_mean(name: str) -> str:
    bare = name.partition("_")[2]
    close = [bare]
    if bare not in _KNOWN:
        close = difflib.get_close_matches(name, sorted(_KNOWN), n=1, cutoff=SIMILARITY)
    return f"; did you mean {close[0]}?" if close else ""


def _shown_name(name: str) -> str:
    # The name of a variable may contain almost any byte; a plain one needs no quotes.
    return name if name.isidentifier() and len(name) <= MAX_SHOWN else quoted(name)
