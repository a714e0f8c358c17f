"""The options of `serve --model`."""

from typing import Any

import pytest

from netra_trio import Run
from netra_trio.cli.errors import CommandError
from netra_trio.cli.model_agent import with_model
from netra_trio.models import Chat


async def other(run: Run) -> None: ...


def made(model: str | None = "m", **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"base_url": None, "mcp": (), "system": None, **options}
    return with_model({"other": other}, model, **given)


def test_the_model_is_the_default_agent() -> None:
    agents = made(base_url="http://127.0.0.1:1/v1")
    assert list(agents) == ["chat", "other"]
    assert isinstance(agents["chat"], Chat)
    assert repr(agents["chat"]) == "<Chat 'm' at http://127.0.0.1:1/v1>"
    assert repr(made()["chat"]) == "<Chat 'm' at https://api.openai.com/v1>"


def test_without_a_model() -> None:
    assert made(None) == {"other": other}
    for option, value in [("base_url", "x"), ("mcp", ("x",)), ("system", "x")]:
        with pytest.raises(CommandError, match="give the model's name too, as --model"):
            made(None, **{option: value})


def test_invalid_options() -> None:
    with pytest.raises(CommandError, match=r"^--base-url: expected a URL"):
        made(base_url="localhost")
    with pytest.raises(CommandError, match=r"^--mcp: expected a command or a URL"):
        made(mcp=(" ",))
    with pytest.raises(CommandError, match="the name 'chat' is that of --model"):
        with_model({"chat": other}, "m", base_url=None, mcp=(), system=None)
