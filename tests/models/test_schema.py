"""JSON Schema of types, and values of these types: each pair checked by an independent library."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from enum import Enum
from typing import Annotated, Any, Literal, NewType, NotRequired, Optional, TypedDict

import attrs
import pytest

from netra_trio.agents.answer_schema import compile_schema
from netra_trio.models.schema import InvalidValue, schema_of, structure, to_json


class Color(Enum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Place:
    city: str
    zoom: int = 3


@dataclasses.dataclass
class Box:
    places: list[Place]
    label: str | None = None
    tags: list[str] = dataclasses.field(default_factory=list)


class Row(TypedDict):
    name: str
    size: NotRequired[int]


@attrs.frozen
class Endless:
    inner: "list[Endless]"


UserName = NewType("UserName", str)
PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "zoom": {"type": "integer", "default": 3}},
    "required": ["city"],
    "additionalProperties": False,
}
NULL = {"type": "null"}
TEXT = {"type": "string"}

CASES: list[tuple[Any, Any, list[Any], list[Any]]] = [
    # type, schema, values that fit, values that do not
    (str, TEXT, ["", "a"], [1, None, ["a"]]),
    (int, {"type": "integer"}, [0, -5, 2.0], ["5", 1.5, True, None]),
    (float, {"type": "number"}, [0, 1.5], ["5", True, None]),
    (bool, {"type": "boolean"}, [True, False], [0, "true"]),
    (Any, {}, [1, None, {"a": []}], []),
    (None, NULL, [None], [0]),
    (UserName, TEXT, ["a"], [1]),
    (int | None, {"anyOf": [{"type": "integer"}, NULL]}, [None, 1], ["1", 1.5]),
    (Optional[str], {"anyOf": [TEXT, NULL]}, [None, "a"], [1]),  # noqa: UP045 - people write it
    (Literal["a", 1], {"enum": ["a", 1]}, ["a", 1], ["b", 2]),
    (Color, {"enum": ["red", "blue"]}, ["red"], ["green", 1]),
    (list, {"type": "array"}, [[], [1, "a"]], [{}]),
    (list[int], {"type": "array", "items": {"type": "integer"}}, [[], [1]], [["1"], "1", {}]),
    (tuple[str, ...], {"type": "array", "items": TEXT}, [["a"], []], [[1]]),
    (Sequence[str], {"type": "array", "items": TEXT}, [["a"]], [[1]]),
    (set[int], {"type": "array", "items": {"type": "integer"}}, [[1, 2]], [["a"]]),
    (dict, {"type": "object"}, [{}, {"a": 1}], []),
    (
        Mapping[str, int],
        {"type": "object", "additionalProperties": {"type": "integer"}},
        [{"a": 1}],
        [{"a": "1"}],
    ),
    (Annotated[int, "how many"], {"type": "integer", "description": "how many"}, [1], ["1"]),
    (Annotated[int, 5], {"type": "integer"}, [1], ["1"]),
    (Place, PLACE, [{"city": "a"}, {"city": "a", "zoom": 1}], [{}, {"city": 1}, {"town": "a"}]),
    (
        Box,
        {
            "type": "object",
            "properties": {
                "places": {"type": "array", "items": PLACE},
                "label": {"anyOf": [TEXT, NULL], "default": None},
                "tags": {"type": "array", "items": TEXT},
            },
            "required": ["places"],
            "additionalProperties": False,
        },
        [{"places": [{"city": "a"}]}, {"places": [], "label": "x", "tags": ["y"]}],
        [{"places": [{"city": 5}]}, {"label": "x"}],
    ),
    (
        Row,
        {
            "type": "object",
            "properties": {"name": TEXT, "size": {"type": "integer"}},
            "required": ["name"],
            "additionalProperties": False,
        },
        [{"name": "a"}, {"name": "a", "size": 1}],
        [{}, {"name": "a", "size": "1"}],
    ),
]


@pytest.mark.parametrize(
    ("kind", "schema", "good", "bad"), CASES, ids=lambda value: str(value)[:40]
)
def test_a_type(kind: Any, schema: Any, good: list[Any], bad: list[Any]) -> None:
    assert schema_of(kind) == schema
    validator = compile_schema(schema)
    for value in good:
        assert validator.is_valid(value)
        structure(value, kind)
    for value in bad:
        assert not validator.is_valid(value)
        with pytest.raises(InvalidValue):
            structure(value, kind)


def test_the_values_have_the_types() -> None:
    assert structure({"city": "a"}, Place) == Place("a", 3)
    assert structure({"places": [{"city": "a"}]}, Box) == Box([Place("a")])
    assert structure("red", Color) is Color.RED
    assert type(structure(2.0, int)) is int
    assert type(structure(2, float)) is float
    assert structure(["a"], tuple[str, ...]) == ("a",)
    assert structure("2026-11-30", date) == date(2026, 11, 30)
    value = structure("2026-11-30T10:00:00+00:00", datetime)
    assert value == datetime(2026, 11, 30, 10, tzinfo=UTC)
    assert schema_of(datetime) == {"type": "string", "format": "date-time"}


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (int, "5", '$: "5" is not of type "integer"'),
        (list[int], [1, "5"], '$[1]: "5" is not of type "integer"'),
        (Box, {"places": [{"city": 5}]}, '$.places[0].city: 5 is not of type "string"'),
        (Box, {}, '$: "places" is a required property'),
        (Place, {"city": "a", "town": 1}, "$: Additional properties are not allowed ('town'"),
        (Color, "green", '$: "green" is not one of'),
        (list[date], ["2026-11-30", "today"], "expected date @ $[1]"),
        (date, "today", "expected date"),
    ],
)
def test_an_error_says_where_and_what(kind: Any, value: Any, text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        structure(value, kind)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "kind", [bytes, complex, dict[int, str], tuple[int, str], Endless, open, "NoType"]
)
def test_a_type_without_a_counterpart(kind: Any) -> None:
    with pytest.raises(TypeError):
        schema_of(kind)


def test_results() -> None:
    assert to_json(Place("a")) == {"city": "a", "zoom": 3}
    assert to_json([Color.RED, {"when": date(2026, 11, 30)}]) == ["red", {"when": "2026-11-30"}]
    assert to_json({1: "a"}) == {"1": "a"}
    for value in (object(), float, "\ud800"):
        with pytest.raises(TypeError):
            to_json(value)
