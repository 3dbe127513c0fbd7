"""``amalgam-edge push``."""

from __future__ import annotations

import click

from amalgam_edge.cli.extras import quiet_libraries
from amalgam_edge.runtime.bundle import Bundle
from amalgam_edge.runtime.publishing import push_bundle


@click.command("push")
@click.argument("bundle", type=click.Path())
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="For you alone; refused where the repository is public already.")
def command(bundle: str, repo: str, private: bool) -> None:
    """Publish a bundle on the Hugging Face Hub, verified, with its model card.

    The repository is made if it is not there. Log in first: hf auth login, or set HF_TOKEN. Manifest, recipe and report
    go along, and with them the names of the teachers and of the corpus as the build was told them.

    \b
    Examples:
      amalgam-edge push student/ owner/name
      amalgam-edge push student/ owner/name --private
    """  # noqa: D301  (click reads \b as "do not rewrap")
    quiet_libraries()
    click.echo(push_bundle(Bundle.open(bundle), repo, private=private))
