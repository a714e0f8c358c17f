"""Reading the body of an HTTP request: its size, its time, and its end."""

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from netra_trio.endpoints.call import BODY_BYTES, BODY_SECONDS, Call
from netra_trio.protocol.problem import Refused
from netra_trio.transports.asgi import Message

ANY: Any = None  # what reading a body does not use


def call_with(*messages: tuple[float, Message]) -> Call:
    """Return a call that receives each message after some seconds, and then nothing more."""
    left = iter(messages)

    async def receive() -> Message:
        seconds, message = next(left, (math.inf, {}))
        await trio.sleep(seconds)
        return message

    return Call("POST", "/", request=ANY, services=ANY, receive=receive, responder=ANY)


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def refused(call: Call) -> int:
    with pytest.raises(Refused) as error:
        await call.read_json()
    return error.value.problem.status


async def test_a_body_in_parts() -> None:
    call = call_with((0, part(b'{"a":', more=True)), (0, part(b"1}")))
    assert await call.read_json() == {"a": 1}


async def test_a_body_of_the_longest_size_and_one_byte_more() -> None:
    longest = b'"' + b"x" * (BODY_BYTES - 2) + b'"'
    assert await call_with((0, part(longest))).read_json() == "x" * (BODY_BYTES - 2)
    assert await refused(call_with((0, part(longest + b" ")))) == 413


async def test_a_body_with_a_limit_of_its_own() -> None:
    parts = (0.0, part(b"12", more=True)), (0.0, part(b"34"))
    assert await call_with(*parts).read_body(4) == b"1234"
    with pytest.raises(Refused) as error:
        await call_with(*parts).read_body(3)
    assert error.value.problem.status == 413


async def test_a_body_in_time_and_a_second_late(autojump_clock: MockClock) -> None:
    begun = (0.0, part(b"[", more=True))
    assert await call_with(begun, (BODY_SECONDS - 1, part(b"]"))).read_json() == []
    assert await refused(call_with(begun, (BODY_SECONDS + 1, part(b"]")))) == 408


async def test_a_peer_that_leaves_within_the_body() -> None:
    # What came looks complete, and is not used all the same.
    call = call_with((0, part(b"[]", more=True)), (0, {"type": "http.disconnect"}))
    assert await refused(call) == 400


async def test_a_body_that_is_not_json() -> None:
    assert await refused(call_with((0, part(b"{")))) == 400
