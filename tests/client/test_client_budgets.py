"""The budget of a user, as the Python client tells its program of it."""

import pytest
import trio
from trio.testing import MockClock

from netra_trio.agents.run import Run
from netra_trio.client import BudgetExceeded, RunFailed
from netra_trio.testing import assert_nothing_lost, open_network


async def spend(run: Run) -> str:
    await run.usage(model="m", input_tokens=int(run.content), output_tokens=0)
    return "done"


async def test_a_budget_that_is_used_up(autojump_clock: MockClock) -> None:
    async with (
        open_network({"spend": spend}, usage_limit_tokens=10) as network,
        network.connect() as client,
    ):
        assert await (await client.send("9")).result() == "done"
        with pytest.raises(RunFailed, match="budget of the agent spend is used up") as failed:
            await (await client.send("2")).result()
        assert failed.value.error is not None
        assert failed.value.error["code"] == "BUDGET_EXCEEDED"
        began = trio.current_time()
        with pytest.raises(BudgetExceeded) as refused:  # at once: it is not sent again
            await client.send("1")
        assert trio.current_time() - began < 1
        assert refused.value.code == "BUDGET_EXCEEDED"
        assert refused.value.retry_after_ms is not None
        assert 0 < refused.value.retry_after_ms <= 86_400_000
    expected = {"agent_name": "spend", "unit": "tokens", "limit": 10, "used": 9}
    [events] = network.trace.delivered.values()
    assert [each.payload for each in events if each.type == "usage_warning"] == [expected]
    assert_nothing_lost(network.trace)
