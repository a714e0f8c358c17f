"""The agent of `serve --model`: a language model with the tools of MCP servers."""

from collections.abc import Mapping, Sequence

from netra_trio.agents.run import Agent
from netra_trio.cli.errors import CommandError
from netra_trio.models import chat
from netra_trio.models.chat import BASE_URL

NAME = "chat"


def with_model(
    agents: Mapping[str, Agent],
    model: str | None,
    *,
    base_url: str | None,
    mcp: Sequence[str],
    system: str | None,
) -> dict[str, Agent]:
    """Return the agents, with that of the model before them if there is one.

    Raises:
        CommandError: An option is invalid, or needs `--model`.
        SettingsError: The key of the model's server cannot be used.
    """
    if model is None:
        for option, value in (("--base-url", base_url), ("--mcp", mcp), ("--system", system)):
            if value:
                raise CommandError(f"{option}: give the model's name too, as --model")
        return dict(agents)
    if NAME in agents:
        raise CommandError(f"--agent: the name {NAME!r} is that of --model; use NAME=module:…")
    try:
        agent = chat(model, base_url=base_url or BASE_URL, system=system, mcp=mcp, check=True)
    except ValueError as error:
        raise CommandError(f"--{str(error).replace('_', '-', 1)}") from None
    return {NAME: agent, **agents}
