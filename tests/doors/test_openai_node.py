"""The unmodified client of OpenAI for Node.js, with a real server."""

from pathlib import Path

from support.chat_agents import AGENTS, OPTIONS, SOURCE, counted
from support.node import run_script
from support.server import serving, sign


def test_conversations_of_node(tmp_path: Path) -> None:
    (tmp_path / "chat_agents.py").write_text(SOURCE)
    with serving(tmp_path, "--door", "openai", *OPTIONS) as server:
        argument = {
            "baseURL": f"http://{server.address}/v1",
            "token": sign("node"),
            "expired": sign("node", seconds=-100),
        }
        told = run_script("openai.mjs", argument)
        assert told["models"] == list(AGENTS)
        assert told["whole"]["text"] == told["streamed"] == counted(4)
        assert told["whole"]["requestId"].startswith("run_")
        assert told["accumulated"] == counted(5)
        assert told["stopped"] is True
        assert told["repeated"] == counted(30)
        assert told["errors"] == {
            "model": ["NotFoundError", 404, "model_not_found"],
            "choices": ["BadRequestError", 400, "validation_error"],
            "token": ["AuthenticationError", 401, "invalid_api_key"],
            "failed": ["InternalServerError", 500, "agent_error"],
            "inStream": ["APIError", None, "agent_error"],
        }
        server.process.wait_log("run_ended", agent="count", status="cancelled")
        # Whole, streamed, accumulated, repeated: the last one ran once.
        assert len(server.process.wait_log("run_ended", 4, status="completed")) == 4
