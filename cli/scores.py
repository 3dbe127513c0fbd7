"""``amalgam-edge scores``: what is done to scores once they are there."""

from __future__ import annotations

import sys

import click

from amalgam_edge.cli.exit_codes import PROBLEM_FOUND
from amalgam_edge.cli.output import show_lines
from amalgam_edge.errors import AmalgamError, needs_extra


@click.group("scores")
def command() -> None:
    """Verify scores, and join those that were made in different places.

    Folders are those that "amalgam-edge score" wrote, or one teacher's in such a folder; local paths or URLs.

    \b
    Examples:
      amalgam-edge scores verify scores/
      amalgam-edge scores merge machine-1/scores machine-2/scores --output scores/
    """  # noqa: D301  (click reads \b as "do not rewrap")


@command.command("verify")
@click.argument("folder", type=click.Path())
def verify(folder: str) -> None:
    """Read every shard, and say what is wrong: exit status 1 if anything is.

    Each shard must be whole and as it was written (checksums), of the manifest's key, its rows in the corpus' order,
    its failures told of, and all teachers must have read the same texts.

    \b
    Examples:
      amalgam-edge scores verify scores/
      amalgam-edge scores verify s3://bucket/scores/teacher-a
    """  # noqa: D301
    with needs_extra("train", "reading scores"):
        from amalgam_edge.scoring import folders
    problems = folders.verify(folder)
    if problems:
        show_lines("\n".join(problems))
        sys.exit(PROBLEM_FOUND)
    for store in folders.find_stores(folder):
        show_lines(f"{store.folder}: {store.n_shards} shards of {store.key.n_texts} texts, all as they were written")


@command.command("merge")
@click.argument("folders", type=click.Path(), nargs=-1, required=True)
@click.option("--output", required=True, metavar="FOLDER", help="Folder of the joined scores; it holds none yet.")
def merge(folders: tuple[str, ...], output: str) -> None:
    """Join scores of one run whose shards were made in different places, and verify what came of it.

    Parts must answer to the same teacher, corpus and settings. A shard that is in several places must be the same there
    to the bit. Shards that are nowhere stay missing: "amalgam-edge score --resume" makes them.

    \b
    Examples:
      amalgam-edge scores merge machine-1/scores machine-2/scores --output scores/
      amalgam-edge scores merge laptop/scores s3://bucket/scores --output s3://bucket/all-scores
    """  # noqa: D301
    if len(folders) < 2:
        raise AmalgamError(f"{folders[0]}: one folder is nothing to join; name two or more")
    with needs_extra("train", "reading scores"):
        from amalgam_edge.scoring.folders import merge as merge_folders
    for store in merge_folders(folders, output):
        missing = len(store.missing())
        state = f"{missing} of {store.n_shards} shards are still missing" if missing else "whole"
        show_lines(f"{store.folder}: {len(store.present())} shards, {state}")
