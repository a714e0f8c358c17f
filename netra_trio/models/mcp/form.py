"""The schemas by which an MCP server may ask a user: the flat forms of the protocol.

>>> check_form({"type": "object", "properties": {"size": {"type": "integer"}}})
>>> check_form({"type": "array", "properties": {}})
Traceback (most recent call last):
ValueError: not a form of MCP: .type: "object" was expected

A remote server must not be able to stop the event loop. With a form, the time for the check of an
answer is linear in the length of both. Nested references would make it exponential, and a pattern
would multiply the two lengths.
"""

from functools import cache
from typing import TYPE_CHECKING

from netra_trio.agents.answer_schema import compile_schema, find_misfit
from netra_trio.protocol.fields import JsonObject

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator


def check_form(schema: JsonObject) -> None:
    """Check that a schema is an object of texts, numbers, booleans and choices, without nesting.

    Raises:
        ValueError: It is another schema; the text says where.
    """
    misfit = find_misfit(schema, _validator())
    if misfit is not None:
        raise ValueError(f"not a form of MCP: {misfit}")


@cache
def _validator() -> "Draft202012Validator":
    return compile_schema(_FORM)


def _only(properties: JsonObject, *required: str) -> JsonObject:
    """Return the schema of an object that has no other properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _array(items: JsonObject) -> JsonObject:
    return {"type": "array", "items": items}


_TEXT: JsonObject = {"type": "string"}
_NUMBER: JsonObject = {"type": "number"}
_VALUE: JsonObject = {"type": ["string", "number", "boolean"]}
_PRIMITIVES = ["string", "number", "integer", "boolean"]
_NOTES: JsonObject = {"title": _TEXT, "description": _TEXT}
_LIMITS: JsonObject = {
    **dict.fromkeys(("minLength", "maxLength", "minimum", "maximum"), _NUMBER),
    **dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum", "multipleOf"), _NUMBER),
    "format": _TEXT,
}
_CHOICES: JsonObject = {"enum": _array(_VALUE), "enumNames": _array(_TEXT)}
_TITLED = _array(_only({"const": _VALUE, **_NOTES}, "const"))
# Servers on older versions of the Python package declare an optional field as
# `anyOf` of a primitive type and null.
_OPTIONAL = _array(
    _only({"type": {"enum": [*_PRIMITIVES, "null"]}, **_NOTES, **_LIMITS, **_CHOICES}, "type")
)

_FIELD: JsonObject = {
    **_only(
        {
            "type": {"enum": [*_PRIMITIVES, "array"]},
            "default": {},
            **_NOTES,
            **_LIMITS,
            **_CHOICES,
            "const": _VALUE,
            "oneOf": _TITLED,
            "anyOf": {"anyOf": [_TITLED, _OPTIONAL]},
            "items": {
                **_only({"type": {"const": "string"}, **_CHOICES, "anyOf": _TITLED}),
                "anyOf": [{"required": ["enum"]}, {"required": ["anyOf"]}],
            },
            **dict.fromkeys(("minItems", "maxItems"), _NUMBER),
            "uniqueItems": {"type": "boolean"},
        }
    ),
    "anyOf": [{"required": [name]} for name in ("type", "enum", "oneOf", "anyOf")],
    "if": {"properties": {"type": {"const": "array"}}, "required": ["type"]},
    "then": {"required": ["items"]},
}

_FORM: JsonObject = _only(
    {
        "$schema": _TEXT,
        "type": {"const": "object"},
        **_NOTES,
        "properties": {"type": "object", "additionalProperties": _FIELD},
        "required": _array(_TEXT),
        "additionalProperties": {"type": "boolean"},
    },
    "type",
    "properties",
)
