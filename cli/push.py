"""``amalgam-edge push``."""

from __future__ import annotations

from functools import partial

import click

from amalgam_edge.cli.extras import quiet_libraries
from amalgam_edge.cli.output import show_line


@click.command("push")
@click.argument("bundle", type=click.Path())
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Make the repository private; refused if it is already public.")
@click.option("--precision", "precisions", multiple=True, help="Publish this precision alone; may be repeated.")
def command(bundle: str, repo: str, private: bool, precisions: tuple[str, ...]) -> None:
    """Publish a bundle on the Hugging Face Hub, with its model card.

    Every file is verified first; amalgam-edge copy --help tells what may have been edited or deleted. The repository
    is created if it does not exist. Log in with hf auth login, or set HF_TOKEN. The manifest, the recipe and the report
    are published too, and they name the teachers and the corpus as they were named in the build.

    \b
    Examples:
      amalgam-edge push student/ owner/name
      amalgam-edge push student/ owner/name --private
      amalgam-edge push student/ owner/name --precision int8
    """  # noqa: D301  (click reads \b as "do not rewrap")
    quiet_libraries()
    from amalgam_edge.runtime.finding import find_bundle
    from amalgam_edge.runtime.publishing import push_bundle

    notify = partial(show_line, err=True)
    show_line(push_bundle(find_bundle(bundle), repo, precisions=precisions, private=private, notify=notify))
