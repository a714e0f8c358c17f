"""Usage of models: an event, the metrics and a row in the store for each report."""

from typing import Any

import pytest
from support.memory import EPOCH, Frame, kinds, open_server
from trio.testing import MockClock

from netra_trio.agents.checks import MODEL_NAME_BYTES, TOKENS_MAX
from netra_trio.agents.run import Agent, Run
from netra_trio.ids import UserId
from netra_trio.stores.memory import MemoryStore
from netra_trio.stores.usage import Usage

NO_HEARTBEAT: dict[str, Any] = {"heartbeat_interval_ms": 3_600_000}


class UsageStore(MemoryStore):
    """A store that keeps the reports of usage.

    Attributes:
        reports: The reports.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[Usage] = []

    async def record_usage(self, usage: Usage) -> None:
        """Keep a report."""
        self.reports.append(usage)


async def run_once(agent: Agent, store: MemoryStore) -> tuple[list[Frame], Any]:
    """Run an agent; return its frames, and the metrics."""
    async with (
        open_server(agents={"agent": agent}, store=store, **NO_HEARTBEAT) as server,
        server.connect() as client,
    ):
        await client.say("x")
        return await client.until("agent_completed"), server.node.services.instruments.metrics


async def test_usage_is_sent_counted_and_stored(autojump_clock: MockClock) -> None:
    async def agent(run: Run) -> None:
        await run.usage(model="qwen3", input_tokens=20, output_tokens=7)
        await run.usage(model="qwen3", input_tokens=0, output_tokens=TOKENS_MAX, cost=2)

    store = UsageStore()
    frames, metrics = await run_once(agent, store)
    run_id = frames[0]["payload"]["run_id"]
    assert [frame["payload"] for frame in frames[2:-1]] == [
        {"run_id": run_id, "model": "qwen3", "input_tokens": 20, "output_tokens": 7},
        {
            "run_id": run_id,
            "model": "qwen3",
            "input_tokens": 0,
            "output_tokens": TOKENS_MAX,
            "cost": 2.0,
        },
    ]
    assert metrics.usage_tokens["agent", "input"] == 20
    assert metrics.usage_tokens["agent", "output"] == TOKENS_MAX + 7
    assert metrics.usage_cost["agent"] == 2.0
    first, second = store.reports
    assert first == Usage(first.id, run_id, UserId("alice"), "agent", "qwen3", 20, 7, None, EPOCH)
    assert second.id != first.id


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"model": 5}, TypeError, "a model is a str, got int"),
        ({"model": ""}, ValueError, "1 to 256 bytes"),
        ({"model": "x" * (MODEL_NAME_BYTES + 1)}, ValueError, "1 to 256 bytes"),
        ({"input_tokens": 1.0}, TypeError, "tokens are an int, got float"),
        ({"input_tokens": True}, TypeError, "tokens are an int, got bool"),
        ({"input_tokens": -1}, ValueError, "got -1"),
        ({"output_tokens": TOKENS_MAX + 1}, ValueError, "got 9007199254740992"),
        ({"cost": "1"}, TypeError, "a cost is a number, got str"),
        ({"cost": True}, TypeError, "a cost is a number, got bool"),
        ({"cost": -0.1}, ValueError, "got -0.1"),
        ({"cost": float("nan")}, ValueError, "got nan"),
        ({"cost": float("inf")}, ValueError, "got inf"),
    ],
)
async def test_bad_usage_raises_and_is_not_reported(
    autojump_clock: MockClock, changed: Any, error: type[Exception], text: str
) -> None:
    usage: Any = {"model": "x" * MODEL_NAME_BYTES, "input_tokens": 1, "output_tokens": 1}

    async def agent(run: Run) -> None:
        with pytest.raises(error, match=text):
            await run.usage(**{**usage, **changed})
        await run.usage(**usage)

    store = UsageStore()
    frames, _ = await run_once(agent, store)
    assert kinds(frames).count("agent_usage") == 1
    assert len(store.reports) == 1
