"""The arguments for MCP servers, and the names of the servers and their tools."""

import pytest

from netra_trio.errors import SettingsError
from netra_trio.models import McpServer, chat
from netra_trio.models import chat as chat_function
from netra_trio.models.mcp.server import names_of, servers_of


@pytest.mark.parametrize(
    ("where", "label"),
    [
        ("uvx mcp-server-time", "time"),
        ("uvx mcp-server-time@2026.1 --local-timezone UTC", "time"),
        ("python -m mcp_server_time", "time"),
        ("/usr/bin/python3 tools/weather.py --fast", "weather"),
        ("npx -y @modelcontextprotocol/server-everything", "everything"),
        ("'/opt/my tools/run it' x", "run_it"),
        ("docker run -i mcp/fetch", "fetch"),
        ("mcp-server", "mcp-server"),
        ("uvx", "uvx"),
        ("x", "x"),
        ("docker run", "docker"),
        ("https://tools.example.com/mcp?key=secret", "tools-example-com"),
        ("http://127.0.0.1:8000/mcp", "127-0-0-1"),
    ],
)
def test_the_label(where: str, label: str) -> None:
    server = McpServer(where)
    assert server.label == label
    assert repr(server) == f"McpServer({label!r})"
    assert McpServer(where, name="my tools").label == "my_tools"


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("", "expected a command or a URL"),
        ("  ", "expected a command or a URL"),
        ("run 'it", "the command cannot be read: No closing quotation"),
        ("http://", "expected a URL with a host"),
        ("https://me:secret@example.com/mcp", "without a password"),
    ],
)
def test_what_is_no_server(where: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        chat("m", mcp=[where])
    assert "secret" not in str(caught.value)


def test_servers_are_texts_or_objects() -> None:
    made = McpServer("run it", timeout=5)
    assert servers_of(["run it", made]) == [McpServer("run it"), made]


def test_approval() -> None:
    assert not McpServer("x").needs_approval("a")
    assert McpServer("x", approve=True).needs_approval("a")
    assert McpServer("x", approve=["a"]).needs_approval("a")
    assert not McpServer("x", approve=["a"]).needs_approval("b")


def test_a_text_in_place_of_a_list() -> None:
    with pytest.raises(TypeError, match="expected a bool or a list of names"):
        McpServer("x", approve="delete_file")
    with pytest.raises(TypeError, match="expected a list of servers"):
        chat("m", mcp="uvx mcp-server-time")


def test_names() -> None:
    listings = [("one", ["time", "b.c"]), ("two", ["time", "fetch"]), ("two", ["time", "weather"])]
    assert names_of(["weather"], listings) == [
        ["time", "b_c"],
        ["two_time", "fetch"],
        ["two_time_2", "two_weather"],
    ]
    long = "x" * 100
    (names,) = names_of([], [("label", [long, long, long])])
    assert names == ["x" * 64, f"label_{'x' * 58}", f"label_{'x' * 36}_2"]
    assert names_of([], [("", ["ü", ""])]) == [["_", "__"]]


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chat_function.__globals__, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"pip install 'netra-trio\[mcp\]'"):
        chat("m", mcp=["uvx mcp-server-time"])
    chat("m")
