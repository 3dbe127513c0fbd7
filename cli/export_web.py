"""``amalgam-edge export-web``."""

from __future__ import annotations

from pathlib import Path

import click

from amalgam_edge.errors import needs_extra
from amalgam_edge.runtime.bundle import Bundle


@click.command("export-web")
@click.argument("bundle", type=click.Path())
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace the page that stands in the output folder.")
def command(bundle: str, output: Path, overwrite: bool) -> None:
    """Write a page that runs a bundle in the browser, as files for any web host.

    Nothing of it needs a server of its own, and once loaded it works without a network. The libraries that it runs
    with are fetched from the npm registry the first time, and kept; npm_config_registry names another registry,
    AMALGAM_WEB_LIBRARIES a folder that holds them.

    \b
    Examples:
      amalgam-edge export-web student/ site/
      python -m http.server --directory site/
    """  # noqa: D301  (click reads \\b as "do not rewrap")
    with needs_extra("serve", "exporting a page"):
        from amalgam_edge.browser import site
    n_bytes = site.export_site(
        Bundle.open(bundle), output, overwrite=overwrite, say=lambda line: click.echo(line, err=True)
    )
    click.echo(f"{output}: {n_bytes / 1e6:.1f} MB; look at it with: python -m http.server --directory {output}")
