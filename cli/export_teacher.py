"""``amalgam-edge export-teacher``."""

from __future__ import annotations

from typing import Any

import click

from amalgam_edge.cli.extras import quiet_libraries
from amalgam_edge.cli.output import show_lines
from amalgam_edge.cli.recipe_options import RecipeCommand, given, with_recipe_options


@click.command("export-teacher", cls=RecipeCommand, context_settings={"max_content_width": 110})
@click.argument("teacher", metavar="TEACHER")
@with_recipe_options("passes", "masks", "dropout", "max_length", "precision", "output")
@click.option("--overwrite", is_flag=True, help="Replace the export that stands in the output folder.")
def command(teacher: str, overwrite: bool, **fields: Any) -> None:
    """Write a teacher as one ONNX file whose dropout stays alive in any runtime.

    Its inputs are input_ids, attention_mask, mc_pass and mc_seed; mc_pass -1 is the prediction without dropout, 0, 1
    and so on are passes under dropout. The folder also gets the tokenizer, the config, and a README with a snippet for
    plain onnxruntime. TEACHER is a folder or a Hub name, or NAME=PATH.

    \b
    Examples:
      amalgam-edge export-teacher runs/teacher-a --output teacher-a-mc/
      amalgam-edge export-teacher runs/albert --dropout 0.1 --output albert-mc/
    """  # noqa: D301  (click reads \b as "do not rewrap")
    quiet_libraries()
    from amalgam_edge.api import export_teacher

    manifest = export_teacher(teacher, overwrite=overwrite, **given(fields))
    show_lines(
        f"{fields['output']}: {len(manifest.dropout_sites)} dropouts live, {manifest.bytes / 1e6:.1f} MB; "
        f"logits differ from torch's by at most {manifest.difference:.1e} of the largest"
    )
