"""JSON Schema of answers: whether a schema is valid, and whether an answer fits it.

    >>> find_misfit({"size": "L"}, {"properties": {"size": {"type": "integer"}}})
    ".size: 'L' is not of type 'integer'"

References to other documents are not followed: neither a schema nor an answer opens a connection.
"""

from typing import Any

from netra_trio.protocol.messages import JsonObject

TEXT_CHARACTERS = 200  # of an error: jsonschema quotes the value, which may be long


def check_schema(schema: JsonObject) -> None:
    """Check a JSON Schema (draft 2020-12).

    Raises:
        TypeError: If it is no dict.
        ValueError: If it is not valid.
    """
    from jsonschema import Draft202012Validator, SchemaError  # noqa: PLC0415 - 40 ms to import

    if not isinstance(schema, dict):
        raise TypeError(f"a schema is a dict, got {type(schema).__name__}")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"not a valid JSON Schema: {error.message[:TEXT_CHARACTERS]}") from None


def find_misfit(answer: Any, schema: JsonObject) -> str | None:
    """Return where and why an answer does not fit a valid schema; None if it fits."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - likewise
    from jsonschema.exceptions import best_match  # noqa: PLC0415
    from referencing import Registry  # noqa: PLC0415
    from referencing.exceptions import Unresolvable  # noqa: PLC0415

    validator = Draft202012Validator(schema, registry=Registry())
    try:
        error = best_match(validator.iter_errors(answer))
    except Unresolvable as unresolvable:
        return f": the schema refers to {unresolvable.ref[:TEXT_CHARACTERS]}, which is not in it"
    if error is None:
        return None
    path = str(error.json_path).removeprefix("$")
    return f"{path}: {error.message[:TEXT_CHARACTERS]}"
