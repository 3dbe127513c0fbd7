"""``amalgam-edge export-teacher``."""

from __future__ import annotations

from pathlib import Path

import click

from amalgam_edge.cli.extras import load_training_part, quiet_libraries


@click.command("export-teacher", context_settings={"max_content_width": 110})
@click.argument("teacher", metavar="TEACHER")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder of the exported teacher.")
@click.option(
    "--passes", type=click.IntRange(min=1), default=10, show_default=True, help="Passes that masks are balanced over."
)
@click.option(
    "--masks",
    type=click.Choice(["systematic", "independent"]),
    default="systematic",
    show_default=True,
    help="Dropout masks: balanced over rounds of passes, or drawn anew for each.",
)
@click.option(
    "--dropout", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Probability for dropouts at zero."
)
@click.option(
    "--max-length", type=click.IntRange(min=4), default=128, show_default=True, help="Longest text in tokens."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="fp16 is half the size, for GPUs.",
)
@click.option("--overwrite", is_flag=True, help="Replace the export that stands in the output folder.")
def command(
    teacher: str,
    output: Path,
    passes: int,
    masks: str,
    dropout: float | None,
    max_length: int,
    precision: str,
    overwrite: bool,
) -> None:
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
    writer = load_training_part("amalgam_edge.exporters.teacher_folder", "exporting a teacher")
    manifest = writer.write_teacher(
        teacher,
        output,
        passes=passes,
        masks=masks,
        dropout=dropout,
        max_length=max_length,
        half=precision == "fp16",
        overwrite=overwrite,
    )
    click.echo(
        f"{output}: {len(manifest['dropout_sites'])} dropouts live, {manifest['bytes'] / 1e6:.1f} MB; "
        f"logits differ from torch by at most {manifest['difference']:.1e}"
    )
