"""The tables of the documentation equal those of the code."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import attrs
import pytest
from attrs import frozen
from support.markdown import DOCS, ROOT, bare, only, table_of, tables_in, tables_of, tokens_of
from support.memory import open_server

import netra_trio
from netra_trio import client, testing
from netra_trio.agents.run import Run
from netra_trio.cli.check_server import STEPS
from netra_trio.client.feed import Feed
from netra_trio.config.settings import TABLE, Settings
from netra_trio.endpoints.paths import ENDPOINTS
from netra_trio.protocol.codes import ERRORS, CloseCode, EndReason, ErrorCode
from netra_trio.stores.base import Store
from netra_trio.stores.files import FileStore
from netra_trio.stores.notifications import NotificationStore
from netra_trio.stores.threads import ThreadStore
from netra_trio.stores.usage import UsageStore
from netra_trio.telemetry.events import TelemetryEvent, logged_fields
from netra_trio.telemetry.metric_table import METRICS
from netra_trio.telemetry.metrics import Gauges, Metrics
from netra_trio.telemetry.prometheus import BUILD, BUILD_MEANING
from netra_trio.telemetry.traces import OPENING, RESUME, RUN, TOOL

CLIENT = DOCS / "client.md"
TESTING = DOCS / "testing.md"
SOURCES = sorted(Path(netra_trio.__file__).parent.rglob("*.py"))

GUIDE_ROWS = (  # of the guide's troubleshooting table, by words of the row that covers each
    "token validity",
    "origin configuration",
    "404 from discovery",
    "message format",
    "rate limiting",
    "is the connection active",
    "the network between",
    "4408: heartbeat",
    "error handling",
)


def settings_page_table() -> str:
    """Return the expected table of settings.md."""
    rows = [["Setting", "Default", "Takes", "Meaning", "Beyond it, or else"]]
    for name, row in TABLE.items():
        required = " Required in staging and production." if row.required else ""
        meaning = f"{row.meaning}.{required}"
        rows.append([f"`{row.env}`", default_of(name), row.kind.expected, meaning, row.beyond])
    return as_markdown(rows)


def default_of(name: str) -> str:
    """Return a default as the page shows it, or the defaults of the environments."""
    row = TABLE[name]
    shown: dict[str, list[str]] = {}
    for environment in ("development", "staging", "production"):
        value = getattr(Settings(environment=environment), name)
        # ENVIRONMENT itself has one default, whatever environment is set here.
        value = Settings().environment if name == "environment" else value
        shown.setdefault(row.show(value), []).append(environment)
    if len(shown) == 1:
        return f"`{next(iter(shown))}`"
    return ", ".join(f"`{value}` in {' and '.join(where)}" for value, where in shown.items())


def as_markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(re.sub(" +", " ", line) for line in lines) + "\n"


def test_settings() -> None:
    table = settings_page_table()
    text = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert table in text, f"settings.md: expected this table:\n{table}"


def test_secrets_from_files() -> None:
    documented = {
        bare(row[0]): bare(row[1]) for row in table_of(DOCS / "settings.md", "Instead of")
    }
    assert documented == {row.env: row.file_env for row in TABLE.values() if row.in_file}


@pytest.mark.parametrize("name", ["errors.md", "protocol.md"])
def test_error_codes(name: str) -> None:
    rows = [table for table in tables_of(DOCS / name) if table[0][0] == "Code"]
    documented = [[bare(cell) for cell in row[:3]] for table in rows for row in table[1:]]
    expected = [
        [str(code), str(kind.status), "yes" if kind.recoverable else "no"]
        for code, kind in ERRORS.items()
    ]
    assert sorted(documented) == sorted(expected)


@pytest.mark.parametrize("name", ["errors.md", "protocol.md"])
def test_close_codes(name: str) -> None:
    documented = [bare(row[0]) for row in table_of(DOCS / name, "Close code")]
    assert documented == [str(int(code)) for code in CloseCode]


def test_troubleshooting_has_every_code() -> None:
    page = DOCS / "troubleshooting.md"
    assert [bare(row[0]) for row in table_of(page, "Code")] == list(ErrorCode)
    reasons = {
        str(int(code)): next((one.label for one in EndReason if one.close_code is code), "")
        for code in CloseCode
    }
    assert {bare(row[0]): bare(row[1]) for row in table_of(page, "Close code")} == reasons


def test_troubleshooting_has_every_step_of_check_url() -> None:
    documented = [bare(row[0]) for row in table_of(DOCS / "troubleshooting.md", "Step")]
    assert documented == list(STEPS)


def test_troubleshooting_has_every_row_of_the_guide() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert [words for words in GUIDE_ROWS if words not in text] == []


def test_every_test_that_the_threat_model_names_exists() -> None:
    tests = {
        f"{path.name}::{node.name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    tables = tables_of(DOCS / "threat-model.md")
    named = [bare(row[2]) for table in tables for row in table[1:]]
    assert len(named) > len(tables)
    assert [name for name in named if name not in tests] == []


def test_end_reasons() -> None:
    documented = {bare(row[0]): bare(row[1]) for row in table_of(DOCS / "logs.md", "Reason")}
    expected = {
        reason.label: "none" if reason.close_code is None else str(int(reason.close_code))
        for reason in EndReason
    }
    assert documented == expected


def test_endpoints() -> None:
    documented = {bare(row[0]) for row in table_of(DOCS / "protocol.md", "Endpoint")}
    expected = {f"{method} {path}" for path, methods in ENDPOINTS.items() for method in methods}
    assert documented == expected | {"WS /ws"}


@frozen
class LogCall:
    """A log call in the source."""

    event: str
    level: str
    fields: frozenset[str]


def log_calls(source: Path) -> Iterator[LogCall]:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        is_ours = isinstance(node.func.value, ast.Name) and node.func.value.id == "_log"
        first = node.args[0] if node.args else None
        if is_ours and isinstance(first, ast.Constant):
            fields = frozenset(keyword.arg or "" for keyword in node.keywords) - {"exc_info"}
            level = node.func.attr.replace("exception", "error")
            yield LogCall(str(first.value), level, fields)


def test_log_events() -> None:
    emitted = {call for source in SOURCES for call in log_calls(source)} | {
        LogCall(event.EVENT, event.LEVEL, frozenset(logged_fields(event)))
        for event in get_args(TelemetryEvent)
        if event.LEVEL is not None
    }
    documented = {
        LogCall(bare(event), bare(level), frozenset(filter(None, bare(fields).split(", "))))
        for event, level, fields, *_ in table_of(DOCS / "logs.md", "Event", "Level")
    }
    assert documented == emitted


LABEL_VALUES_SHOWN = 8  # in the table of metrics; longer lists are in other tables


def metrics_page_table() -> str:
    """Return the expected table of metrics.md."""
    rows = [["Metric", "Type", "Labels", "Meaning"]]
    metrics = Metrics()
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        values = [str(key) for key in metric.read(metrics, Gauges()) if isinstance(key, str)]
        if len(metric.labels) == 1 and 0 < len(values) <= LABEL_VALUES_SHOWN:
            labels += ": " + ", ".join(values)
        rows.append([f"`{metric.name}`", metric.kind, labels, f"{metric.meaning}."])
    rows.append([f"`{BUILD}`", "gauge", "`version`", f"{BUILD_MEANING}."])
    return as_markdown(rows)


def test_metrics() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    table = metrics_page_table()
    assert table in text, f"metrics.md: expected this table:\n{table}"


def test_spans() -> None:
    documented = {bare(row[0]) for row in table_of(DOCS / "traces.md", "Span")}
    assert documented == {OPENING, RESUME, RUN, TOOL}


def test_the_methods_of_a_store() -> None:
    documented = {
        re.split(r"\W", bare(row[0]))[0] for row in table_of(DOCS / "stores.md", "Method")
    }
    parts = (Store, ThreadStore, NotificationStore, FileStore, UsageStore)
    assert documented == {name for part in parts for name in methods_of(part)}


def methods_of(kind: type) -> set[str]:
    return {name for name, value in vars(kind).items() if name[0] != "_" and callable(value)}


async def test_the_attributes_and_methods_of_a_run() -> None:
    seen: set[str] = set()

    async def look(run: Run) -> None:
        properties = {name for name, value in vars(Run).items() if isinstance(value, property)}
        names = {name for name in vars(run) if not name.startswith("_")} | properties
        seen.update(names)

    async with open_server(agents={"look": look}) as server, server.connect() as client:
        await client.say("hello")
        await client.until("agent_completed")
    rows = table_of(DOCS / "agents.md", "A run has")
    assert {bare(row[0]) for row in rows} == seen
    documented = {
        re.findall(r"run\.(\w+)", row[0])[0] for row in table_of(DOCS / "agents.md", "A run can")
    }
    assert documented == methods_of(Run)


def test_the_attributes_and_methods_of_a_run_of_the_client() -> None:
    has = {name for row in table_of(CLIENT, "A run has") for name in bare(row[0]).split(", ")}
    can = {
        name
        for row in table_of(CLIENT, "A run can")
        for name in re.findall(r"run\.(\w+)\(", row[0])
    }
    public = {
        name
        for name, value in vars(client.Run).items()
        if inspect.iscoroutinefunction(value) and name[0] != "_"
    }
    assert can == public
    confirmed = client.Event(
        "message_confirmed",
        {"run_id": "r", "message_id": "m", "thread_id": "t", "status": "accepted"},
    )
    run = client.Run(confirmed, Feed(set(), float, float), float)  # type: ignore[arg-type]
    assert has == {name for name in vars(run) if name[0] != "_"}


def test_the_errors_of_the_client() -> None:
    documented = {name for row in table_of(CLIENT, "Raised") for name in bare(row[0]).split(", ")}
    raised = {name for name in client.__all__ if is_error(getattr(client, name))}
    assert documented == raised - {"ClientError", "TokenUnavailable"}


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, client.ClientError)


def test_the_statistics_of_the_client() -> None:
    fields = {field.name for field in attrs.fields(client.Stats)}
    text = CLIENT.read_text(encoding="utf-8")
    assert {name for name in fields if f"`{name}`" not in text} == set()
    assert {status for status in client.Status if status not in text} == set()


def test_the_faults_of_the_test_kit() -> None:
    for heading, kind in (("Fault", testing.Fault), ("Step", testing.Step)):
        documented = {bare(row[0]).partition("(")[0] for row in table_of(TESTING, heading)}
        assert documented == {each.__name__ for each in get_args(kind)}


def test_the_layout_names_every_module() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    package = Path(netra_trio.__file__).parent
    names = {
        path.name if path.suffix else f"{path.name}/"
        for path in package.iterdir()
        if (path.suffix == ".py" and path.name != "__init__.py") or (path / "__init__.py").exists()
    }
    assert {name for name in names if f" {name} " not in text} == set()


MODULE = re.compile(r"`(netra_trio[\w.]*)`")
NAME = re.compile(r"`(\w+)`")


def test_every_moved_module_is_where_the_changelog_says() -> None:
    changelog = ROOT / "CHANGELOG.md"
    for before, now in only(tables_in(tokens_of(changelog)), "Before", "Now", where=changelog.name):
        (old,), (new,) = MODULE.findall(before), MODULE.findall(now)
        assert old != new
        module = importlib.import_module(new)
        missing = [name for name in NAME.findall(before) if not hasattr(module, name)]
        assert missing == [], f"{new}: {missing}"
