"""The body of `POST /api/chat`, as `DefaultChatTransport` of the Vercel AI SDK posts it.

    >>> parts = [{"type": "text", "text": "hello"}]
    >>> message = {"id": "m-1", "role": "user", "parts": parts}
    >>> chat = decode_chat({"id": "c-1", "messages": [message], "trigger": "submit-message"})
    >>> chat.said.text, chat.said.message_id
    ('hello', 'm-1')

The client posts all of its messages. Only what is new is read: the newest message of the user, or
the answers to questions of an agent. Fields that are not known are ignored.
"""

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from netra_trio.endpoints.doors.posted_files import EXPECTED, PostedFile, read_url
from netra_trio.protocol.codec import show
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.fields import CORRELATION_ID_CHARACTERS, THREAD_ID_TEXT, is_thread_id
from netra_trio.protocol.problem import Refused, problem

SUBMIT, REGENERATE = "submit-message", "regenerate-message"

_TRIGGERS = (SUBMIT, REGENERATE)
_OPEN = "input-available"  # the state of a tool call without a result


@frozen
class Said:
    """A message of the user.

    Attributes:
        text: Its text parts, joined.
        message_id: Its id.
        target: The id of the message that it replaces: of the user's, which is edited or sent again
            at its position, or with `regenerates` of the agent's. None for a new one.
        regenerates: Whether another answer to the same message is asked for.
        files: Its files.
    """

    text: str
    message_id: str
    target: str | None
    regenerates: bool
    files: tuple[PostedFile, ...] = ()


@frozen
class Given:
    """The user's answer to a question of an agent.

    Attributes:
        question_id: The question.
        approve: Of an approval: whether the call is allowed; otherwise None.
        answer: Of a question: the answer.
    """

    question_id: str
    approve: bool | None = None
    answer: Any = None


@frozen
class Chat:
    """The body that a client posts: a message of the user, or answers.

    Attributes:
        chat_id: The thread.
        agent: The agent; None for the default one.
        said: The message; None where there are answers.
        given: The answers.
        metadata: The metadata of the message that the answers continue.
        tools: The tool calls of that message that have no result.
    """

    chat_id: str
    agent: str | None
    said: Said | None = None
    given: tuple[Given, ...] = ()
    metadata: Mapping[str, Any] | None = None
    tools: frozenset[str] = frozenset()


def check_chat_id(value: object, path: str) -> str:
    """Return the id of a chat.

    Raises:
        Refused: BAD_REQUEST.
    """
    if not isinstance(value, str) or not is_thread_id(value):
        raise _bad(f"{path}: expected {THREAD_ID_TEXT}, got {show(value)}")
    return value


def decode_chat(body: object) -> Chat:
    """Return what the body of a request asks for.

    Raises:
        Refused: BAD_REQUEST, with the JSON path of the fault.
    """
    if not isinstance(body, dict):
        raise _bad(f"$: expected an object, got {show(body)}")
    chat_id = check_chat_id(body.get("id"), "$.id")
    trigger = body.get("trigger", SUBMIT)
    if trigger not in _TRIGGERS:
        raise _bad(f"$.trigger: expected one of {', '.join(_TRIGGERS)}, got {show(trigger)}")
    agent = _optional_text(body, "agent")
    target = _optional_text(body, "messageId")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _bad(f"$.messages: expected a non-empty array, got {show(messages)}")
    for place, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _bad(f"$.messages[{place}]: expected an object, got {show(message)}")
    if trigger == SUBMIT:
        continued = _continued(messages, target)
        given = _given(body, messages, continued)
        if given:
            if continued is None:
                return Chat(chat_id, agent, given=given)
            metadata = messages[continued].get("metadata")
            known = metadata if isinstance(metadata, dict) else None
            tools = _open_tools(messages[continued], continued)
            return Chat(chat_id, agent, given=given, metadata=known, tools=tools)
    said = _said(messages, target, regenerates=trigger == REGENERATE)
    return Chat(chat_id, agent, said=said)


def _continued(messages: list[dict[str, Any]], target: str | None) -> int | None:
    """Return the place of the message of an agent that the request continues; None for none."""
    places = range(len(messages) - 1, -1, -1)
    named = next((place for place in places if messages[place].get("id") == target), None)
    place = len(messages) - 1 if target is None or named is None else named
    return place if messages[place].get("role") == "assistant" else None


