"""What the manifest says of a bundle in which one head was changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from amalgam_edge.building.head_checks import HeadRequest
from amalgam_edge.building.head_models import BATCH_SIZES, HeadOrder
from amalgam_edge.building.new_head import NewHead
from amalgam_edge.exporters.selection.fused_kernels import fused_kernels
from amalgam_edge.runtime.manifest import Manifest
from amalgam_edge.runtime.manifest_heads import HeadChange
from amalgam_edge.runtime.manifest_models import (
    BuildEvaluation,
    Cascade,
    Fidelity,
    Precision,
    TrimmedVocabulary,
    with_models,
)


@dataclass(frozen=True)
class ChangedModels:
    """The models of the new bundle, whose other heads answer as before to the bit.

    Attributes:
        precisions: Precision → its model, as the manifest describes it.
        compared: The models that were compared with those before; of some precisions perhaps more than ship.
        n_texts: How many texts they answered.
        difference: The largest difference of a logit of another head.
    """

    precisions: Mapping[str, Precision]
    compared: tuple[str, ...]
    n_texts: int
    difference: float


def describe_model(before: Precision, file: Path, order: HeadOrder) -> Precision:
    """A changed model, before it is measured anew."""
    fidelity = without_head(before.fidelity, order)
    return replace(before, bytes=file.stat().st_size, fidelity=fidelity, kernels=fused_kernels(file))


def without_head(fidelity: Fidelity, order: HeadOrder) -> Fidelity:
    """What was measured of the heads that stay; the divergence of all together is not known without texts."""
    if order.changed not in order.before.names:
        return fidelity
    heads, labels = (
        {name: value for name, value in values.items() if name != order.changed}
        for values in (fidelity.heads, fidelity.labels)
    )
    agreement = min(heads.values(), default=fidelity.agreement)
    return replace(fidelity, agreement=agreement, mean_kl=None, heads=heads, labels=labels)


def describe_changed(
    manifest: Manifest,
    request: HeadRequest,
    order: HeadOrder,
    new_head: NewHead | None,
    models: ChangedModels,
    cascade: Cascade | None,
) -> Manifest:
    """The manifest of the new bundle, but for its files."""
    described = {head.name: head for head in manifest.heads}
    if new_head is not None:
        described[new_head.head.name] = new_head.described
    heads = tuple(described[name] for name in order.after.names)
    agreements = [head.agreement for head in heads if head.agreement is not None]
    compared = (*models.compared, *(["cascade"] if cascade and cascade.static_model else []))
    change = HeadChange(
        action=request.action,
        head=request.head,
        settings=request.settings(),
        models=compared,
        n_texts=models.n_texts,
        batch_sizes=BATCH_SIZES,
        largest_difference=models.difference,
    )
    return replace(
        manifest,
        heads=heads,
        teachers=(
            *(teacher for teacher in manifest.teachers if teacher.head != request.head),
            *(new_head.teachers if new_head else ()),
        ),
        student=replace(manifest.student, agreement=float(np.mean(agreements)) if agreements else None),
        vocabulary=_vocabulary(manifest.vocabulary, order),
        precisions=models.precisions,
        cascade=cascade,
        evaluation=_evaluation(manifest.evaluation, request.head, models),
        changes=(*manifest.changes, change),
    )


def _vocabulary(vocabulary: TrimmedVocabulary | None, order: HeadOrder) -> TrimmedVocabulary | None:
    return replace(vocabulary, fidelity=without_head(vocabulary.fidelity, order)) if vocabulary else None


def _evaluation(evaluation: BuildEvaluation | None, head: str, models: ChangedModels) -> BuildEvaluation | None:
    """What was measured on gold labels and is still true: of the heads that stay, in the precisions that do."""
    if evaluation is None:
        return None
    heads = {name: measured for name, measured in evaluation.heads.items() if name != head}
    kept = with_models(replace(evaluation, heads=heads), lambda name: name in models.precisions)
    return kept if heads else None
