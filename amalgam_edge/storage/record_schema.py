"""The JSON Schema of a record, and its fields as a table would show them; both from hints, bounds and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal, Optional, get_args, get_origin

from amalgam_edge.storage.record_fields import (
    Items,
    Number,
    Text,
    bound,
    optional_of,
    record_fields,
    unwrapped,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class Entry:
    """An entry of an object in JSON, in words.

    Attributes:
        name: Its name.
        holds: What it holds, such as ``list of Label``; classes by their names.
        required: Whether it is always there.
        description: What it means.
        classes: The records that it may hold.
    """

    name: str
    holds: str
    required: bool
    description: str
    classes: tuple[type, ...]


def json_schema(cls: type) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the documents that a record is read from.

    What no schema can say is left to the reader: that the names of some items differ, and which paths lead nowhere
    else. Entries that the class does not know are allowed, as the reader allows them.
    """
    found: dict[type, dict[str, Any]] = {}
    _add_record(cls, found)
    whole = found.pop(cls)
    definitions = {other.__name__: schema for other, schema in found.items()}
    return {"$schema": DIALECT, "title": cls.__name__, **whole, **({"$defs": definitions} if definitions else {})}


def entries_of(cls: type) -> list[Entry]:
    """The entries of a record in the order of its fields; inline ones among them."""
    found = []
    for name, hint, required, description in _described(cls):
        words, classes = _in_words(hint)
        found.append(Entry(name, words, required, description, classes))
    return found


def _described(cls: type) -> Iterator[tuple[str, Any, bool, str]]:
    """Name, type hint, whether it is always there, and description of each entry of an object."""
    descriptions = field_descriptions(cls)
    for field in record_fields(cls):
        if field.inline is None:
            yield field.name, field.hint, not field.may_lack, descriptions[field.attribute]
            continue
        may_be_none = optional_of(unwrapped(field.hint)[0])[1]
        for name, hint, required, description in _described(field.inline_class):
            yield name, Optional[hint] if may_be_none else hint, required and not may_be_none, description  # noqa: UP045


def field_descriptions(cls: type) -> dict[str, str]:
    """Field → its description in the ``Attributes`` of the docstrings of a class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        attributes = re.split(r"^Attributes:\n", inspect.cleandoc(base.__doc__ or ""), flags=re.MULTILINE)[1:]
        for text in attributes:
            for match in re.finditer(r"^    (\w+): (.*(?:\n     .*)*)", text, re.MULTILINE):
                found[match[1]] = " ".join(match[2].split())
    return found


def _add_record(cls: type, found: dict[type, dict[str, Any]]) -> None:
    if cls in found:
        return
    found[cls] = {}  # its place: classes stand in the order in which they are met
    entries = list(_described(cls))
    found[cls] = {
        "description": summary_of(cls),
        "type": "object",
        "properties": {name: {"description": text, **_schema(hint, found)} for name, hint, _, text in entries},
        "required": [name for name, _, required, _ in entries if required],
    }


def summary_of(cls: type) -> str:
    """What a record is: the first paragraph of its docstring."""
    return inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def _schema(hint: Any, found: dict[type, dict[str, Any]]) -> dict[str, Any]:
    base, marks = unwrapped(hint)
    inner, may_be_none = optional_of(base)
    if may_be_none:
        return {"anyOf": [_schema(inner, found), {"type": "null"}]}
    if is_dataclass(base):
        _add_record(base, found)  # type: ignore[arg-type]
        return {"$ref": f"#/$defs/{base.__name__}"}  # type: ignore[union-attr]
    return _SCHEMAS[get_origin(base) or base](base, marks, found)


def _number_schema(base: Any, marks: tuple[Any, ...], found: dict[type, dict[str, Any]]) -> dict[str, Any]:
    bounds = bound(marks, Number)
    limits = {"minimum": _plain_number(bounds.at_least), "maximum": _plain_number(bounds.at_most)}
    return {"type": "integer" if base is int else "number", **limits}


def _tuple_schema(base: Any, marks: tuple[Any, ...], found: dict[type, dict[str, Any]]) -> dict[str, Any]:
    bounds = bound(marks, Items)
    limits = {"minItems": bounds.fewest, "maxItems": bounds.most}
    return {"type": "array", "items": _schema(get_args(base)[0], found), **limits}


def _mapping_schema(base: Any, marks: tuple[Any, ...], found: dict[type, dict[str, Any]]) -> dict[str, Any]:
    bounds, (key, value) = bound(marks, Items), get_args(base)
    names = _text_schema(bound(unwrapped(key)[1], Text))
    limits = {"minProperties": bounds.fewest, "maxProperties": bounds.most}
    return {"type": "object", "propertyNames": names, "additionalProperties": _schema(value, found), **limits}


def _text_schema(bounds: Text) -> dict[str, Any]:
    return {"maxLength": bounds.longest, **({"pattern": f"^(?:{bounds.pattern})$"} if bounds.pattern else {})}


def _plain_number(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def _in_words(hint: Any) -> tuple[str, tuple[type, ...]]:
    """What a value of a hint is, and the records in it."""
    base, marks = unwrapped(hint)
    inner, may_be_none = optional_of(base)
    if may_be_none:
        words, classes = _in_words(inner)
        return f"{words}, or null", classes
    kind = get_origin(base) or base
    if is_dataclass(base):
        return base.__name__, (base,)  # type: ignore[union-attr, return-value]
    if kind is Literal:
        return " or ".join(f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in get_args(base)), ()
    if kind in (tuple, Mapping):
        words, classes = _in_words(get_args(base)[0 if kind is tuple else 1])
        return f"{'list' if kind is tuple else 'object'} of {words}", classes
    if kind in (int, float):
        return f"{'whole number' if kind is int else 'number'}{_range(bound(marks, Number))}", ()
    return {bool: "true or false", str: "string"}.get(kind, "any JSON"), ()


def _range(bounds: Number) -> str:
    default = Number()
    low = None if bounds.at_least == default.at_least else f"{bounds.at_least:g}"
    high = None if bounds.at_most == default.at_most else f"{bounds.at_most:.16g}"
    if low and high:
        return f" from {low} to {high}"
    return f" from {low}" if low else f" up to {high}" if high else ""


_SCHEMAS: dict[Any, Callable[[Any, tuple[Any, ...], dict[type, dict[str, Any]]], dict[str, Any]]] = {
    Literal: lambda base, marks, found: {"enum": list(get_args(base))},
    bool: lambda base, marks, found: {"type": "boolean"},
    int: _number_schema,
    float: _number_schema,
    str: lambda base, marks, found: {"type": "string", **_text_schema(bound(marks, Text))},
    tuple: _tuple_schema,
    Mapping: _mapping_schema,
    Any: lambda base, marks, found: {},
}
