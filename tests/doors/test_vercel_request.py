"""The body of `POST /api/chat`: what is read of it, and each fault with its path."""

from typing import Any

import orjson
import pytest
from support.markdown import DOCS, blocks_of
from support.node import PROGRAMS, evaluate

from netra_trio.endpoints.doors.vercel_request import Given, Said, check_chat_id, decode_chat
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused

LONG = "x" * 128
_SEND = """
import { DefaultChatTransport } from "ai";
globalThis.fetch = async (_, { body }) => (console.log(body), new Response(""));
%s
const messages = %s;
await transport.sendMessages({
  chatId: "c1", messages, trigger: "submit-message", body: { agent: "shop" },
});
"""


def said(text: str = "hello", message_id: Any = "m1", **more: Any) -> dict[str, Any]:
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "text": text}], **more}


def answered(*approvals: Any, message_id: str = "run_1") -> dict[str, Any]:
    parts = [{"type": "step-start"}, {"type": "text", "text": "May I?"}]
    parts += [{"state": "approval-responded", "approval": each} for each in approvals]
    return {"id": message_id, "role": "assistant", "parts": parts, "metadata": {"usage": 1}}


def body(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"id": "c1", "messages": list(messages) or [said()], **more}


def test_the_newest_message_of_the_user_is_read() -> None:
    parts = [
        {"type": "text", "text": "two "},
        {"type": "data-x", "data": 1},
        {"type": "text", "text": "parts"},
    ]
    newest = said(message_id="m2", parts=parts)
    chat = decode_chat(body(said(), answered(), newest, agent="a", other=1, answer=None))
    assert chat.said == Said("two parts", "m2", None, regenerates=False)
    assert (chat.chat_id, chat.agent, chat.given) == ("c1", "a", ())


def test_a_message_for_another_one() -> None:
    chat = decode_chat(body(said(), messageId="m0", trigger="submit-message"))
    assert chat.said == Said("hello", "m1", "m0", regenerates=False)
    chat = decode_chat(body(said(), answered(), messageId="run_1", trigger="regenerate-message"))
    assert chat.said == Said("hello", "m1", "run_1", regenerates=True)


def test_the_answers_to_approvals() -> None:
    yes, no = {"id": "q1", "approved": True}, {"id": "q2", "approved": False, "reason": "no"}
    given = (Given("q1", approve=True), Given("q2", approve=False))
    chat = decode_chat(body(said(), answered(yes, no)))
    assert (chat.given, chat.metadata, chat.said) == (given, {"usage": 1}, None)
    # An earlier message is continued if it is named.
    chat = decode_chat(body(answered(yes, no), said(), messageId="run_1"))
    assert chat.given == given


def test_the_answer_to_a_question() -> None:
    answer = {"questionId": "q1", "answer": [1]}
    last = {**answered(), "metadata": "no object"}
    chat = decode_chat(body(said(), last, answer=answer))
    assert (chat.given, chat.metadata) == ((Given("q1", answer=[1]),), None)
    assert decode_chat(body(said(), answer=answer)).metadata is None


APPROVAL = "$.messages[0].parts[2].approval"


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ([], "$: expected an object, got an array"),
        ({}, "$.id: expected 1 to 64 characters out of A-Z, a-z, 0-9, _ and -, got null"),
        (body() | {"id": 5}, "$.id: expected 1 to 64 characters"),
        (body() | {"id": "a" * 65}, "$.id: expected 1 to 64 characters"),
        (body(trigger="resume-stream"), "$.trigger: expected one of submit-message, regenerate"),
        (body(trigger=["submit-message"]), "$.trigger: expected one of"),
        (body(agent=5), "$.agent: expected a string of 1 to 128 characters, got 5"),
        (body(messageId=[]), "$.messageId: expected a string of 1 to 128 characters, got an array"),
        (body() | {"messages": {}}, "$.messages: expected a non-empty array, got an object"),
        (body() | {"messages": []}, "$.messages: expected a non-empty array, got an array"),
        (body(said(), "x"), '$.messages[1]: expected an object, got "x"'),
        (body({"role": "system"}), "$.messages: expected a message of the user, got none"),
        (body(said(message_id=None)), "$.messages[0].id: expected a string"),
        (body(said(message_id="")), "$.messages[0].id: expected a string"),
        (body(said(message_id=LONG + "x")), "$.messages[0].id: expected a string"),
        (body(said(message_id="a\0")), "$.messages[0].id: expected a string without NUL"),
        (body(said(parts=5)), "$.messages[0].parts: expected an array, got 5"),
        (body(said(parts=[5])), "$.messages[0].parts[0]: expected an object, got 5"),
        (body(said(parts=[{"type": "text"}])), "$.messages[0].parts[0].text: expected a string"),
        (body(said(parts=[{"type": "file"}])), "$.messages[0].parts[0].url: expected a data: URL"),
        (body(said(" ")), "$.messages[0].parts: expected text, got none"),
        (body(said("a\0b")), "$.messages[0].parts: expected text without NUL"),
        (body(answered()), "$.messages[0]: a message of the assistant needs an answered approval"),
        (body(answered(5)), f"{APPROVAL}: expected an object, got 5"),
        (body(answered({})), f"{APPROVAL}.id: expected a string of 1 to 128 characters, got null"),
        (body(answered({"id": "q"})), f"{APPROVAL}.approved: expected a boolean, got null"),
        (body(answer=5), "$.answer: expected an object, got 5"),
        (body(answer={}), "$.answer.questionId: expected a string"),
        (body(answer={"questionId": "q"}), "$.answer.answer: missing"),
    ],
)
def test_a_fault_is_told_with_its_path(given: Any, fault: str) -> None:
    with pytest.raises(Refused) as refused:
        decode_chat(given)
    told = refused.value.problem
    assert told.error.startswith(fault)
    assert (told.code, told.status) == (ErrorCode.BAD_REQUEST, 400)


def test_limits() -> None:
    assert check_chat_id("a" * 64, "$.id") == "a" * 64
    chat = decode_chat(body(said(message_id=LONG)))
    assert chat.said is not None
    assert chat.said.message_id == LONG


def test_the_printed_transport_sends_the_newest_message_alone() -> None:
    page = DOCS / "doors-vercel.md"
    (snippet,) = (block.text for block in blocks_of(page) if block.language == "js")
    messages = orjson.dumps([said("old"), answered(), said("new", "m2")]).decode()
    posted = orjson.loads(evaluate(_SEND % (snippet, messages)))
    chat = decode_chat(posted)
    assert chat.said == Said("new", "m2", None, regenerates=False)
    assert (chat.agent, len(posted["messages"])) == ("shop", 1)


def test_the_page_names_the_tested_versions() -> None:
    tested = orjson.loads((PROGRAMS / "package.json").read_bytes())["dependencies"]
    text = (DOCS / "doors-vercel.md").read_text(encoding="utf-8")
    assert all(f"`{name}` {tested[name]}" in text for name in ("ai", "@ai-sdk/react"))
