"""``amalgam-edge score``."""

from __future__ import annotations

from typing import Any

import click

from amalgam_edge.cli.extras import quiet_libraries
from amalgam_edge.cli.output import show_lines
from amalgam_edge.cli.recipe_options import RecipeCommand, given, with_recipe_options


@click.command("score", cls=RecipeCommand, context_settings={"max_content_width": 110})
@click.option("--recipe", "recipe_file", metavar="FILE", help="YAML recipe; options given beside it win over it.")
@with_recipe_options(
    "teachers",
    "heads",
    "corpus",
    "text_column",
    "split",
    "passes",
    "max_passes",
    "masks",
    "dropout",
    "max_length",
    "backend",
    "device",
    "precision",
    "threads",
    "batch_tokens",
    "engine",
    "address",
    "workers",
    "seed",
    "output",
)
@click.option("--resume", is_flag=True, help="Go on with a run that was cut off.")
def command(recipe_file: str | None, resume: bool, **fields: Any) -> None:
    """Score texts with teachers under Monte-Carlo dropout, and write what they said as Parquet.

    Each teacher gets a folder of shards in the output folder, with its prediction, its mean prediction under dropout,
    entropy, mutual information, energy and the passes it took for each text, in the order of the corpus. A run that was
    cut off, even by kill -9, goes on with --resume where it stopped.

    \b
    Examples:
      amalgam-edge score --teacher runs/teacher-a --teacher runs/teacher-b --corpus unlabeled.jsonl --output scores/
      amalgam-edge score --teacher runs/a --teacher runs/b --corpus texts/ --passes auto --output scores/
      amalgam-edge score --teacher runs/a --corpus texts.parquet --backend torch --device cuda --output scores/ --resume
      amalgam-edge score --recipe recipe.yaml --engine ray --address auto --output scores/
    """  # noqa: D301  (click reads \b as "do not rewrap")
    quiet_libraries()
    from amalgam_edge.api import score
    from amalgam_edge.recipe.reading import read_recipe
    from amalgam_edge.reports.score_tables import score_table

    recipe = read_recipe(recipe_file, given(fields))
    summaries = score(recipe=recipe, resume=resume)
    show_lines(f"\n{score_table(summaries).to_text()}\n\nscores: {recipe.output.folder}")
