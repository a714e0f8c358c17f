"""The schemas by which an MCP server may ask a user."""

from typing import Any

import pytest
from pydantic import BaseModel

from netra_trio.models.mcp.form import check_form

TITLED = [{"const": "s", "title": "Small"}, {"const": "l", "description": "Large"}]


def form(**field: Any) -> dict[str, Any]:
    """Return a form with one field."""
    return {"type": "object", "properties": {"a": field}}


class Order(BaseModel):  # type: ignore[misc] # pydantic is not followed
    """The form that a server in Python asks for."""

    size: int
    note: str | None = None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {}},
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "title": "T",
            "description": "D",
            "additionalProperties": False,
            "required": ["a"],
            **form(type="boolean", default=True, title="T", description="D"),
        },
        form(type="string", minLength=1, maxLength=5, format="email", default="a"),
        form(type="integer", minimum=1, maximum=5),
        form(type="number", exclusiveMinimum=0.5, exclusiveMaximum=1, multipleOf=0.1),
        form(type="string", enum=["s", "l"], enumNames=["Small", "Large"]),
        form(enum=["s", 1, True]),
        form(type="string", const="s"),
        form(type="string", oneOf=TITLED),
        form(type="string", anyOf=TITLED),
        form(type="array", items={"type": "string", "enum": ["s"]}, minItems=1, maxItems=2),
        form(type="array", items={"anyOf": TITLED}, uniqueItems=True),
        form(anyOf=[{"type": "string", "maxLength": 5}, {"type": "null"}]),
        Order.model_json_schema(),
    ],
)
def test_a_form(schema: dict[str, Any]) -> None:
    check_form(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"properties": {}},
        {"type": "array", "items": {"type": "string"}},
        {"type": "object", "properties": []},
        {"type": "object", "properties": {}, "required": "a"},
        {"type": "object", "properties": {}, "additionalProperties": {"$ref": "#"}},
        *(
            {"type": "object", "properties": {}, keyword: value}
            for keyword, value in {
                "$defs": {},
                "$ref": "#",
                "$dynamicRef": "#",
                "definitions": {},
                "allOf": [],
                "anyOf": [{}],
                "oneOf": [{}],
                "not": {},
                "if": {},
                "patternProperties": {},
                "propertyNames": {},
                "dependentSchemas": {},
                "unevaluatedProperties": False,
            }.items()
        ),
        form(),
        form(title="T"),
        {"type": "object", "properties": {"a": True}},
        form(type="object"),
        form(type="null"),
        form(type=["string", "null"]),
        form(type="object", properties={}),
        form(type="array"),
        form(type="array", items={}),
        form(type="array", items={"type": "string"}),
        form(type="array", items={"type": "object", "enum": ["s"]}),
        form(type="array", items={"enum": ["s"], "allOf": []}),
        form(type="array", items={"$ref": "#"}),
        form(type="array", items={"anyOf": [{"type": "string"}]}),
        form(type="array", contains={}, items={"enum": ["s"]}),
        form(type="array", prefixItems=[], items={"enum": ["s"]}),
        form(type="string", enum=[{}]),
        form(type="string", enum=[["s"]]),
        form(type="string", const={}),
        form(type="string", oneOf=[{"type": "string"}]),
        form(type="string", oneOf=[{"const": "s", "$ref": "#"}]),
        form(type="string", oneOf=[{"title": "Small"}]),
        form(anyOf=[{}]),
        form(anyOf=[{"type": "array"}]),
        form(anyOf=[{"anyOf": [{"type": "string"}]}]),
        form(anyOf=[{"type": "string", "allOf": []}]),
        form(anyOf=[{"$ref": "#"}]),
        *(
            form(type="string", **{keyword: {}})
            for keyword in ("$ref", "$defs", "$dynamicRef", "not", "if", "then", "else", "unknown")
        ),
        form(type="string", allOf=[]),
        form(type="string", pattern="a+"),
    ],
)
def test_another_schema(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a form of MCP: "):
        check_form(schema)
