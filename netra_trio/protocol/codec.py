"""The JSON codec: decodes frames strictly, encodes messages, and reports the path of a bad field.

    >>> decode('{"type": "ping", "payload": {"n": 1}}').message
    Ping(payload={'n': 1})
    >>> decode('{"type": "ack", "payload": {"seq": "5"}}')
    Traceback (most recent call last):
    ...
    netra_trio.protocol.codec.BadFrame: $.payload.seq: expected an integer, got "5"

Types are strict because accepting `"5"` for `5` would hide an error of the client. The hooks of the
cattrs converter reject every coercion, and its exceptions become the error text.
"""

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from types import NoneType
from typing import Any, Final, NoReturn, Protocol, get_args

import attrs
import cattrs
import orjson
from cattrs.errors import AttributeValidationNote, ClassValidationError, ForbiddenExtraKeysError
from cattrs.gen import make_dict_unstructure_fn
from cattrs.preconf.orjson import make_converter

from netra_trio.errors import NetraError
from netra_trio.ids import CorrelationId, FileId, RunId
from netra_trio.protocol.binary import BinaryEvent
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.fields import (
    CORRELATION_ID_CHARACTERS,
    ExpectationError,
    JsonObject,
    JsonValue,
)
from netra_trio.protocol.inbound import INBOUND, Inbound
from netra_trio.protocol.messages import (
    Ack,
    AgentStarted,
    MessageConfirmed,
    OnBusy,
    Outbound,
    PartialResult,
    Ping,
    Pong,
    StopAgent,
    ToolCompleted,
    UserMessage,
)
from netra_trio.protocol.numbers import find_out_of_range, may_have_out_of_range
from netra_trio.protocol.problem import Problem, problem
from netra_trio.protocol.rooms import RoomGap
from netra_trio.protocol.threads import Rating
from netra_trio.values import frozen

OPEN_PAYLOAD_BYTES = 1024  # of the payload of ping and pong: docs/protocol.md, Limits
NESTING_LEVELS = 64  # docs/protocol.md, Frames; orjson can encode 254 levels
HARD_SIZE_FACTOR = 16  # a frame beyond 16 times the message limit ends the connection

_SHOWN_CHARACTERS = 40  # of an invalid value in an error text: enough to recognize it
_FAULTS_SHOWN = 5  # in one error: bounds the reply to a frame with many invalid fields
_NESTING_TEXT = f"at most {NESTING_LEVELS} levels of nesting"
_ENVELOPE = frozenset({"type", "payload", "timestamp", "correlation_id"})
_NUMBERS = frozenset({int, float})
_PLAIN: dict[type[Inbound] | None, dict[str, type]] = {
    UserMessage: {
        "content": str,
        "thread_id": str,
        "correlation_id": str,
        "agent": str,
        "deadline_ms": int,
    },
    Ack: {"seq": int},
    StopAgent: {"run_id": str},
}
"""The types of the fields of frequent messages, for `_plain_message`: only exact types."""


class BadFrame(NetraError):
    """A frame that is not a valid message.

    Attributes:
        problem: The error for the client.
        correlation_id: The correlation id of the frame, if it is valid.
    """

    def __init__(self, problem: Problem, correlation_id: CorrelationId | None = None) -> None:
        super().__init__(problem.error)
        self.problem = problem
        self.correlation_id = correlation_id


@frozen
class Encoded:
    """A message whose payload is already encoded as JSON: the end of a run, or a copy of it."""

    TYPE: str
    run_id: RunId
    payload: bytes


@frozen
class Frame:
    """A decoded frame: its message, and the correlation id of its envelope or its payload."""

    message: Any  # one of `Inbound`; the dispatcher selects the handler by its class
    correlation_id: CorrelationId | None


_EXPECTED: Final[dict[type, str]] = {
    str: "a string",
    int: "an integer",
    bool: "true or false",
    float: "a number",
    dict: "an object",
}


class _MismatchError(TypeError):
    """A value of the wrong type; the text has the expected type and the value."""

    def __init__(self, expected: str, value: object) -> None:
        super().__init__(f"expected {expected}, got {show(value)}")


