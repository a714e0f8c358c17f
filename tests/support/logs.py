"""Credentials that no log line may contain, and helpers that read log lines.

logs.configure(stream=out)
structlog.get_logger("a").info("asked", token=JWT)
assert only(out)["token"] == "[redacted]"
"""

import base64
import io
import json
from typing import Any

import jwt
import pytest

KEY = "k" * 32
JWT = jwt.encode({"sub": "user_1", "exp": 4_102_444_800}, KEY, algorithm="HS256")
SUBPROTOCOL = "jwt." + base64.urlsafe_b64encode(JWT.encode()).rstrip(b"=").decode()
TICKET = "tk-Zm9vYmFy_0123456789"

each_format = pytest.mark.parametrize("as_json", [True, False], ids=["json", "console"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def only(out: io.StringIO) -> dict[str, Any]:
    """Return the one JSON line that was written."""
    text = out.getvalue()
    assert text.count("\n") == 1
    line: dict[str, Any] = json.loads(text)
    return line


def fail(text: str) -> None:
    raise ValueError(text)
