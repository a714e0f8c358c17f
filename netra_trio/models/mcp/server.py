"""The settings of an MCP server, and the names of its tools.

>>> McpServer("uvx mcp-server-time").label, McpServer("https://tools.example.com/mcp").label
('time', 'tools-example-com')
"""

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePath
from urllib.parse import urlsplit

from attrs import field, frozen

CALL_SECONDS = 60.0  # for a tool call, without the time in which its user is asked
NAME_CHARACTERS = 64  # of a tool: the limit of the Chat Completions API

_RUNNERS = {"uvx", "uv", "npx", "bunx", "pipx", "node", "deno", "python", "python3", "docker"}
_VERBS = {"run", "exec", "tool", "x", "-m"}


@frozen
class McpServer:
    """An MCP server.

    Attributes:
        where: A command, or the URL of an endpoint for streamable HTTP.
        name: Its name in logs and before names of tools; by default a part of `where`.
        env: Environment variables of a command, beside the few that it gets from this process.
        headers: HTTP headers for a URL, such as one with a token.
        timeout: Seconds for a tool call.
        approve: Whether a user has to approve each call; or the names of the tools that need it.

    Raises:
        TypeError: `approve` is a text: it would approve by parts of names.
        ValueError: `where` is empty, no valid command, or a URL with a password.
    """

    where: str
    name: str | None = None
    env: Mapping[str, str] = field(factory=dict, kw_only=True, repr=False)
    headers: Mapping[str, str] = field(factory=dict, kw_only=True, repr=False)
    timeout: float = field(default=CALL_SECONDS, kw_only=True)
    approve: bool | Collection[str] = field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Check the arguments."""
        if isinstance(self.approve, str):
            raise TypeError("approve: expected a bool or a list of names, got a str")
        if self.is_url:
            parts = urlsplit(self.where)
            if not parts.hostname or "@" in parts.netloc:
                raise ValueError("mcp: expected a URL with a host and without a password")
        elif not self.command:
            raise ValueError("mcp: expected a command or a URL, got a blank text")

    def __repr__(self) -> str:
        # Arguments of a command and queries of a URL may contain secrets.
        return f"McpServer({self.label!r})"

    @property
    def is_url(self) -> bool:
        """Whether it is reached by HTTP."""
        return self.where.startswith(("http://", "https://"))

    @property
    def command(self) -> list[str]:
        """The words of the command.

        Raises:
            ValueError: A quotation mark is missing.
        """
        try:
            return shlex.split(self.where)
        except ValueError as error:
            raise ValueError(f"mcp: the command cannot be read: {error}") from None

    @property
    def label(self) -> str:
        """A short name: of the package without `mcp` and `server`, or of the host."""
        if self.name is not None:
            return _plain(self.name)
        if self.is_url:
            return _plain((urlsplit(self.where).hostname or "").replace(".", "-"))
        program, *others = self.command
        words = [word for word in others if word not in _VERBS and not word.startswith("-")]
        is_runner = PurePath(program).name in _RUNNERS
        package = next(iter(words), program) if is_runner else program
        stem = re.sub(r"(?<=.)@.*|\.(py|js|mjs|ts)$", "", PurePath(package).name)
        plain = _plain(stem.replace("_", "-"))
        return "-".join(p for p in plain.split("-") if p not in {"mcp", "server"}) or plain

    def needs_approval(self, tool: str) -> bool:
        """Whether a user has to approve calls of a tool."""
        return self.approve if isinstance(self.approve, bool) else tool in self.approve


def servers_of(given: Sequence[str | McpServer]) -> list[McpServer]:
    """Return the servers; a text is a command or a URL.

    Raises:
        TypeError: The servers are one text instead of a list.
        ValueError: One is invalid.
    """
    if isinstance(given, str):
        raise TypeError("mcp: expected a list of servers, got a str")
    return [each if isinstance(each, McpServer) else McpServer(each) for each in given]


def names_of(
    taken: Iterable[str], listings: Iterable[tuple[str, Sequence[str]]]
) -> list[list[str]]:
    """Return the names by which the model calls the tools of each server.

    A tool keeps its name, with `_` for characters that the API does not accept. If a Python
    function or an earlier server has that name already, the server's label is put before it.

    Args:
        taken: The names of the Python functions.
        listings: For each server its label and the names of its tools.
    """
    used = set(taken)
    result: list[list[str]] = []
    for label, tools in listings:
        names: list[str] = []
        for tool in tools:
            plain = _plain(tool)
            candidates = [plain, f"{label}_{plain}"[:NAME_CHARACTERS]]
            candidates += [f"{label[:20]}_{plain[:36]}_{number}" for number in range(2, 1000)]
            name = next(each for each in candidates if each not in used)
            used.add(name)
            names.append(name)
        result.append(names)
    return result


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:NAME_CHARACTERS] or "_"
