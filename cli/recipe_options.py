"""Options of ``build``, one for each field of the Recipe."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click

from amalgam_edge.recipe import Recipe

_OPTION_NAMES = {"teachers": "--teacher"}


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each field of the Recipe to a command."""
    for name, field in reversed(Recipe.model_fields.items()):
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
        else:
            options["type"] = kind
        command = click.option(flag, name, **options)(command)
    return command


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
        return _plain(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else str(default)
