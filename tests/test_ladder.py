"""The ladder of imports: they point down, and modules on one rung never import each other."""

import ast
from pathlib import Path

import pytest

import netra_trio

LADDER = (  # from the bottom up
    {"assets", "codes", "ids", "terminal", "values"},
    {"errors"},
    {
        "protocol.messages",
        "protocol.text",
        "protocol.schedule",
        "protocol.ratelimit",
        "protocol.liveness",
        "protocol.origin",
        "client.errors",
        "client.event",
        "client.retry",
        "client.delivery",
        "client.outbox",
        "client.stats",
        "client.sockets",
        "testing.faults",
        "stores.schema",
        "stores.migrations.versions.v0001_conversations",
        "stores.migrations.versions.v0002_owners",
    },
    {"facts", "tracing"},
    {
        "protocol.codec",
        "protocol.log",
        "client.stream",
        "client.journal",
        "client.network",
        "client.tokens",
        "diagnosis",
        "_kept_secret",
        "_secret_file",
        "_setting_kinds",
        "interfaces",
        "figures",
        "observe.loop",
        "observe.otlp",
        "observe.story",
        "observe.traces",
        "stores.behind",
        "stores.database",
        "stores.lookups",
        "stores.migrate",
        "stores.owners",
        "stores.rows",
        "stores.migrations.env",
    },
    {
        "settings",
        "testing.access",
        "protocol.transcript",
        "jwks",
        "outbox",
        "delivery",
        "instruments",
        "client.run",
        "observe.prometheus",
        "observe.stats",
        "observe.redact",
        "stores.batch",
        "stores.history",
        "stores.retention",
        "transports.frames",
        "transports.handshake",
        "transports.line",
    },
    {
        "auth",
        "runs",
        "users",
        "discovery",
        "client.conversation",
        "observe.render",
        "agents.calculator",
        "agents.clock",
    },
    {
        "admission",
        "journal",
        "client.connection",
        "stores.memory",
        "stores.patient",
        "stores.sql",
        "transports.asgi",
        "transports.hypercorn",
        "transports.memory",
        "transports.native",
        "observe.logs",
        "agents.questions",
    },
    {"session", "client.client", "agents.demo", "agents.echo", "host"},
    {"connection.state", "sessions", "client"},  # "client" is that package's front door
    {"connection.reader", "connection.writer", "connection.heartbeat", "login", "testing.line"},
    {"connection.nursery", "testing.trace"},
    {"hub", "testing.losses"},
    {"opening"},
    {"http"},
    {"app", "chat", "checkup", "operate"},
    {"lane", "asgi", "testing.network", ""},  # "" is the package itself, the front door
    {"serve", "testing"},  # "testing" is that package's front door
    {"cli"},
    {"__main__"},
)
FOLDERS = {
    "protocol",
    "connection",
    "transports",
    "stores",
    "stores.migrations",
    "stores.migrations.versions",
    "agents",
    "observe",
}

CLIENT_RULES = {
    "client.delivery",
    "client.event",
    "client.outbox",
    "client.retry",
    "client.stats",
    "client.stream",
}

ROOT = Path(netra_trio.__file__).parent
RUNG = {name: height for height, names in enumerate(LADDER) for name in names}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}
MODULES = sorted(set(SOURCES) - FOLDERS)


def imported_by(module: str) -> set[str]:
    """Return what of this package a module imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found.update(
            own_module(name) for name in names if name.split(".", maxsplit=1)[0] == "netra_trio"
        )
    return found


def own_module(name: str) -> str:
    """Return the module that a dotted name is, or is in."""
    name = name.partition(".")[2]
    return name if name in SOURCES else name.rpartition(".")[0]


def test_every_module_stands_on_one_rung() -> None:
    assert sum(map(len, LADDER)) == len(RUNG), "a module stands on two rungs"
    assert set(MODULES) == set(RUNG)


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_folders_hold_nothing_themselves(folder: str) -> None:
    body = ast.parse(SOURCES[folder].read_text(encoding="utf-8")).body
    assert [type(statement) for statement in body] == [ast.Expr]


@pytest.mark.parametrize("module", sorted(RUNG))
def test_imports_point_down(module: str) -> None:
    wrong = {
        f"{module} (rung {RUNG[module]}) imports {other or 'the package'} (rung {RUNG[other]})"
        for other in imported_by(module) & set(RUNG)
        if RUNG[other] >= RUNG[module]
    }
    assert not wrong


def test_the_client_knows_nothing_of_the_server() -> None:
    shared = {"codes", "ids", "errors", "protocol.liveness", "protocol.messages"}
    for module in MODULES:
        if is_in(module, "client"):
            others = {other for other in imported_by(module) if not is_in(other, "client")}
            assert others <= shared, module


def is_in(module: str, folder: str) -> bool:
    return module == folder or module.startswith(f"{folder}.")


def test_the_rules_do_without_the_outside() -> None:
    forbidden = {"trio", "time", "random", "secrets", "logging", "structlog", "os", "socket"}
    for module in MODULES:
        if module.startswith("protocol.") or module in CLIENT_RULES:
            tree = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
            imports = {
                name.split(".")[0]
                for node in ast.walk(tree)
                for name in (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
            }
            assert not imports & forbidden, module
            waits = (ast.AsyncFunctionDef, ast.Await)
            assert not any(isinstance(node, waits) for node in ast.walk(tree)), module
