"""JSON Schema of Python types, and values of these types from JSON.

>>> schema_of(list[int])
{'type': 'array', 'items': {'type': 'integer'}}
>>> structure(["2026-11-30"], list[date])
[datetime.date(2026, 11, 30)]
>>> structure(["1"], list[int])
Traceback (most recent call last):
netra_trio.models.schema.InvalidValue: $[0]: "1" is not of type "integer"
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NewType,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import attrs
import orjson
from cattrs import BaseValidationError, transform_error
from cattrs.preconf.orjson import make_converter

from netra_trio.agents.answer_schema import compile_schema, find_misfit
from netra_trio.protocol.fields import JsonObject

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator

DEPTH_MAX = 12  # of nested classes: a class that contains itself would have no end
DESCRIPTION = "description"
"""The metadata of an attrs field that describes it."""

_SCALARS: dict[Any, JsonObject] = {
    Any: {},
    object: {},
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    None: {"type": "null"},
    types.NoneType: {"type": "null"},
    datetime: {"type": "string", "format": "date-time"},
    date: {"type": "string", "format": "date"},
}
_ARRAYS = {list, tuple, set, frozenset, Sequence, AbstractSet}
_SHOWN_FAULTS = 10


class InvalidValue(Exception):
    """A JSON value does not have the type; the text says where, and what is expected."""


def schema_of(kind: Any, depth: int = 0) -> JsonObject:
    """Return the JSON Schema of a type.

    Raises:
        TypeError: The type has no counterpart in JSON that `structure` can read.
    """
    if depth > DEPTH_MAX:
        raise TypeError(f"{_name(kind)} is nested too deep, or contains itself")
    if isinstance(kind, NewType):
        return schema_of(kind.__supertype__, depth)
    try:
        return dict(_SCALARS[kind])
    except (KeyError, TypeError):  # TypeError: not hashable
        pass
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [member.value for member in kind]}
    if is_typeddict(kind) or _has_fields(kind):
        return _object_schema(kind, depth + 1)
    return _generic_schema(kind, depth + 1)


def structure(value: Any, kind: Any, validator: "Draft202012Validator | None" = None) -> Any:
    """Return a value of a type from a JSON value, strictly: `"5"` is not an int.

    Args:
        value: The JSON value.
        kind: The type.
        validator: The compiled schema of the type; None to compile it here.

    Raises:
        InvalidValue: It has another type.
    """
    misfit = find_misfit(value, validator or compile_schema(schema_of(kind)))
    if misfit is not None:
        raise InvalidValue(f"${misfit}")
    try:
        return _converter.structure(value, kind)
    except BaseValidationError as error:
        faults = transform_error(error, path="$", format_exception=_describe)
        raise InvalidValue("; ".join(faults[:_SHOWN_FAULTS])) from None
    except Exception as error:
        raise InvalidValue(f"$: {_describe(error, kind)}") from None


def to_json(value: Any) -> Any:
    """Return a value as JSON values: classes as objects, sets as arrays.

    Raises:
        TypeError: It has no counterpart in JSON.
    """
    return orjson.loads(orjson.dumps(_converter.unstructure(value)))


def _generic_schema(kind: Any, depth: int) -> JsonObject:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        inner, *notes = arguments
        texts = [note for note in notes if isinstance(note, str)]
        schema = schema_of(inner, depth)
        return {**schema, "description": texts[0]} if texts else schema
    if origin in {Required, NotRequired}:
        return schema_of(arguments[0], depth)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in {Union, types.UnionType}:
        return {"anyOf": [schema_of(argument, depth) for argument in arguments]}
    base = origin or kind
    if base in _ARRAYS:
        items = [argument for argument in arguments if argument is not ...]
        if base is tuple and len(items) > 1:
            raise TypeError(f"{_name(kind)}: use list[…], or tuple[…, ...]")
        return {"type": "array", **({"items": schema_of(items[0], depth)} if items else {})}
    if base in {dict, Mapping}:
        if arguments and arguments[0] is not str:
            raise TypeError(f"{_name(kind)}: the keys of JSON objects are str")
        values = {"additionalProperties": schema_of(arguments[1], depth)} if arguments else {}
        return {"type": "object", **values}
    raise TypeError(f"{_name(kind)} cannot be read from JSON")


def _object_schema(kind: Any, depth: int) -> JsonObject:
    """Return the schema of an attrs class, a dataclass or a TypedDict."""
    properties: JsonObject = {}
    required: list[str] = []
    hints = get_type_hints(kind, include_extras=True)
    if is_typeddict(kind):
        properties = {name: schema_of(hint, depth) for name, hint in hints.items()}
        required = [name for name in hints if name in kind.__required_keys__]
    else:
        fields = attrs.fields(kind) if attrs.has(kind) else dataclasses.fields(kind)
        for each in fields:
            schema = schema_of(hints[each.name], depth)
            if text := each.metadata.get(DESCRIPTION):
                schema.setdefault("description", text)
            if _is_required(each):
                required.append(each.name)
            elif _is_json(each.default):
                schema["default"] = each.default
            properties[each.name] = schema
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _is_required(field: Any) -> bool:
    if isinstance(field, dataclasses.Field):
        missing = dataclasses.MISSING
        return field.default is missing and field.default_factory is missing
    return field.default is attrs.NOTHING


def _is_json(value: object) -> bool:
    return value is None or type(value) in {str, int, float, bool}


def _has_fields(kind: Any) -> bool:
    return isinstance(kind, type) and (attrs.has(kind) or dataclasses.is_dataclass(kind))


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _describe(error: BaseException, kind: Any) -> str:
    text = str(error)
    return text if text.startswith("expected ") else f"expected {_name(kind)}"


def _integer(value: Any, _: Any) -> int:
    # JSON Schema accepts 1.0 as an integer, and some models write integers like that.
    return int(value)


def _unchanged(value: Any, _: Any) -> Any:
    return value


_converter = make_converter()
_converter.register_structure_hook(int, _integer)
for _kind in (str, bool, types.NoneType):
    _converter.register_structure_hook(_kind, _unchanged)
