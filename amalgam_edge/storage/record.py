"""The decorator of records: frozen dataclasses that cost next to nothing to define.

``dataclass`` compiles six methods for each class, about a millisecond in all. The edge has some forty records and
would start 30 ms later; records share their methods instead.
"""

from __future__ import annotations

from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from typing import Any, NoReturn, TypeVar, dataclass_transform

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[_T]) -> type[_T]:
    """Make a class a frozen dataclass, for :func:`dataclasses.fields`, ``replace`` and type checkers too."""
    made: Any = dataclass(init=False, repr=False, eq=False)(cls)
    for method in (__init__, __setattr__, __delattr__, __eq__, __hash__, __repr__):
        setattr(made, method.__name__, method)
    result: type[_T] = made
    return result


def __init__(self: Any, *values: Any, **named: Any) -> None:  # noqa: N807  (these become methods)
    kind = type(self)
    if len(values) > len(kind.__match_args__):
        raise TypeError(f"{kind.__name__} takes {len(kind.__match_args__)} values, {len(values)} were given")
    given = dict(zip(kind.__match_args__, values, strict=False))
    if twice := given.keys() & named.keys():
        raise TypeError(f"{kind.__name__} got {', '.join(sorted(twice))} twice")
    given |= named
    for own in fields(kind):
        if own.name in given:
            self.__dict__[own.name] = given.pop(own.name)
        elif own.default is not MISSING:
            self.__dict__[own.name] = own.default
        elif own.default_factory is not MISSING:
            self.__dict__[own.name] = own.default_factory()
        else:
            raise TypeError(f"{kind.__name__} lacks {own.name}")
    if given:
        raise TypeError(f"{kind.__name__} has no {', '.join(given)}")


def __setattr__(self: Any, name: str, value: Any) -> NoReturn:  # noqa: N807
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def __delattr__(self: Any, name: str) -> NoReturn:  # noqa: N807
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def __eq__(self: Any, other: object) -> bool:  # noqa: N807
    if type(other) is not type(self):
        return NotImplemented
    return bool(self.__dict__ == other.__dict__)


def __hash__(self: Any) -> int:  # noqa: N807
    return hash(tuple(self.__dict__.values()))


def __repr__(self: Any) -> str:  # noqa: N807
    values = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
    return f"{type(self).__qualname__}({values})"
