"""Messages to the thread `t` and the ends of their runs, for tests with several sessions."""

from typing import Any

import trio

from netra_trio.agents.run import Run
from support.memory import Client, Frame


async def shielded(run: Run) -> None:
    """Ignore the cancellation."""
    await run.emit("going on")
    with trio.CancelScope(shield=True):
        await trio.sleep(30)


async def say(client: Client, key: str, **payload: Any) -> Frame:
    """Send a message to the thread `t`, and return the payload of its confirmation."""
    await client.say(key, key, **{"thread_id": "t", **payload})
    frame = (await client.until("message_confirmed"))[-1]
    assert frame["correlation_id"] == key
    confirmed: Frame = frame["payload"]
    return confirmed


async def end_of(client: Client, key: str) -> Frame:
    """Return the payload of the end of the run of a message; no other run ends before."""
    frame = (await client.until("agent_completed"))[-1]
    assert frame["correlation_id"] == key
    end: Frame = frame["payload"]
    return end
