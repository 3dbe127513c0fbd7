"""Options of the command line for the settings of a recipe, grouped in ``--help`` by the recipe's sections."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click

from amalgam_edge.recipe.options import Option
from amalgam_edge.recipe.recipe import SECTIONS, recipe_options

_FLAGS = {"teachers": "--teacher"}  # where the option is not the setting's name

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def with_recipe_options(*names: str) -> Decorator:
    """Add an option for each setting of a recipe, or for those named, to a command."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        options = recipe_options()
        for name in reversed(names or tuple(options)):
            command = _click_option(options[name])(command)
        return command

    return decorate


def given(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that were given on the command line."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value not in (None, ())
    }


class RecipeCommand(click.Command):
    """A command whose ``--help`` lists the settings of a recipe under the headings of their sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then those of each section."""
        records: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                section = parameter.section if isinstance(parameter, _RecipeOption) else ""
                records.setdefault(section, []).append(record)
        for section in ("", *SECTIONS):
            if section in records:
                title = re.split("[:.]", SECTIONS[section].__doc__ or "")[0] if section else "Options"
                with formatter.section(title):
                    formatter.write_dl(records[section])


class _RecipeOption(click.Option):
    """An option that knows which section of the recipe it belongs to."""

    def __init__(self, *arguments: Any, section: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.section = section


def _click_option(option: Option) -> Decorator:
    kind = _plain(option.annotation)
    flag = _FLAGS.get(option.name, f"--{option.name.replace('_', '-')}")
    description = option.description
    if option.default not in (None, "", ()) and "[default" not in description:
        description += f"  [default: {_shown(option.default)}]"
    details: dict[str, Any] = {"default": None, "help": description, "cls": _RecipeOption, "section": option.section}
    if get_origin(kind) is tuple:
        details |= {"multiple": True, "metavar": "PATH"}
    elif kind is bool:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    elif get_origin(kind) is Literal:
        details["type"] = click.Choice(get_args(kind))
    elif get_origin(kind) is Union and any(get_origin(part) is tuple for part in get_args(kind)):
        details |= {"metavar": "N[,N]"}
    elif get_origin(kind) is Union:
        details |= {"type": _NumberOr(get_args(get_args(kind)[1]))}
    else:
        details["type"] = kind
    return click.option(flag, option.name, **details)


class _NumberOr(click.ParamType):
    """A whole number, or one of a few words."""

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


def _plain(annotation: Any) -> Any:
    """A setting's type without its bounds and without ``None``."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [_plain(part) for part in get_args(annotation) if part is not type(None)]
        return Union[tuple(parts)]  # noqa: UP007  (a union of one type is that type)
    return annotation


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else str(default)
