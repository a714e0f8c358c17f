"""The options of agents: their limits, and what the first frame lists."""

from typing import Any

import pytest
from support.memory import open_server
from trio.testing import MockClock

from netra_trio.agents.demo.echo import echo
from netra_trio.agents.options import AgentOptions, agent, listed, options_of
from netra_trio.protocol.messages import ListedAgent
from netra_trio.server.application import DEMO_AGENTS


def test_an_agent_has_options_or_the_defaults() -> None:
    assert options_of(echo) == AgentOptions("cancel", None, ())
    named = agent(echo, title="Parrot", examples=["hi"], unattended="continue")
    assert options_of(named) == AgentOptions("continue", "Parrot", ("hi",))
    assert listed({"named": named, "plain": echo}) == (
        ListedAgent("named", "Parrot", ("hi",)),
        ListedAgent("plain", "plain", ()),
    )


def test_options_at_their_limits() -> None:
    options = options_of(agent(echo, title="x" * 100, examples=["y" * 500] * 12))
    assert (len(options.title or ""), len(options.examples)) == (100, 12)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"title": "x" * 101}, ValueError),
        ({"title": ""}, ValueError),
        ({"examples": ["x"] * 13}, ValueError),
        ({"examples": ["x" * 501]}, ValueError),
        ({"examples": "What?"}, TypeError),
        ({"unattended": "stay"}, ValueError),
    ],
)
def test_options_beyond_their_limits(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        agent(echo, **options)


async def test_the_demo_agents_are_listed_first_of_all(autojump_clock: MockClock) -> None:
    async with open_server(agents=DEMO_AGENTS) as server, server.connect() as client:
        demo, parrot = client.hello["payload"]["agents"]
        assert (demo["name"], demo["title"], len(demo["examples"])) == ("demo", "Demo", 4)
        assert parrot == {"name": "echo", "title": "Echo", "examples": []}
        for example in demo["examples"][:2]:
            await client.say(example)
            assert (await client.until("agent_completed"))[-1]["payload"]["status"] == "completed"
