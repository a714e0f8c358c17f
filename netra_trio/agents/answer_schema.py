"""JSON Schema (draft 2020-12) of answers: whether a schema is valid, and whether an answer fits it.

    >>> find_misfit({"size": "L"}, compile_schema({"properties": {"size": {"type": "integer"}}}))
    '.size: "L" is not of type "integer"'

A schema may be as bad as a program's author makes it, and an answer as a user makes it: no document
is fetched for a reference, and patterns take a time that is linear in the length of the answer.
"""

from typing import TYPE_CHECKING, Any, NoReturn

from netra_trio.protocol.messages import JsonObject

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator

TEXT_CHARACTERS = 200  # of an error: it quotes the value, which may be long


def compile_schema(schema: JsonObject) -> "Draft202012Validator":
    """Return the validator of a schema.

    Raises:
        TypeError: If it is no dict.
        ValueError: If it is not valid, refers to another document, or has a pattern that is not
            linear: with a look-around or a back-reference.
    """
    from jsonschema_rs import (  # noqa: PLC0415 - a library of 15 MB, which most servers do not use
        Draft202012Validator,
        RegexOptions,
        ValidationError,
    )

    if not isinstance(schema, dict):
        raise TypeError(f"a schema is a dict, got {type(schema).__name__}")
    try:
        return Draft202012Validator(schema, pattern_options=RegexOptions(), retriever=_refuse)
    except ValidationError as error:
        raise ValueError(f"not a valid JSON Schema: {error.message[:TEXT_CHARACTERS]}") from None


def find_misfit(answer: Any, validator: "Draft202012Validator") -> str | None:
    """Return where and why an answer does not fit; None if it fits."""
    error = next(validator.iter_errors(answer), None)
    if error is None:
        return None
    path = "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path
    )
    return f"{path}: {error.message}"[:TEXT_CHARACTERS]


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is another document")
