"""`netra-trio serve --model` as a process: a model with tools, and errors of its server."""

import shlex
import sys
from pathlib import Path

import pytest
import trio
from models.serving import of_kind, text_of
from support.model_server import (
    ModelServer,
    calls,
    chunk,
    hangs,
    model_server_in_thread,
    refuses,
    results_in,
    says,
)
from support.ports import kept_port
from support.server import PATIENCE, Frame, Server, run, serving

SECRET = "sk-a-key-that-nothing-may-show"
SCRIPT = Path(__file__).parents[1] / "support" / "mcp_server.py"
TOOLS = shlex.join([sys.executable, str(SCRIPT)])
SERVE = ("-m", "netra_trio", "serve", "--port", "0")


@pytest.fixture
def models() -> object:
    with model_server_in_thread() as server:
        yield server


def conversation(server: Server, content: str) -> list[Frame]:
    async def talk() -> list[Frame]:
        with trio.fail_after(PATIENCE):
            async with server.connect() as client:
                await client.say(content)
                return await client.until("agent_completed")

    return trio.run(talk)


def test_a_model_with_tools(models: ModelServer, tmp_path: Path) -> None:
    models.will(calls(("add", {"a": 1, "b": 2})), says("Three", "."))
    (tmp_path / "key").write_text(f"{SECRET}\n")
    options = ("--model", "m", "--base-url", models.url, "--mcp", TOOLS, "--system", "Be brief.")
    environ = {"OPENAI_API_KEY_FILE": "key"}
    with serving(tmp_path, *options, **environ) as server:
        assert server.process.out.lines[0].endswith("agents: chat")
        frames = conversation(server, "1 + 2?")
        server.process.wait_log("mcp_connected", server="mcp-server")
    assert text_of(frames) == "Three."
    assert of_kind(frames, "tool_completed", "result") == [{"sum": 3}]
    first, second = models.requests
    assert first.headers["authorization"] == f"Bearer {SECRET}"
    assert first.body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert results_in(second.body["messages"]) == ['{"sum":3}']
    assert [request.path for request in models.others] == ["/v1/models"]
    assert SECRET not in server.process.out.text + server.process.err.text


def test_a_stop_closes_the_connection_to_the_provider(models: ModelServer, tmp_path: Path) -> None:
    models.will(hangs(chunk(content="a")))

    async def talk(server: Server) -> str:
        with trio.fail_after(PATIENCE):
            async with server.connect() as client:
                await client.say("hi")
                run_id = (await client.until("partial_result"))[-1]["payload"]["run_id"]
                await client.send("stop_agent", {"run_id": run_id})
                frames = await client.until("agent_completed")
                while not models.exchanges[0].gone.is_set():  # noqa: ASYNC110 - of another thread
                    await trio.sleep(0.01)
                return str(frames[-1]["payload"]["status"])

    with serving(tmp_path, "--model", "m", "--base-url", models.url) as server:
        assert trio.run(talk, server) == "cancelled"


def failed_start(tmp_path: Path, *options: str, **environ: str) -> str:
    """Return the one line with which a start fails."""
    code, out, err = run([*SERVE, *options], directory=tmp_path, environ=environ)
    assert (code, out) == (1, "")
    lines = [line for line in err.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert SECRET not in err
    return lines[0]


def test_a_wrong_key_stops_the_start(models: ModelServer, tmp_path: Path) -> None:
    models.other = refuses(401, {"error": {"message": f"Incorrect API key: {SECRET}"}})
    options = ("--model", "m", "--base-url", models.url)
    line = failed_start(tmp_path, *options, OPENAI_API_KEY=SECRET)
    assert f"{models.url} answered 401: Incorrect API key: [key]; check OPENAI_API_KEY" in line


def test_a_wrong_address_stops_the_start(tmp_path: Path) -> None:
    with kept_port() as port:
        url = f"http://127.0.0.1:{port}/v1"
        line = failed_start(tmp_path, "--model", "m", "--base-url", url)
    assert f"no connection to {url}: Connection refused; start the model's server" in line


def test_wrong_options_stop_the_start(tmp_path: Path) -> None:
    assert "--base-url: give the model's name" in failed_start(tmp_path, "--base-url", "http://a")
    line = failed_start(tmp_path, "--model", "m", OPENAI_API_KEY=SECRET, OPENAI_API_KEY_FILE="x")
    assert line.endswith("unset OPENAI_API_KEY or OPENAI_API_KEY_FILE")


def test_a_wrong_model_fails_the_run_with_a_text(models: ModelServer, tmp_path: Path) -> None:
    models.will(refuses(404, {"error": {"message": "model 'm' not found"}}))
    with serving(tmp_path, "--model", "m", "--base-url", models.url) as server:
        frames = conversation(server, "hi")
        (line,) = server.process.wait_log("model_failed")
    error = frames[-1]["payload"]["error"]
    assert error["error"] == "The model's server has no such model, or has another address."
    assert line["reason"].startswith(f"{models.url} answered 404: model 'm' not found; check the")
    assert "Traceback" not in server.process.err.text
