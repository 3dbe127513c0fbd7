"""Options of ``build``, one for each field of the Recipe."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from amalgam_edge.recipe.recipe import Recipe

_OPTION_NAMES = {"teachers": "--teacher"}


def recipe_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add an option for each field of the Recipe, or for those named, to a command."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names or tuple(Recipe.model_fields)):
            command = _option(name, Recipe.model_fields[name])(command)
        return command

    return decorate


def _option(name: str, field: FieldInfo) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    kind = _plain(field.annotation)
    flag = _OPTION_NAMES.get(name, f"--{name.replace('_', '-')}")
    summary = field.description or ""
    if field.default not in (None, "", []) and "[default" not in summary:
        summary += f"  [default: {_shown(field.default)}]"
    options: dict[str, Any] = {"default": None, "help": summary}
    if get_origin(kind) is list:
        options |= {"multiple": True, "metavar": "PATH"}
    elif kind is bool:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    elif get_origin(kind) is Literal:
        options["type"] = click.Choice(get_args(kind))
    elif get_origin(kind) is Union and any(get_origin(part) is list for part in get_args(kind)):
        options |= {"metavar": "N[,N]"}
    elif get_origin(kind) is Union:
        options |= {"type": _NumberOr(get_args(get_args(kind)[1]))}
    else:
        options["type"] = kind
    return click.option(flag, name, **options)


class _NumberOr(click.ParamType):
    """A number, or one of a few words."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self._words = words
        self.name = "|".join(["number", *words])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the value."""
        if value in self._words or isinstance(value, int):
            return value
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor {' or '.join(self._words)}", param, ctx)


def given(values: dict[str, Any]) -> dict[str, Any]:
    """The options that were on the command line, as fields of the Recipe."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value not in (None, ())
    }


def _plain(annotation: Any) -> Any:
    """A field's type without its bounds and without ``None``."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [_plain(part) for part in get_args(annotation) if part is not type(None)]
        return Union[tuple(parts)]  # noqa: UP007  (of one part it is that part)
    return annotation


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else str(default)
