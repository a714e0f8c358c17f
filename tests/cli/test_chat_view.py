"""The lines that the chat shows for the events of runs."""

from io import StringIO
from typing import Any

import pytest

from netra_trio.cli.chat_view import SHOWN_CHARACTERS, ChatView
from netra_trio.cli.terminal import Screen
from netra_trio.client import Event

FITS = "x" * SHOWN_CHARACTERS
ERROR = {"error": "The agent failed.", "help": "Ask again."}


def shown(kind: str, **payload: Any) -> str:
    stream = StringIO()
    ChatView(Screen(stream)).show(Event(kind, payload))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "payload", "text"),
    [
        ("agent_started", {"attempt": 1}, ""),
        ("agent_started", {"attempt": 2}, "… trying again, attempt 2\n"),
        ("agent_thinking", {"thought": "Looking."}, "… Looking.\n"),
        ("partial_result", {"content": "hello"}, "hello"),
        (
            "usage_warning",
            {"agent_name": "echo", "unit": "cost", "limit": 2.5, "used": 2.0},
            "80 % of today's budget of echo is used.\n",
        ),
        ("tool_executing", {"tool_name": "add", "arguments": {"a": 1}}, '[add] {"a":1}\n'),
        ("tool_executing", {"tool_name": "add", "arguments": FITS}, f"[add] {FITS}\n"),
        ("tool_executing", {"tool_name": "add", "arguments": FITS + "y"}, f"[add] {FITS}…\n"),
        (
            "tool_completed",
            {"tool_name": "add", "success": True, "result": 3, "error": None},
            "[add] → 3\n",
        ),
        (
            "tool_completed",
            {"tool_name": "add", "success": False, "result": None, "error": "no"},
            "[add] → no\n",
        ),
        ("gap", {"content": "half"}, "… the answer so far:\nhalf"),
        ("gap", {}, ""),
        ("lost", {"reason": "the session was reset"}, "The end of the run is unknown"),
        ("agent_completed", {"status": "completed"}, ""),
        ("agent_completed", {"status": "cancelled"}, "(cancelled)\n"),
        ("agent_completed", {"status": "interrupted"}, "(interrupted: the server ended"),
        ("agent_completed", {"status": "failed", "error": ERROR}, "The agent failed. Ask again."),
    ],
)
def test_each_event_and_its_text(kind: str, payload: dict[str, Any], text: str) -> None:
    if text:
        assert shown(kind, **payload).startswith(text)
    else:
        assert shown(kind, **payload) == ""


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        ("new", "Connected.\n"),
        ("exact", "Connected again; nothing was missed.\n"),
        ("gap", "Connected again; some events were missed.\n"),
        ("reset", "Connected again; the server has lost this session and begun a new one.\n"),
    ],
)
def test_each_verdict_and_its_text(verdict: str, text: str) -> None:
    stream = StringIO()
    ChatView(Screen(stream)).show_connected(verdict)
    assert stream.getvalue() == text
