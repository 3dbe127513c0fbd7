"""``amalgam-edge inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from amalgam_edge.cli.hub_options import with_hub_options
from amalgam_edge.cli.output import show_json, show_line, show_lines
from amalgam_edge.errors import AmalgamError, needs_extra

if TYPE_CHECKING:
    from amalgam_edge.runtime.bundle import Bundle
    from amalgam_edge.runtime.hub import HubOptions
    from amalgam_edge.runtime.manifest import Manifest
    from amalgam_edge.runtime.manifest_heads import BundleHead


@click.command("inspect")
@click.argument("folder", type=click.Path())
@click.option(
    "--json", "as_json", is_flag=True, help="Write JSON: the whole manifest, or everything shown about scores."
)
@with_hub_options
def command(folder: str, as_json: bool, hub: HubOptions) -> None:
    """Show the contents and the origin of a bundle, or of a folder of scores.

    Every file of a bundle is verified by its SHA-256, but for those that are for people, which may be edited. Of a
    bundle on the Hub the manifest alone is fetched. For scores it shows, for each teacher: the texts, the shards that
    are there or missing, the texts that could not be scored and why, the passes, the distributions of confidence and
    uncertainty, the texts per second, the settings, and the versions of the packages that wrote them.

    \b
    Examples:
      amalgam-edge inspect student/
      amalgam-edge inspect owner/name --revision v1
      amalgam-edge inspect scores/
      amalgam-edge inspect s3://bucket/scores/ --json
    """  # noqa: D301  (click reads \b as "do not rewrap")
    if _holds_scores(folder):
        if hub.get("revision"):
            raise AmalgamError(f"{folder}: scores, which have no revisions; leave --revision out")
        _inspect_scores(folder, as_json)
    else:
        _inspect_bundle(folder, as_json, hub)


def _holds_scores(folder: str) -> bool:
    """Whether a folder holds scores, judged by file names: reading them would need the train extra."""
    path = Path(folder)
    return "://" in folder or any(path.glob("manifest.json")) or any(path.glob("*/manifest.json"))


def _inspect_scores(folder: str, as_json: bool) -> None:
    with needs_extra("train", "reading scores"):
        from amalgam_edge.scoring.folders import find_stores
        from amalgam_edge.scoring.inspection import describe
    from amalgam_edge.reports.score_tables import stored_scores_lines, stored_scores_table

    described = [describe(store) for store in find_stores(folder)]
    if as_json:
        show_json(described)
        return
    show_lines(f"{stored_scores_table(described).to_text()}")
    for one in described:
        show_lines("\n" + "\n".join(stored_scores_lines(one)))


def _inspect_bundle(bundle: str, as_json: bool, hub: HubOptions) -> None:
    from amalgam_edge.reports.bundle_tables import (
        calibration_lines,
        cascade_line,
        change_lines,
        front_line,
        front_table,
        head_table,
        kernel_lines,
        precision_table,
        teacher_table,
    )
    from amalgam_edge.reports.evaluation_tables import evaluation_table, teachers_table
    from amalgam_edge.runtime.finding import find_bundle
    from amalgam_edge.storage.records import to_json

    opened = find_bundle(bundle, **hub)
    state = _state_of_files(opened)
    manifest = opened.manifest
    if as_json:
        show_json(to_json(manifest))
        return
    show_line(f"{bundle}: {len(opened.labels)} labels, {manifest.method}, {manifest.corpus.n_train} training texts")
    show_line(f"built with amalgam-edge {manifest.written_with} on {manifest.machine.architecture}")
    vocabulary = manifest.vocabulary
    if vocabulary:
        show_line(
            f"{vocabulary.n_tokens} of {vocabulary.n_before} tokens, {vocabulary.fidelity.agreement:.2%} "
            "agreement with the student that knew them all"
        )
    for line in (*calibration_lines(manifest), cascade_line(manifest), *change_lines(manifest)):
        if line:
            show_line(line)
    _show_labels(manifest)
    heads = [] if manifest.answers.is_one_softmax else [head_table(manifest)]
    tables = [*heads, teacher_table(manifest), precision_table(manifest)]
    if manifest.evaluation:
        tables += [evaluation_table(manifest.evaluation), teachers_table(manifest.evaluation)]
    for table in tables:
        if table.rows:
            show_lines(f"\n{table.to_text()}")
    for line in kernel_lines(manifest):
        show_line(line)
    if line := front_line(manifest):
        show_lines(f"\n{front_table(manifest).to_text()}\n{line}")
    show_lines(f"\n{state}")


def _show_labels(manifest: Manifest) -> None:
    """The labels of each head, with the teachers' classes that each stands for."""
    for head in manifest.heads:
        show_lines(f"\n{_title(head, several=len(manifest.heads) > 1)}")
        for label in head.labels:
            sources = ", ".join(f"{source.teacher}:{source.class_name}" for source in label.sources)
            threshold = "" if label.threshold is None else f", from {label.threshold:g} on"
            show_line(f"  {label.name}  ({sources}{threshold})")


def _title(head: BundleHead, *, several: bool) -> str:
    """What stands above the labels of a head."""
    of_head = f" of head '{head.name}'" if several else ""
    return f"labels{of_head}" + (", any of which may hold" if head.activation == "sigmoid" else "")


def _state_of_files(bundle: Bundle) -> str:
    """Whether the files are as they were built; those of the Hub are not fetched to find out.

    Raises:
        AmalgamError: A file is damaged, or missing though the bundle needs it.
    """
    n_files = len(bundle.manifest.files)
    if bundle.hub:
        return f"{n_files} files on the Hub, at commit {bundle.hub.revision}; each is verified when it is used"
    bundle.verify()
    edited, missing = bundle.edited(), bundle.missing()
    lines = [f"{n_files} files, all as they were built" + (" but for these:" if edited or missing else "")]
    lines += [f"  {name}: edited" for name in edited]
    models = {model.file: precision for precision, model in bundle.manifest.precisions.items()}
    lines += [
        f"  {name}: not there" + (f", so that there is no {models[name]}" if name in models else "") for name in missing
    ]
    return "\n".join(lines)
