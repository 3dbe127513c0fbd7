"""Options of the command line for the settings of a recipe, grouped in ``--help`` by the recipe's sections."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click

from amalgam_edge.cli.by_head import numbers_by_head, teachers_by_head
from amalgam_edge.errors import AmalgamError
from amalgam_edge.recipe.options import Option
from amalgam_edge.recipe.recipe import SECTIONS, recipe_options

# Where the option is not the setting's name, and what stands for its value.
_FLAGS = {"teachers": "--teacher", "head_weights": "--head-weight"}
_METAVARS = {
    "teachers": "PATH",
    "label_column": "[HEAD=]COLUMN",
    "head_weights": "HEAD=FACTOR",
    "abstain": "[HEAD=]SCORE",
}
_HEAD = "head"  # names a head; all that are named become the setting ``heads``

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
    """The settings that were given on the command line.

    Raises:
        AmalgamError: Heads are both named and asked for in another way.
    """
    settings = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value not in (None, (), {})
    }
    named = settings.pop(_HEAD, None)
    if named:
        if "heads" in settings:
            raise AmalgamError("--head names the heads, --heads asks for union or each; give one of them")
        settings["heads"] = named
    return settings


class RecipeCommand(click.Command):
    """A command whose ``--help`` lists the settings of a recipe under the headings of their sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then those of each section."""
        records: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
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
    if option.name == "heads":
        return _heads_options(details)
    if get_origin(kind) is tuple:
        details |= {"multiple": True, "metavar": _METAVARS[option.name]}
    elif _has_heads(kind):
        details |= {"multiple": True, "metavar": _METAVARS[option.name], "callback": numbers_by_head}
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


def _heads_options(details: dict[str, Any]) -> Decorator:
    """``--heads`` for one head or one for each teacher, and ``--head`` for heads of one's own."""
    named = {
        **details,
        "help": "A head with its teachers, by their names: NAME=TEACHER,TEACHER. Give the option once for each head.",
        "multiple": True,
        "metavar": "NAME=TEACHER[,…]",
        "callback": teachers_by_head,
    }

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        command = click.option("--head", _HEAD, **named)(command)
        return click.option("--heads", "heads", **details, type=click.Choice(["union", "each"]))(command)

    return decorate


def _has_heads(kind: Any) -> bool:
    """Whether a setting may have a value for each head."""
    return any(get_origin(part) is dict for part in (kind, *get_args(kind)))


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
    if isinstance(default, tuple):
        return ", ".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)
