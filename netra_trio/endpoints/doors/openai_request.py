"""Reads the requests of the OpenAI door.

    >>> request = read_request(
    ...     {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}, 0.0
    ... )
    >>> request.content, request.history, request.stream
    ('hello', (), False)

A request for another form of answer is refused: several choices, JSON, audio, a call of a tool by
the client. Parameters that tune a model are ignored, because the agent chooses its own:
`temperature`, `max_tokens`, `stop`, `tools` and the like.
"""

from collections.abc import Iterator
from typing import Any, NoReturn

from netra_trio.endpoints.doors.posted_files import (
    EXPECTED,
    PostedFile,
    read_base64,
    read_url,
)
from netra_trio.ids import MessageId
from netra_trio.protocol import codec
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.messages import HistoryMessage
from netra_trio.protocol.problem import Refused, problem
from netra_trio.values import frozen

MESSAGES = 10_000  # of one request: to read them takes about 15 ms, in which no other task runs

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_OF_USER = frozenset({"system", "developer", "user"})
_RESULTS = frozenset({"tool", "function"})  # of calls that another server's answer asked for
_FILES = {"image_url": "url", "input_audio": "data", "file": "file_data"}
_KINDS = {str: "a string", bool: "true or false", dict: "an object", list: "an array"}


@frozen
class ChatRequest:
    """A request for an answer.

    Attributes:
        model: The name of the agent.
        content: The text of the last message.
        history: The messages before it.
        stream: Whether the answer is sent as a stream.
        include_usage: Whether the stream ends with the usage.
        files: The files of the last message.
    """

    model: str
    content: str
    history: tuple[HistoryMessage, ...]
    stream: bool
    include_usage: bool
    files: tuple[PostedFile, ...] = ()


def read_request(body: Any, now: float) -> ChatRequest:
    """Return the request of a body.

    Args:
        body: The body, a value of JSON.
        now: Unix seconds, for the messages.

    Raises:
        Refused: VALIDATION_ERROR, with the path of the field.
    """
    if type(body) is not dict:
        _refuse("$", "an object", body)
    model = _field(body, "$", "model", str)
    if not model:
        _refuse("$.model", "the name of an agent", model)
    _check_form(body)
    stream = _optional(body, "$", "stream", bool) or False
    options = _optional(body, "$", "stream_options", dict) or {}
    include_usage = _optional(options, "$.stream_options", "include_usage", bool) or False
    messages = _field(body, "$", "messages", list)
    if not messages:
        _refuse("$.messages", "at least one message", messages)
    if len(messages) > MESSAGES:
        text = f"$.messages: expected at most {MESSAGES} messages, got {len(messages)}"
        raise Refused(problem(ErrorCode.VALIDATION_ERROR, text))
    *earlier, last = (_read_message(place, message) for place, message in enumerate(messages))
    files = tuple(_read_files(len(earlier), messages[-1]["content"]))
    if last[0] != "user":
        expected = "user: the agent answers the user's message"
        _refuse(f"$.messages[{len(earlier)}].role", expected, last[0])
    if not last[1].strip():
        _refuse(f"$.messages[{len(earlier)}].content", "a text that is not blank", last[1])
    history = tuple(_history(earlier, now))
    return ChatRequest(model, last[1], history, stream, include_usage, files)


def _history(messages: list[tuple[str, str]], now: float) -> Iterator[HistoryMessage]:
    """Return the messages that have a text, as an agent reads them.

    The instructions of a system message are the caller's, so they are words of the user: those of
    the operator are in the agent, and stay above them.
    """
    for place, (role, text) in enumerate(messages):
        if role in _RESULTS or not text.strip():
            continue
        name = "user" if role in _OF_USER else "agent"
        yield HistoryMessage(MessageId(f"posted_{place}"), name, text, now)


