"""The example of the page of the events door is executed as it stands there."""

import json
import os
import subprocess
from pathlib import Path

from support.markdown import ROOT, blocks
from support.server import SOON, serving, sign

PAGE = ROOT / "docs" / "doors-events.md"


def test_the_conversation_with_curl(tmp_path: Path) -> None:
    script = "\n".join(block.text for block in blocks("sh") if block.page == PAGE)
    with serving(tmp_path, "--door", "events") as server:
        done = subprocess.run(  # noqa: S603 - the project's own documentation
            ["/bin/sh", "-euc", script],
            cwd=tmp_path,
            env={**os.environ, "SERVER": f"http://{server.address}", "TOKEN": sign()},
            timeout=SOON,
            check=False,
        )
        assert done.returncode == 0
    stream = (tmp_path / "events.txt").read_text()
    assert "id: 1\ndata: " in stream
    assert '"type":"agent_completed"' in stream
    frames = json.loads((tmp_path / "poll.json").read_text())["frames"]
    assert frames[0]["payload"]["resume"]["verdict"] == "exact"
    numbers = [frame.get("seq_from", frame["seq"]) for frame in frames[1:]]
    assert numbers[0] == 2
    assert frames[-1]["type"] == "agent_completed"
