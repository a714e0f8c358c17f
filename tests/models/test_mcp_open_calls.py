"""The calls that a question of an MCP server may belong to."""

from contextvars import Context, copy_context
from typing import Any

import pytest
from mcp.shared.message import SessionMessage
from mcp_types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)

from netra_trio.models.mcp import open_calls
from netra_trio.models.mcp.call import CURRENT
from netra_trio.models.mcp.open_calls import OpenCalls

FIRST: Any = object()
SECOND: Any = object()
QUESTION = SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=1, method="elicitation/create"))
RESULT: dict[str, Any] = {"content": []}


def send(calls: OpenCalls, call: Any, request: int) -> None:
    """Begin a call with a request."""
    calls.begin(call)
    message = JSONRPCRequest(jsonrpc="2.0", id=request, method="tools/call")
    notification = JSONRPCNotification(jsonrpc="2.0", method="notifications/progress")

    def note() -> None:
        CURRENT.set(call)
        calls.sent(SessionMessage(notification))
        calls.sent(SessionMessage(message))

    copy_context().run(note)


def receive(calls: OpenCalls, message: Any) -> None:
    """Receive a message that is not a question."""
    context = Context()
    assert calls.received(SessionMessage(message), context) is context


def failure(request: int | None, code: int) -> JSONRPCError:
    error = ErrorData(code=code, message="Request cancelled")
    return JSONRPCError(jsonrpc="2.0", id=request, error=error)


def owner_in(calls: OpenCalls, context: Context | None = None) -> Any:
    """Return the call that a question belongs to."""
    received = calls.received(QUESTION, context)
    assert received is not None
    return received.get(CURRENT)


def test_a_question_belongs_to_the_only_call() -> None:
    calls = OpenCalls()
    assert owner_in(calls) is None
    send(calls, FIRST, 5)
    assert owner_in(calls) is FIRST
    assert CURRENT.get() is None
    send(calls, SECOND, 6)
    assert owner_in(calls) is None
    assert (FIRST in calls, None in calls, len(calls)) == (True, False, 2)


def test_a_question_whose_transport_knows_its_call() -> None:
    calls, context = OpenCalls(), Context()
    context.run(CURRENT.set, SECOND)
    send(calls, FIRST, 5)
    assert calls.received(QUESTION, context) is context
    assert owner_in(calls, context) is SECOND
    assert SECOND not in calls


def test_other_messages_keep_their_context() -> None:
    calls = OpenCalls()
    send(calls, FIRST, 5)
    assert calls.received(ValueError("no JSON"), None) is None
    receive(calls, JSONRPCNotification(jsonrpc="2.0", method="notifications/message"))


@pytest.mark.parametrize(
    ("answer", "is_owned"),
    [
        (JSONRPCResponse(jsonrpc="2.0", id=5, result=RESULT), True),
        (JSONRPCResponse(jsonrpc="2.0", id="5", result=RESULT), True),
        (failure(5, 0), True),
        (failure(5, INTERNAL_ERROR), True),
        (failure(5, CONNECTION_CLOSED), False),
        (failure(5, PARSE_ERROR), False),
        (failure(None, INTERNAL_ERROR), False),
        (JSONRPCResponse(jsonrpc="2.0", id=6, result=RESULT), False),
    ],
)
@pytest.mark.parametrize("is_late", [False, True])
def test_a_call_ends(answer: Any, is_owned: bool, is_late: bool) -> None:
    calls = OpenCalls()
    send(calls, FIRST, 5)
    if is_late:
        calls.end(FIRST)
        receive(calls, answer)
    else:
        receive(calls, answer)
        calls.end(FIRST)
    assert len(calls) == int(not is_owned)
    send(calls, SECOND, 7)
    assert owner_in(calls) is (SECOND if is_owned else None)


def test_only_the_requests_of_the_call_end() -> None:
    calls = OpenCalls()
    send(calls, FIRST, 5)
    send(calls, SECOND, 6)
    calls.end(FIRST)
    receive(calls, JSONRPCResponse(jsonrpc="2.0", id=5, result=RESULT))
    assert owner_in(calls) is SECOND


@pytest.mark.parametrize("stopped", [2, 3])
def test_the_number_of_stopped_requests(monkeypatch: pytest.MonkeyPatch, stopped: int) -> None:
    monkeypatch.setattr(open_calls, "STOPPED_MAX", 2)
    calls = OpenCalls()
    for request in range(stopped):
        send(calls, FIRST, request)
        calls.end(FIRST)
    assert len(calls) == 2
    for request in range(stopped):
        receive(calls, JSONRPCResponse(jsonrpc="2.0", id=request, result=RESULT))
    send(calls, SECOND, 9)
    assert owner_in(calls) is (SECOND if stopped == 2 else None)
