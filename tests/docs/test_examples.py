"""The examples of the documentation: Python runs, messages decode, commands parse.

The info string of a fenced block says how it is checked:

    python              it is run; each agent in it is served, asked twice, and has to complete;
                        each function of a `Client` is called with one; each test is run
    python no-run: why  it is only compiled, for the reason given
    json client         a message that the server accepts
    json client CODE    a frame that the server refuses with this error code
    json server         a message that the server sends
    json                JSON that is not a message
    console             every `netra-trio` command in it is parsed
"""

import inspect
import json
import re
import shlex
import sys
import types
from collections.abc import Awaitable, Callable, Iterator
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, NewType, get_args, get_origin, get_type_hints

import attrs
import pytest
import trio
from support.markdown import BLOCKS, PAGES, Block, bare, blocks, table_of
from support.memory import Client as MemoryClient
from support.memory import open_server
from trio.testing import MockClock

from netra_trio import client
from netra_trio.agents.demo.agent import EXAMPLES
from netra_trio.agents.demo.echo import echo
from netra_trio.agents.run import Agent, Run
from netra_trio.aio import AsyncioAgent
from netra_trio.cli.main import app
from netra_trio.client import Client
from netra_trio.config.settings import TABLE
from netra_trio.protocol.codec import BadFrame, decode
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.inbound import INBOUND
from netra_trio.protocol.messages import (
    AgentCompleted,
    AuthExpiring,
    AuthOk,
    ConnectionEstablished,
    Event,
    Heartbeat,
    Pong,
    ServerDraining,
    ThreadHistory,
    UserMessage,
)
from netra_trio.protocol.rooms import (
    Presence,
    PresenceChanged,
    RoomConfirmed,
    RoomGap,
    RoomJoined,
    RoomLeft,
    RoomMessage,
)
from netra_trio.protocol.threads import ThreadChanged, ThreadList
from netra_trio.protocol.usage import UsageWarning
from netra_trio.rooms.event import ROOM_EVENT, RoomEvent
from netra_trio.stores.base import Store
from netra_trio.testing import open_network

COMMANDS = (  # the first two commands that a reader types
    "python3 -m venv .venv && . .venv/bin/activate && pip install . && netra-trio serve",
    "python3 -m venv .venv && . .venv/bin/activate && pip install nox && nox",
)
QUESTIONS = ("Tell me about Oslo", "And about Lima")  # the second one finds a history
DEADLINE_MS = 20_000  # of virtual time: shorter than the interval in which a client has to answer
NO_RUN = "no-run: "
REAL_SECONDS = 100.0  # for an agent that uses a thread: a bound, not a wait

Fault = str


def test_every_block_has_a_known_language() -> None:
    run = {"python", "json", "console"}
    known = run | {
        "css",
        "html",
        "ini",
        "js",
        "jsx",
        "mermaid",
        "nginx",
        "sh",
        "text",
        "ts",
        "tsx",
        "yaml",
    }
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
        assert len(block.about) > len(NO_RUN), "the reason is missing"
        return
    for row in TABLE.values():
        monkeypatch.delenv(row.env, raising=False)
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"documented_{block.line}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code, module.__dict__)  # noqa: S102 - the project's own documentation
    for name, kind in get_type_hints(module).items():
        if kind is Store:  # mypy would report it, but does not check the pages
            assert missing_methods(Store, vars(module)[name]) == set()
    for function in functions_of(module, Client):
        trio.run(use_client, function, clock=MockClock(autojump_threshold=0))
    for test in own_tests(module):
        if inspect.iscoroutinefunction(test):
            clock = MockClock(autojump_threshold=0)
            trio.run(test, clock, clock=clock)
        else:
            test()
    for name, agent in agents_of(module):
        if "trio.to_thread" in block.text or isinstance(agent, AsyncioAgent):
            # A virtual clock does not wait for a thread.
            trio.run(complete_soon, name, agent)
        else:
            trio.run(complete, name, agent, clock=MockClock(autojump_threshold=0))


def missing_methods(interface: type, implementation: object) -> set[str]:
    """Return the public methods of an interface that an implementation does not have."""
    public = {name for name, value in vars(interface).items() if name[0] != "_" and callable(value)}
    return {name for name in public if not hasattr(implementation, name)}


def own_tests(module: types.ModuleType) -> list[Callable[..., Any]]:
    """Return the functions of a module that pytest would collect as tests."""
    return [function for name, function in vars(module).items() if name.startswith("test_")]


def agents_of(module: types.ModuleType) -> list[tuple[str, Agent]]:
    """Return the agents of a module: async functions of a `Run`, and agents for asyncio."""
    functions = [(function.__name__, function) for function in functions_of(module, Run)]
    return functions + [
        (name, value) for name, value in vars(module).items() if isinstance(value, AsyncioAgent)
    ]


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
    with trio.fail_after(REAL_SECONDS):
        await complete(name, agent)


async def complete(name: str, agent: Agent) -> None:
    """Serve an agent, and check that its runs complete."""
    async with open_server(agents={name: agent}) as server, server.connect() as client:
        for question in QUESTIONS:
            await client.say(question, deadline_ms=DEADLINE_MS)
            await answer_until_completed(client)
        request = {"agent": name, "input": {"city": "Oslo"}, "deadline_ms": DEADLINE_MS}
        await client.send("agent_request", request)
        await answer_until_completed(client)