def _given(
    body: Mapping[str, Any], messages: list[dict[str, Any]], continued: int | None
) -> tuple[Given, ...]:
    """Return the answers of a request; none if it has a message of the user."""
    if body.get("answer") is not None:
        return (_answer(body["answer"]),)
    if continued is None:
        return ()
    given = tuple(
        _approval(part.get("approval"), f"{path}.approval")
        for path, part in _parts(messages[continued], continued)
        if part.get("state") == "approval-responded"
    )
    if not given:
        text = "a message of the assistant needs an answered approval, or the body an answer"
        raise _bad(f"$.messages[{continued}]: {text}")
    return given


def _open_tools(message: Mapping[str, Any], place: int) -> frozenset[str]:
    open_parts = (part for _, part in _parts(message, place) if part.get("state") == _OPEN)
    calls = (part.get("toolCallId") for part in open_parts)
    return frozenset(call for call in calls if isinstance(call, str))


def _answer(answer: object) -> Given:
    if not isinstance(answer, dict):
        raise _bad(f"$.answer: expected an object, got {show(answer)}")
    question_id = _id_of(answer.get("questionId"), "$.answer.questionId")
    if answer.get("answer") is None:
        raise _bad("$.answer.answer: missing")
    return Given(question_id, answer=answer["answer"])


def _approval(approval: object, path: str) -> Given:
    if not isinstance(approval, dict):
        raise _bad(f"{path}: expected an object, got {show(approval)}")
    question_id = _id_of(approval.get("id"), f"{path}.id")
    approved = approval.get("approved")
    if not isinstance(approved, bool):
        raise _bad(f"{path}.approved: expected a boolean, got {show(approved)}")
    return Given(question_id, approve=approved)


def _said(messages: list[dict[str, Any]], target: str | None, *, regenerates: bool) -> Said:
    place = len(messages) - 1
    while place >= 0 and messages[place].get("role") != "user":
        place -= 1
    if place < 0:
        raise _bad("$.messages: expected a message of the user, got none")
    message_id = _id_of(messages[place].get("id"), f"$.messages[{place}].id")
    texts, files = [], []
    for path, part in _parts(messages[place], place):
        if part.get("type") == "file":
            file = read_url(part.get("url"), name=part.get("filename"))
            if file is None:
                raise _bad(f"{path}.url: expected {EXPECTED}, got {show(part.get('url'))}")
            files.append(file)
        if part.get("type") == "text":
            if not isinstance(part.get("text"), str):
                raise _bad(f"{path}.text: expected a string, got {show(part.get('text'))}")
            texts.append(part["text"])
    text = "".join(texts)
    if not text.strip():
        raise _bad(f"$.messages[{place}].parts: expected text, got none")
    if "\0" in text:
        raise _bad(f"$.messages[{place}].parts: expected text without NUL")
    return Said(text, message_id, target, regenerates, tuple(files))


def _parts(message: Mapping[str, Any], place: int) -> list[tuple[str, dict[str, Any]]]:
    """Return the parts of a message with their paths."""
    parts, path = message.get("parts"), f"$.messages[{place}].parts"
    if not isinstance(parts, list):
        raise _bad(f"{path}: expected an array, got {show(parts)}")
    for index, part in enumerate(parts):
        if not isinstance(part, dict):
            raise _bad(f"{path}[{index}]: expected an object, got {show(part)}")
    return [(f"{path}[{index}]", part) for index, part in enumerate(parts)]


def _id_of(value: object, path: str) -> str:
    if isinstance(value, str) and 1 <= len(value) <= CORRELATION_ID_CHARACTERS:
        if "\0" not in value:
            return value
        raise _bad(f"{path}: expected a string without NUL")
    expected = f"a string of 1 to {CORRELATION_ID_CHARACTERS} characters"
    raise _bad(f"{path}: expected {expected}, got {show(value)}")


def _optional_text(body: Mapping[str, Any], name: str) -> str | None:
    return None if body.get(name) is None else _id_of(body[name], f"$.{name}")


def _bad(text: str) -> Refused:
    return Refused(problem(ErrorCode.BAD_REQUEST, text))
