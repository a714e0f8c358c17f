"""The unmodified client of AG-UI in Node.js, with a real server; it verifies each stream itself."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.ag_ui_agents import OPTIONS, SOURCE
from support.markdown import DOCS, blocks_of
from support.node import PROGRAMS, installed, run_script, running_node
from support.ports import kept_port
from support.server import Server, serving, sign

pytestmark = pytest.mark.unmeasured

RATE = 60  # messages a minute of one user
SETTINGS = {
    "WEBSOCKET_MAX_MESSAGE_RATE": str(RATE),
    "WEBSOCKET_BURST_QUEUE": "0",
    "WEBSOCKET_MAX_CONNECTIONS_PER_USER": "100",
    "WEBSOCKET_OPENING_RATE": "10000",
    "WEBSOCKET_DRAIN_TIMEOUT": "1000",
}


def resumable() -> str:
    """Return the class of the page that goes on after a lost connection."""
    [block] = [each for each in blocks_of(DOCS / "doors-ag-ui.md") if each.language == "ts"]
    assert len(block.text.splitlines()) <= 40
    return block.text


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("ag-ui")
    (directory / "ag_ui_agents.py").write_text(SOURCE)
    with serving(directory, *OPTIONS, **SETTINGS) as running:
        yield running


def run(server: Server, task: str) -> Any:
    told = run_script("ag_ui.mjs", argument(server.address, task))
    assert told["warnings"] == []  # the client has found nothing that AG-UI does not have
    return told["result"]


def argument(address: str, task: str) -> dict[str, str]:
    url = f"http://{address}"
    return {"url": url, "token": sign(task), "task": task, "source": resumable()}


def test_a_conversation(server: Server) -> None:
    told = run(server, "conversation")
    assert told["result"] == {"runs": 1}
    assert told["seen"][0] == "RUN_STARTED"
    assert [message["role"] for message in told["first"]] == [
        *("reasoning", "assistant", "assistant", "tool", "assistant")
    ]
    texts = [message.get("content") for message in told["first"]]
    assert texts == ["A greeting.", "Hello you", None, '{"sum":3}', "Adding. Done."]
    assert told["again"] == told["first"]


def test_interrupts(server: Server) -> None:
    told = run(server, "interrupts")
    approved, denied, cancelled = told["told"]
    for each in told["told"]:
        assert each["reason"] == "tool_call"
        assert "pending interrupt" in each["refused"]  # by the client itself
        [call] = [message for message in each["messages"] if message.get("toolCalls")]
        [result] = [message for message in each["messages"] if message["role"] == "tool"]
        assert result["toolCallId"] == call["toolCalls"][0]["id"]
    contents = [message.get("content") for message in approved["messages"]]
    assert contents == ["Removing. ", None, "removed", "Removed."]
    assert "code" not in approved
    assert denied["code"] == cancelled["code"] == "AGENT_ERROR"
    assert told["schema"] == {"type": "integer"}
    assert (told["wrong"]["status"], told["wrong"]["code"]) == (409, "ANSWER_REJECTED")
    assert told["text"] == "7"


def test_cuts_after_each_event(server: Server) -> None:
    told = run(server, "cuts")
    assert told["events"] >= 20
    assert not told["differing"], json.dumps(told["differing"][:2])


def test_a_stop(server: Server) -> None:
    assert run(server, "stops") == {"code": "CANCELLED", "stopped": 1}
    server.process.wait_log("run_ended", agent="wait", status="cancelled")


def test_refusals(server: Server) -> None:
    told = run(server, "refusals")
    codes = {name: (fault["status"], fault["code"]) for name, fault in told.items()}
    assert codes == {
        "token": (401, "INVALID_TOKEN"),
        "agent": (404, "AGENT_NOT_FOUND"),
        "image": (400, "VALIDATION_ERROR"),
    }
    assert "$.messages[0].content[0].source.value: expected a data: URL" in told["image"]["message"]


def test_a_busy_thread(server: Server) -> None:
    assert run(server, "busy") == [1, 2]


def test_a_full_rate(server: Server) -> None:
    told = run(server, "rate")
    assert told["count"] == RATE + 1
    assert (told["error"]["status"], told["error"]["code"]) == (429, "RATE_LIMIT_EXCEEDED")


def test_a_page_in_a_browser(server: Server, tmp_path: Path) -> None:
    image = tmp_path / "door-ag-ui.png"
    given = {
        "url": f"http://{server.address}/ag-ui/tidy",
        "token": sign("page"),
        "source": (PROGRAMS / "ag_ui_page.jsx").read_text(),
        "image": str(image),
    }
    told = run_script("ag_ui_page.mjs", given)
    assert told["problems"] == []
    assert "Allow the call of remove?" in told["asked"]
    assert told["asked"].index("nobody needs") < told["asked"].index("list_files")
    assert "removed" in told["approved"]
    assert image.stat().st_size > 10_000
    server.process.wait_log("run_ended", agent="tidy", status="cancelled")


def test_a_restart_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "ag_ui_agents.py").write_text(SOURCE)
    folder = installed()
    script = folder / "ag_ui_restart.mjs"
    script.write_text((PROGRAMS / "ag_ui.mjs").read_text())
    with kept_port() as port, ExitStack() as node:
        with serving(tmp_path, *OPTIONS, port=str(port), **SETTINGS):
            given = json.dumps(argument(f"127.0.0.1:{port}", "restart"))
            output = node.enter_context(running_node([str(script), given], folder, os.environ))
            output.wait_for(lambda lines: _found(lines, "started"))
        with serving(tmp_path, *OPTIONS, port=str(port), **SETTINGS):
            told = output.wait_for(lambda lines: _found(lines, "result"))
    assert told == {"code": "INTERRUPTED", "text": "Waiting"}


def _found(lines: list[str], name: str) -> Any:
    parsed = [json.loads(line) for line in lines if line.startswith("{")]
    return next((each[name] for each in parsed if name in each), None)
