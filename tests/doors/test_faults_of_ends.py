"""The errors that clients of doors are told when the connection of an answer has ended."""

import pytest

from netra_trio.endpoints.doors.answering import fault_of
from netra_trio.endpoints.doors.runs import ConnectionEnded
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Refused, problem


@pytest.mark.parametrize(
    ("close_code", "error_code"),
    [
        (1012, ErrorCode.SERVER_DRAINING),
        (4401, ErrorCode.TOKEN_EXPIRED),
        (4403, ErrorCode.USER_DISABLED),
        (4429, ErrorCode.CONNECTION_LIMIT_EXCEEDED),
        (1006, ErrorCode.SERVICE_UNAVAILABLE),
        (1011, ErrorCode.SERVICE_UNAVAILABLE),
    ],
)
def test_a_close_code(close_code: int, error_code: ErrorCode) -> None:
    assert fault_of(ConnectionEnded(close_code)).code is error_code


def test_an_error() -> None:
    fault = problem(ErrorCode.AGENT_BUSY, "busy")
    assert fault_of(Refused(fault)) is fault
