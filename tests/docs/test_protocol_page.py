"""The protocol page equals the code: messages, fields, values, limits, codes, references."""

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import get_args

import attrs
import pytest
from support.markdown import (
    DOCS,
    Table,
    bare,
    blocks_of,
    headings_of,
    only,
    prose_of,
    section_of,
    slug,
    table_of,
    tables_in,
)

from netra_trio.agents.questions import (
    ANSWER_BYTES,
    ARGUMENTS_BYTES,
    EXPIRES_MAX,
    OPEN_QUESTIONS,
    PROMPT_BYTES,
    RUN_QUESTIONS,
    SCHEMA_BYTES,
)
from netra_trio.auth.tickets import (
    FILE_TICKETS,
    FILE_TICKETS_PER_USER,
    TICKET_SECONDS,
    TICKETS_PER_USER,
)
from netra_trio.auth.tokens import TOKEN_CHARACTERS
from netra_trio.broker.base import KEY_SECONDS
from netra_trio.client.retry import Next, after_close
from netra_trio.config.capabilities import auth_methods, connection_limits, document, features
from netra_trio.config.origins import ENVIRONMENTS
from netra_trio.config.settings import TABLE, Settings
from netra_trio.connections.dispatch import (
    BACKGROUND_REQUESTS,
    CONTROL_BURST,
    CONTROL_RATE,
    LIST_RATE,
)
from netra_trio.connections.reader import BAD_FRAMES
from netra_trio.endpoints.body import GRACE_SECONDS, LEAST_SPEED
from netra_trio.endpoints.form import OTHER_BYTES
from netra_trio.endpoints.uploads import UPLOADS_AT_ONCE, USER_UPLOADS_AT_ONCE
from netra_trio.files.names import NAME_BYTES
from netra_trio.files.rate import UPLOADS
from netra_trio.ids import CorrelationId, RunId, ThreadId
from netra_trio.protocol.binary import EVENT_DATA_BYTES
from netra_trio.protocol.codec import HARD_SIZE_FACTOR, OPEN_PAYLOAD_BYTES
from netra_trio.protocol.codes import CloseCode, ErrorCode
from netra_trio.protocol.fields import ATTACHMENTS, MEDIA_TYPE_CHARACTERS
from netra_trio.protocol.inbound import INBOUND
from netra_trio.protocol.keepalive import MISSED_INTERVALS
from netra_trio.protocol.messages import (
    AuthExpiring,
    AuthOk,
    Confirmation,
    ConnectionEstablished,
    Event,
    Heartbeat,
    HistoryMessage,
    HistoryRun,
    ListedFile,
    OnBusy,
    Ping,
    Pong,
    ResetReason,
    ResumeState,
    RunStatus,
    ServerDraining,
    ThreadHistory,
    Verdict,
)
from netra_trio.protocol.problem import Problem, problem
from netra_trio.protocol.rooms import (
    ROOM_NAME_CHARACTERS,
    Presence,
    PresenceChanged,
    RoomConfirmed,
    RoomGap,
    RoomJoined,
    RoomLeft,
)
from netra_trio.protocol.threads import (
    COMMENT_CHARACTERS,
    QUERY_CHARACTERS,
    TITLE_CHARACTERS,
    ListedThread,
    ThreadChange,
    ThreadChanged,
    ThreadList,
)
from netra_trio.protocol.usage import UsageWarning
from netra_trio.rooms.event import ROOM_EVENT, RoomEvent
from netra_trio.rooms.feed import FEED_BYTES as ROOM_FEED_BYTES
from netra_trio.rooms.feed import FEED_EVENTS as ROOM_FEED_EVENTS
from netra_trio.rooms.feed import ROOMS
from netra_trio.server.request_head import HEAD_BYTES, HEAD_SECONDS
from netra_trio.sessions.admission import UNATTENDED_RUNS
from netra_trio.sessions.event_feed import FEED_EVENTS
from netra_trio.sessions.event_log import MERGED_BYTES, RESERVED_PLACES
from netra_trio.sessions.inbox import INBOX_MESSAGES
from netra_trio.sessions.runner import CONCURRENT_RUNS
from netra_trio.sessions.transcript import (
    ALL_STEPS_BYTES,
    QUESTIONS_BYTES,
    RUNS_BYTES,
    Transcript,
)
from netra_trio.stores.bounds import HISTORY_PAGE_BYTES, HISTORY_QUESTIONS_BYTES, HISTORY_TEXT_BYTES
from netra_trio.transports.inflate import compressed_limit

PAGE = DOCS / "protocol.md"
CLIENT = "What a client sends"
CONTROL = "Control frames"
EVENTS = "Events"

