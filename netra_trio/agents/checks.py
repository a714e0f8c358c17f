"""Checks of what agents pass to the methods of their run; each raises TypeError or ValueError."""

from math import isfinite

from netra_trio.protocol.fields import is_media_type
from netra_trio.protocol.text import json_size
from netra_trio.protocol.threads import TITLE_CHARACTERS

STEP_MAX = 2**53 - 1  # larger integers lose precision in JavaScript
TOOL_NAME_BYTES = 256  # UTF-8
MODEL_NAME_BYTES = 256  # UTF-8
TOKENS_MAX = 2**53 - 1  # of one report of usage, for the same reason


def check_step(step: int | None) -> None:
    """Check the number of a step, or None."""
    if step is None:
        return
    if type(step) is not int:
        raise TypeError(f"a step is an int, got {type(step).__name__}")
    if abs(step) > STEP_MAX:
        raise ValueError(f"a step is at most {STEP_MAX}, got {step}")


def check_usage(
    model: str, input_tokens: int, output_tokens: int, cost: float | None
) -> float | None:
    """Check the arguments of `usage`; return the cost as a float."""
    if not isinstance(model, str):
        raise TypeError(f"a model is a str, got {type(model).__name__}")
    if not 1 <= json_size(model) <= MODEL_NAME_BYTES:
        raise ValueError(f"the name of a model has 1 to {MODEL_NAME_BYTES} bytes")
    for tokens in (input_tokens, output_tokens):
        if type(tokens) is not int:
            raise TypeError(f"tokens are an int, got {type(tokens).__name__}")
        if not 0 <= tokens <= TOKENS_MAX:
            raise ValueError(f"tokens are from 0 to {TOKENS_MAX}, got {tokens}")
    if cost is None:
        return None
    if isinstance(cost, bool) or not isinstance(cost, int | float):
        raise TypeError(f"a cost is a number, got {type(cost).__name__}")
    if not (isfinite(cost) and cost >= 0):
        raise ValueError(f"a cost is a finite number from 0, got {cost}")
    return float(cost)


def check_title(title: str) -> None:
    """Check the title of a thread."""
    if not isinstance(title, str):
        raise TypeError(f"a title is a str, got {type(title).__name__}")
    if not title.strip() or len(title) > TITLE_CHARACTERS:
        raise ValueError(f"a title is not blank and has at most {TITLE_CHARACTERS} characters")
    title.encode()


def check_tool_name(name: str) -> None:
    """Check the name of a tool."""
    if not isinstance(name, str):
        raise TypeError(f"a tool's name is a str, got {type(name).__name__}")
    if json_size(name) > TOOL_NAME_BYTES:
        raise ValueError(f"a tool's name has at most {TOOL_NAME_BYTES} bytes")


def check_media_type(media_type: str) -> None:
    """Check a media type.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is not a valid media type.
    """
    if not isinstance(media_type, str):
        raise TypeError(f"a media type is a str, got {type(media_type).__name__}")
    if not is_media_type(media_type):
        raise ValueError("a media type has the form type/subtype, for example audio/mpeg")


def check_data(data: object) -> None:
    """Check that data is bytes.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"data is bytes, got {type(data).__name__}")
