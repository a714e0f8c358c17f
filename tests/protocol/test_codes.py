"""The tables of codes: a change here is a change of the protocol, for every client."""

import re
from pathlib import Path

import pytest

from netra_trio.protocol.codes import ABNORMAL, BAD_FRAME, ERRORS, CloseCode, EndReason, ErrorCode
from netra_trio.protocol.problem import problem

CODES = {  # code: (HTTP status, recoverable)
    "EMPTY_MESSAGE": (400, True),
    "JSON_PARSE_ERROR": (400, True),
    "INVALID_MESSAGE_TYPE": (400, True),
    "MISSING_TYPE_FIELD": (400, True),
    "INVALID_TYPE_FIELD": (400, True),
    "UNKNOWN_MESSAGE_TYPE": (400, True),
    "VALIDATION_ERROR": (400, True),
    "MESSAGE_TOO_LARGE": (413, True),
    "ERROR_LIMIT_EXCEEDED": (400, False),
    "RATE_LIMIT_EXCEEDED": (429, True),
    "QUEUE_FULL": (429, True),
    "AGENT_BUSY": (409, True),
    "BUDGET_EXCEEDED": (429, True),
    "SERVICE_UNAVAILABLE": (503, True),
    "AGENT_NOT_FOUND": (404, True),
    "RUN_NOT_FOUND": (404, True),
    "THREAD_NOT_FOUND": (404, True),
    "FILE_NOT_FOUND": (404, True),
    "ANSWER_REJECTED": (409, True),
    "FORBIDDEN": (403, True),
    "AGENT_ERROR": (500, True),
    "AGENT_TIMEOUT": (504, True),
    "AUTH_REQUIRED": (401, False),
    "INVALID_TOKEN": (401, False),
    "TOKEN_EXPIRED": (401, False),
    "USER_NOT_FOUND": (403, False),
    "USER_DISABLED": (403, False),
    "ORIGIN_NOT_ALLOWED": (403, False),
    "UNSUPPORTED_SUBPROTOCOL": (400, False),
    "BAD_REQUEST": (400, False),
    "CONNECTION_LIMIT_EXCEEDED": (429, True),
    "SERVER_DRAINING": (503, True),
    "SERVER_FULL": (503, True),
    "INTERNAL_ERROR": (500, False),
}
BAD_FRAME_CODES = {
    "EMPTY_MESSAGE",
    "JSON_PARSE_ERROR",
    "INVALID_MESSAGE_TYPE",
    "MISSING_TYPE_FIELD",
    "INVALID_TYPE_FIELD",
    "UNKNOWN_MESSAGE_TYPE",
    "VALIDATION_ERROR",
    "MESSAGE_TOO_LARGE",
}
CLOSE_CODES = [1000, 1001, 1009, 1011, 1012, 4400, 4401, 4403, 4408, 4409, 4429]
END_REASONS = {
    "peer_closed": 1000,
    "peer_lost": None,
    "send_timeout": None,
    "aborted": None,
    "too_big": 1009,
    "internal_error": 1011,
    "drained": 1012,
    "error_limit": 4400,
    "token_expired": 4401,
    "user_disabled": 4403,
    "heartbeat_missed": 4408,
    "taken_over": 4409,
    "evicted": 4429,
    "fenced": 1012,
    "session_ended": 1000,
}


def test_the_error_codes_have_their_status_and_recoverability() -> None:
    assert {str(code): (kind.status, kind.recoverable) for code, kind in ERRORS.items()} == CODES
    assert set(ErrorCode) == set(ERRORS)
    assert {str(code) for code in BAD_FRAME} == BAD_FRAME_CODES


def test_every_error_code_has_a_help_text() -> None:
    for code, kind in ERRORS.items():
        assert code.value == code.name
        assert kind.help.endswith(".")


def test_the_close_codes_and_end_reasons_are_complete() -> None:
    assert sorted(CloseCode) == CLOSE_CODES
    assert {reason.label: reason.close_code for reason in EndReason} == END_REASONS


@pytest.mark.parametrize("code", ErrorCode)
def test_an_error_has_the_defaults_of_its_code(code: ErrorCode) -> None:
    kind = ERRORS[code]
    assert problem(code, "What happened.").body(1640995200.25) == {
        "code": code.value,
        "error": "What happened.",
        "timestamp": 1640995200.25,
        "recoverable": kind.recoverable,
        "help": kind.help,
    }


def test_an_error_has_the_given_values() -> None:
    fault = problem(
        ErrorCode.CONNECTION_LIMIT_EXCEEDED,
        "Too many.",
        help="Wait.",
        recoverable=False,
        status=400,
        retry_after_ms=0,
        error_id="err_1",
    )
    assert fault.status == 400
    assert fault.body(0.0) == {
        "code": "CONNECTION_LIMIT_EXCEEDED",
        "error": "Too many.",
        "timestamp": 0.0,
        "recoverable": False,
        "help": "Wait.",
        "retry_after_ms": 0,
        "error_id": "err_1",
    }


def test_the_asyncapi_document_has_the_same_codes() -> None:
    text = (Path(__file__).parents[2] / "docs" / "asyncapi.yaml").read_text(encoding="utf-8")
    closes = re.findall(r'^ +"(\d{4})": \{means: ', text, re.MULTILINE)
    assert [int(code) for code in closes] == sorted({*CloseCode, ABNORMAL})
    (listed,) = re.findall(r"x-codes: \[(.+?)\]", text, re.DOTALL)
    assert re.findall(r"\w+", listed) == list(CODES)
