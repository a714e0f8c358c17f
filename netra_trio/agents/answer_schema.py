"""JSON Schema (draft 2020-12) of answers: whether a schema is valid, and whether an answer fits it.

    >>> find_misfit({"size": "L"}, compile_schema({"properties": {"size": {"type": "integer"}}}))
    '.size: "L" is not of type "integer"'

Schemas and answers are not trusted: no document is fetched for a reference, patterns take a time
that is linear in the length of the answer, and references cannot make a small schema a large one.
"""

from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote

from netra_trio.protocol.fields import JsonObject

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator

SCHEMA_NODES = 2000  # of a schema with its references replaced: milliseconds for any answer
TEXT_CHARACTERS = 200  # of an error: it quotes the value, which may be long


def compile_schema(schema: JsonObject) -> "Draft202012Validator":
    """Return the validator of a schema.

    Raises:
        TypeError: If it is no dict.
        ValueError: If it is not valid, refers to another document or to itself, is larger than
            `SCHEMA_NODES`, or has a pattern that is not linear: with a look-around or a
            back-reference.
    """
    from jsonschema_rs import (  # noqa: PLC0415 - a library of 15 MB, which most servers do not use
        Draft202012Validator,
        RegexOptions,
        ValidationError,
    )

    if not isinstance(schema, dict):
        raise TypeError(f"a schema is a dict, got {type(schema).__name__}")
    _check_size(schema)
    try:
        return Draft202012Validator(schema, pattern_options=RegexOptions(), retriever=_refuse)
    except ValidationError as error:
        raise ValueError(f"not a valid JSON Schema: {error.message[:TEXT_CHARACTERS]}") from None


def _check_size(schema: JsonObject) -> None:
    """Raise `ValueError` if the schema is too large with its references replaced."""
    sizes: dict[str, int | None] = {}  # of the targets of references; None while it is counted

    def size_of(node: Any) -> int:
        if isinstance(node, list):
            return 1 + sum(map(size_of, node))
        if not isinstance(node, dict):
            return 1
        if "$dynamicRef" in node:
            raise ValueError("a schema has no $dynamicRef")
        size = 1 + sum(size_of(inner) for name, inner in node.items() if name not in _DEFINITIONS)
        if isinstance(node.get("$ref"), str):
            size += size_of_target(node["$ref"])
        if size > SCHEMA_NODES:
            raise ValueError(f"a schema has at most {SCHEMA_NODES} parts, with its references")
        return size

    def size_of_target(reference: str) -> int:
        if reference not in sizes:
            sizes[reference] = None
            sizes[reference] = size_of(_target(schema, reference))
        size = sizes[reference]
        if size is None:
            raise ValueError(f"a schema does not refer to itself, as {reference} does")
        return size

    size_of(schema)


_DEFINITIONS = {"$defs", "definitions"}  # they count where they are referred to


def _target(schema: JsonObject, reference: str) -> Any:
    """Return what a reference within the schema refers to: `#/$defs/name`."""
    if not reference.startswith("#/"):
        raise ValueError(f"a schema refers to its own parts only, as #/$defs/name, not {reference}")
    found: Any = schema
    for step in reference[2:].split("/"):
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, dict) else None
    if found is None:
        raise ValueError(f"the schema has no part {reference}")
    return found


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
