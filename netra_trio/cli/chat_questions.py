"""The questions of an agent in the chat: asked one after the other, answered by typed lines.

    questions = ChatQuestions(client, screen, lines)
    questions.note(event)   # of the run: a question, or how one was closed
    await questions.ask_all()

A question may be closed while its answer is typed: by another session, or because it has expired.
"""

from typing import Any

import orjson
import trio
from attrs import define, field

from netra_trio.cli.line_input import LineInput
from netra_trio.cli.terminal import Screen
from netra_trio.client import Client, Event, MessageRefused

_YES, _NO = {"y", "yes", "true"}, {"n", "no", "false"}
_OUTCOMES = {
    "denied": "(denied)",
    "expired": "(expired: there was no answer in time)",
    "cancelled": "(the question was cancelled)",
    "closed": "(the question is closed)",  # how is unknown, after a gap
}


class Unreadable(ValueError):
    """A typed line is no answer to the question; the text says what is expected."""


@define(eq=False)
class ChatQuestions:
    """The open questions of a run.

    Attributes:
        client: Sends the answers.
        screen: Shows the questions.
        lines: What is typed.
    """

    client: Client
    screen: Screen
    lines: LineInput
    _open: dict[str, dict[str, Any]] = field(factory=dict)  # their payloads by id, in order
    _answered: set[str] = field(factory=set)  # here
    _changed: trio.Event = field(factory=trio.Event)
    _asked: str | None = None
    _asking: trio.CancelScope = field(factory=trio.CancelScope)

    def note(self, event: Event) -> None:
        """Note an event of the run."""
        payload = event.payload
        if event.type == "agent_asking":
            self._open[payload["question_id"]] = payload
        elif event.type == "agent_answered":
            self._close(payload["question_id"], payload)
        elif event.type == "gap":
            # Without their texts, questions are listed only if there are very many.
            listed = {each["question_id"]: each for each in payload.get("questions", ())}
            for question_id in set(self._open) - set(listed):
                self._close(question_id, {"outcome": "closed"})
            self._open |= {key: each for key, each in listed.items() if "prompt" in each}
        self._changed.set()

    async def ask_all(self) -> None:
        """Ask each open question until it is closed; cancelled by the caller.

        Raises:
            ClientError: The client cannot continue.
            OSError: The input cannot be read.
        """
        while True:
            while not self._open:
                self._changed = trio.Event()
                await self._changed.wait()
            self._asked, question = next(iter(self._open.items()))
            with trio.CancelScope() as self._asking:
                await self._ask(question)

    async def _ask(self, question: dict[str, Any]) -> None:
        # What was typed before the question was seen is no answer to it.
        if self.lines.discard():
            self.screen.note("What was typed before the question is discarded.")
        is_early = bool(self.lines.typed)  # the beginning of a line
        self.screen.note(shown(question))
        while True:
            line = await self.lines.read(is_kept=False)
            if line is None:
                await self._end_without_input(question)
                await trio.sleep_forever()
            elif is_early:
                is_early = False
                self.screen.note("That was typed before the question: type the answer again.")
            elif line.strip():
                await self._answer(question, line)

    async def _answer(self, question: dict[str, Any], line: str) -> None:
        try:
            given = parse(question, line)
        except Unreadable as error:
            self.screen.note(str(error))
            return
        await self._send(question["question_id"], given)

    async def _end_without_input(self, question: dict[str, Any]) -> None:
        """Deny an approval; leave a question open, which expires or ends with its run."""
        if question["kind"] == "approval":
            self.screen.note("There is no input: denied.")
            await self._send(question["question_id"], {"approve": False})
        else:
            self.screen.note("There is no input: another session may answer; Ctrl-C stops the run.")

    async def _send(self, question_id: str, given: dict[str, Any]) -> None:
        """Send an answer; returns only if it is rejected: the end of the question cancels this."""
        self._answered.add(question_id)
        try:
            await self.client.answer(question_id, **given)
        except MessageRefused as refused:
            self._answered.discard(question_id)
            self.screen.fault(refused.error)
        else:
            await trio.sleep_forever()  # the next line is no answer to this question

    def _close(self, question_id: str, closed: dict[str, Any]) -> None:
        if self._open.pop(question_id, None) is None:
            return
        outcome = str(closed["outcome"])
        is_own = question_id in self._answered
        if is_own and outcome in {"answered", "approved"}:
            pass
        elif is_own or outcome in {"expired", "cancelled", "closed"}:
            self.screen.note(_OUTCOMES.get(outcome, f"({outcome})"))
        elif outcome == "answered":
            self.screen.note(f"(answered in another session: {_json(closed.get('answer'))})")
        else:
            self.screen.note(f"({outcome} in another session)")
        if question_id == self._asked:
            self._asking.cancel()


def shown(question: dict[str, Any]) -> str:
    """Return the text of a question; the arguments of a tool to approve are shown in full."""
    lines = [str(question["prompt"])]
    if question["kind"] == "approval":
        lines += [f"[{question['tool_name']}] {_json(question.get('arguments'))}", "y or n?"]
    elif (schema := question.get("schema")) is not None:
        lines.append(_hint(schema))
    return "\n".join(line for line in lines if line)


def parse(question: dict[str, Any], line: str) -> dict[str, Any]:
    """Return the arguments of `Client.answer` for a typed line.

    Raises:
        Unreadable: It is no answer to this question.
    """
    text = line.strip()
    if question["kind"] == "approval":
        return {"approve": _yes_or_no(text)}
    schema = question.get("schema")
    kind = schema.get("type") if isinstance(schema, dict) else None
    if schema is None or kind == "string":
        return {"answer": text}
    if kind == "boolean":
        return {"answer": _yes_or_no(text)}
    try:
        answer = orjson.loads(text)
    except orjson.JSONDecodeError:
        if _is_choice(schema, text):
            return {"answer": text}
        raise Unreadable(f"Expected {_expected(kind)}.") from None
    if answer is None:
        raise Unreadable("Null is no answer.")
    return {"answer": answer}


def _yes_or_no(text: str) -> bool:
    if text.lower() in _YES | _NO:
        return text.lower() in _YES
    raise Unreadable("Type y or n.")


def _is_choice(schema: Any, text: str) -> bool:
    return isinstance(schema, dict) and text in schema.get("enum", ())


def _expected(kind: Any) -> str:
    return f"a JSON {kind}" if isinstance(kind, str) else "JSON, such as a text in quotes"


def _hint(schema: Any) -> str:
    """Return what to type, for the common schemas; the schema itself for the others."""
    if not isinstance(schema, dict):
        return ""
    if "enum" in schema:
        choices = (each if isinstance(each, str) else _json(each) for each in schema["enum"])
        return f"One of: {', '.join(choices)}"
    kind = schema.get("type")
    if kind == "boolean":
        return "y or n?"
    return "" if kind == "string" else f"JSON of this schema: {_json(schema)}"


def _json(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
