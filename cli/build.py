"""``amalgam-edge build``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from amalgam_edge.cli.exit_codes import LIMIT_MISSED
from amalgam_edge.cli.extras import quiet_libraries
from amalgam_edge.cli.output import show_lines
from amalgam_edge.cli.recipe_options import RecipeCommand, given, with_recipe_options
from amalgam_edge.recipe.recipe import Recipe

if TYPE_CHECKING:
    from amalgam_edge.runtime.manifest import Manifest


@click.command("build", cls=RecipeCommand, context_settings={"max_content_width": 110})
@click.option("--recipe", "recipe_file", metavar="FILE", help="YAML recipe; options given beside it win over it.")
@with_recipe_options()
@click.option("--overwrite", is_flag=True, help="Replace the bundle that stands in the output folder.")
@click.option("--resume", is_flag=True, help="Go on with a build that was cut off.")
def command(recipe_file: str | None, overwrite: bool, resume: bool, **fields: Any) -> None:
    """Merge teachers into one quantized student, without labels.

    The teachers score every text of the corpus under Monte-Carlo dropout; how certain they are becomes the student's
    supervision. The student is trained, exported to ONNX, quantized to int8, and int8 ships only if it agrees with the
    float model on held-out texts. Under a --budget more precisions are tried, students of several --student-layers, and
    the vocabulary trimmed and whole. Exit status 3: no int8 model agreed, and the bundle holds the float model alone;
    nothing meets the budget; or --cascade was asked for and no threshold kept to --cascade-agreement.

    \b
    Examples:
      amalgam-edge build --teacher runs/teacher-a --teacher runs/teacher-b --corpus unlabeled.jsonl \\
          --student sentence-transformers/all-MiniLM-L6-v2 --student-layers 3 --output student/
      amalgam-edge build --recipe student/recipe.yaml --seed 1 --output student-1/
      amalgam-edge build --teacher sport=runs/a --teacher news=runs/b --corpus hf://datasets/ag_news \\
          --student teacher:sport --evaluate labelled.csv --output student/
      amalgam-edge build --recipe student/recipe.yaml --budget "size<=20MB, latency<=2ms, loss<=1%" --output small/
      amalgam-edge build --recipe student/recipe.yaml --student-layers 3,6 --trim-vocabulary \\
          --budget "size<=10MB" --output smaller/
      amalgam-edge build --recipe student/recipe.yaml --launch 2 --output student/
    """  # noqa: D301  (click reads \b as "do not rewrap")
    quiet_libraries()
    from amalgam_edge.api import build
    from amalgam_edge.recipe.reading import read_recipe

    recipe = read_recipe(recipe_file, given(fields))
    show(recipe, build(recipe=recipe, overwrite=overwrite, resume=resume).manifest)


def show(recipe: Recipe, manifest: Manifest) -> None:
    """Print what a build came to, and exit with status 3 where it misses what was asked for."""
    from amalgam_edge.reports.bundle_tables import (
        calibration_lines,
        cascade_line,
        front_line,
        front_table,
        head_table,
        precision_table,
        teacher_table,
    )
    from amalgam_edge.reports.evaluation_tables import TEACHERS_NOTE, evaluation_table, teachers_table
    from amalgam_edge.runtime.bundle import REPORT

    if not manifest.answers.is_one_softmax:
        show_lines(f"\n{head_table(manifest).to_text()}")
    show_lines(f"\n{teacher_table(manifest).to_text()}\n\n{precision_table(manifest).to_text()}")
    if recipe.export.budget:
        show_lines(f"\n{front_table(manifest).to_text()}\n{front_line(manifest)}")
    if line := cascade_line(manifest):
        show_lines(f"\n{line}")
    if manifest.evaluation:
        show_lines(f"\n{evaluation_table(manifest.evaluation).to_text()}")
        if (teachers := teachers_table(manifest.evaluation)).rows:
            show_lines(f"\n{teachers.to_text()}\n{TEACHERS_NOTE}")
    if lines := calibration_lines(manifest):
        show_lines("\n" + "\n".join(lines))
    folder = recipe.output.folder
    show_lines(f"\nbundle: {folder}   report: {folder.rstrip('/')}/{REPORT}")
    show_lines(f"scores kept in {recipe.work_folder}; the next build with the same teachers and corpus reuses them")
    for message in (missed := _missed(manifest)):
        show_lines(message, err=True)
    if missed:
        sys.exit(LIMIT_MISSED)


def _missed(manifest: Manifest) -> list[str]:
    """What was asked for and not kept, a line each."""
    missed = []
    if manifest.front and not manifest.front.within_budget:
        missed.append(f"--budget: {manifest.front.reason}")
    if not manifest.front and not manifest.gate.passed:
        missed.append("no int8 model kept within --max-disagreement: the bundle holds fp32 only")
    if manifest.cascade and not manifest.cascade.static_model:
        missed.append("no threshold kept --cascade-agreement: the bundle holds no cascade")
    return missed