CONTROL_FRAMES: dict[str, type] = {
    kind.TYPE: kind
    for kind in (
        ConnectionEstablished,
        Heartbeat,
        Pong,
        AuthExpiring,
        AuthOk,
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
EVENT_KINDS: dict[str, type] = {kind.TYPE: kind for kind in get_args(Event)}
OPEN = {Ping.TYPE, Pong.TYPE}  # their payload is any object

RECONNECT = {
    Next.RETRY: "automatically",
    Next.RENEW: "with a new token",
    Next.STOP: "on request",
}
AGAIN = {Next.RETRY: "yes", Next.RENEW: "token", Next.STOP: "asked"}  # in the AsyncAPI document

Fields = dict[str, bool]
"""Whether each field is optional, by its name."""


# Messages and their fields.


def documented_fields(table: Table) -> Fields:
    return {bare(name): "optional" in kind for name, kind, *_ in table}


def fields_table(*path: str) -> Table:
    """Return the first table of fields below a heading."""
    return only(tables_in(section_of(PAGE, *path))[:1], "Field", "Type", where=path[-1])


def sent_by_client(kind: type) -> Fields:
    return {field.name: field.default is not attrs.NOTHING for field in attrs.fields(kind)}


def sent_by_server(kind: type) -> Fields:
    """Return the fields of a message of the server, which omits those that are None."""
    # `from` is a word of Python.
    return {field.name.rstrip("_"): field.default is None for field in attrs.fields(kind)}


def names_below(heading: str, level: int) -> list[str]:
    """Return the headings of one level in a section."""
    names, inside = [], False
    for depth, text in headings_of(PAGE):
        if depth < level:
            inside = text == heading
        elif inside and depth == level:
            names.append(text)
    return names


def test_the_page_has_every_message_of_a_client() -> None:
    assert sorted(names_below(CLIENT, 3)) == sorted(INBOUND)


def test_the_page_has_every_control_frame_and_every_event() -> None:
    assert sorted(names_below(CONTROL, 4)) == sorted([*CONTROL_FRAMES, ROOM_EVENT, "error"])
    assert sorted(names_below(EVENTS, 4)) == sorted(EVENT_KINDS)


@pytest.mark.parametrize("name", [name for name in INBOUND if name not in OPEN])
def test_the_fields_of_a_message_of_a_client(name: str) -> None:
    assert documented_fields(fields_table(CLIENT, name)) == sent_by_client(INBOUND[name])


@pytest.mark.parametrize("name", [name for name in CONTROL_FRAMES if name not in OPEN])
def test_the_fields_of_a_control_frame(name: str) -> None:
    assert documented_fields(fields_table(CONTROL, name)) == sent_by_server(CONTROL_FRAMES[name])


@pytest.mark.parametrize("name", EVENT_KINDS)
def test_the_fields_of_an_event(name: str) -> None:
    assert documented_fields(fields_table(EVENTS, name)) == sent_by_server(EVENT_KINDS[name])


@pytest.mark.parametrize("name", sorted(OPEN))
def test_an_open_payload_has_no_table_but_its_bound(name: str) -> None:
    tokens = section_of(PAGE, CLIENT, name)
    assert tables_in(tokens) == []
    assert f"at most {grouped(OPEN_PAYLOAD_BYTES)} bytes" in prose_of(tokens)


def test_the_fields_of_an_event_of_a_room() -> None:
    event = RoomEvent("news", "e", 2, b"{}", 1.0)
    least = json.loads(event.frame)["payload"].keys()
    most = json.loads(attrs.evolve(event, offset_from=1).frame)["payload"].keys()
    expected = {name: name not in least for name in most}
    assert documented_fields(fields_table(CONTROL, ROOM_EVENT)) == expected


def test_the_fields_of_an_error() -> None:
    fault = problem(ErrorCode.SERVER_FULL, "What happened.")
    least = fault.body(0.0).keys()
    most = attrs.evolve(fault, retry_after_ms=1, error_id="err_1").body(0.0).keys()
    expected = {name: name not in least for name in most}
    assert documented_fields(fields_table(CONTROL, "error")) == expected
    assert most - {"timestamp"} <= {field.name for field in attrs.fields(Problem)}


def test_the_fields_of_a_frame() -> None:
    documented = {bare(name) for name, *_ in fields_table("Frames")}
    assert documented == {"type", "payload", "timestamp", "correlation_id", "seq", "seq_from"}


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("Field of a message", HistoryMessage),
        ("Field of its run", HistoryRun),
        ("Field of a file", ListedFile),
        ("Field of `resume`", ResumeState),
        ("Field of a thread", ListedThread),
    ],
)
def test_the_fields_of_a_part(heading: str, kind: type) -> None:
    assert documented_fields(table_of(PAGE, heading)) == sent_by_server(kind)


