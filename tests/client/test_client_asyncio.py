"""The client in an asyncio program, as `docs/client.md` shows it."""

import asyncio
import sys
import types
from pathlib import Path

import pytest
from support.server import SOON, serving, sign

PAGE = Path(__file__).parent.parent.parent / "docs" / "client.md"


def test_the_example_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = [
        block.partition("```")[0]
        for block in PAGE.read_text(encoding="utf-8").split("```python\n")[1:]
        if "start_guest_run" in block
    ]
    module = types.ModuleType("documented_asyncio")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(example, str(PAGE), "exec"), module.__dict__)  # noqa: S102 - our own page
    with serving(tmp_path) as server:

        async def main() -> str:
            answer: str = await asyncio.wait_for(module.main(server.url, sign()), SOON)
            return answer

        assert asyncio.run(main()).startswith("Hello!")
