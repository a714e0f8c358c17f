"""The files in `deploy/`, parsed: the compose file, the manifests, and the container's file.

compose()["services"]["node-1"]["image"]
[document["kind"] for document in manifests()]
dict(container())["EXPOSE"]
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from netra_trio.config.settings import TABLE

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
CONTAINER = DEPLOY / "Containerfile"
KUBERNETES = DEPLOY / "kubernetes"
EXAMPLE_SECRET = KUBERNETES / "secret.example.yaml"
EXIT_SECONDS = 2  # that a supervisor waits longer than the drain

_NAMES = {row.env for row in TABLE.values()}
_NAMES |= {row.file_env for row in TABLE.values() if row.in_file}

Document = dict[str, Any]


def compose() -> Document:
    """Return the compose file, with its merge keys resolved."""
    document: Document = yaml.safe_load(COMPOSE.read_text())
    return document


def manifests() -> list[Document]:
    """Return the objects of all manifests; the example of the secret is one of them."""
    return [
        document
        for path in sorted(KUBERNETES.glob("*.yaml"))
        if path.name != "kustomization.yaml"
        for document in yaml.safe_load_all(path.read_text())
    ]


def container() -> list[tuple[str, str]]:
    """Return the instructions of the container's file."""
    text = CONTAINER.read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"]
    return [(name, rest) for line in lines for name, _, rest in [line.partition(" ")]]


def container_port() -> int:
    """Return the port of the container."""
    return int(dict(container())["EXPOSE"])


def unknown_settings(environ: Mapping[str, str]) -> set[str]:
    """Return the names that are no settings."""
    return set(environ) - _NAMES


def loadable(environ: Mapping[str, str], values: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return these settings with files in a folder.

    Args:
        environ: Settings, of which some name a file.
        values: The content of each file, by its path in `environ`.
        folder: A folder for the files.
    """
    found = {}
    for name, value in environ.items():
        found[name] = value
        if name.endswith("_FILE"):
            path = folder / name
            path.touch(0o600)
            path.write_text(values[value])
            found[name] = str(path)
    return found


def valkey_users(password: str) -> str:
    """Return the list of Valkey's users in the example of the secret."""
    secret = yaml.safe_load(EXAMPLE_SECRET.read_text())
    users: str = secret["stringData"]["valkey-acl"]
    return users.replace("<broker password>", password)


def seconds(duration: str) -> float:
    """Return the seconds of a duration such as `40s` or `1m`."""
    return float(duration[:-1]) * {"s": 1, "m": 60}[duration[-1]]


def of_kind(kind: str) -> Iterator[Document]:
    """Yield the objects of one kind."""
    return (document for document in manifests() if document["kind"] == kind)