def test_the_fields_of_a_resumed_run() -> None:
    transcript = Transcript()
    transcript.begin(RunId("r"), ThreadId("t"), CorrelationId("c"))
    (run,) = transcript.runs()
    expected = {
        **dict.fromkeys(run, False),
        **dict.fromkeys(("questions", "steps", "truncated"), True),
    }
    assert documented_fields(table_of(PAGE, "Field of a run in `runs`")) == expected


# Values.


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("Verdict", Verdict),
        ("Confirmation", Confirmation),
        ("Run status", RunStatus),
        ("`on_busy`", OnBusy),
        ("Thread change", ThreadChange),
    ],
)
def test_a_table_has_every_value(heading: str, kind: type[StrEnum]) -> None:
    assert [bare(row[0]) for row in table_of(PAGE, heading)] == list(kind)


def test_a_reset_has_every_reason() -> None:
    rows = {bare(row[0]): row[1] for row in table_of(PAGE, "Verdict")}
    assert re.findall(r"`(\w+)`:", rows[Verdict.RESET]) == list(ResetReason)
    (reason,) = [row for row in table_of(PAGE, "Field of `resume`") if bare(row[0]) == "reason"]
    assert re.findall(r"`(\w+)`", reason[2]) == ["reset", *ResetReason]


def test_the_kinds_of_credentials() -> None:
    assert [bare(row[0]) for row in table_of(PAGE, "Kind")] == auth_methods(Settings())


def test_the_environments_of_origins() -> None:
    rows = [bare(row[0]).split(", ") for row in table_of(PAGE, "Environment")]
    assert tuple(name for names in rows for name in names) == ENVIRONMENTS


def test_the_discovery_document() -> None:
    (example,) = [
        value
        for block in blocks_of(PAGE)
        if block.info == "json" and "websocket_config" in (value := json.loads(block.text))
    ]
    server_time = example["websocket_config"]["server_time"]
    assert example == document(Settings(), server_time)


def test_the_first_frame() -> None:
    (block,) = [b for b in blocks_of(PAGE) if '"type": "connection_established"' in b.text]
    payload = json.loads(block.text)["payload"]
    settings = Settings()
    assert payload["features"] == features(settings)
    assert payload["limits"] == connection_limits(settings)
    assert payload["heartbeat_interval"] == settings.heartbeat_interval_ms


# Limits.


def grouped(number: float) -> str:
    """Return a whole number with its thousands apart, as the pages write them."""
    return f"{number:,.0f}".replace(",", " ")


def seconds(number: float) -> str:
    return f"{grouped(number)} s"


def octets(number: int) -> str:
    return f"{grouped(number)} bytes"


SETTINGS = {row.env: (row, getattr(Settings(), name)) for name, row in TABLE.items()}

