"""The documentation, checked against the code: its examples run, and its tables are the code's.

The info string of a fenced block says what happens to it:

    python              it is run; each agent in it is served, asked twice, and has to complete;
                        each function of a `Client` is called with one; each test is run
    python no-run: why  it is only compiled, for the reason that follows
    json client         a message that the server takes
    json client CODE    a frame that it refuses, with this error code
    json server         a message that it sends
    json                JSON, but no message
    console             every `netra-trio` command in it is parsed
"""

import ast
import inspect
import json
import re
import shlex
import sys
import types
from collections.abc import Awaitable, Callable, Iterator
from enum import Enum
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, NewType, get_args, get_origin, get_type_hints

import attrs
import pytest
import trio
from attrs import frozen
from markdown_it import MarkdownIt
from markdown_it.token import Token
from support.memory import open_server
from trio.testing import MockClock

import netra_trio
from netra_trio import client, testing
from netra_trio.agents.demo.agent import EXAMPLES
from netra_trio.agents.demo.echo import echo
from netra_trio.agents.run import Agent, Run
from netra_trio.cli.check_server import STEPS
from netra_trio.cli.main import app
from netra_trio.client import Client
from netra_trio.client.feed import Feed
from netra_trio.config.settings import STOPS, TABLE, Settings
from netra_trio.endpoints.http import ENDPOINTS
from netra_trio.protocol.codec import BadFrame, decode
from netra_trio.protocol.codes import ERRORS, CloseCode, EndReason, ErrorCode
from netra_trio.protocol.messages import (
    INBOUND,
    AgentCompleted,
    AuthExpiring,
    AuthOk,
    ConnectionEstablished,
    Event,
    Heartbeat,
    Pong,
    ServerDraining,
    ThreadHistory,
)
from netra_trio.stores.base import Store
from netra_trio.telemetry.events import TelemetryEvent, logged_fields
from netra_trio.telemetry.metrics import METRICS, Gauges, Metrics
from netra_trio.telemetry.prometheus import BUILD, BUILD_MEANING
from netra_trio.telemetry.traces import OPENING, RESUME, RUN, TOOL
from netra_trio.testing import open_network

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
CLIENT = DOCS / "client.md"
TESTING = DOCS / "testing.md"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
SOURCES = sorted(Path(netra_trio.__file__).parent.rglob("*.py"))

