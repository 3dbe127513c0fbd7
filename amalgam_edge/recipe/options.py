"""How a setting is declared: its default, its help text, its range, and whether results depend on it.

A setting is a field of a section, declared by :func:`option`. Everything else is derived from the declaration: the
option of the command line, the key in a recipe's YAML, validation, and the fingerprint. Nothing here needs more than
the standard library, so that ``--help`` works where the training packages are not installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from typing import Any, get_type_hints

_METADATA = "amalgam-edge option"


@dataclass(frozen=True)
class Bounds:
    """The values that a number may have, or the lengths of a list; pydantic checks them.

    Attributes:
        ge: Smallest value that is allowed.
        gt: Value that must be exceeded.
        le: Largest value that is allowed.
        lt: Value that must not be reached.
        min_length: Fewest entries of a list.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    min_length: int | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Add the bounds to the schema that pydantic makes of the annotated type."""
        return {**handler(source), **{name: bound for name, bound in vars(self).items() if bound is not None}}


@dataclass(frozen=True)
class Option:
    """One setting of a recipe, as the command line and the YAML file know it.

    Attributes:
        name: Key in the YAML file; with dashes, the option of the command line.
        section: Name of the section, an attribute of the recipe.
        attribute: Name of the field in that section.
        annotation: Type of the field, with its bounds.
        default: Value where nothing is given.
        description: One sentence for people.
        affects_result: Whether the built model may depend on it. If not, it is left out of the fingerprint.
        is_new: Whether recipes of earlier versions lacked it. They keep their fingerprints: where it has its default,
            it is left out.
    """

    name: str
    section: str
    attribute: str
    annotation: Any
    default: Any
    description: str
    affects_result: bool
    is_new: bool


def option(
    default: Any, description: str, *, name: str | None = None, affects_result: bool = True, is_new: bool = False
) -> Any:
    """Declare a setting, in the place of a dataclass field.

    Args:
        default: Value where nothing is given.
        description: One sentence for people. The default is appended unless the text ends in ``[default: …]``.
        name: Key in the YAML file, where it is not the attribute's name.
        affects_result: Whether the built model may depend on it; see :class:`Option`.
        is_new: Whether recipes of earlier versions lacked it; see :class:`Option`.
    """
    metadata = {"name": name, "description": description, "affects_result": affects_result, "is_new": is_new}
    return field(default=default, metadata={_METADATA: metadata})


def options_of(section: str, settings: type) -> Iterator[Option]:
    """The settings that a section declares, in their order."""
    hints = _type_hints(settings)
    for declared in fields(settings):
        yield _option(section, declared, hints[declared.name])


def _option(section: str, declared: Field[Any], annotation: Any) -> Option:
    metadata = declared.metadata[_METADATA]
    assert declared.default is not MISSING  # noqa: S101  (option() always gives one)
    return Option(
        name=metadata["name"] or declared.name,
        section=section,
        attribute=declared.name,
        annotation=annotation,
        default=declared.default,
        description=metadata["description"],
        affects_result=metadata["affects_result"],
        is_new=metadata["is_new"],
    )


@cache
def _type_hints(settings: type) -> dict[str, Any]:
    return get_type_hints(settings, include_extras=True)
