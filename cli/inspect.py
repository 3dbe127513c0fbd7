"""``amalgam-edge inspect``."""

from __future__ import annotations

import json

import click

from amalgam_edge.runtime.bundle import Bundle
from amalgam_edge.tables import (
    calibration_line,
    cascade_line,
    evaluation_table,
    front_line,
    front_table,
    kernel_lines,
    precision_table,
    teacher_table,
)


@click.command("inspect")
@click.argument("bundle", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Write the whole manifest as JSON.")
def command(bundle: str, as_json: bool) -> None:
    """Show what a bundle holds and where it came from, and verify every file against its SHA-256.

    \b
    Example:
      amalgam-edge inspect student/
    """  # noqa: D301  (click reads \b as "do not rewrap")
    opened = Bundle.open(bundle)
    opened.verify()
    manifest = opened.manifest
    if as_json:
        click.echo(json.dumps(manifest, indent=2, ensure_ascii=False))
        return
    corpus, recipe = manifest["corpus"], manifest["recipe"]
    click.echo(f"{bundle}: {len(opened.labels)} labels, {recipe['method']}, {corpus['n_train']} training texts")
    click.echo(
        f"built with amalgam-edge {manifest['versions']['amalgam-edge']} on {manifest['machine']['architecture']}"
    )
    vocabulary = manifest.get("vocabulary")
    if vocabulary:
        click.echo(
            f"{vocabulary['n_tokens']} of {vocabulary['n_before']} tokens, {vocabulary['fidelity']['agreement']:.2%} "
            "agreement with the student that knew them all"
        )
    if calibration_line(manifest):
        click.echo(calibration_line(manifest))
    if line := cascade_line(manifest):
        click.echo(line)
    click.echo("\nlabels")
    for label in manifest["labels"]:
        sources = ", ".join(f"{source['teacher']}:{source['class']}" for source in label["sources"])
        click.echo(f"  {label['name']}  ({sources})")
    tables = [teacher_table(manifest), precision_table(manifest)]
    if manifest["evaluation"]:
        tables.append(evaluation_table(manifest))
    for table in tables:
        click.echo(f"\n{table.to_text()}")
    for line in kernel_lines(manifest):
        click.echo(line)
    if line := front_line(manifest):
        click.echo(f"\n{front_table(manifest).to_text()}\n{line}")
    click.echo(f"\n{len(manifest['files'])} files, all as they were built")
