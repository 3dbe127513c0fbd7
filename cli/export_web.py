"""``amalgam-edge export-web``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from amalgam_edge.cli.hub_options import with_hub_options
from amalgam_edge.cli.output import show_line
from amalgam_edge.errors import needs_extra

if TYPE_CHECKING:
    from amalgam_edge.runtime.hub import HubOptions


@click.command("export-web")
@click.argument("bundle", type=click.Path())
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace a page that is already in the output folder.")
@with_hub_options
def command(bundle: str, output: Path, overwrite: bool, hub: HubOptions) -> None:
    """Write a page that runs a bundle in the browser, as files for any web host.

    The page needs no amalgam-edge server, and once loaded it works offline. The JavaScript libraries that run the model
    are downloaded from the npm registry the first time, and cached. Set npm_config_registry to use another registry, or
    AMALGAM_WEB_LIBRARIES to a folder that holds the libraries.

    \b
    Examples:
      amalgam-edge export-web student/ site/
      python -m http.server --directory site/
    """  # noqa: D301  (click reads \\b as "do not rewrap")
    with needs_extra("serve", "exporting a page"):
        from amalgam_edge.browser.site import export_site
    from amalgam_edge.runtime.finding import find_bundle

    opened = find_bundle(bundle, **hub)
    n_bytes = export_site(opened, output, overwrite=overwrite, notify=partial(show_line, err=True))
    show_line(f"{output}: {n_bytes / 1e6:.1f} MB; look at it with: python -m http.server --directory {output}")
