"""The translator of the `ag-ui` door: the events of a run as those of AG-UI 1.0, as SSE.

    translator = AgUiTranslator("run_1", thread_id="t1", client_run_id="r1")
    translator.begin() + translator.event(frame) + …

The translation:

- The answer begins with `RUN_STARTED` and ends with `RUN_FINISHED` or `RUN_ERROR`; a run that was
  stopped ends with `RUN_ERROR` and the code `CANCELLED`.
- A text is a message of the assistant. A thought, a tool call or a question ends it, and later text
  is another message, so that all of it stands in its order.
- A thought is a span of reasoning with one message. A tool call is complete when it starts; its
  result is a message of its own.
- A question ends the answer with the outcome `interrupt`. An approval shows its tool call before
  that, with the id of the question; if it is approved, the call that follows is the same one.
- `agent_usage` is the custom event `usage`, and stands in the last event too.

Fields without an AG-UI equivalent are left out: the number of an attempt, the step numbers of
thoughts, the position in a queue, whether a result was shortened, and the duration of a tool.

Each event has an `id`, which says where in the run it stands: characters of text, steps, events of
the step that is being sent, whether a message is open, and the tool calls without a result. Such an
id makes the same place out of events that were merged or repeated, so an answer can be continued.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self, TypeAlias

import orjson
from attrs import evolve, frozen

from netra_trio.endpoints.doors.ag_ui_input import Held
from netra_trio.endpoints.doors.sse import KEEP_ALIVE, SSE_HEADERS, sse
from netra_trio.protocol.problem import Problem

PROTOCOL_VERSION = "1.0"
CANCELLED = "CANCELLED"
END_CODES: Mapping[str, str] = {
    "failed": "AGENT_ERROR",
    "timed_out": "AGENT_TIMEOUT",
    "interrupted": "INTERRUPTED",
    "cancelled": CANCELLED,
}
"""The code of `RUN_ERROR` for the status of a run, unless the run has an error with one."""

END_TEXTS: Mapping[str, str] = {
    "failed": "The agent has failed.",
    "timed_out": "The run has reached its time limit.",
    "interrupted": "The server has ended before the run.",
    "cancelled": "The run was stopped.",
}
APPROVAL_SCHEMA = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}},
    "required": ["approved"],
}
CLOSED_TEXTS: Mapping[str, str] = {
    "denied": "The user has denied the call.",
    "expired": "The call was not approved in time.",
    "cancelled": "The approval was cancelled.",
}
"""The result of a tool call whose approval was closed in this way."""

_ID = re.compile(
    r"([^/]{1,200})/(\d{1,15})/(\d{1,9})/(\d{1,2})/([01])/((?:\d{1,9}(?:,\d{1,9})*)?)(/end)?"
)

Event: TypeAlias = dict[str, Any]
Payload: TypeAlias = Mapping[str, Any]


@frozen
class Place:
    """A place in the events of a run: what was sent before it.

    Attributes:
        run_id: The run.
        characters: Of its text.
        steps: Of its steps.
        events: Of the events of the step that follows.
        is_open: Whether a message of text is open.
        pending: The steps that are tool calls without a result.
        is_end: Whether the last event was sent.
    """

    run_id: str
    characters: int = 0
    steps: int = 0
    events: int = 0
    is_open: bool = False
    pending: frozenset[int] = frozenset()
    is_end: bool = False

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the place that an id stands for; None if it is not an id of this door."""
        match = _ID.fullmatch(text)
        if match is None:
            return None
        run_id, characters, steps, events, is_open, pending, end = match.groups()
        calls = frozenset(int(each) for each in pending.split(",") if each)
        place = (int(characters), int(steps), int(events), is_open == "1")
        return cls(run_id, *place, calls, end is not None)

    def __str__(self) -> str:
        pending = ",".join(str(each) for each in sorted(self.pending))
        numbers = f"{self.characters}/{self.steps}/{self.events}/{int(self.is_open)}/{pending}"
        return f"{self.run_id}/{numbers}{'/end' if self.is_end else ''}"


@frozen
class ClosedQuestion:
    """A question that the request has answered.

    Attributes:
        tool_name: Of an approval: its tool.
        outcome: How it was closed.
    """

    tool_name: str | None
    outcome: str


