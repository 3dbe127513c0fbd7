"""Frozen dataclasses as JSON and back: the type hints of a class say what a document may hold.

:mod:`amalgam_edge.storage.record_fields` lists what hints may be. Entries that a class does not know are ignored, so
that later versions may add some.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin

from amalgam_edge.errors import AmalgamError
from amalgam_edge.storage.record_fields import (
    Free,
    Items,
    Number,
    RecordField,
    Text,
    bound,
    optional_of,
    record_fields,
    unwrapped,
)

_T = TypeVar("_T")
_Reader = Callable[[Any], Any]

_LONGEST_KEY_SHOWN = 40
_PLAIN_KEY = re.compile(r"[\w.-]+")


class _FaultError(Exception):
    """What is wrong with a document, and where: keys and positions from the outside in."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.where: list[str | int] = []

    def told(self) -> str:
        where = ""
        for part in self.where:
            if isinstance(part, int):
                where += f"[{part}]"
            else:
                plain = len(part) <= _LONGEST_KEY_SHOWN and _PLAIN_KEY.fullmatch(part)
                where += f".{part}" if plain else f"[{part[:_LONGEST_KEY_SHOWN]!a}]"
        return f"{where.removeprefix('.')}: {self}" if where else str(self)


def from_json(cls: type[_T], document: Any) -> _T:
    """A record of a class from a parsed JSON document.

    Args:
        cls: A frozen dataclass.
        document: What ``json.loads`` gave.

    Raises:
        AmalgamError: The document does not fit; one line that says where and why, such as
            ``precisions.int8.bytes: a whole number is expected, not a string``.
    """
    anything: Any = cls
    try:
        record: _T = _record_reader(anything)(document)
    except _FaultError as fault:
        raise AmalgamError(fault.told()) from None
    return record


