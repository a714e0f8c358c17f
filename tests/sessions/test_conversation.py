"""The order of the frames of one message, in virtual time."""

from support.memory import kinds, open_server
from trio.testing import MockClock


async def test_a_message_becomes_a_run(autojump_clock: MockClock) -> None:
    async with open_server() as server, server.connect() as client:
        await client.say("hello", "c-1")
        events = await client.until("agent_completed")
    assert kinds(events) == [
        "message_confirmed",
        "agent_started",
        "partial_result",
        "agent_completed",
    ]
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    assert {event["correlation_id"] for event in events} == {"c-1"}
    assert events[-1]["payload"]["status"] == "completed"
    assert events[-1]["payload"]["result"] == "hello"
