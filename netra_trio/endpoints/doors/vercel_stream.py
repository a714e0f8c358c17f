"""Translates the events of a run into the UI message stream of the Vercel AI SDK, version 1.

    translator = UIMessageStream("run_1", "thread")
    translator.begin()                       # data: {"type":"start","messageId":"run_1",…}
    translator.event({"type": "partial_result", "payload": {"content": "Hello"}})

The message of the agent has the id of its run, so that a client that reads the stream again updates
the same message. A thought becomes one block of reasoning, and the text between thoughts, tools and
questions one block of text.

A client sends nothing before a stream has ended. Therefore a question ends it, and the request with
the answer continues the message. An approval is the part of a dynamic tool, whose `toolCallId` is
the id of the question; the events of the approved call go to the same part. Each question begins a
step, because the client looks for unanswered tools in the last step only.

Left out, because the protocol has no place for it: the numbers of thoughts, the durations of tools,
the position of a queued run, and binary results.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson
from attrs import frozen

from netra_trio.endpoints.doors.sse import KEEP_ALIVE, SSE_HEADERS, sse
from netra_trio.protocol.messages import (
    AgentAsking,
    AgentCompleted,
    AgentStarted,
    AgentThinking,
    AgentUsage,
    PartialResult,
    QuestionKind,
    QuestionOutcome,
    RunStatus,
    ToolCompleted,
    ToolExecuting,
)
from netra_trio.protocol.problem import Problem

STREAM_HEADER = "x-vercel-ai-ui-message-stream"
DONE = sse("[DONE]")
CUT_OFF = "The tool call was cut off."
NOT_CALLED = "The tool was not called."

_ENDS = {
    RunStatus.FAILED: "The run has failed.",
    RunStatus.TIMED_OUT: "The run took too long.",
    RunStatus.INTERRUPTED: "The server ended before the run.",
}


@frozen
class ClosedQuestion:
    """A question that is closed, and that the client has shown.

    Attributes:
        question: The fields of `agent_asking`.
        outcome: How it was closed.
        approve: What the client has answered to an approval; None for a question.
        answer: The answer.
    """

    question: Mapping[str, Any]
    outcome: str
    approve: bool | None = None
    answer: Any = None


class UIMessageStream:
    """Translates the events of one run; implements `answering.Translator`.

    Args:
        run_id: The run.
        thread_id: Its thread.
        closed: The questions whose answers the stream continues; empty for the start of a run.
        metadata: The metadata of the message that it continues.
        tools: The tool calls of that message that have no result.

    Attributes:
        is_complete: Whether the stream is complete: the run has ended, or asks.
        has_ended: Whether the run has ended.
    """

    headers: Mapping[str, str] = {**SSE_HEADERS, STREAM_HEADER: "v1"}
    keep_alive = KEEP_ALIVE

    def __init__(
        self,
        run_id: str,
        thread_id: str,
        *,
        closed: Sequence[ClosedQuestion] = (),
        metadata: Mapping[str, Any] | None = None,
        tools: Iterable[str] = (),
    ) -> None:
        self._run_id = run_id
        self._thread_id = thread_id
        self._closed = closed
        self._usage = _usage_of(metadata)
        self._text: str | None = None  # the id of the open block
        self._blocks = 0
        # The part of each call that has not ended.
        self._tools: dict[str, str] = {call_id: call_id for call_id in tools}
        self._approved: list[Mapping[str, Any]] = []  # questions whose call has not begun
        self.is_complete = False
        self.has_ended = False
        self._is_truncated = False
        self._translations: Mapping[str, Callable[[Mapping[str, Any]], bytes]] = {
            AgentStarted.TYPE: self._started,
            AgentThinking.TYPE: self._thought,
            PartialResult.TYPE: self._delta,
            "text_omitted": self._omitted,
            ToolExecuting.TYPE: self._tool_started,
            ToolCompleted.TYPE: self._tool_ended,
            AgentAsking.TYPE: self._asked,
            AgentUsage.TYPE: self._used,
            AgentCompleted.TYPE: self._completed,
        }

    def begin(self) -> bytes:
        """Return the start of the message, and the outcomes of its answered questions."""
        metadata = {"runId": self._run_id, "threadId": self._thread_id}
        data = _chunk("start", messageId=self._run_id, messageMetadata=metadata)
        data += _chunk("start-step")
        return data + b"".join(self._note_closed(closed) for closed in self._closed)

    def event(self, frame: Mapping[str, Any]) -> bytes:
        """Return the chunks of an event; empty if the protocol has nothing for it."""
        translate = self._translations.get(frame["type"])
        return b"" if translate is None else translate(frame["payload"])

    def lost(self, fault: Problem) -> bytes:
        """Return the end of a stream whose run was lost, or goes on without it."""
        self.is_complete = True
        return self._end_step() + _chunk("error", errorText=fault.error) + DONE

    def _note_closed(self, closed: ClosedQuestion) -> bytes:
        question = closed.question
        if question["kind"] != QuestionKind.APPROVAL:
            return _question(question, outcome=closed.outcome, answer=closed.answer)
        is_approved = closed.outcome == QuestionOutcome.APPROVED
        data = b""
        if is_approved is not closed.approve:  # another client was first, or the time was over
            question_id = question["question_id"]
            reason = {} if is_approved else {"reason": closed.outcome}
            data = _chunk(
                "tool-approval-response", approvalId=question_id, approved=is_approved, **reason
            )
        if is_approved:
            self._approved.append(question)
            return data
        return data + _chunk("tool-output-denied", toolCallId=question["question_id"])

    def _started(self, event: Mapping[str, Any]) -> bytes:
        data = b""
        if event["attempt"] > 1:
            data = self._end_step() + self._close_tools() + _chunk("start-step")
        return data + _metadata(agent=event["agent_name"])

    def _thought(self, event: Mapping[str, Any]) -> bytes:
        data, block = self._close_text(), self._new_block()
        data += _chunk("reasoning-start", id=block)
        data += _chunk("reasoning-delta", id=block, delta=event["thought"])
        return data + _chunk("reasoning-end", id=block)

    def _delta(self, event: Mapping[str, Any]) -> bytes:
        data = b""
        if self._text is None:
            self._text = self._new_block()
            data = _chunk("text-start", id=self._text)
        return data + _chunk("text-delta", id=self._text, delta=event["content"])

    def _omitted(self, _: Mapping[str, Any]) -> bytes:
        self._is_truncated = True
        return _metadata(truncated=True)

    def _tool_started(self, event: Mapping[str, Any]) -> bytes:
        call_id, name = event["tool_call_id"], event["tool_name"]
        for question in self._approved:
            if _is_call_of(event, question):
                self._approved.remove(question)
                self._tools[call_id] = question["question_id"]
                return self._close_text()
        self._tools[call_id] = call_id
        return self._close_text() + _tool(call_id, name, event.get("arguments"))

    def _tool_ended(self, event: Mapping[str, Any]) -> bytes:
        part = self._tools.pop(event["tool_call_id"], None)
        if part is None:  # it has begun before the events that are translated
            part = event["tool_call_id"]
        if event["success"]:
            return _chunk("tool-output-available", toolCallId=part, output=event.get("result"))
        return _chunk("tool-output-error", toolCallId=part, errorText=event["error"])

    def _asked(self, event: Mapping[str, Any]) -> bytes:
        self.is_complete = True
        data, reason = self._end_step() + _chunk("start-step"), "other"
        if event["kind"] == QuestionKind.APPROVAL:
            question_id, reason = event["question_id"], "tool-calls"
            data += _tool(question_id, event["tool_name"], event.get("arguments"))
            data += _chunk(
                "tool-approval-request",
                approvalId=question_id,
                toolCallId=question_id,
                reason=event["prompt"],
            )
        else:
            data += _question(event)
        return data + _chunk("finish-step") + _chunk("finish", finishReason=reason) + DONE

    def _used(self, event: Mapping[str, Any]) -> bytes:
        before_in, before_out = self._usage
        self._usage = (before_in + event["input_tokens"], before_out + event["output_tokens"])
        given, made = self._usage
        usage = {"inputTokens": given, "outputTokens": made, "totalTokens": given + made}
        return _metadata(usage=usage, model=event["model"])

    def _completed(self, event: Mapping[str, Any]) -> bytes:
        self.is_complete = self.has_ended = True
        status, error = event["status"], event.get("error") or {}
        data = self._end_step(self._close_tools())
        metadata = {"status": status, "durationMs": event["duration_ms"]}
        if "error_id" in error:
            metadata["errorId"] = error["error_id"]
        if status == RunStatus.COMPLETED:
            reason = "length" if self._is_truncated else "stop"
            data += _chunk("finish", finishReason=reason, messageMetadata=metadata)
        else:
            data += _metadata(**metadata)
            text = error.get("error", _ENDS.get(status))
            if text is None:
                data += _chunk("abort", reason="The run was stopped.")
            else:
                data += _chunk("error", errorText=text)
        return data + DONE

    def _end_step(self, last: bytes = b"") -> bytes:
        return self._close_text() + last + _chunk("finish-step")

    def _close_text(self) -> bytes:
        if self._text is None:
            return b""
        block, self._text = self._text, None
        return _chunk("text-end", id=block)

    def _close_tools(self) -> bytes:
        """End the parts of calls that have no result, which a client would wait for."""
        cut = [(part, CUT_OFF) for part in self._tools.values()]
        cut += [(question["question_id"], NOT_CALLED) for question in self._approved]
        self._tools.clear()
        self._approved.clear()
        return b"".join(
            _chunk("tool-output-error", toolCallId=part, errorText=text) for part, text in cut
        )

    def _new_block(self) -> str:
        self._blocks += 1
        return f"{self._run_id}-{self._blocks}"


_TOKENS = 2**53  # the integers that a client in JavaScript has exactly


def _usage_of(metadata: Mapping[str, Any] | None) -> tuple[int, int]:
    """Return the input and output tokens in the metadata, which the client may have changed."""
    given = (metadata or {}).get("usage")
    known = given if isinstance(given, dict) else {}
    first, second = (known.get(name) for name in ("inputTokens", "outputTokens"))
    return _tokens(first), _tokens(second)


def _tokens(value: Any) -> int:
    return value if type(value) is int and 0 <= value < _TOKENS else 0


def _is_call_of(event: Mapping[str, Any], question: Mapping[str, Any]) -> bool:
    """Whether a tool call is the one that was approved; shortened arguments are not compared."""
    if event["tool_name"] != question["tool_name"]:
        return False
    is_cut = event.get("truncated") or question.get("truncated")
    return bool(is_cut) or event.get("arguments") == question.get("arguments")


def _tool(call_id: str, name: str, arguments: Any) -> bytes:
    # The client executes no tool: it skips those that a provider executes.
    return _chunk(
        "tool-input-available",
        toolCallId=call_id,
        toolName=name,
        input=arguments,
        dynamic=True,
        providerExecuted=True,
    )


def _question(question: Mapping[str, Any], **closed: Any) -> bytes:
    data = {
        "questionId": question["question_id"],
        "prompt": question["prompt"],
        "schema": question.get("schema"),
        "expiresAt": question["expires_at"],
        **closed,
    }
    shown = {name: value for name, value in data.items() if value is not None}
    return _chunk("data-question", id=question["question_id"], data=shown)


def _metadata(**fields: Any) -> bytes:
    return _chunk("message-metadata", messageMetadata=fields)


def _chunk(kind: str, /, **fields: Any) -> bytes:
    return sse(orjson.dumps({"type": kind, **fields}))
