"""Options of an agent: a title, examples, and whether its runs outlive their session.

app = create_app(agents={"report": agent(write_report, unattended="continue")})
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from attrs import frozen

from netra_trio.agents.run import Agent, Run
from netra_trio.protocol.messages import ListedAgent

Unattended = Literal["cancel", "continue"]

EXAMPLES = 12  # of one agent, in the first frame of each connection
EXAMPLE_CHARACTERS = 500
TITLE_CHARACTERS = 100


@frozen
class AgentOptions:
    """The options of an agent.

    Attributes:
        unattended: What happens to its runs when the resume window of their session passes.
        title: The displayed name; None for the name of the agent.
        examples: Example messages.
    """

    unattended: Unattended = "cancel"
    title: str | None = None
    examples: tuple[str, ...] = ()


@frozen
class AgentWithOptions:
    """An agent with options, made by `agent`."""

    function: Any
    options: AgentOptions

    async def __call__(self, run: Run) -> Any:
        """Call the agent."""
        return await self.function(run)


def agent(
    function: Any,
    *,
    unattended: Unattended = "cancel",
    title: str | None = None,
    examples: Sequence[str] = (),
) -> Agent:
    """Return an agent with options.

    Args:
        function: The agent; one of a framework that `netra_trio.aio` adapts is wrapped.
        unattended: "cancel": if no client resumes the session within the resume window, the run is
            cancelled. "continue": the run continues without its session; its end is stored, and the
            watchers of its thread get its events.
        title: The displayed name, at most 100 characters.
        examples: Example messages: at most 12, of at most 500 characters.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If one is out of range.
    """
    if unattended not in {"cancel", "continue"}:
        raise ValueError(f"unattended: expected 'cancel' or 'continue', got {unattended!r}")
    if title is not None and not 1 <= len(title) <= TITLE_CHARACTERS:
        raise ValueError(f"title: expected 1 to {TITLE_CHARACTERS} characters")
    if isinstance(examples, str):
        raise TypeError("examples: expected a sequence of texts, got a text")
    if len(examples) > EXAMPLES or any(len(each) > EXAMPLE_CHARACTERS for each in examples):
        raise ValueError(
            f"examples: expected at most {EXAMPLES}, of at most {EXAMPLE_CHARACTERS} characters"
        )
    return AgentWithOptions(function, AgentOptions(unattended, title, tuple(examples)))


def listed(agents: Mapping[str, Agent]) -> tuple[ListedAgent, ...]:
    """Return the agents as the first frame of a connection lists them."""
    options = {name: options_of(each) for name, each in agents.items()}
    return tuple(
        ListedAgent(name, each.title or name, each.examples) for name, each in options.items()
    )


def options_of(agent: Agent) -> AgentOptions:
    """Return the options of an agent; the defaults if it has none."""
    return agent.options if isinstance(agent, AgentWithOptions) else AgentOptions()
