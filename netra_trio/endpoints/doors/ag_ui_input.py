"""The body of a request at the `ag-ui` door: what counts here of the `RunAgentInput` of AG-UI 1.0.

    run_input = read_input({"threadId": "t1", "runId": "r1", "messages": […]})
    run_input.text, run_input.message_id

The newest message of the user is taken, and its id is the key of the message: the history is the
server's. Of the messages behind it, those parts count that the client has of the answer: they are
not sent again. `tools` are ignored, because only the client can execute them, and so are `state`,
`context` and unknown fields.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from attrs import field, frozen

from netra_trio.endpoints.doors.posted_files import (
    EXPECTED,
    PostedFile,
    read_base64,
    read_url,
)
from netra_trio.protocol.codec import show
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.fields import CORRELATION_ID_CHARACTERS
from netra_trio.protocol.problem import Refused, problem

MESSAGES = 10_000  # of one input
RESUME_ENTRIES = 100  # of one input: a run asks no more questions
ID_CHARACTERS = 1024  # of a run id, which is only sent back

_FILES = ("binary", "image", "audio", "video", "document")
_REGENERATED = "regenerate."  # begins the key of a message that is run again on purpose


@frozen
class ResumeEntry:
    """The answer to one interrupt.

    Attributes:
        path: Its place in the input.
        question_id: The question that the interrupt stands for.
        is_cancelled: Whether it was given up instead of answered.
        payload: The answer; None without one.
    """

    path: str
    question_id: str
    is_cancelled: bool
    payload: Any = None


@frozen
class Held:
    """The parts of the answer that the client has.

    Attributes:
        texts: The text of each message, by the id of the message.
        calls: The arguments of each tool call, by the id of the call.
        results: The ids of the tool calls whose results it has.
    """

    texts: Mapping[str, str] = field(factory=dict)
    calls: Mapping[str, str] = field(factory=dict)
    results: frozenset[str] = frozenset()


@frozen
class RunInput:
    """The input of a run.

    Attributes:
        thread_id: The thread.
        run_id: The client's id of the run.
        message_id: The id of the newest message of the user, which is its key; None without one.
        text: Its text.
        place: Its place in the input.
        resume: The answers to interrupts.
        regenerates: Whether the message is run again on purpose.
        held: The parts of the answer that the client has.
        files: The files of the message.
    """

    thread_id: str
    run_id: str
    message_id: str | None
    text: str
    place: str
    resume: tuple[ResumeEntry, ...] = ()
    regenerates: bool = False
    held: Held = field(factory=Held)
    files: tuple[PostedFile, ...] = ()

    @property
    def regenerated_key(self) -> str:
        """The key under which the message is run again, once for each run id of the client."""
        return f"{regenerated_prefix(self.message_id or '')}{_digest(self.run_id)}"

    def is_message(self, listed: Mapping[str, Any]) -> bool:
        """Whether a message of the history is this one, also if it was run again."""
        key = listed.get("correlation_id", "")
        if listed.get("role") != "user" or self.message_id is None:
            return False
        return bool(key == self.message_id or key.startswith(regenerated_prefix(self.message_id)))


def regenerated_prefix(message_id: str) -> str:
    """Return what the keys of a message begin with that is run again."""
    return f"{_REGENERATED}{_digest(message_id)}."


def read_input(body: Any) -> RunInput:
    """Return the input of a run.

    Args:
        body: The body of the request, decoded.

    Raises:
        Refused: VALIDATION_ERROR, with the path of the fault.
    """
    fields = _object(body, "$")
    thread_id = _text(fields, "threadId", "$", ID_CHARACTERS)
    run_id = _text(fields, "runId", "$", ID_CHARACTERS)
    forwarded = fields.get("forwardedProps")
    regenerates = isinstance(forwarded, dict) and forwarded.get("regenerate") is True
    entries: tuple[ResumeEntry, ...] = ()
    if fields.get("resume") is not None:
        listed = _array(fields, "resume", "$", RESUME_ENTRIES)
        entries = tuple(_entry(each, f"$.resume[{n}]") for n, each in enumerate(listed))
    if entries and "messages" not in fields:
        return RunInput(thread_id, run_id, None, "", "$.messages", entries)
    messages = _array(fields, "messages", "$", MESSAGES)
    roles = [_role(each, f"$.messages[{n}]") for n, each in enumerate(messages)]
    if "user" not in roles:
        if not entries:
            raise _fault("$.messages", "a message with the role user", messages)
        held = _held(messages)
        return RunInput(thread_id, run_id, None, "", "$.messages", entries, regenerates, held)
    newest = len(roles) - 1 - roles[::-1].index("user")
    place = f"$.messages[{newest}]"
    message_id = _text(messages[newest], "id", place, CORRELATION_ID_CHARACTERS)
    text, files = _content(messages[newest], place)
    held = _held(messages[newest + 1 :])
    return RunInput(thread_id, run_id, message_id, text, place, entries, regenerates, held, files)


@frozen
class StopInput:
    """The body of a request to stop.

    Attributes:
        thread_id: The thread whose runs are stopped.
        message_id: The message whose run is stopped alone; None for all runs of the thread.
    """

    thread_id: str
    message_id: str | None


def read_stop(body: Any) -> StopInput:
    """Return the thread, and perhaps the message, whose run is stopped.

    Raises:
        Refused: VALIDATION_ERROR, with the path of the fault.
    """
    fields = _object(body, "$")
    message_id = None
    if fields.get("messageId") is not None:
        message_id = _text(fields, "messageId", "$", CORRELATION_ID_CHARACTERS)
    return StopInput(_text(fields, "threadId", "$", ID_CHARACTERS), message_id)


def read_answer(entry: ResumeEntry, kind: str) -> dict[str, Any]:
    """Return the fields of `answer` for an entry that is not cancelled.

    Args:
        entry: The entry.
        kind: `question` or `approval`.

    Raises:
        Refused: VALIDATION_ERROR, with the path of the fault.
    """
    path = f"{entry.path}.payload"
    if kind != "approval":
        if entry.payload is None:
            raise _fault(path, "the answer", None)
        return {"answer": entry.payload}
    given = entry.payload
    if isinstance(given, dict):
        if given.get("editedArgs") is not None:
            text = f"{path}.editedArgs: the arguments of an approval cannot be changed"
            raise Refused(problem(ErrorCode.VALIDATION_ERROR, text))
        given, path = given.get("approved"), f"{path}.approved"
    if not isinstance(given, bool):
        raise _fault(path, "true or false", given)
    return {"approve": given}


def _entry(value: Any, path: str) -> ResumeEntry:
    fields = _object(value, path)
    question_id = _text(fields, "interruptId", path, ID_CHARACTERS)
    status = fields.get("status")
    if status not in ("resolved", "cancelled"):
        raise _fault(f"{path}.status", 'one of "cancelled", "resolved"', status)
    return ResumeEntry(path, question_id, status == "cancelled", fields.get("payload"))


def _role(value: Any, path: str) -> str:
    return _text(_object(value, path), "role", path, ID_CHARACTERS)


def _content(message: Mapping[str, Any], path: str) -> tuple[str, tuple[PostedFile, ...]]:
    """Return the text of a message of the user, its text parts joined, and its files."""
    content, path = message.get("content"), f"{path}.content"
    files: list[PostedFile] = []
    if isinstance(content, str):
        text = content
    elif isinstance(content, list):
        texts = []
        for number, each in enumerate(content):
            part = _object(each, f"{path}[{number}]")
            if part.get("type") in _FILES:
                files.append(_file(part, f"{path}[{number}]"))
            else:
                texts.append(_part(part, f"{path}[{number}]"))
        text = "\n".join(texts)
    else:
        raise _fault(path, "a string or an array", content)
    if not text.strip():
        raise _fault(path, "a text that is not blank", content)
    return text, tuple(files)


def _part(part: Mapping[str, Any], path: str) -> str:
    if part.get("type") != "text":
        raise _fault(f"{path}.type", f"one of text, {', '.join(_FILES)}", part.get("type"))
    if not isinstance(part.get("text"), str):
        raise _fault(f"{path}.text", "a string", part.get("text"))
    return str(part["text"])


def _file(part: Mapping[str, Any], path: str) -> PostedFile:
    """Return the file of a part: of `binary`, or of a type with a `source`."""
    if part["type"] == "binary":
        name = part.get("filename")
        if isinstance(part.get("id"), str) and part["id"]:
            return PostedFile.uploaded(part["id"])
        field_ = "data" if part.get("data") is not None else "url"
        value = part.get(field_)
        is_data = field_ == "data"
    else:
        metadata = part.get("metadata")
        name = metadata.get("filename") if isinstance(metadata, dict) else None
        source = _object(part.get("source"), f"{path}.source")
        path, field_, value = f"{path}.source", "value", source.get("value")
        is_data = source.get("type") == "data"
    found = read_base64(value, name=name) if is_data else read_url(value, name=name)
    if found is None:
        raise _fault(f"{path}.{field_}", "Base64" if is_data else EXPECTED, value)
    return found


def _held(messages: Sequence[Mapping[str, Any]]) -> Held:
    """Return what the messages behind that of the user have; other shapes of them are ignored."""
    texts: dict[str, str] = {}
    calls: dict[str, str] = {}
    results: set[str] = set()
    for message in messages:
        message_id, content = message.get("id"), message.get("content")
        if message["role"] == "tool" and isinstance(message.get("toolCallId"), str):
            results.add(message["toolCallId"])
        elif message["role"] in {"assistant", "reasoning"} and isinstance(message_id, str):
            texts[message_id] = content if isinstance(content, str) else ""
            calls |= _calls(message.get("toolCalls"))
    return Held(texts, calls, frozenset(results))


def _calls(value: Any) -> dict[str, str]:
    calls = {}
    for call in value if isinstance(value, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(call.get("id"), str):
            arguments = function.get("arguments")
            calls[call["id"]] = arguments if isinstance(arguments, str) else ""
    return calls


def _object(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _fault(path, "an object", value)
    return value


def _array(fields: Mapping[str, Any], name: str, path: str, longest: int) -> list[Any]:
    value = fields.get(name)
    if not isinstance(value, list):
        raise _fault(f"{path}.{name}", "an array", value, is_missing=name not in fields)
    if len(value) > longest:
        raise _fault(f"{path}.{name}", f"at most {longest} elements", value)
    return value


def _text(fields: Mapping[str, Any], name: str, path: str, longest: int) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= longest:
        expected = f"a string of 1 to {longest} characters"
        raise _fault(f"{path}.{name}", expected, value, is_missing=name not in fields)
    return value


def _fault(path: str, expected: str, value: object, *, is_missing: bool = False) -> Refused:
    got = "missing" if is_missing else f"expected {expected}, got {show(value)}"
    return Refused(problem(ErrorCode.VALIDATION_ERROR, f"{path}: {got}"))


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]
