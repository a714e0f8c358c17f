"""The import ladder: packages import downwards only, and the rules do no I/O."""

import ast
from pathlib import Path

import pytest

import netra_trio

LADDER = (  # from the bottom up; "" is the package itself, with the public names
    {"errors", "generators", "ids", "values"},
    {"protocol"},
    {"broker", "client", "config", "stores", "telemetry", "transports"},
    {"auth", "broker.valkey", "files", "rooms", "stores.sql", "webhook"},
    {"agents", "services"},
    {"agents.demo", "aio", "models", "sessions"},
    {"cluster", "connections"},
    {"node"},
    {"endpoints"},
    {"server"},
    {"", "asgi", "testing"},
    {"cli"},
    {"__main__"},
)
"""Packages, and the modules beside them: each imports only from the rungs below its own."""

SANS_IO = {
    "client.backlog",
    "client.event",
    "client.fallback",
    "client.frames",
    "client.outbox",
    "client.retry",
    "client.sequence",
    "client.sse",
    "client.stats",
    "config.origins",
    "endpoints.doors.ag_ui_events",
    "endpoints.doors.ag_ui_input",
    "endpoints.doors.event_frames",
    "endpoints.doors.openai_answer",
    "endpoints.doors.openai_request",
    "endpoints.doors.sse",
    "endpoints.doors.vercel_request",
    "endpoints.doors.vercel_stream",
    "endpoints.ranges",
    "files.detection",
    "files.names",
    "protocol.admin",
    "protocol.binary",
    "protocol.binary_messages",
    "protocol.codec",
    "protocol.codes",
    "protocol.compact",
    "protocol.doors",
    "protocol.fields",
    "protocol.inbound",
    "protocol.keepalive",
    "protocol.messages",
    "protocol.numbers",
    "protocol.posted",
    "protocol.problem",
    "protocol.ratelimit",
    "protocol.rooms",
    "protocol.text",
    "protocol.threads",
    "protocol.usage",
    "protocol.wire_format",
    "rooms.event",
    "rooms.permission",
    "sessions.event_log",
    "sessions.scheduler",
    "sessions.thread_lines",
    "sessions.thread_snapshot",
    "sessions.transcript",
    "transports.inflate",
}
"""Modules without await, clock, randomness, log or socket: the caller passes in `now`."""

OUTSIDE = {"trio", "time", "random", "secrets", "logging", "structlog", "os", "socket"}
LINES = 600  # of one source file
FLAT_MODULES = 10  # at the top of the package, `__init__` and `__main__` included
FRONT_DOORS = {"", "aio", "client", "models", "testing"}  # packages that re-export the public names

ROOT = Path(netra_trio.__file__).parent
RUNG = {name: height for height, names in enumerate(LADDER) for name in names}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}
PACKAGES = {name for name, path in SOURCES.items() if path.name == "__init__.py"}


def rung_of(module: str) -> str:
    """Return the entry of the ladder that a module belongs to: the longest that fits."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in RUNG:
            return name
    raise AssertionError(f"{module} stands on no rung")


def imported_by(module: str) -> set[str]:
    """Return the modules of this package that a module imports, wherever the import stands."""
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


def test_the_top_of_the_package_is_the_ladder() -> None:
    top = {path.stem for path in ROOT.glob("*.py")} | {
        path.parent.name for path in ROOT.glob("*/__init__.py")
    }
    rungs = {name.partition(".")[0] or "__init__" for name in RUNG}
    assert top == rungs
    assert len(list(ROOT.glob("*.py"))) <= FLAT_MODULES


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_imports_point_down(module: str) -> None:
    own = "" if module == "" else rung_of(module)
    wrong = {
        f"{module} (rung {RUNG[own]}) imports {other or 'the package'} (rung {RUNG[theirs]})"
        for other in imported_by(module)
        if (theirs := "" if other == "" else rung_of(other)) != own and RUNG[theirs] >= RUNG[own]
    }
    assert not wrong


def test_no_module_imports_itself_by_a_circle() -> None:
    imports = {module: imported_by(module) for module in SOURCES}
    left = dict(imports)
    while left:
        free = {module for module, others in left.items() if not (others - {module}) & set(left)}
        assert free, f"these modules import each other: {sorted(left)}"
        left = {module: others for module, others in left.items() if module not in free}


@pytest.mark.parametrize("package", sorted(PACKAGES - FRONT_DOORS))
def test_a_package_file_holds_its_docstring_only(package: str) -> None:
    body = ast.parse(SOURCES[package].read_text(encoding="utf-8")).body
    assert [type(statement) for statement in body] == [ast.Expr]


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_no_file_is_too_long(module: str) -> None:
    assert len(SOURCES[module].read_text(encoding="utf-8").splitlines()) <= LINES


def test_the_client_imports_nothing_of_the_server() -> None:
    shared = {
        "ids",
        "errors",
        "generators",
        "protocol.binary",
        "protocol.codes",
        "protocol.fields",
        "protocol.keepalive",
        "protocol.messages",
    }
    for module in SOURCES:
        if rung_of(module or "errors") == "client":
            others = {other for other in imported_by(module) if rung_of(other) != "client"}
            assert others <= shared, module


@pytest.mark.parametrize("module", sorted(SANS_IO))
def test_the_rules_do_no_io(module: str) -> None:
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
    assert not imports & OUTSIDE
    waits = (ast.AsyncFunctionDef, ast.Await)
    assert not any(isinstance(node, waits) for node in ast.walk(tree))


def test_every_rule_of_the_protocol_does_no_io() -> None:
    assert {module for module in SOURCES if module.startswith("protocol.")} <= SANS_IO
