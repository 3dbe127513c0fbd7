"""``amalgam-edge heads``: one head of a finished bundle is changed, and the others are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from amalgam_edge.cli.hub_options import with_hub_options
from amalgam_edge.cli.output import show_lines
from amalgam_edge.cli.recipe_options import RecipeCommand, given, with_recipe_options
from amalgam_edge.recipe.new_head import HEAD_SETTINGS

if TYPE_CHECKING:
    from amalgam_edge.runtime.bundle import Bundle
    from amalgam_edge.runtime.hub import HubOptions

_WIDE = {"max_content_width": 110}
_OWN = ("held_out", "max_disagreement", "output")  # options whose default is the bundle's own
_OF_A_NEW_HEAD = tuple(name for name in HEAD_SETTINGS if name not in _OWN)


def _with_bundle_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options whose default is the bundle's own, and where the new bundle goes."""
    for option in (
        click.option("--output", metavar="PATH", help="Folder of the new bundle.  [default: replace the old bundle]"),
        click.option(
            "--held-out",
            type=int,
            help="Texts to measure on, of which none is learned from.  [default: as in the build]",
        ),
    ):
        command = option(command)
    return command


_max_disagreement = click.option(
    "--max-disagreement",
    type=float,
    help="Largest share of held-out texts on which a smaller model may answer the new head otherwise than the float "
    "model.  [default: as in the build]",
)


@click.group("heads")
def command() -> None:
    """Add, replace or drop one head of a finished bundle, and leave the others as they are.

    The encoder is not trained. A new head is a linear layer on its hidden states, taught by its teachers as in a build,
    and put into the models of all precisions. Before the new bundle takes its place, all models answer held-out texts
    once more, and what the other heads say must be equal to the bit.

    \b
    Examples:
      amalgam-edge heads list student/
      amalgam-edge heads add student/ --teacher urgency=runs/urgency --corpus texts.jsonl
      amalgam-edge heads replace student/ topic --teacher topic2=runs/topic-2 --corpus texts.jsonl --output newer/
      amalgam-edge heads drop student/ topic
    """  # noqa: D301  (click reads \b as "do not rewrap")


@command.command("list")
@click.argument("bundle", type=click.Path())
@with_hub_options
def list_heads(bundle: str, hub: HubOptions) -> None:
    """Show the heads of a bundle: their labels and teachers, and what was done to them.

    \b
    Examples:
      amalgam-edge heads list student/
    """  # noqa: D301
    from amalgam_edge.runtime.finding import find_bundle

    _show(find_bundle(bundle, **hub))


@command.command("add", cls=RecipeCommand, context_settings=_WIDE)
@click.argument("bundle", type=click.Path())
@click.option("--name", metavar="HEAD", help="Name of the new head.  [default: that of its teacher, if it has one]")
@_with_bundle_options
@_max_disagreement
@with_recipe_options(*_OF_A_NEW_HEAD)
@with_hub_options
def add(bundle: str, name: str | None, hub: HubOptions, **settings: Any) -> None:
    """Add a head, behind all others.

    Several teachers teach it together, as in a build of one head. Scores are kept in OUTPUT.work, for the next time.

    \b
    Examples:
      amalgam-edge heads add student/ --teacher urgency=runs/urgency --corpus texts.jsonl
      amalgam-edge heads add student/ --teacher a=runs/a --teacher b=runs/b --name topic --corpus texts.jsonl
    """  # noqa: D301
    from amalgam_edge.api import add_head

    _show_changed(add_head(bundle, head=name, hub=hub, **given(settings)))


@command.command("replace", cls=RecipeCommand, context_settings=_WIDE)
@click.argument("bundle", type=click.Path())
@click.argument("head")
@_with_bundle_options
@_max_disagreement
@with_recipe_options(*_OF_A_NEW_HEAD)
@with_hub_options
def replace(bundle: str, head: str, hub: HubOptions, **settings: Any) -> None:
    """Replace a head by a new one, with its name and in its place.

    \b
    Examples:
      amalgam-edge heads replace student/ topic --teacher topic2=runs/topic-2 --corpus texts.jsonl
    """  # noqa: D301
    from amalgam_edge.api import replace_head

    _show_changed(replace_head(bundle, head, hub=hub, **given(settings)))


@command.command("drop", cls=RecipeCommand, context_settings=_WIDE)
@click.argument("bundle", type=click.Path())
@click.argument("head")
@_with_bundle_options
@click.option("--corpus", metavar="PATH", help="Texts to measure the models on; without them a cascade is left out.")
@with_recipe_options("text_column", "split")
@with_hub_options
def drop(bundle: str, head: str, hub: HubOptions, **settings: Any) -> None:
    """Drop a head; the last one cannot be dropped.

    \b
    Examples:
      amalgam-edge heads drop student/ topic
      amalgam-edge heads drop student/ topic --corpus texts.jsonl --output smaller/
    """  # noqa: D301
    from amalgam_edge.api import drop_head

    _show_changed(drop_head(bundle, head, hub=hub, **given(settings)))


def _show_changed(bundle: Bundle) -> None:
    from amalgam_edge.reports.bundle_tables import cascade_line, precision_table

    _show(bundle)
    show_lines(f"\n{precision_table(bundle.manifest).to_text()}")
    if line := cascade_line(bundle.manifest):
        show_lines(f"\n{line}")
    show_lines(f"\nbundle: {bundle.folder}")


def _show(bundle: Bundle) -> None:
    from amalgam_edge.reports.bundle_tables import change_lines, head_table

    show_lines(f"\n{head_table(bundle.manifest).to_text()}")
    if changes := change_lines(bundle.manifest):
        show_lines("\n" + "\n".join(changes))