async def answer_until_completed(client: MemoryClient) -> None:
    """Answer each question of a run with its first choice, and approve each of its tool calls."""
    frame = await client.next()
    while frame["type"] != "agent_completed":
        if frame["type"] == "agent_asking":
            asked = frame["payload"]
            choices = asked.get("schema", {}).get("enum", ["yes"])
            given = {"approve": True} if asked["kind"] == "approval" else {"answer": choices[0]}
            await client.send("answer", {"question_id": asked["question_id"], **given})
        frame = await client.next()
    assert frame["payload"]["status"] == "completed", frame


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
        UsageWarning,
        ThreadHistory,
        RoomJoined,
        RoomLeft,
        RoomConfirmed,
        RoomGap,
        Presence,
        PresenceChanged,
        ThreadList,
        ThreadChanged,
    )
}
SERVER_TYPES = {*EVENTS, *CONTROL, ROOM_EVENT, "error"}


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
            # An error in an HTTP answer repeats its fields at the top level.
            assert not known or "code" in value, "the sender is missing: json client or json server"


def check_client_message(value: Any, code: str) -> None:
    if not code:
        assert value["type"] == decode(json.dumps(value)).message.TYPE
        return
    with pytest.raises(BadFrame) as caught:
        decode(json.dumps(value))
    assert caught.value.problem.code == code


def faults_of_message(value: Any) -> Iterator[Fault]:
    """Find fields of a message that the server would not send."""
    kind = value.get("type")
    known = {"type", "payload", "timestamp", "correlation_id"}
    known |= {"seq", "seq_from"} if kind in EVENTS else set()
    yield from (f"{name}: unknown" for name in value.keys() - known)
    needed = {"payload", "timestamp", *(["seq", "correlation_id"] if kind in EVENTS else [])}
    yield from (f"{name}: missing" for name in needed - value.keys())
    if kind == "error":
        yield from faults_of_error(value["payload"])
    elif kind == ROOM_EVENT:
        yield from faults_of_room_event(value)
    elif kind == Pong.TYPE:
        yield from faults_of(value["payload"], dict[str, Any], "payload")
    elif kind in EVENTS or kind in CONTROL:
        yield from faults_of(value["payload"], {**EVENTS, **CONTROL}[kind], "payload")
    else:
        yield f"type: expected one of {sorted(SERVER_TYPES)}, got {kind}"
    if kind == AgentCompleted.TYPE and "error" in value["payload"]:
        yield from faults_of_error(value["payload"]["error"])


def faults_of_room_event(value: Any) -> Iterator[Fault]:
    """Compare an event of a room with the frame that the server makes of its fields."""
    payload = dict(value["payload"])
    event = payload.pop("event")
    made = json.loads(RoomEvent(data=json.dumps(event).encode(), **payload).frame)
    if made != value:
        yield f"expected {made}"
    kinds = {**EVENTS, UserMessage.TYPE: None, RoomMessage.TYPE: None}
    if kinds.get(event["type"]) is not None:
        yield from faults_of(event["payload"], kinds[event["type"]], "payload.event.payload")
    elif event["type"] not in kinds:
        yield f"payload.event.type: {event['type']} is unknown"


def faults_of_error(body: dict[str, Any]) -> Iterator[Fault]:
    needed = {"code": str, "error": str, "timestamp": float, "recoverable": bool, "help": str}
    kinds = {**needed, "retry_after_ms": int, "error_id": str}
    yield from (f"{name}: missing" for name in needed.keys() - body.keys())
    for name, value in body.items():
        yield from faults_of(value, kinds.get(name), name)
    if body.get("code") not in list(ErrorCode):
        yield f"code: {body.get('code')} is unknown"


def faults_of(value: Any, kind: Any, path: str) -> Iterator[Fault]:
    """Find where a JSON value does not have the type that `messages` declares."""
    kind = plain_kind(kind)
    if get_origin(kind) is tuple:
        items = value if isinstance(value, list) else [None]
        for index, item in enumerate(items):
            yield from faults_of(item, get_args(kind)[0], f"{path}[{index}]")
    elif isinstance(kind, type) and attrs.has(kind):
        yield from faults_of_object(value, kind, path)
    elif isinstance(kind, type) and issubclass(kind, Enum):
        if value not in [member.value for member in kind]:
            yield f"{path}: {value} is not a {kind.__name__}"
    elif kind is not Any and not is_plain(value, kind):
        yield f"{path}: expected {kind}, got {value!r}"


def plain_kind(kind: Any) -> Any:
    """Return the type inside an optional type, and the type that an id type is made of."""
    if NoneType in get_args(kind):
        kind = get_args(kind)[0]
    return kind.__supertype__ if isinstance(kind, NewType) else kind


def is_plain(value: object, kind: Any) -> bool:
    """Whether a value has one of the types of JSON; None has none."""
    if kind is float:
        return type(value) in {int, float}
    return kind is not None and type(value) is (get_origin(kind) or kind)


def faults_of_object(value: Any, kind: type, path: str) -> Iterator[Fault]:
    if not isinstance(value, dict):
        yield f"{path}: expected an object"
        return
    hints = get_type_hints(kind)
    # `from` is a word of Python.
    attributes = {attribute.name.rstrip("_"): attribute for attribute in attrs.fields(kind)}
    hints |= {name.rstrip("_"): hint for name, hint in hints.items()}
    yield from (f"{path}.{name}: unknown" for name in value.keys() - attributes.keys())
    for name, attribute in attributes.items():
        if name in value:
            yield from faults_of(value[name], hints[name], f"{path}.{name}")
        elif attribute.default is not None:  # only None is omitted
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