def to_json(record: Any) -> dict[str, Any]:
    """A record as the dict that ``json.dumps`` takes: entries in the order of the fields."""
    document: dict[str, Any] = {}
    cls: Any = type(record)
    for entry in record_fields(cls):
        value = getattr(record, entry.attribute)
        if entry.inline is not None:
            inner = record_fields(entry.inline_class)
            if value is not None:
                document |= to_json(value)
            elif entry.inline.nulls:
                document |= dict.fromkeys(field.name for field in inner)
        elif value is not None or not entry.may_lack:
            document[entry.name] = _plain(value)
    return document


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_json(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


@cache
def _record_reader(cls: type) -> _Reader:
    own = [(field.attribute, _field_reader(field)) for field in record_fields(cls)]

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _expected("an object", value)
        made: Any = object.__new__(cls)
        made.__dict__.update((attribute, read_field(value)) for attribute, read_field in own)
        return made

    return read


def _field_reader(field: RecordField) -> _Reader:
    """Reads a field from the object that it is an entry of."""
    if field.inline is not None:
        inner, names = _record_reader(field.inline_class), [own.name for own in record_fields(field.inline_class)]
        may_be_none = optional_of(unwrapped(field.hint)[0])[1]
        return lambda value: None if may_be_none and all(value.get(n) is None for n in names) else inner(value)
    read, name, may_lack = _reader(field.hint), field.name, field.may_lack

    def read_entry(value: Any) -> Any:
        if name not in value:
            if may_lack:
                return may_lack.default
            raise _at(name, _FaultError("is lacking"))
        try:
            return read(value[name])
        except _FaultError as fault:
            raise _at(name, fault) from None

    return read_entry


def _reader(hint: Any) -> _Reader:
    base, marks = unwrapped(hint)
    inner, may_be_none = optional_of(base)
    if may_be_none:
        read = _reader(inner)
        return lambda value: None if value is None else read(value)
    kind = get_origin(base) or base
    if is_dataclass(base):
        return _record_reader(base)  # type: ignore[arg-type]
    return _READERS[kind](base, marks)


def _literal_reader(base: Any, marks: tuple[Any, ...]) -> _Reader:
    choices = get_args(base)

    def read(value: Any) -> Any:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise _FaultError(f"is none of {', '.join(map(repr, choices))}")
        return value

    return read


def _bool_reader(base: Any, marks: tuple[Any, ...]) -> _Reader:
    def read(value: Any) -> bool:
        if not isinstance(value, bool):
            raise _expected("true or false", value)
        return value

    return read


def _int_reader(base: Any, marks: tuple[Any, ...]) -> _Reader:
    bounds = bound(marks, Number)

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _expected("a whole number", value)
        _check_range(value, bounds)
        return value

    return read


def _float_reader(base: Any, marks: tuple[Any, ...]) -> _Reader:
    bounds = bound(marks, Number)

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _expected("a number", value)
        if isinstance(value, float) and not math.isfinite(value):
            raise _FaultError("is no finite number")
        _check_range(value, bounds)
        return float(value)

    return read


def _check_range(value: float, bounds: Number) -> None:
    if value < bounds.at_least:
        raise _FaultError(f"is less than {bounds.at_least:.16g}")
    if value > bounds.at_most:
        raise _FaultError(f"is more than {bounds.at_most:.16g}")


def _str_reader(base: Any, marks: tuple[Any, ...]) -> _Reader:
    bounds = bound(marks, Text)
    matches = re.compile(bounds.pattern, re.DOTALL).fullmatch if bounds.pattern else None

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise _expected("a string", value)
        _check_text(value, bounds.longest)
        if bounds.fault and (fault := bounds.fault(value)):
            raise _FaultError(fault)
        if matches and not matches(value):
            raise _FaultError(f"is not of the form {bounds.pattern}")
        return value

    return read


def _check_text(value: str, longest: int) -> None:
    if len(value) > longest:
        raise _FaultError(f"is longer than {longest} characters")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _FaultError("holds half of a surrogate pair") from None


def _tuple_reader(base: Any, marks: tuple[Any, ...]) -> _Reader:
    bounds, read_item = bound(marks, Items), _reader(get_args(base)[0])

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _expected("a list", value)
        _check_count(len(value), bounds)
        items = tuple(_read_at(read_item, item, position) for position, item in enumerate(value))
        if bounds.unique and len({getattr(item, bounds.unique) for item in items}) < len(items):
            raise _FaultError(f"two items have the same {bounds.unique}")
        return items

    return read


def _mapping_reader(base: Any, marks: tuple[Any, ...]) -> _Reader:
    bounds = bound(marks, Items)
    read_key, read_item = map(_reader, get_args(base))

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _expected("an object", value)
        _check_count(len(value), bounds)
        return {_read_at(read_key, key, key): _read_at(read_item, item, key) for key, item in value.items()}

    return read


def _check_count(count: int, bounds: Items) -> None:
    if count > bounds.most:
        raise _FaultError(f"holds more than {bounds.most} items")
    if count < bounds.fewest:
        raise _FaultError(f"holds fewer than {bounds.fewest} items")


def _free_reader(base: Any, marks: tuple[Any, ...]) -> _Reader:
    bounds = bound(marks, Free)

    def read(value: Any) -> Any:
        left = bounds.most
        level = [value]
        for _ in range(bounds.deepest + 1):
            left -= len(level)
            if left < 0:
                raise _FaultError(f"holds more than {bounds.most} values")
            for item in level:
                _check_free(item, bounds.longest)
            level = [part for item in level for part in _parts(item)]
            if not level:
                return value
        raise _FaultError("is nested too deeply")

    return read


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else []


def _check_free(value: Any, longest: int) -> None:
    if isinstance(value, str):
        _check_text(value, longest)
    elif isinstance(value, float) and not math.isfinite(value):
        raise _FaultError("holds a number that is not finite")
    elif isinstance(value, int) and abs(value) > 2**64:
        raise _FaultError("holds a number of more than 64 bits")
    elif not isinstance(value, (int, float, list, dict, type(None))):
        raise _FaultError(f"holds a {type(value).__name__}, which JSON does not have")


def _read_at(read: _Reader, value: Any, where: str | int) -> Any:
    try:
        return read(value)
    except _FaultError as fault:
        raise _at(where, fault) from None


def _at(where: str | int, fault: _FaultError) -> _FaultError:
    fault.where.insert(0, where)
    return fault


_JSON_TYPES = {
    str: "a string", bool: "true or false", int: "a whole number", float: "a number", list: "a list", dict: "an object",
    type(None): "null",
}  # fmt: skip


def _expected(what: str, value: Any) -> _FaultError:
    return _FaultError(f"{what} is expected, not {_JSON_TYPES.get(type(value), type(value).__name__)}")


_READERS: dict[Any, Callable[[Any, tuple[Any, ...]], _Reader]] = {
    Literal: _literal_reader,
    bool: _bool_reader,
    int: _int_reader,
    float: _float_reader,
    str: _str_reader,
    tuple: _tuple_reader,
    Mapping: _mapping_reader,
    Any: _free_reader,
}
