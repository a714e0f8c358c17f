"""Writes the answers of the OpenAI door: chunks of a stream, or one completion.

    translator = ChatStream("run_1", model="chat", created=0, include_usage=False)
    translator.begin(), translator.event(frame)

Events without an equivalent in the protocol are omitted, or sent as reasoning, which clients show
and do not send back. Reasoning has the thoughts, and one line for each call of a tool. A call is
not written as `tool_calls`, because a client would run the tool itself. Files, feedback, titles and
results that are no text are omitted. If text is not known any more, the answer ends with the reason
`length`. This protocol has no way to answer a question: one ends the answer with an error.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from netra_trio.endpoints.doors.sse import KEEP_ALIVE, SSE_HEADERS, sse
from netra_trio.protocol.codes import ERRORS, ErrorCode
from netra_trio.protocol.messages import (
    AgentAsking,
    AgentCompleted,
    AgentThinking,
    AgentUsage,
    PartialResult,
    RunStatus,
    ToolCompleted,
    ToolExecuting,
)
from netra_trio.protocol.problem import Problem
from netra_trio.values import frozen

COLLECTED_CHARACTERS = 4 * 1024 * 1024  # of an answer that is no stream
DONE = sse("[DONE]")

_CONTENT, _REASONING = "content", "reasoning_content"
_INVALID, _LIMITED, _SERVER = "invalid_request_error", "rate_limit_error", "server_error"
QUOTA = "insufficient_quota"  # as code and as type; clients need not try again today
_CODES = {
    ErrorCode.AUTH_REQUIRED: "invalid_api_key",
    ErrorCode.INVALID_TOKEN: "invalid_api_key",
    ErrorCode.TOKEN_EXPIRED: "invalid_api_key",
    ErrorCode.AGENT_NOT_FOUND: "model_not_found",
    ErrorCode.RATE_LIMIT_EXCEEDED: "rate_limit_exceeded",
    ErrorCode.QUEUE_FULL: "rate_limit_exceeded",
    ErrorCode.AGENT_BUSY: "rate_limit_exceeded",
    ErrorCode.CONNECTION_LIMIT_EXCEEDED: "rate_limit_exceeded",
    ErrorCode.BUDGET_EXCEEDED: QUOTA,
}
_ENDS = {
    RunStatus.FAILED: (500, "The agent failed."),
    RunStatus.TIMED_OUT: (504, "The agent has not finished in time."),
    RunStatus.CANCELLED: (409, "The run was stopped."),
    RunStatus.INTERRUPTED: (503, "The server was stopped before the agent had finished."),
}


@frozen
class ChatError:
    """An error as the protocol has it.

    Attributes:
        status: The HTTP status of an answer that has not begun.
        body: The body, or the event of a stream.
    """

    status: int
    body: dict[str, Any]


def error_of(fault: Problem) -> ChatError:
    """Return the error of a refused request, or of a connection that has ended."""
    code = _CODES.get(fault.code, str(fault.code).lower())
    param = "model" if fault.code is ErrorCode.AGENT_NOT_FOUND else None
    message = _sentences(fault.error, fault.help)
    return _error(fault.status, code, message, param=param, error_id=fault.error_id)


def _error(
    status: int, code: str, message: str, *, param: str | None = None, error_id: str | None = None
) -> ChatError:
    kind = _INVALID if status < 500 else _SERVER  # noqa: PLR2004 - HTTP's own number
    kind = {"rate_limit_exceeded": _LIMITED, QUOTA: QUOTA}.get(code, kind)
    body = {"message": message, "type": kind, "param": param, "code": code}
    if error_id is not None:
        # In the text too, because clients show nothing else.
        body.update(message=f"{message} (error_id: {error_id})", error_id=error_id)
    return ChatError(status, {"error": body})


def _sentences(error: str, advice: str) -> str:
    """Return an error and its help as one text; an error with a path has no full stop."""
    return f"{error}{'' if error.endswith('.') else '.'} {advice}".strip()


class ChatReply:
    """The state of an answer, in a stream or not.

    Attributes:
        headers: The headers of the answer.
        error: Why there is no complete answer; None as long as there is none.
        is_asking: Whether the agent has asked a question, and its run has to be stopped.
        is_complete: Whether the answer is complete.
        finish_reason: Why it has ended: `length` if text is missing that is not known any more.
        usage: The usage that the agent has reported.
    """

    def __init__(self, run_id: str) -> None:
        self.headers: dict[str, str] = {"x-request-id": run_id}
        self.error: ChatError | None = None
        self.is_asking = False
        self.is_complete = False
        self.finish_reason = "stop"
        self._tokens = [0, 0]

    @property
    def usage(self) -> dict[str, int]:
        """The tokens that the agent has reported so far."""
        read, written = self._tokens
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        }

    def fail(self, error: ChatError) -> None:
        """End the answer with an error."""
        self.error, self.is_complete = error, True

    def take(self, frame: Mapping[str, Any]) -> tuple[str, str] | None:
        """Take an event; return the field of the answer that it adds to, and the text."""
        kind, payload = frame["type"], frame["payload"]
        if kind == PartialResult.TYPE:
            return _CONTENT, payload["content"]
        if kind == AgentThinking.TYPE:
            return _REASONING, payload["thought"] + "\n"
        if kind == ToolExecuting.TYPE:
            return _REASONING, f"Tool: {payload['tool_name']}\n"
        if kind == ToolCompleted.TYPE and not payload["success"]:
            return _REASONING, f"Tool failed: {payload['tool_name']}\n"
        if kind == AgentUsage.TYPE:
            self._tokens[0] += payload["input_tokens"]
            self._tokens[1] += payload["output_tokens"]
        elif kind == "text_omitted":
            self.finish_reason = "length"
        elif kind == AgentAsking.TYPE:
            self.is_asking = True
            text = "The agent asks a question, which this protocol has no way to answer."
            self.fail(_error(409, "question_not_supported", text))
        elif kind == AgentCompleted.TYPE:
            self.is_complete = True
            if payload["status"] != RunStatus.COMPLETED:
                self.fail(_error_of_end(payload))
        return None


def _error_of_end(payload: Mapping[str, Any]) -> ChatError:
    status = RunStatus(payload["status"])
    http_status, text = _ENDS[status]
    body = payload.get("error")
    if body is None:
        return _error(http_status, f"run_{status}", text)
    code = ErrorCode(body["code"])
    message = _sentences(body["error"], body["help"])
    shown = _CODES.get(code, str(code).lower())
    return _error(ERRORS[code].status, shown, message, error_id=body.get("error_id"))


class ChatStream(ChatReply):
    """Writes an answer as a stream of `chat.completion.chunk`: a `Translator`.

    Args:
        run_id: The run.
        model: The name of the agent.
        created: Unix seconds.
        include_usage: Whether a chunk with the usage is sent at the end.

    Attributes:
        keep_alive: A comment, which clients ignore.
    """

    keep_alive = KEEP_ALIVE

    def __init__(self, run_id: str, *, model: str, created: int, include_usage: bool) -> None:
        super().__init__(run_id)
        self.headers.update(SSE_HEADERS)
        self._include_usage = include_usage
        self._chunk = {
            "id": completion_id(run_id),
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        # A delta is encoded once, between two constant parts.
        before, after = self._encoded([_choice({"": 0})]).split(b'"":0')
        self._deltas = {
            name: before + b'"' + name.encode() + b'":' for name in (_CONTENT, _REASONING)
        }
        self._after = after

    def begin(self) -> bytes:
        """Return the chunk with the role."""
        return self._encoded([_choice({"role": "assistant", "content": ""})])

    def event(self, frame: Mapping[str, Any]) -> bytes:
        """Return the chunks of an event; empty if the protocol has nothing for it."""
        piece = self.take(frame)
        if piece is not None:
            field, text = piece
            return self._deltas[field] + orjson.dumps(text) + self._after
        if not self.is_complete:
            return b""
        if self.error is not None:
            return sse(orjson.dumps(self.error.body))
        end = self._encoded([_choice({}, self.finish_reason)])
        if self._include_usage:
            end += self._encoded([], self.usage)
        return end + DONE

    def lost(self, fault: Problem) -> bytes:
        """Return the error that ends the stream of a lost run."""
        return sse(orjson.dumps(error_of(fault).body))

    def _encoded(self, choices: list[Any], usage: dict[str, int] | None = None) -> bytes:
        chunk: dict[str, Any] = {**self._chunk, "choices": choices}
        if self._include_usage:
            chunk["usage"] = usage
        return sse(orjson.dumps(chunk))


class ChatCompletion(ChatReply):
    """Collects an answer as one `chat.completion`; arguments as of `ChatStream`."""

    def __init__(self, run_id: str, *, model: str, created: int) -> None:
        super().__init__(run_id)
        self._head = {
            "id": completion_id(run_id),
            "object": "chat.completion",
            "created": created,
            "model": model,
        }
        self._pieces: dict[str, list[str]] = {_CONTENT: [], _REASONING: []}
        self._characters = 0

    def add(self, frame: Mapping[str, Any]) -> bool:
        """Add an event; return whether the answer is complete."""
        piece = self.take(frame)
        if piece is not None:
            field, text = piece
            self._characters += len(text)
            self._pieces[field].append(text)
            if self._characters > COLLECTED_CHARACTERS:
                limit = f"The answer has more than {COLLECTED_CHARACTERS} characters."
                self.fail(_error(500, "answer_too_long", f'{limit} Send "stream": true.'))
        return self.is_complete

    @property
    def body(self) -> dict[str, Any]:
        """The completion."""
        message = {"role": "assistant", "content": "".join(self._pieces[_CONTENT]), "refusal": None}
        reasoning = "".join(self._pieces[_REASONING])
        if reasoning:
            message[_REASONING] = reasoning
        reason = self.finish_reason
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return {**self._head, "choices": [choice], "usage": self.usage}


def completion_id(run_id: str) -> str:
    """Return the id of the answer of a run."""
    return f"chatcmpl-{run_id}"


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
