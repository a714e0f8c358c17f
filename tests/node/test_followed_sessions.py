"""Sessions whose runs are followed over another connection are kept."""

from contextlib import ExitStack

import pytest
import trio
from support.memory import Server, open_server
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.ids import SessionId

WINDOW_MS = 60_000


async def forever(run: Run) -> None:
    await run.emit("begun")
    await trio.sleep_forever()


async def detached(server: Server) -> SessionId:
    """Return the session of a run whose client has left."""
    async with server.connect(acknowledging=True) as client:
        await client.say("hello")
        await client.until("partial_result")
        return SessionId(client.hello["payload"]["session_id"])


@pytest.mark.parametrize("is_followed", [True, False])
async def test_a_user_with_too_many_sessions(is_followed: bool, autojump_clock: MockClock) -> None:
    async with open_server(
        agents={"forever": forever}, max_sessions_per_user=2, resume_window_ms=WINDOW_MS
    ) as server:
        session_id = await detached(server)
        sessions = server.node.sessions
        with ExitStack() as stack:
            if is_followed:
                stack.enter_context(sessions.followed(session_id))
            for _ in range(3):
                async with server.connect(acknowledging=True):
                    pass
            sessions.end_detached(session_id)
            assert (sessions.get(session_id) is not None) is is_followed
            await trio.sleep(2 * WINDOW_MS / 1000)
            assert (sessions.get(session_id) is not None) is is_followed
        await trio.sleep(WINDOW_MS / 1000 + 1)
        assert sessions.get(session_id) is None