def _read_message(place: int, message: Any) -> tuple[str, str]:
    """Return the role and the text of a message; a path is made for an error only."""
    if type(message) is not dict:
        _refuse(_message(place), "an object", message)
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        role = _field(message, _message(place), "role", str)
        _refuse(f"{_message(place)}.role", f"one of {', '.join(_ROLES)}", role)
    if type(content) is str:
        return role, content
    if type(content) is list:
        return role, _read_parts(place, content)
    if content is not None or role != "assistant":
        _refuse(f"{_message(place)}.content", "a string or an array of text parts", content)
    return role, ""  # it has only called tools


def _read_parts(place: int, parts: list[Any]) -> str:
    """Return the text of a message in parts."""
    texts: list[str] = []
    for number, part in enumerate(parts):
        text = part.get("text") if type(part) is dict and part.get("type") == "text" else None
        if type(text) is not str:  # not the usual case
            text = _read_part(f"{_message(place)}.content[{number}]", part)
        if text is not None:
            texts.append(text)
    return "\n".join(texts)


def _read_files(place: int, content: Any) -> Iterator[PostedFile]:
    """Return the files of a message; those of earlier messages are left out."""
    for number, part in enumerate(content if type(content) is list else ()):
        kind = part["type"]
        if kind not in _FILES:
            continue
        path = f"{_message(place)}.content[{number}].{kind}"
        given = _field(part, path.rpartition(".")[0], kind, dict)
        if kind == "file" and type(given.get("file_id")) is str and given["file_id"]:
            yield PostedFile.uploaded(given["file_id"])
            continue
        name = _FILES[kind]
        if kind == "input_audio":
            shown = given.get("format")
            found = read_base64(given.get(name), name=f"audio.{shown}" if shown else None)
        else:
            found = read_url(given.get(name), name=given.get("filename"))
        if found is None:
            _refuse(f"{path}.{name}", EXPECTED, given.get(name))
        yield found


def _read_part(path: str, part: Any) -> str | None:
    """Return the text of a part; None of a file.

    Raises:
        Refused: VALIDATION_ERROR, with the path of the field.
    """
    if type(part) is not dict:
        _refuse(path, "an object", part)
    kind = _field(part, path, "type", str)
    if kind in _FILES:
        return None
    if kind not in {"text", "refusal"}:
        _refuse(f"{path}.type", "text, image_url, input_audio or file", kind)
    text: str = _field(part, path, kind, str)
    return text


def _message(place: int) -> str:
    return f"$.messages[{place}]"


def _check_form(body: dict[str, Any]) -> None:
    """Refuse what asks for an answer in another form than a text."""
    choices = body.get("n")
    if choices is not None and (type(choices) is not int or choices != 1):
        _refuse("$.n", "1", choices)
    if _optional(body, "$", "logprobs", bool):
        _refuse("$.logprobs", "false: agents have none", True)
    format_ = _optional(body, "$", "response_format", dict) or {}
    if format_.get("type", "text") != "text":
        expected = '"text": an agent decides about the form of its answer'
        _refuse("$.response_format.type", expected, format_["type"])
    choice = body.get("tool_choice")
    if choice not in (None, "auto", "none"):
        expected = "auto or none: the tools of an agent run on the server"
        _refuse("$.tool_choice", expected, choice)
    for place, kind in enumerate(_optional(body, "$", "modalities", list) or ()):
        if kind != "text":
            _refuse(f"$.modalities[{place}]", "text", kind)


def _field(value: dict[str, Any], path: str, name: str, kind: type) -> Any:
    if name not in value:
        text = f"{path}.{name}: expected {_KINDS[kind]}, got nothing"
        raise Refused(problem(ErrorCode.VALIDATION_ERROR, text))
    if type(value[name]) is not kind:
        _refuse(f"{path}.{name}", _KINDS[kind], value[name])
    return value[name]


def _optional(value: dict[str, Any], path: str, name: str, kind: type) -> Any:
    """Return a field; None if it is absent or null."""
    return None if value.get(name) is None else _field(value, path, name, kind)


def _refuse(path: str, expected: str, value: object) -> NoReturn:
    text = f"{path}: expected {expected}, got {codec.show(value)}"
    raise Refused(problem(ErrorCode.VALIDATION_ERROR, text))