LIMITS: Mapping[str, str] = {  # those that are no setting
    "active runs of a session": str(CONCURRENT_RUNS),
    "messages of a session that wait to be recorded": str(INBOX_MESSAGES),
    "reserved places in the log of a session, two for each message": str(RESERVED_PLACES),
    "size of a frame, hard limit": octets(Settings().hard_message_size),
    "compressed data of a message": octets(compressed_limit(Settings().hard_message_size)),
    "payload of ping and pong": octets(OPEN_PAYLOAD_BYTES),
    "control frames of a connection per second": str(CONTROL_RATE),
    "control frames of a connection at once, after idle time": grouped(CONTROL_BURST),
    "get_thread_history, list_threads and get_presence of a connection per second, together": str(
        LIST_RATE
    ),
    "rooms of a connection, watched threads included": str(ROOMS),
    "events of rooms that wait to be written on a connection": grouped(ROOM_FEED_EVENTS),
    "bytes of such events": octets(ROOM_FEED_BYTES),
    "time for which the key of a room_message is kept": seconds(KEY_SECONDS),
    "characters of the name of a room": str(ROOM_NAME_CHARACTERS),
    "characters of a title, and of a query": str(max(TITLE_CHARACTERS, QUERY_CHARACTERS)),
    "uploads of a user in any minute, also those that fail after the checks": str(UPLOADS),
    "uploads of a user at once, in one process; when few are free, half as many as these": str(
        USER_UPLOADS_AT_ONCE
    ),
    "bytes per second of an upload since its start, at least, after the first "
    f"{seconds(GRACE_SECONDS)}": grouped(LEAST_SPEED),
    "uploads at once, in one process": str(UPLOADS_AT_ONCE),
    "bytes of a form beside its file": octets(OTHER_BYTES),
    "name of a file, in UTF-8": octets(NAME_BYTES),
    "tickets of a user for files": str(FILE_TICKETS_PER_USER),
    "tickets for files, in a process without a broker": grouped(FILE_TICKETS),
    "files of a message, and files that an agent attaches to an answer": str(ATTACHMENTS),
    "characters of the comment of a feedback": grouped(COMMENT_CHARACTERS),
    "unattended runs of a user": str(UNATTENDED_RUNS),
    "auth, get_thread_history, late answer of a connection in progress, each": str(
        BACKGROUND_REQUESTS
    ),
    "consecutive bad frames": str(BAD_FRAMES),
    "events that wait to be written on a connection": str(FEED_EVENTS),
    "text of a merged event": octets(MERGED_BYTES),
    "data in a binary frame of the server": octets(EVENT_DATA_BYTES),
    "media type in a binary frame": f"{MEDIA_TYPE_CHARACTERS} characters",
    "text of an agent's message in the history": octets(HISTORY_TEXT_BYTES),
    "page of history": octets(HISTORY_PAGE_BYTES),
    "contents of resume.runs together": octets(RUNS_BYTES),
    "open questions of a run": str(OPEN_QUESTIONS),
    "questions of a run": str(RUN_QUESTIONS),
    "time for an answer": seconds(EXPIRES_MAX),
    "prompt of a question": octets(PROMPT_BYTES),
    "schema of an answer": octets(SCHEMA_BYTES),
    "arguments of a tool call to approve": octets(ARGUMENTS_BYTES),
    "answer to a question": octets(ANSWER_BYTES),
    "questions of a run in the history": octets(HISTORY_QUESTIONS_BYTES),
    "questions in resume.runs together": octets(QUESTIONS_BYTES),
    "steps in resume.runs together": octets(ALL_STEPS_BYTES),
    "silence of a client": seconds(MISSED_INTERVALS * Settings().heartbeat_interval_ms / 1000),
    "validity of a ticket": seconds(TICKET_SECONDS),
    "unused tickets of a user": str(TICKETS_PER_USER),
    "characters of a token": grouped(TOKEN_CHARACTERS),
    "head of an HTTP request": octets(HEAD_BYTES),
    "time for the head of an HTTP request": seconds(HEAD_SECONDS),
}


def default_of(variable: str) -> str:
    """Return the default of a setting, as the table of limits shows it."""
    row, value = SETTINGS[variable]
    if value is None:
        return "no limit"
    shown = row.show(value)
    if shown.endswith(" ms"):
        return seconds(value / 1000)
    if shown.endswith(" s"):
        return seconds(value)
    return octets(value) if shown.endswith(" bytes") else grouped(value)


def test_the_limits() -> None:
    documented = {
        bare(name): (value, bare(source)) for name, value, source, _ in table_of(PAGE, "Limit")
    }
    assert {
        name: value for name, (value, source) in documented.items() if source not in SETTINGS
    } == LIMITS
    of_settings = {source: value for value, source in documented.values() if source in SETTINGS}
    assert of_settings == {variable: default_of(variable) for variable in of_settings}
    assert len(of_settings) + len(LIMITS) == len(documented)


def test_the_factors_of_limits() -> None:
    sources = {bare(row[0]): bare(row[2]) for row in table_of(PAGE, "Limit")}
    assert sources["size of a frame, hard limit"] == f"{HARD_SIZE_FACTOR} times the setting"
    expected = f"{MISSED_INTERVALS} times WEBSOCKET_HEARTBEAT_INTERVAL"
    assert sources["silence of a client"] == expected


# Codes.


def test_when_a_client_reconnects() -> None:
    documented = {int(bare(row[0])): row[2] for row in table_of(PAGE, "Close code")}
    assert documented == {int(code): RECONNECT[after_close(code)] for code in CloseCode}
    text = (DOCS / "asyncapi.yaml").read_text(encoding="utf-8")
    again = re.findall(r'^ +"(\d{4})": \{means: .*, again: "?(\w+)"?\}$', text, re.MULTILINE)
    assert {int(code): word for code, word in again} == {
        code: AGAIN[after_close(code)] for code in (*map(int, CloseCode), 1006)
    }


def test_the_headings_of_the_page_are_different() -> None:
    tops = [slug(text) for level, text in headings_of(PAGE) if level <= 3]
    assert len(tops) == len(set(tops))