class _UnfitPayloadError(ValueError):
    """A payload of ping or pong that is too large or nested too deeply."""


def show(value: object) -> str:
    """Return a JSON value for an error text: shortened, and objects and arrays without content."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS:
        value = value[:_SHOWN_CHARACTERS] + "…"
    return orjson.dumps(value).decode()


def _exactly(kind: type) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise _MismatchError(_EXPECTED[kind], value)
        return value

    return structure


def _one_of(value: Any, kind: type[Enum]) -> Enum:
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(str(member.value) for member in kind)
        raise _MismatchError(f"one of {names}", value) from None


def _object_or_string(value: Any, _: Any) -> Any:
    if type(value) is not str and type(value) is not dict:
        raise _MismatchError("an object or a string", value)
    if is_too_deep(value):
        raise _MismatchError(_NESTING_TEXT, value)
    return value


def _json_value(value: Any, _: Any) -> Any:
    if value is None:
        raise _MismatchError("a value that is not null", value)
    if is_too_deep(value):
        raise _MismatchError(_NESTING_TEXT, value)
    return value


def _file_ids(value: Any, _: Any) -> tuple[FileId, ...]:
    if type(value) is not list:
        raise _MismatchError("an array of file ids", value)
    for each in value:
        if type(each) is not str:
            raise _MismatchError("an array of strings, each a file id", each)
    return tuple(value)


def _rating(value: Any, _: Any) -> Rating | None:
    """Return a rating, or None."""
    if value is None:
        return None
    rating: Rating = _converter.structure(value, Rating)
    return rating


def _is_optional(kind: Any) -> bool:
    return NoneType in get_args(kind)


def _without_none(kind: type, converter: cattrs.Converter) -> Callable[[Any], dict[str, Any]]:
    """Return a hook that encodes a class, without its optional fields that are None."""
    optional: dict[str, Any] = {
        attribute.name: cattrs.override(omit_if_default=True)
        for attribute in attrs.fields(kind)
        if attribute.default is None
    }
    return make_dict_unstructure_fn(kind, converter, **optional)


def _confirmed(event: MessageConfirmed) -> dict[str, Any]:
    """Encode a confirmation, as cattrs would, in a third of the time: each message has one."""
    payload: dict[str, Any] = {
        "message_id": event.message_id,
        "run_id": event.run_id,
        "thread_id": event.thread_id,
        "status": event.status,
    }
    if event.position is not None:
        payload["position"] = event.position
    if event.run_status is not None:
        payload["run_status"] = event.run_status
    return payload


def _started(event: AgentStarted) -> dict[str, Any]:
    """Encode the start of a run, as cattrs would, in a third of the time: each run has one."""
    return {
        "run_id": event.run_id,
        "agent_name": event.agent_name,
        "thread_id": event.thread_id,
        "attempt": event.attempt,
    }


def _strict_converter() -> cattrs.Converter:
    converter = make_converter(forbid_extra_keys=True, detailed_validation=True)
    converter.register_unstructure_hook_factory(attrs.has, _without_none)
    for kind in (str, int, bool):
        converter.register_structure_hook(kind, _exactly(kind))
    # For the exact class: otherwise the hook of str would be used, which accepts any string.
    converter.register_structure_hook(OnBusy, _one_of)
    converter.register_structure_hook(Rating, _one_of)
    converter.register_structure_hook_func(lambda kind: kind == JsonObject | str, _object_or_string)
    converter.register_structure_hook_func(lambda kind: kind is JsonValue, _json_value)
    converter.register_structure_hook_func(lambda kind: kind == tuple[FileId, ...], _file_ids)
    # An optional field is omitted, never null.
    converter.register_structure_hook_factory(
        _is_optional, lambda kind: converter.get_structure_hook(get_args(kind)[0])
    )
    # Except here: null removes a rating.
    converter.register_structure_hook_func(lambda kind: kind == Rating | None, _rating)
    renamed = make_dict_unstructure_fn(RoomGap, converter, from_=cattrs.override(rename="from"))
    converter.register_unstructure_hook(RoomGap, renamed)
    without_none = _without_none(ToolCompleted, converter)

    def completed(event: ToolCompleted) -> dict[str, Any]:
        payload = without_none(event)
        if event.success:
            payload.setdefault("result", None)
        return payload

    converter.register_unstructure_hook(ToolCompleted, completed)
    converter.register_unstructure_hook(MessageConfirmed, _confirmed)
    converter.register_unstructure_hook(AgentStarted, _started)
    return converter


_converter = _strict_converter()


def decode(data: str | bytes, *, max_size: int | None = None) -> Frame:
    """Decode the text of one frame, `str` or UTF-8 `bytes`.

    Args:
        data: The text.
        max_size: The maximum size of a frame in bytes; None for no limit.

    Raises:
        BadFrame: With the error code, the path, and the correlation id if there is one.
    """
    return structure(parse(data, max_size=max_size))


def parse(data: str | bytes, *, max_size: int | None = None) -> JsonObject:
    """Return the JSON object of one frame, for `structure`; arguments and errors as of `decode`."""
    if not data:
        raise BadFrame(problem(ErrorCode.EMPTY_MESSAGE, "The frame is empty."))
    if max_size is not None and _bytes(data) > max_size:
        raise BadFrame(too_large(_bytes(data), max_size))
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        out_of_range = find_out_of_range(data)
        if out_of_range is not None:  # orjson reports a too large decimal as a syntax error
            raise BadFrame(problem(ErrorCode.VALIDATION_ERROR, out_of_range)) from None
        text = f"Not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        raise BadFrame(problem(ErrorCode.JSON_PARSE_ERROR, text)) from None
    if type(value) is not dict:
        text = f"$: expected an object, got {show(value)}"
        raise BadFrame(problem(ErrorCode.INVALID_MESSAGE_TYPE, text))
    found: JsonObject = value
    if may_have_out_of_range(data):
        out_of_range = find_out_of_range(data)
        if out_of_range is not None:
            raise BadFrame(
                problem(ErrorCode.VALIDATION_ERROR, out_of_range), find_correlation_id(value)
            )
    return found


def binary_frame() -> BadFrame:
    """Return the error for a binary frame: this format has text frames only."""
    text = "$: expected a text frame, got a binary one"
    return BadFrame(problem(ErrorCode.INVALID_MESSAGE_TYPE, text))


def too_large(size: int, max_size: int) -> Problem:
    """Return the error for a frame of `size` bytes if at most `max_size` are allowed."""
    text = f"The message has {size} bytes; at most {max_size} are allowed."
    return problem(ErrorCode.MESSAGE_TOO_LARGE, text)


def encode(
    message: Outbound | Encoded | BinaryEvent,
    timestamp: float,
    correlation_id: str | None = None,
    *,
    seq: int | None = None,
    seq_from: int | None = None,
) -> bytes:
    """Encode a message as UTF-8 JSON.

    Args:
        message: Any message that the server sends.
        timestamp: Unix seconds.
        correlation_id: The correlation id of the message that this one replies or belongs to.
        seq: The number of the event; None for control frames.
        seq_from: The first number of a merged event.
    """
    return encode_payload(
        message.TYPE,
        payload_of(message),
        timestamp,
        correlation_id,
        seq=seq,
        seq_from=seq_from,
    )


class NumberedEvent(Protocol):
    """An entry of the event log.

    Attributes:
        event: The event.
        timestamp: When it was appended, in Unix seconds.
        correlation_id: The correlation id of the message that it belongs to.
        seq: The number of the event; the last number of a merged event.
        seq_from: The first number of a merged event; None for any other event.
    """

    event: Any
    timestamp: float
    correlation_id: str | None
    seq: int
    seq_from: int | None


def encode_event(entry: NumberedEvent) -> bytes:
    """Encode an event as `encode` does; faster for deltas, because most events are deltas."""
    event = entry.event
    if type(event) is PartialResult and entry.seq_from is None:
        return orjson.dumps(
            {
                "type": "partial_result",
                "payload": {"run_id": event.run_id, "content": event.content},
                "timestamp": entry.timestamp,
                "correlation_id": entry.correlation_id,
                "seq": entry.seq,
            }
        )
    return encode(
        event, entry.timestamp, entry.correlation_id, seq=entry.seq, seq_from=entry.seq_from
    )


def payload_of(message: Outbound | Encoded | BinaryEvent) -> Any:
    """Return the payload of a message as a value that orjson can encode."""
    if isinstance(message, Encoded):
        return orjson.Fragment(message.payload)
    if isinstance(message, Ping | Pong):
        return message.payload  # any JSON object, as it was received
    if isinstance(message, BinaryEvent):
        return _converter.unstructure(message.result)
    return _converter.unstructure(message)


def encode_newest(messages: Sequence[Any], limit: int) -> list[Any]:
    """Encode the newest messages, as many as fit into `limit` bytes, and at least one.

    The encoded size counts, because some characters have six bytes in JSON.
    """
    fitting: list[Any] = []
    size = 0
    for message in reversed(messages):
        data = orjson.dumps(_converter.unstructure(message))
        size += len(data) + 1
        if fitting and size > limit:
            break
        fitting.append(orjson.Fragment(data))
    return fitting[::-1]


def encode_problem(fault: Problem, timestamp: float, correlation_id: str | None = None) -> bytes:
    """Encode an `error` frame; `timestamp` (Unix seconds) is in the envelope and in the payload."""
    return encode_payload("error", fault.body(timestamp), timestamp, correlation_id)


def encode_payload(
    kind: str,
    payload: Any,
    timestamp: float,
    correlation_id: str | None = None,
    *,
    seq: int | None = None,
    seq_from: int | None = None,
) -> bytes:
    """Encode an envelope with a payload that orjson can encode."""
    envelope: JsonObject = {"type": kind, "payload": payload, "timestamp": timestamp}
    if correlation_id is not None:
        envelope["correlation_id"] = correlation_id
    if seq is not None:
        envelope["seq"] = seq
        if seq_from is not None:
            envelope["seq_from"] = seq_from
    return orjson.dumps(envelope)


def structure(value: JsonObject) -> Frame:
    """Return the message of a JSON object.

    Raises:
        BadFrame: If it is not a valid message.
    """
    kind = value.get("type")
    if type(kind) is str and _is_plain_envelope(value):
        message = _plain_message(INBOUND.get(kind), value.get("payload"))
        if message is not None:
            return Frame(message, find_correlation_id(value))
    return _structure_strictly(value)


def _is_plain_envelope(value: JsonObject) -> bool:
    """Whether all fields except the payload are valid."""
    return (
        value.keys() <= _ENVELOPE
        and type(value.get("timestamp", 0)) in _NUMBERS
        and ("correlation_id" not in value or _is_correlation_id(value["correlation_id"]))
    )


def _plain_message(message_class: type[Inbound] | None, payload: object) -> Inbound | None:
    """Return the message if each of its fields has a type of the table `_PLAIN`, otherwise None.

    This is the fast path for nearly all frames. It accepts only frames that `_structure_strictly`
    accepts as well. A frame for which it returns None is decoded by `_structure_strictly`, which
    also makes the error text.
    """
    kinds = _PLAIN.get(message_class)
    if kinds is None or type(payload) is not dict:
        return None
    for name, value in payload.items():
        if type(value) is not kinds.get(name):
            return None
    try:
        return message_class(**payload)  # type: ignore[misc]  # it is a key of _PLAIN
    except (TypeError, ExpectationError):  # a field is missing, or has a wrong value
        return None


def _structure_strictly(value: JsonObject) -> Frame:
    correlation_id = find_correlation_id(value)

    def refuse(code: ErrorCode, text: str) -> NoReturn:
        raise BadFrame(problem(code, text), correlation_id)

    if "type" not in value:
        refuse(ErrorCode.MISSING_TYPE_FIELD, "$.type: expected a string, got nothing")
    kind = value["type"]
    if type(kind) is not str or not kind:
        refuse(ErrorCode.INVALID_TYPE_FIELD, f"$.type: expected a name, got {show(kind)}")
    message_class = INBOUND.get(kind)
    if message_class is None:
        known = ", ".join(INBOUND)
        text = f"$.type: expected one of {known}, got {show(kind)}"
        refuse(ErrorCode.UNKNOWN_MESSAGE_TYPE, text)
    faults = list(_envelope_faults(value))
    payload = value.get("payload", {})
    if not faults:
        try:
            message = _payload(message_class, payload)
        except ClassValidationError as error:
            faults = list(_payload_faults(error))
        except _UnfitPayloadError as error:
            faults = [f"$.payload: expected {error}"]
    if faults:
        refuse(ErrorCode.VALIDATION_ERROR, "; ".join(faults[:_FAULTS_SHOWN]))
    return Frame(message, correlation_id)


def _payload(message_class: type[Inbound], payload: JsonObject) -> Inbound:
    if message_class is Ping or message_class is Pong:
        if is_too_deep(payload):
            raise _UnfitPayloadError(_NESTING_TEXT)
        size = len(orjson.dumps(payload))
        if size > OPEN_PAYLOAD_BYTES:
            raise _UnfitPayloadError(f"at most {OPEN_PAYLOAD_BYTES} bytes, got {size}")
        return message_class(payload)
    return _converter.structure(payload, message_class)


def _envelope_faults(value: JsonObject) -> Iterator[str]:
    for name in sorted(value.keys() - _ENVELOPE):
        yield f"$.{_shown_name(name)}: unknown field"
    if "payload" in value and type(value["payload"]) is not dict:
        # The text of a string is not shown: it would be the token, if `auth` has it as payload.
        payload = value["payload"]
        came = "a string" if type(payload) is str else show(payload)
        yield f"$.payload: expected an object, got {came}"
    if "timestamp" in value and type(value["timestamp"]) not in (int, float):
        yield f"$.timestamp: expected a number, got {show(value['timestamp'])}"
    if "correlation_id" in value and not _is_correlation_id(value["correlation_id"]):
        came = show(value["correlation_id"])
        expected = f"a string of 1 to {CORRELATION_ID_CHARACTERS} characters"
        yield f"$.correlation_id: expected {expected}, got {came}"


def _payload_faults(error: ClassValidationError) -> Iterator[str]:
    for fault in error.exceptions:
        if isinstance(fault, ForbiddenExtraKeysError):
            for name in sorted(fault.extra_fields):
                yield f"$.payload.{_shown_name(name)}: unknown field"
        elif isinstance(fault, KeyError):
            yield f"$.payload.{fault.args[0]}: missing"
        elif isinstance(fault, ExpectationError):
            yield f"$.payload.{fault.field}: expected {fault.expected}, got {show(fault.value)}"
        else:
            yield f"$.payload.{_attribute(fault)}: {fault}"


def _attribute(fault: BaseException) -> str:
    """Return the name of the invalid attribute, from the note that cattrs adds to an exception."""
    notes = getattr(fault, "__notes__", ())
    return next(note.name for note in notes if isinstance(note, AttributeValidationNote))


def find_correlation_id(value: JsonObject) -> CorrelationId | None:
    """Return the correlation id of the envelope, or else of the payload, if it is valid."""
    if "correlation_id" in value:
        candidate = value["correlation_id"]
    else:
        payload = value.get("payload")
        if value.get("type") != UserMessage.TYPE or type(payload) is not dict:
            return None
        candidate = payload.get("correlation_id")
    return CorrelationId(candidate) if _is_correlation_id(candidate) else None


def _is_correlation_id(value: object) -> bool:
    return type(value) is str and 1 <= len(value) <= CORRELATION_ID_CHARACTERS


def _shown_name(name: str) -> str:
    return name if len(name) <= _SHOWN_CHARACTERS else name[:_SHOWN_CHARACTERS] + "…"


def _bytes(data: str | bytes) -> int:
    if isinstance(data, bytes) or data.isascii():
        return len(data)
    return len(data.encode(errors="surrogatepass"))


def is_too_deep(value: object) -> bool:
    """Whether JSON is nested deeper than the limit; without recursion, which has a limit too."""
    level = [value]
    for _ in range(NESTING_LEVELS):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
