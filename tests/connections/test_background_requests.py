"""A background request whose fault is its reply."""

import pytest
import trio
from attrs import define, field

from netra_trio.connections.requests import run_request
from netra_trio.errors import BrokerUnavailable, NotStorable, StoreUnavailable
from netra_trio.ids import CorrelationId
from netra_trio.protocol.codec import Frame
from netra_trio.protocol.codes import ErrorCode
from netra_trio.protocol.problem import Problem, Refused, problem

FRAME = Frame(None, CorrelationId("c-1"))
REFUSAL = problem(ErrorCode.FORBIDDEN, "scripted")


@define
class Errors:
    """Collects the errors that a client gets."""

    sent: list[tuple[Problem, str | None]] = field(factory=list)

    async def send_error(self, problem: Problem, correlation_id: str | None = None) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append((problem, correlation_id))


async def answers_to(fault: Exception | None) -> list[tuple[Problem, str | None]]:
    async def request() -> None:
        await trio.lowlevel.checkpoint()
        if fault is not None:
            raise fault

    client = Errors()
    await run_request(client, FRAME, request)
    return client.sent


@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        (Refused(REFUSAL), ErrorCode.FORBIDDEN, "scripted"),
        (StoreUnavailable("x"), ErrorCode.SERVICE_UNAVAILABLE, "The store cannot answer now."),
        (BrokerUnavailable("x"), ErrorCode.SERVICE_UNAVAILABLE, "The broker cannot answer now."),
        (
            NotStorable("x"),
            ErrorCode.VALIDATION_ERROR,
            "$.payload: expected values that the database can store",
        ),
    ],
)
async def test_a_fault_is_answered(fault: Exception, code: ErrorCode, text: str) -> None:
    ((answer, correlation_id),) = await answers_to(fault)
    assert (answer.code, answer.error, correlation_id) == (code, text, "c-1")


async def test_a_success_has_no_error() -> None:
    assert await answers_to(None) == []


async def test_an_unexpected_exception_is_raised() -> None:
    with pytest.raises(LookupError, match="scripted"):
        await answers_to(LookupError("scripted"))
