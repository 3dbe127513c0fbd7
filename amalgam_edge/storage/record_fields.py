"""What the fields of a record may be: type hints, bounds, and how their entries stand in JSON.

A record is a frozen dataclass. Its fields may be ``str``, ``int``, ``float``, ``bool``, ``X | None``, ``Literal``,
``tuple[X, ...]``, ``Mapping[str, X]``, another record, or :data:`Json`. Bounds and other rules are metadata of
``Annotated``. Every bound has a default, so that no document, however hostile, is expensive to check.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from amalgam_edge.storage.record import record

_T = TypeVar("_T")


@record
class Number:
    """Bounds of an ``int`` or a ``float``; every number is finite.

    Attributes:
        at_least: The smallest value.
        at_most: The largest value; by default the largest whole number that every JSON reader keeps exactly.
    """

    at_least: float = -(2.0**53)
    at_most: float = 2.0**53


@record
class Text:
    """Bounds of a ``str``.

    Attributes:
        longest: The most characters.
        pattern: A regular expression that the whole text matches, in the common part of Python's and ECMAScript's.
        fault: Says what is wrong with a text beyond that; None where nothing is.
    """

    longest: int = 4096
    pattern: str | None = None
    fault: Callable[[str], str | None] | None = None


@record
class Items:
    """Bounds of a ``tuple`` or a ``Mapping``.

    Attributes:
        most: The most items.
        fewest: The fewest items.
        unique: A field of the items that has another value in each of them; None where none has to.
    """

    most: int = 10_000
    fewest: int = 0
    unique: str | None = None


@record
class Free:
    """Bounds of :data:`Json`.

    Attributes:
        deepest: The most lists and objects within each other.
        most: The most values in all.
        longest: The most characters of a string.
    """

    deepest: int = 8
    most: int = 100_000
    longest: int = 65_536


@record
class JsonName:
    """The name of a field's entry in JSON, where that is no name in Python."""

    name: str


@record
class MayLack:
    """A field whose entry may be lacking, and is not written where its value is None.

    Attributes:
        default: The field's value where the entry is lacking.
    """

    default: Any = None


@record
class Inline:
    """A field whose dataclass has its entries among those of the class around it.

    Where the field may be None, all its entries are then null, or lacking.

    Attributes:
        nulls: Whether entries of None are written as null; by default they are not written.
    """

    nulls: bool = False


MAY_LACK = MayLack()
Json = Annotated[Any, Free()]

_DEFAULTS = (Number(), Text(), Items(), Free())


def path_fault(path: str) -> str | None:
    """What keeps a text, names with ``/`` between them, from being a path within a folder; None if nothing does."""
    for part in path.split("/"):
        if fault := name_fault(part):
            return fault
    return None


# Names that Windows gives to devices, whatever the ending.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE | re.DOTALL)
_NO_NAME = re.compile(r"[\x00-\x1f\x7f/\\:]")


def name_fault(name: str) -> str | None:
    """What keeps a text from being the name of a file or folder on any system; None if nothing does."""
    if not name or _NO_NAME.search(name) or name.endswith((".", " ")) or _DEVICE.fullmatch(name):
        return "is no name of a file within the folder"
    return None


FilePath = Annotated[str, Text(longest=1024, pattern=r"[^\u0000-\u001f/\\:][^\u0000-\u001f\\:]*", fault=path_fault)]
PlainName = Annotated[str, Text(longest=255, pattern=r"[^\u0000-\u001f/\\:]+", fault=name_fault)]


Name = Annotated[str, Text(longest=10_000)]
Digest = Annotated[str, Text(longest=64, pattern="[0-9a-f]{64}")]
Count = Annotated[int, Number(at_least=0)]
TextCount = Annotated[int, Number(at_least=0, at_most=2**36)]
Share = Annotated[float, Number(at_least=0, at_most=1)]
Amount = Annotated[float, Number(at_least=0)]
Versions = Annotated[Mapping[Name, Name], Items(most=1000)]


@record
class RecordField:
    """A field of a record as JSON has it.

    Attributes:
        attribute: The field's name in Python.
        name: Its entry's name in JSON.
        hint: Its type hint.
        may_lack: What stands for the entry where it is lacking; None where it may not be.
        inline: How its entries stand among those of the class around it; None for an entry of its own.
    """

    attribute: str
    name: str
    hint: Any
    may_lack: MayLack | None
    inline: Inline | None

    @property
    def inline_class(self) -> type:
        """The dataclass whose entries stand inline."""
        cls: type = optional_of(unwrapped(self.hint)[0])[0]
        return cls


@cache
def record_fields(cls: type) -> tuple[RecordField, ...]:
    """The fields of a record in order."""
    hints = get_type_hints(cls, include_extras=True)
    found = []
    for field in fields(cls):
        marks = unwrapped(hints[field.name])[1]
        renamed = next((mark.name for mark in marks if isinstance(mark, JsonName)), field.name)
        inline = next((mark for mark in marks if isinstance(mark, Inline)), None)
        may_lack = next((mark for mark in marks if isinstance(mark, MayLack)), None)
        found.append(RecordField(field.name, renamed, hints[field.name], may_lack, inline))
    return tuple(found)


def unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A hint without ``Annotated``, and its metadata."""
    if get_origin(hint) is Annotated:
        base, *marks = get_args(hint)
        return base, tuple(marks)
    return hint, ()


def optional_of(hint: Any) -> tuple[Any, bool]:
    """``X`` of ``X | None``, and whether the hint was of that form."""
    if get_origin(hint) in (Union, types.UnionType):
        (inner,) = (part for part in get_args(hint) if part is not type(None))
        return inner, True
    return hint, False


def bound(marks: tuple[Any, ...], kind: type[_T]) -> _T:
    """The bound of a kind among a hint's metadata, the outermost one, or the default."""
    found: _T = next(mark for mark in (*reversed(marks), *_DEFAULTS) if isinstance(mark, kind))
    return found
