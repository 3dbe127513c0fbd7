"""``amalgam-edge copy``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from amalgam_edge.cli.hub_options import with_hub_options
from amalgam_edge.cli.output import show_line

if TYPE_CHECKING:
    from amalgam_edge.runtime.hub import HubOptions


@click.command("copy")
@click.argument("bundle", type=click.Path())
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--precision", "precisions", multiple=True, help="Copy this precision alone; may be repeated.")
@with_hub_options
def command(bundle: str, output: Path, precisions: tuple[str, ...], hub: HubOptions) -> None:
    """Copy a bundle, or some of its precisions, into a folder that is empty or not there yet.

    Every file is verified. The model card, the report and the recipe are for people: they are copied as they are, and
    may have been edited or deleted. A precision whose model was deleted is left out. Without the default precision the
    first one that is named becomes the default. The student's torch weights go with fp32.

    \b
    Examples:
      amalgam-edge copy student/ edge/ --precision int8
      amalgam-edge copy owner/name student/ --revision v1
    """  # noqa: D301  (click reads \\b as "do not rewrap")
    from amalgam_edge.runtime.finding import find_bundle
    from amalgam_edge.runtime.publishing import save_bundle

    save_bundle(find_bundle(bundle, **hub), output, precisions=precisions, notify=partial(show_line, err=True))
    show_line(f"bundle: {output}")
