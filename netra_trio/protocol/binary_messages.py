"""Messages of clients in binary frames: a message whose attachment is in the same frame.

>>> from netra_trio.protocol.binary import join_binary
>>> text = b'{"type":"user_message","payload":{"content":"?","attachments":[{%s}]}}'
>>> payload = join_binary(text % b'"media_type":"image/png"', b"...")
>>> message = decode_binary(payload, max_size=200).message
>>> message.content, message.media_type, message.data
('?', 'image/png', b'...')
"""

from typing import Any

import attrs

from netra_trio.ids import CorrelationId
from netra_trio.protocol import codec
from netra_trio.protocol.binary import BadBinaryFrame, split_binary
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.fields import is_media_type
from netra_trio.protocol.inbound import INBOUND
from netra_trio.protocol.messages import UserMessage
from netra_trio.protocol.problem import problem
from netra_trio.protocol.rooms import RoomMessage
from netra_trio.values import frozen

_PATH = "$.payload.attachments"
_FIELD = "media_type"
_NAME_SHOWN = 40  # characters of an unknown field in an error text


@frozen
class BinaryUserMessage(UserMessage):
    """A `user_message` with the content of one attachment.

    Attributes:
        media_type: The type that the client has given.
        data: The content.
    """

    media_type: str = ""
    data: bytes = attrs.field(default=b"", repr=False)


@frozen
class BinaryRoomMessage(RoomMessage):
    """A `room_message` with the content of one attachment.

    Attributes:
        media_type: The type that the client has given.
        data: The content.
    """

    media_type: str = ""
    data: bytes = attrs.field(default=b"", repr=False)


_BINARY = {UserMessage: BinaryUserMessage, RoomMessage: BinaryRoomMessage}
_TYPES = [UserMessage.TYPE, RoomMessage.TYPE]


def decode_binary(payload: bytes, *, max_size: int) -> codec.Frame:
    """Return the message of a binary frame.

    Args:
        payload: The whole frame.
        max_size: Its maximum size in bytes.

    Raises:
        BadFrame: With the error code and the path of the invalid field.
    """
    if len(payload) > max_size:
        raise codec.BadFrame(codec.too_large(len(payload), max_size))
    try:
        frame, data = split_binary(payload)
    except BadBinaryFrame as bad:
        text = f"$: {bad}"
        raise codec.BadFrame(problem(ErrorCode.INVALID_MESSAGE_TYPE, text)) from None
    value = codec.parse(frame)
    correlation_id = codec.find_correlation_id(value)
    kind, fields = value.get("type"), value.get("payload")
    if type(kind) is str and kind in INBOUND and kind not in _TYPES:
        text = f"$.type: expected {' or '.join(_TYPES)} in a binary frame, got {codec.show(kind)}"
        raise codec.BadFrame(problem(ErrorCode.INVALID_MESSAGE_TYPE, text), correlation_id)
    attachments = None
    if type(fields) is dict and kind in _TYPES:
        attachments = fields.pop("attachments", None)
    decoded = codec.structure(value)
    message = decoded.message
    media_type = _media_type_of(attachments, decoded.correlation_id)
    given = attrs.asdict(message, recurse=False)
    binary = _BINARY[type(message)](**given, media_type=media_type, data=data)
    return codec.Frame(binary, decoded.correlation_id)


def _media_type_of(attachments: Any, correlation_id: CorrelationId | None) -> str:
    """Return the type of the only attachment.

    Raises:
        BadFrame: If there is not exactly one, or if it is not `{"media_type": …}`.
    """
    fault = _fault_of(attachments)
    if fault is not None:
        raise codec.BadFrame(problem(ErrorCode.VALIDATION_ERROR, fault), correlation_id)
    media_type: str = attachments[0][_FIELD]
    return media_type


def _fault_of(attachments: Any) -> str | None:
    expected = f"{_PATH}: expected an array of one object with the {_FIELD} of the data"
    if type(attachments) is not list:
        came = "nothing" if attachments is None else codec.show(attachments)
        return f"{expected}, got {came}"
    if len(attachments) != 1:
        return f"{expected}, got {len(attachments)} elements"
    [attachment] = attachments
    if type(attachment) is not dict:
        return f"{_PATH}[0]: expected an object with the {_FIELD}, got {codec.show(attachment)}"
    unknown = sorted(attachment.keys() - {_FIELD})
    if unknown:
        return f"{_PATH}[0].{unknown[0][:_NAME_SHOWN]}: unknown field"
    media_type = attachment.get(_FIELD)
    if type(media_type) is str and is_media_type(media_type):
        return None
    came = codec.show(media_type) if attachment else "nothing"
    return f"{_PATH}[0].{_FIELD}: expected a type such as image/png, got {came}"