GUIDE_ROWS = (  # of its troubleshooting, by the words of the row that is about each
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
COMMANDS = (  # what one types first: the two lines stand in the README just so
    "python3 -m venv .venv && . .venv/bin/activate && pip install . && netra-trio serve",
    "python3 -m venv .venv && . .venv/bin/activate && pip install nox && nox",
)
QUESTIONS = ("Tell me about Oslo", "And about Lima")  # the second one finds a history
DEADLINE_MS = 20_000  # of virtual time: less than the client would have to answer a heartbeat
NO_RUN = "no-run: "
PATIENCE = 10.0  # seconds of real time for an agent that uses a thread: a bound, not a wait

Fault = str


@frozen
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    info: str
    text: str

    @property
    def language(self) -> str:
        """The first word of the info string."""
        return self.info.partition(" ")[0]

    @property
    def about(self) -> str:
        """The info string behind its first word."""
        return self.info.partition(" ")[2]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def tokens_of(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


TOKENS = {page: tokens_of(page) for page in PAGES}


def blocks_of(page: Path) -> Iterator[Block]:
    for token in TOKENS[page]:
        if token.type == "fence" and token.map is not None:
            yield Block(page, token.map[0] + 1, token.info.strip(), token.content)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def blocks(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def tables_of(page: Path) -> list[list[list[str]]]:
    """Return the tables of a page, each a list of rows of cells, the heading first."""
    tables: list[list[list[str]]] = []
    in_cell = False
    for token in TOKENS[page]:
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type in {"th_open", "td_open"}:
            in_cell = True
        elif token.type == "inline" and in_cell:
            tables[-1][-1].append(token.content)
            in_cell = False
    return tables


def table_of(page: Path, *heading: str) -> list[list[str]]:
    """Return the rows of the one table whose heading begins with these cells."""
    found = [table for table in tables_of(page) if table[0][: len(heading)] == list(heading)]
    assert len(found) == 1, f"{page.name}: expected one table {heading}, got {len(found)}"
    return found[0][1:]


def bare(cell: str) -> str:
    """Return a cell without the marks of code."""
    return cell.replace("`", "")


def test_every_block_says_what_it_is() -> None:
    run = {"python", "json", "console"}
    known = run | {"html", "ini", "js", "mermaid", "nginx", "sh", "text", "ts", "tsx", "yaml"}
    assert [f"{block}: {block.info}" for block in BLOCKS if block.language not in known] == []


def test_the_readme_begins_with_the_two_commands() -> None:
    commands = [b.text.strip() for b in BLOCKS if b.page == PAGES[0] and b.language == "console"]
    assert commands[0] == COMMANDS[0]
    assert COMMANDS[1] in commands


def test_the_readme_has_what_the_demo_agent_can_do() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    assert [example for example, _ in EXAMPLES if f"`{example}`" not in text] == []


# Python.


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = compile(block.text, str(block), "exec")
    if block.about:
        assert block.about.startswith(NO_RUN), block.info
        assert len(block.about) > len(NO_RUN), "say why"
        return
    for row in TABLE.values():
        monkeypatch.delenv(row.env, raising=False)
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"documented_{block.line}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code, module.__dict__)  # noqa: S102 - the project's own documentation
    for name, kind in get_type_hints(module).items():
        if kind is Store:  # mypy would say so too, but does not read pages
            assert {m for m in methods_of(Store) if not hasattr(vars(module)[name], m)} == set()
    for function in functions_of(module, Client):
        trio.run(use_client, function, clock=MockClock(autojump_threshold=0))
    for test in own_tests(module):
        if inspect.iscoroutinefunction(test):
            clock = MockClock(autojump_threshold=0)
            trio.run(test, clock, clock=clock)
        else:
            test()
    for name, agent in agents_of(module):
        if "trio.to_thread" in block.text:
            # A virtual clock would not wait for a thread, which is nothing that it knows of.
            trio.run(complete_soon, name, agent)
        else:
            trio.run(complete, name, agent, clock=MockClock(autojump_threshold=0))


def own_tests(module: types.ModuleType) -> list[Callable[..., Any]]:
    """Return the functions of a module that pytest would take for tests."""
    return [function for name, function in vars(module).items() if name.startswith("test_")]


def agents_of(module: types.ModuleType) -> list[tuple[str, Agent]]:
    """Return the async functions of a module that take nothing but a `Run`."""
    return [(function.__name__, function) for function in functions_of(module, Run)]


def functions_of(module: types.ModuleType, kind: type) -> list[Any]:
    """Return the async functions of a module that take nothing but this."""
    return [
        function
        for function in vars(module).values()
        if inspect.iscoroutinefunction(function)
        and function.__module__ == module.__name__
        and [get_type_hints(function).get(p) for p in inspect.signature(function).parameters]
        == [kind]
    ]


async def use_client(function: Callable[[Client], Awaitable[object]]) -> None:
    async with open_network({"echo": echo}) as network:
        token = network.token("alice")
        async with client.connect(network.url, token=token, dialer=network) as connected:
            await function(connected)


async def complete_soon(name: str, agent: Agent) -> None:
    with trio.fail_after(PATIENCE):
        await complete(name, agent)


async def complete(name: str, agent: Agent) -> None:
    """Serve an agent, and see its runs complete."""
    async with open_server(agents={name: agent}) as server, server.connect() as client:
        for question in QUESTIONS:
            await client.say(question, deadline_ms=DEADLINE_MS)
            end = (await client.until("agent_completed"))[-1]
            assert end["payload"]["status"] == "completed", end
        request = {"agent": name, "input": {"city": "Oslo"}, "deadline_ms": DEADLINE_MS}
        await client.send("agent_request", request)
        end = (await client.until("agent_completed"))[-1]
        assert end["payload"]["status"] == "completed", end


# JSON.

EVENTS = {kind.TYPE: kind for kind in get_args(Event)}
CONTROL = {
    kind.TYPE: kind
    for kind in (
        Pong,
        ConnectionEstablished,
        Heartbeat,
        AuthOk,
        AuthExpiring,
        ServerDraining,
        ThreadHistory,
    )
}
SERVER_TYPES = {*EVENTS, *CONTROL, "error"}


def values_of(block: Block) -> list[Any]:
    """Return the value of a block, or the value of each of its lines."""
    try:
        return [json.loads(block.text)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in block.text.splitlines() if line.strip()]


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json(block: Block) -> None:
    side, _, code = block.about.partition(" ")
    for value in values_of(block):
        if side == "client":
            check_client_message(value, code)
        elif side == "server":
            assert list(faults_of_message(value)) == []
        else:
            assert not block.about, block.info
            known = isinstance(value, dict) and value.get("type") in {*INBOUND, *SERVER_TYPES}
            # An error in an answer of HTTP has its fields at the top as well.
            assert not known or "code" in value, "say whose message it is"


def check_client_message(value: Any, code: str) -> None:
    if not code:
        assert value["type"] == decode(json.dumps(value)).message.TYPE
        return
    with pytest.raises(BadFrame) as caught:
        decode(json.dumps(value))
    assert caught.value.problem.code == code


def faults_of_message(value: Any) -> Iterator[Fault]:
    """Find what a server would not write so."""
    kind = value.get("type")
    known = {"type", "payload", "timestamp", "correlation_id", *(["seq"] if kind in EVENTS else [])}
    yield from (f"{name}: unknown" for name in value.keys() - known)
    needed = {"payload", "timestamp", *(["seq", "correlation_id"] if kind in EVENTS else [])}
    yield from (f"{name}: missing" for name in needed - value.keys())
    if kind == "error":
        yield from faults_of_error(value["payload"])
    elif kind == Pong.TYPE:
        yield from faults_of(value["payload"], dict[str, Any], "payload")
    elif kind in EVENTS or kind in CONTROL:
        yield from faults_of(value["payload"], {**EVENTS, **CONTROL}[kind], "payload")
    else:
        yield f"type: {kind} is none of {sorted(SERVER_TYPES)}"
    if kind == AgentCompleted.TYPE and "error" in value["payload"]:
        yield from faults_of_error(value["payload"]["error"])


def faults_of_error(body: dict[str, Any]) -> Iterator[Fault]:
    needed = {"code": str, "error": str, "timestamp": float, "recoverable": bool, "help": str}
    kinds = {**needed, "retry_after_ms": int, "error_id": str}
    yield from (f"{name}: missing" for name in needed.keys() - body.keys())
    for name, value in body.items():
        yield from faults_of(value, kinds.get(name), name)
    if body.get("code") not in list(ErrorCode):
        yield f"code: {body.get('code')} is none"


def faults_of(value: Any, kind: Any, path: str) -> Iterator[Fault]:
    """Find where a JSON value is not of a kind that `messages` uses."""
    kind = plain_kind(kind)
    if get_origin(kind) is tuple:
        items = value if isinstance(value, list) else [None]
        for index, item in enumerate(items):
            yield from faults_of(item, get_args(kind)[0], f"{path}[{index}]")
    elif isinstance(kind, type) and attrs.has(kind):
        yield from faults_of_object(value, kind, path)
    elif isinstance(kind, type) and issubclass(kind, Enum):
        if value not in [member.value for member in kind]:
            yield f"{path}: {value} is none of {kind.__name__}"
    elif kind is not Any and not is_plain(value, kind):
        yield f"{path}: expected {kind}, got {value!r}"


def plain_kind(kind: Any) -> Any:
    """Return what stands behind an optional kind, and behind the kind of an id."""
    if NoneType in get_args(kind):
        kind = get_args(kind)[0]
    return kind.__supertype__ if isinstance(kind, NewType) else kind


def is_plain(value: object, kind: Any) -> bool:
    """Whether a value is of a kind of JSON's own; None is no kind."""
    if kind is float:
        return type(value) in {int, float}
    return kind is not None and type(value) is (get_origin(kind) or kind)


def faults_of_object(value: Any, kind: type, path: str) -> Iterator[Fault]:
    if not isinstance(value, dict):
        yield f"{path}: expected an object"
        return
    hints = get_type_hints(kind)
    attributes = {attribute.name: attribute for attribute in attrs.fields(kind)}
    yield from (f"{path}.{name}: unknown" for name in value.keys() - attributes.keys())
    for name, attribute in attributes.items():
        if name in value:
            yield from faults_of(value[name], hints[name], f"{path}.{name}")
        elif attribute.default is not None:  # what is None is left out, and nothing else
            yield f"{path}.{name}: missing"


def test_every_message_is_shown() -> None:
    shown = {
        (block.about.partition(" ")[0], value.get("type"))
        for block in blocks("json")
        if block.page.name == "protocol.md"
        for value in values_of(block)
    }
    expected = {("client", kind) for kind in INBOUND} | {("server", kind) for kind in SERVER_TYPES}
    assert expected - shown == set()


# Commands.


def commands_of(block: Block) -> Iterator[list[str]]:
    """Return the arguments of each `netra-trio` command in a block, a nested one as well."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in [*line.split("&&"), *re.findall(r"\$\(([^()]*)\)", line)]:
            words = shlex.split(part)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and words[0] == "netra-trio":
                yield words[1:]


@pytest.mark.parametrize("block", blocks("console"), ids=str)
def test_commands(block: Block) -> None:
    for arguments in commands_of(block):
        app.parse_args(arguments, exit_on_error=False, print_error=False)


def test_every_command_is_listed() -> None:
    commands = {command for command in app if not command.startswith("-")}
    listed = {bare(row[0]).split()[1] for row in table_of(PAGES[0], "Command")}
    assert listed == commands


# Links.


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def text_of(token: Token) -> str:
    return "".join(child.content for child in token.children or [] if child.type != "image")


def anchors_of(page: Path) -> set[str]:
    tokens = TOKENS[page] if page in TOKENS else tokens_of(page)
    pairs = pairwise(tokens)
    return {slug(text_of(text)) for opening, text in pairs if opening.type == "heading_open"}


def links_of(page: Path) -> Iterator[str]:
    for token in TOKENS[page]:
        for child in token.children or []:
            target = child.attrGet("src" if child.type == "image" else "href")
            if child.type in {"link_open", "image"} and isinstance(target, str):
                yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    broken = []
    for link in links_of(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_broken = not target.exists() or (anchor and anchor not in anchors_of(target))
        if is_broken:
            broken.append(link)
    assert broken == []


def test_every_page_is_listed() -> None:
    index = DOCS / "index.md"
    listed = {(DOCS / link.partition("#")[0]).resolve() for link in links_of(index)}
    assert {page for page in PAGES[1:] if page != index} - listed == set()


# Tables.


def settings_page_tables() -> list[str]:
    """Return the tables of settings.md as they have to be."""
    rows = [["Setting", "Default", "Takes", "Meaning", "Beyond it, or else"]]
    for name, row in TABLE.items():
        required = " Required in staging and production." if row.required else ""
        meaning = f"{row.meaning}.{required}"
        rows.append([f"`{row.env}`", default_of(name), row.kind.expected, meaning, row.beyond])
    stops = [["Stops the start", "Why"], *([f"`{name}`", why] for name, why in STOPS.items())]
    return [as_markdown(table) for table in (rows, stops)]


def default_of(name: str) -> str:
    """Return a default as people read it, or those of each environment."""
    row = TABLE[name]
    shown: dict[str, list[str]] = {}
    for environment in ("development", "staging", "production"):
        value = getattr(Settings(environment=environment), name)
        # The environment's own default is not what it was just given.
        value = Settings().environment if name == "environment" else value
        shown.setdefault(row.show(value), []).append(environment)
    if len(shown) == 1:
        return f"`{next(iter(shown))}`"
    return ", ".join(f"`{value}` in {' and '.join(where)}" for value, where in shown.items())


def as_markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(re.sub(" +", " ", line) for line in lines) + "\n"


@pytest.mark.parametrize("table", settings_page_tables(), ids=["settings", "stops"])
def test_settings(table: str) -> None:
    text = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert table in text, f"settings.md: expected this table:\n{table}"


def test_secrets_from_files() -> None:
    told = {bare(row[0]): bare(row[1]) for row in table_of(DOCS / "settings.md", "Instead of")}
    assert told == {row.env: row.file_env for row in TABLE.values() if row.in_file}


@pytest.mark.parametrize("name", ["errors.md", "protocol.md"])
def test_error_codes(name: str) -> None:
    rows = [table for table in tables_of(DOCS / name) if table[0][0] == "Code"]
    told = [[bare(cell) for cell in row[:3]] for table in rows for row in table[1:]]
    expected = [
        [str(code), str(kind.status), "yes" if kind.recoverable else "no"]
        for code, kind in ERRORS.items()
    ]
    assert sorted(told) == sorted(expected)


@pytest.mark.parametrize("name", ["errors.md", "protocol.md"])
def test_close_codes(name: str) -> None:
    told = [bare(row[0]) for row in table_of(DOCS / name, "Close code")]
    assert told == [str(int(code)) for code in CloseCode]


def test_troubleshooting_has_every_code() -> None:
    page = DOCS / "troubleshooting.md"
    assert [bare(row[0]) for row in table_of(page, "Code")] == list(ErrorCode)
    reasons = {
        str(int(code)): next((one.label for one in EndReason if one.close_code is code), "")
        for code in CloseCode
    }
    assert {bare(row[0]): bare(row[1]) for row in table_of(page, "Close code")} == reasons


def test_troubleshooting_has_every_step_of_the_check() -> None:
    told = [bare(row[0]) for row in table_of(DOCS / "troubleshooting.md", "Step")]
    assert told == list(STEPS)


def test_troubleshooting_has_every_row_of_the_guide() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert [words for words in GUIDE_ROWS if words not in text] == []


def test_each_defence_has_its_test() -> None:
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
    told = {bare(row[0]): bare(row[1]) for row in table_of(DOCS / "logs.md", "Reason")}
    expected = {
        reason.label: "none" if reason.close_code is None else str(int(reason.close_code))
        for reason in EndReason
    }
    assert told == expected


def test_endpoints() -> None:
    told = {bare(row[0]) for row in table_of(DOCS / "protocol.md", "Endpoint")}
    expected = {f"{method} {path}" for path, methods in ENDPOINTS.items() for method in methods}
    assert told == expected | {"WS /ws"}


@frozen
class LogCall:
    """A log event as the source writes it."""

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
    told = {
        LogCall(bare(event), bare(level), frozenset(filter(None, bare(fields).split(", "))))
        for event, level, fields, *_ in table_of(DOCS / "logs.md", "Event", "Level")
    }
    assert told == emitted


LABEL_VALUES_SHOWN = 8  # in the table of metrics; a longer list is one of the tables elsewhere


def metrics_page_table() -> str:
    """Return the table of metrics.md as it has to be."""
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
    told = {bare(row[0]) for row in table_of(DOCS / "traces.md", "Span")}
    assert told == {OPENING, RESUME, RUN, TOOL}


def test_the_methods_of_a_store() -> None:
    told = {re.split(r"\W", bare(row[0]))[0] for row in table_of(DOCS / "stores.md", "Method")}
    assert told == methods_of(Store)


def methods_of(kind: type) -> set[str]:
    return {name for name, value in vars(kind).items() if name[0] != "_" and callable(value)}


async def test_the_attributes_and_methods_of_a_run() -> None:
    seen: set[str] = set()

    async def look(run: Run) -> None:
        seen.update(name for name in vars(run) if not name.startswith("_"))

    async with open_server(agents={"look": look}) as server, server.connect() as client:
        await client.say("hello")
        await client.until("agent_completed")
    rows = table_of(DOCS / "agents.md", "A run has")
    assert {bare(row[0]) for row in rows} == seen
    told = {
        re.findall(r"run\.(\w+)", row[0])[0] for row in table_of(DOCS / "agents.md", "A run can")
    }
    assert told == methods_of(Run)


def test_what_a_run_of_the_client_has_and_can() -> None:
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
    told = {name for row in table_of(CLIENT, "Raised") for name in bare(row[0]).split(", ")}
    raised = {name for name in client.__all__ if is_error(getattr(client, name))}
    assert told == raised - {"ClientError", "TokenUnavailable"}


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, client.ClientError)


def test_the_figures_of_the_client() -> None:
    fields = {field.name for field in attrs.fields(client.Stats)}
    text = CLIENT.read_text(encoding="utf-8")
    assert {name for name in fields if f"`{name}`" not in text} == set()
    assert {status for status in client.Status if status not in text} == set()


def test_the_faults_of_the_test_kit() -> None:
    for heading, kind in (("Fault", testing.Fault), ("Step", testing.Step)):
        told = {bare(row[0]).partition("(")[0] for row in table_of(TESTING, heading)}
        assert told == {each.__name__ for each in get_args(kind)}


def test_the_layout_names_every_module() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    package = Path(netra_trio.__file__).parent
    names = {
        path.name if path.suffix else f"{path.name}/"
        for path in package.iterdir()
        if (path.suffix == ".py" and path.name != "__init__.py") or (path / "__init__.py").exists()
    }
    assert {name for name in names if f" {name} " not in text} == set()
