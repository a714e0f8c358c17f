"""One answer of a model, put together from the chunks of the Chat Completions API, without I/O.

completion = Completion()
delta = completion.feed('{"choices": [{"delta": {"content": "Hi"}}]}')
delta.text       # "Hi"
completion.feed("[DONE]")
"""

import json
from math import isfinite
from typing import Any

import orjson
from attrs import define, field, frozen

from netra_trio.agents.checks import TOKENS_MAX
from netra_trio.models.errors import ModelError
from netra_trio.protocol.fields import JsonObject

DONE = "[DONE]"
ANSWER_BYTES = 4 * 1024 * 1024  # of text, thoughts and arguments: more than any model writes
CALLS_MAX = 64  # of tools in one answer
UNFINISHED = "The model's answer broke off."


@frozen
class Delta:
    """A piece of an answer.

    Attributes:
        text: The new part of the answer's text.
        thought: The new part of the reasoning before it.
    """

    text: str = ""
    thought: str = ""


@define
class ToolCall:
    """A tool call of the model.

    Attributes:
        id: The model's id of the call.
        name: The name of the tool.
        arguments: JSON, as the model wrote it.
    """

    id: str
    name: str = ""
    arguments: str = ""


@frozen
class Usage:
    """The tokens of one answer, as the provider counts them.

    Attributes:
        input_tokens: The tokens of the request.
        output_tokens: The tokens of the answer, with those of the reasoning.
        cost: In the provider's currency; None if the provider sends no cost.
    """

    input_tokens: int
    output_tokens: int
    cost: float | None = None


@define
class Completion:
    """An answer, as far as it has arrived.

    Attributes:
        tool_calls: In the order in which they began.
        finish_reason: Why the model ended the answer; None while it has not.
        usage: The tokens; None if the provider did not count them.
        has_bad_usage: Whether the provider sent a number of tokens or a cost that is invalid.
        is_done: Whether the provider ended the stream itself.
        has_output: Whether a part of the answer has arrived.
    """

    tool_calls: list[ToolCall] = field(factory=list)
    finish_reason: str | None = None
    usage: Usage | None = None
    has_bad_usage: bool = False
    is_done: bool = False
    has_output: bool = False
    _texts: list[str] = field(factory=list)
    _slots: dict[int, ToolCall] = field(factory=dict)
    _size: int = 0

    @property
    def text(self) -> str:
        """The text of the answer."""
        return "".join(self._texts)

    @property
    def is_finished(self) -> bool:
        """Whether the answer is complete: some providers omit the end of the stream."""
        return self.is_done or self.finish_reason is not None

    def feed(self, data: str) -> Delta:
        """Take the data of one message, and return the new part of the answer.

        Raises:
            ModelError: It is an error of the provider, no chunk, or the answer is too long. The
                detail may have a whole message of the server, with the key in it.
        """
        if data.strip() == DONE:
            self.is_done = True
            return Delta()
        chunk = _parsed(data)
        if not isinstance(chunk, dict):
            raise ModelError(
                "The model's server sent an answer that cannot be read.",
                f"expected a JSON object in the stream, got {data}",
            )
        if chunk.get("error"):
            raise _error_of(chunk["error"])
        self._take_usage(chunk.get("usage"))
        choices = _objects(chunk.get("choices"))
        return self._take_choice(choices[0]) if choices else Delta()

    def message(self) -> JsonObject:
        """Return the answer as a message for the next request."""
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments or "{}"},
            }
            for call in self.tool_calls
        ]
        return {"role": "assistant", "content": self.text or None, "tool_calls": calls}

    def _take_usage(self, value: Any) -> None:
        if not isinstance(value, dict) or not value:
            return
        given, written = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens"))
        cost = _cost(value.get("cost"))
        if given is not None and written is not None:
            self.usage = Usage(given, written, cost)
        if given is None or written is None or (cost is None and value.get("cost") is not None):
            self.has_bad_usage = True

    def _take_choice(self, choice: JsonObject) -> Delta:
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self.finish_reason = reason
        # A server that does not stream sends the whole message in place of a delta.
        part = choice.get("delta") or choice.get("message")
        if not isinstance(part, dict):
            return Delta()
        text = _text_of(part.get("content")) or _text_of(part.get("refusal"))
        thought = _text_of(part.get("reasoning_content")) or _text_of(part.get("reasoning"))
        self._grow(text, thought)
        if text:
            self._texts.append(text)
        for piece in _objects(part.get("tool_calls")):
            self._take_call(piece)
        return Delta(text, thought)

    def _take_call(self, piece: JsonObject) -> None:
        function = piece.get("function")
        if not isinstance(function, dict):
            return
        id_, name = _text_of(piece.get("id")), _text_of(function.get("name"))
        arguments = function.get("arguments")
        if isinstance(arguments, dict):  # some local servers do not encode them
            arguments = orjson.dumps(arguments).decode()
        call = self._call_at(piece.get("index"), id_)
        if name != call.name:  # some providers repeat the whole name in each piece
            call.name += name
        call.arguments += (text := _text_of(arguments))
        self._grow(name, text)
        self.has_output = True

    def _call_at(self, index: object, id_: str) -> ToolCall:
        """Return the call that a piece belongs to: by its index, else by its id."""
        known = [call for call in self.tool_calls if id_ and call.id == id_]
        at_index = self._slots.get(index) if isinstance(index, int) else None
        call = known[0] if known else at_index
        if call is None and not id_ and index is None and self.tool_calls:
            return self.tool_calls[-1]
        # Some servers number each call with 0: then a new id begins a new call.
        if call is None or (id_ and call.id != id_):
            if len(self.tool_calls) == CALLS_MAX:
                raise ModelError(f"The model asked for more than {CALLS_MAX} tools at once.")
            call = ToolCall(id_ or f"call_{len(self.tool_calls)}")
            self.tool_calls.append(call)
        if isinstance(index, int):
            self._slots[index] = call
        return call

    def _grow(self, *texts: str) -> None:
        size = sum(len(text.encode(errors="replace")) for text in texts)
        self._size += size
        self.has_output = self.has_output or size > 0
        if self._size > ANSWER_BYTES:
            raise ModelError(f"The model's answer is longer than {ANSWER_BYTES} bytes.")


def _parsed(data: str) -> Any:
    """Return a JSON value; None if the text is not JSON."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data)  # accepts lone surrogates: some servers split pairs
    except (ValueError, RecursionError):
        return None


def _objects(value: object) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _text_of(value: Any) -> str:
    """Return a text, or the texts of a list of parts joined."""
    if isinstance(value, list):
        return "".join(_text_of(part.get("text")) for part in _objects(value))
    # JSON may escape a lone surrogate, which cannot be sent on.
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= TOKENS_MAX else None


def _cost(value: Any) -> float | None:
    if type(value) is int:  # it may be too large for a float
        return float(value) if 0 <= value <= TOKENS_MAX else None
    return value if type(value) is float and isfinite(value) and value >= 0 else None


def _error_of(error: object) -> ModelError:
    shown = error.get("message", error) if isinstance(error, dict) else error
    return ModelError("The model's server reported an error.", f"the server sent an error: {shown}")