class AgUiTranslator:
    """Writes the events of one run as those of AG-UI.

    Attributes:
        has_ended: Whether the end of the run was written.

    Args:
        run_id: The run.
        thread_id: The client's thread.
        client_run_id: The client's id of the run.
        place: Only what follows this place is written, without `RUN_STARTED`.
        held: The parts of the run that the client has: they are not written again.
        answered: Questions of the run: only what follows the last of them is written.
    """

    headers: Mapping[str, str] = SSE_HEADERS
    keep_alive = KEEP_ALIVE

    def __init__(
        self,
        run_id: str,
        *,
        thread_id: str,
        client_run_id: str,
        place: Place | None = None,
        held: Held | None = None,
        answered: Mapping[str, ClosedQuestion] | None = None,
    ) -> None:
        self.is_complete = False
        self.has_ended = False
        self._run_id = run_id
        self._ids = {"threadId": thread_id, "runId": client_run_id}
        self._place = place  # None once it is reached
        self._first_step = 0 if place is None else place.steps
        self._placed_steps = 0  # of the place, if not all of them are known any more
        self._held = Held() if held is None else held
        self._held_texts = dict(self._held.texts)
        self._answered = {} if answered is None else answered
        self._unseen = set(self._answered)  # nothing is written before all of them were seen
        self._late: list[tuple[int, str, str]] = []  # tool results that wait for that
        self._approved: dict[str, list[str]] = {}  # approvals whose call has not come, by tool
        self._characters = self._steps = self._events = 0
        self._open: str | None = None  # the id of the open message of text
        self._calls: dict[str, tuple[int, str]] = {}  # steps of calls, and their ids for the client
        self._pending: set[int] = set() if place is None else set(place.pending)
        self._usage: dict[str, tuple[int, int]] = {}
        self._writers: Mapping[str, Callable[[Payload], bytes]] = {
            "listed": self._listed,
            "partial_result": self._text,
            "text_omitted": self._omitted,
            "agent_thinking": self._thought,
            "tool_executing": self._tool,
            "tool_completed": self._result,
            "agent_asking": self._question,
            "question_closed": self._pass,
            "agent_usage": self._use,
            "agent_completed": self._end,
        }

    def begin(self) -> bytes:
        """Return `RUN_STARTED`, unless the answer is continued."""
        if self._place is not None:
            self.is_complete = self._place.is_end
            return b""
        started = {"type": "RUN_STARTED", **self._ids, "protocolVersion": PROTOCOL_VERSION}
        return self._write(started)

    def event(self, frame: Mapping[str, Any]) -> bytes:
        """Return the events for a frame; empty if AG-UI has nothing for it."""
        write = self._writers.get(frame["type"])
        if write is None or self.is_complete:
            return b""
        self._reach()
        return write(frame["payload"])

    def lost(self, fault: Problem) -> bytes:
        """Return the end of an answer whose run was lost, or goes on without it."""
        fields = {"message": fault.error, "code": str(fault.code)}
        return self._close() + self._write({"type": "RUN_ERROR", **fields})

    def _reach(self) -> None:
        """Begin to write if the place is reached where the answer is continued."""
        place = self._place
        if place is None or (self._steps, self._characters) < (place.steps, place.characters):
            return
        self._place = None
        if self._steps == place.steps:  # else some of them are not known any more
            self._steps = max(self._steps, self._placed_steps)
            self._events = place.events
            self._open = self._message_id if place.is_open else None

    @property
    def _is_silent(self) -> bool:
        return self._place is not None or bool(self._unseen)

    @property
    def _message_id(self) -> str:
        return f"{self._run_id}-{self._steps}"

    def _write(self, event: Event) -> bytes:
        """Return an event as SSE; its id is the place behind it."""
        place = self._place
        if place is None:
            is_open = self._open is not None
            numbers = (self._characters, self._steps, self._events, is_open)
        else:
            numbers = (place.characters, place.steps, place.events, place.is_open)
        here = Place(self._run_id, *numbers, frozenset(self._pending), self.is_complete)
        return sse(orjson.dumps(event), id=str(here))

    def _listed(self, payload: Payload) -> bytes:
        """Find the place although the last of its steps are not known any more."""
        place = self._place
        if place is None or payload["steps"] >= place.steps:
            return b""
        self._place = evolve(place, steps=payload["steps"], events=0)
        self._placed_steps = place.steps
        return self._write({"type": "CUSTOM", "name": "steps_omitted", "value": {}})

    def _omitted(self, payload: Payload) -> bytes:
        """Tell that text is missing, unless the client has it."""
        place, characters = self._place, payload.get("characters")
        had = 0 if place is None else place.characters - self._characters
        self._characters += characters or 0
        if characters is not None and characters <= had:
            return b""
        value = {} if characters is None else {"characters": characters - max(had, 0)}
        return self._write({"type": "CUSTOM", "name": "text_omitted", "value": value})

    def _text(self, payload: Payload) -> bytes:
        text, message_id, place = payload["content"], self._message_id, self._place
        had = self._held_texts.get(message_id, "")
        self._held_texts[message_id] = had[len(text) :]
        sent = 0 if place is None else max(place.characters - self._characters, 0)
        self._characters += len(text)
        self._reach()
        text = text[max(sent, len(had)) :]
        if self._is_silent or not text:
            return b""
        data = b""
        if self._open is None:
            self._characters -= len(text)
            self._open = message_id
            fields = {"messageId": message_id, "role": "assistant"}
            data = self._write({"type": "TEXT_MESSAGE_START", **fields})
            self._characters += len(text)
        fields = {"messageId": message_id, "delta": text}
        return data + self._write({"type": "TEXT_MESSAGE_CONTENT", **fields})

    def _close(self) -> bytes:
        """Return the end of the open message; empty if none is open."""
        if self._open is None:
            return b""
        message_id, self._open = self._open, None
        return self._write({"type": "TEXT_MESSAGE_END", "messageId": message_id})

    def _step(self, events: Sequence[Event], *, is_end: bool = False) -> bytes:
        """Return the events of a step that were not sent; it ends an open message.

        Args:
            events: All of its events.
            is_end: Whether the last one completes the answer.
        """
        data = b"" if self._is_silent else self._close()
        sent = self._events
        for count, event in enumerate(events, 1):
            is_last = count == len(events)
            if is_last:
                self.is_complete = is_end
                self._advance()
            else:
                self._events = count
            if count > sent and not self._is_silent:
                data += self._write(event)
        if not events:
            self._advance()
        return data

    def _advance(self) -> None:
        self._steps += 1
        self._events = 0

    def _thought(self, payload: Payload) -> bytes:
        message_id, text = f"{self._message_id}-thought", payload["thought"]
        had = self._held_texts.get(message_id)
        if had is not None and len(had) >= len(text):
            return self._step(())
        text = text[len(had or "") :]
        named = {"messageId": message_id}
        return self._step(
            (
                {"type": "REASONING_START", **named},
                {"type": "REASONING_MESSAGE_START", **named, "role": "reasoning"},
                {"type": "REASONING_MESSAGE_CONTENT", **named, "delta": text},
                {"type": "REASONING_MESSAGE_END", **named},
                {"type": "REASONING_END", **named},
            )
        )

    def _tool(self, payload: Payload) -> bytes:
        call_id, name = payload["tool_call_id"], payload["tool_name"]
        approvals = self._approved.get(name)
        if approvals:  # the client has this call, as that of the approval
            approval = approvals.pop(0)
            self._calls[call_id] = self._calls[approval]
            return self._step(())
        self._add_call(call_id)
        return self._step(self._call_events(call_id, name, payload.get("arguments")))

    def _add_call(self, call_id: str) -> None:
        self._calls[call_id] = (self._steps, call_id)
        if self._steps >= self._first_step:
            self._pending.add(self._steps)

    def _call_events(self, call_id: str, name: str, arguments: Any) -> list[Event]:
        """Return the events of a tool call, without what the client has of it."""
        encoded = orjson.dumps({} if arguments is None else arguments).decode()
        had = self._held.calls.get(call_id)
        if had is not None and len(had) >= len(encoded):
            return []
        named = {"toolCallId": call_id}
        return [
            {"type": "TOOL_CALL_START", **named, "toolCallName": name},
            {"type": "TOOL_CALL_ARGS", **named, "delta": encoded[len(had or "") :]},
            {"type": "TOOL_CALL_END", **named},
        ]

    def _result(self, payload: Payload) -> bytes:
        content = payload["result"] if payload["success"] else payload["error"]
        text = content if isinstance(content, str) else orjson.dumps(content).decode()
        return self._send_result(payload["tool_call_id"], text)

    def _send_result(self, call_id: str, text: str) -> bytes:
        step, client_id = self._calls.pop(call_id, (-1, call_id))
        if step not in self._pending:
            return b""
        if client_id in self._held.results or (self._unseen and client_id not in self._held.calls):
            self._pending.remove(step)
            return b""
        if self._unseen:
            self._late.append((step, client_id, text))
            return b""
        return self._write_result(step, client_id, text)

    def _write_result(self, step: int, call_id: str, text: str) -> bytes:
        self._pending.remove(step)
        named = {"messageId": f"{call_id}-result", "toolCallId": call_id}
        return self._write({"type": "TOOL_CALL_RESULT", **named, "content": text, "role": "tool"})

    def _question(self, payload: Payload) -> bytes:
        question_id = payload["question_id"]
        if question_id in self._answered:  # its end is not known everywhere yet
            return self._pass(payload)
        if self._place is not None and self._steps < self._place.steps:
            self._advance()
            return b""
        self._unseen.clear()  # the agent has asked again before
        interrupt, events = self._interrupt(payload)
        outcome = {"type": "interrupt", "interrupts": [interrupt]}
        events.append({"type": "RUN_FINISHED", **self._ids, "outcome": outcome, **self._used_up()})
        return self._step(events, is_end=True)

    def _interrupt(self, payload: Payload) -> tuple[Event, list[Event]]:
        """Return a question as an interrupt, and the events that show its tool call."""
        question_id, name = payload["question_id"], payload.get("tool_name")
        interrupt: Event = {"id": question_id}
        events = []
        if payload["kind"] == "question":
            interrupt["reason"] = "input_required"
            schema = payload.get("schema")
        elif name is None:  # the questions of the run are too large for a listing
            interrupt["reason"] = "confirmation"
            schema = APPROVAL_SCHEMA
        else:
            interrupt |= {"reason": "tool_call", "toolCallId": question_id}
            schema = APPROVAL_SCHEMA
            events = self._call_events(question_id, name, payload.get("arguments"))
        if "prompt" in payload:
            interrupt["message"] = payload["prompt"]
        if isinstance(schema, dict):
            interrupt["responseSchema"] = schema
        expires = datetime.fromtimestamp(payload["expires_at"], UTC)
        interrupt["expiresAt"] = expires.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return interrupt, events

    def _pass(self, payload: Payload) -> bytes:
        """Return what follows from a question that is closed."""
        question_id = payload["question_id"]
        closed = self._answered.get(question_id)
        if closed is not None and closed.tool_name is not None:
            self._add_call(question_id)
        data = self._step(())
        self._unseen.discard(question_id)
        if closed is not None and closed.tool_name is not None:
            if closed.outcome == "approved":
                self._approved.setdefault(closed.tool_name, []).append(question_id)
            else:
                step, _ = self._calls.pop(question_id)
                if step in self._pending:
                    self._late.append((step, question_id, CLOSED_TEXTS[closed.outcome]))
        return data if self._unseen else data + self._send_late()

    def _send_late(self) -> bytes:
        late, self._late = self._late, []
        return b"".join(self._write_result(*each) for each in late)

    def _use(self, payload: Payload) -> bytes:
        tokens = (payload["input_tokens"], payload["output_tokens"])
        before = self._usage.get(payload["model"], (0, 0))
        self._usage[payload["model"]] = (before[0] + tokens[0], before[1] + tokens[1])
        value = {name: each for name, each in payload.items() if name != "run_id"}
        return self._write({"type": "CUSTOM", "name": "usage", "value": value})

    def _used_up(self) -> Event:
        """Return the field for the usage in the last event, if there is any."""
        usage = [
            {"model": model, "inputTokens": i, "outputTokens": o, "totalTokens": i + o}
            for model, (i, o) in self._usage.items()
        ]
        return {"usage": usage} if usage else {}

    def _end(self, payload: Payload) -> bytes:
        self._place = None  # all of it was sent, or it is not known any more
        self._unseen.clear()
        data = self._send_late() + self._close()
        self.is_complete = self.has_ended = True
        status = payload["status"]
        if status == "completed":
            fields = {**self._ids, "outcome": {"type": "success"}, **self._used_up()}
            if payload.get("result") is not None:
                fields["result"] = payload["result"]
            return data + self._write({"type": "RUN_FINISHED", **fields})
        error = payload.get("error") or {}
        fields = {
            "message": error.get("error", END_TEXTS[status]),
            "code": error.get("code", END_CODES[status]),
            **self._used_up(),
        }
        return data + self._write({"type": "RUN_ERROR", **fields})
