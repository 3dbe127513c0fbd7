"""A finished bundle's models made and chosen anew."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amalgam_edge.budget import Budget
from amalgam_edge.corpus import Corpus, read_corpus
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.bundle_writer import check_output, write_manifest
from amalgam_edge.exporters.model_card import render_model_card
from amalgam_edge.exporters.static_export import ladder_of
from amalgam_edge.optimizing import CALIBRATION_TEXTS, Workshop, choose_models, try_models
from amalgam_edge.progress import Progress
from amalgam_edge.report import render_front
from amalgam_edge.runtime.bundle import CARD, MANIFEST, MODEL_FILES, REPORT, Bundle
from amalgam_edge.staging import staged


def optimize_bundle(
    bundle: Bundle,
    budget: str,
    output: Path,
    progress: Progress,
    *,
    calibration: str | None = None,
    text_column: str | None = None,
) -> dict[str, Any]:
    """Make every precision of a bundle's float model anew, measure them, and let the budget pick the default.

    Args:
        bundle: with its float model.
        budget: see :class:`~amalgam_edge.budget.Budget`.
        output: folder of the new bundle; may be the old one.
        progress: told of each step.
        calibration: texts like those that the bundle will meet; by default the corpus that it was built from.
        text_column: of the calibration texts.

    Returns:
        The new manifest.

    Raises:
        AmalgamError: the budget is not understood, the bundle has no float model, or there are no texts.
    """
    wishes = Budget.parse(budget).with_loss(100 * float(bundle.manifest["gate"]["max_disagreement"]))
    if output.resolve() != bundle.folder.resolve():
        check_output(output, overwrite=False)
    if "fp32" not in bundle.precisions:
        raise AmalgamError(f"{bundle.folder}: holds no float model to start from; build it again")
    bundle.verify()
    progress.begin(3)
    with progress.step("reading texts"):
        held_out, other = _texts(bundle, calibration, text_column)
    manifest = dict(bundle.manifest)
    student = manifest.get("student") or {}  # bundles of earlier versions do not say
    with staged(output) as folder:
        shutil.copytree(bundle.folder, folder, dirs_exist_ok=True)
        for precision in bundle.precisions:
            if precision != "fp32":
                (folder / bundle.manifest["precisions"][precision]["file"]).unlink()
        with progress.step("quantizing and measuring"):
            shop = Workshop(
                folder,
                max_length=int(manifest["max_length"]),
                pad_token_id=int(manifest["pad_token_id"]),
                texts=held_out,
                calibration=other,
                max_disagreement=wishes.limits["loss"] / 100,
                ladder=ladder_of(folder / MODEL_FILES["fp32"], bundle.is_static),
                layers=student.get("layers"),
                n_tokens=student.get("n_tokens"),
                agreement=student.get("agreement"),
                say=progress.say,
            )
            manifest |= choose_models(try_models([shop], every_precision=True), wishes)[1]
        with progress.step("writing the bundle"):
            manifest["evaluation"] = _still_true(manifest["evaluation"])
            (folder / CARD).write_text(render_model_card(manifest, output.name), "utf-8")
            (folder / REPORT).write_text(render_front(manifest), "utf-8")
            (folder / MANIFEST).unlink()
            write_manifest(folder, manifest)
    return manifest


def _texts(bundle: Bundle, calibration: str | None, text_column: str | None) -> tuple[Sequence[str], Sequence[str]]:
    """Texts to measure on, and texts to calibrate with: those that the bundle was trained on, if they are its own."""
    corpus = _own_corpus(bundle) if calibration is None else read_corpus(calibration, text_column=text_column)
    if len(corpus) < 2:
        raise AmalgamError(f"{calibration}: one text is too few; at least two are needed, and hundreds are wise")
    train, held_out = corpus.split(int(bundle.manifest["recipe"]["held_out"]))
    texts = corpus.texts
    return [texts[int(row)] for row in held_out], [texts[int(row)] for row in train[:CALIBRATION_TEXTS]]


def _own_corpus(bundle: Bundle) -> Corpus:
    recipe = bundle.manifest["recipe"]
    remedy = "name texts with --calibration"
    try:
        corpus = read_corpus(recipe["corpus"], text_column=recipe["text_column"], split=recipe["split"])
    except AmalgamError as error:
        raise AmalgamError(
            f"{bundle.folder}: the corpus that it was built from is not here ({error}); {remedy}"
        ) from error
    if corpus.fingerprint != bundle.manifest["corpus"]["fingerprint"]:
        raise AmalgamError(f"{recipe['corpus']}: not the corpus that the bundle was built from any more; {remedy}")
    return corpus


def _still_true(evaluation: dict[str, Any]) -> dict[str, Any]:
    """What was measured of the models that are still the same: the float one and the teachers."""
    if not evaluation:
        return evaluation
    student = {name: row for name, row in evaluation["student"].items() if name == "fp32"}
    return {**evaluation, "student": student}
