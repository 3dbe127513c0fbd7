"""The students of a build: each exported and measured, and the choice of the one that ships."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amalgam_edge.building.budget import Budget
from amalgam_edge.building.candidates import (
    CALIBRATION_TEXTS,
    CandidateFolder,
    MeasuredStudent,
    ShippedModels,
    choose_models,
    measure_models,
)
from amalgam_edge.building.data import BuildTexts, Student, StudentVariant, TrainedStudent
from amalgam_edge.exporters.static_export import int8_ladder
from amalgam_edge.exporters.student_export import export_student
from amalgam_edge.heads import Heads
from amalgam_edge.progress import Say
from amalgam_edge.runtime.bundle import MODEL_FILES
from amalgam_edge.runtime.manifest import STATIC

_CANDIDATES = "candidates"  # folder inside the bundle's; gone when the choice is made


@dataclass(frozen=True)
class ChosenStudent:
    """The student that ships.

    Attributes:
        trained: The trained student.
        variant: The student with the vocabulary that ships.
        models: The models that ship, as the manifest describes them.
    """

    trained: TrainedStudent
    variant: StudentVariant
    models: ShippedModels

    @property
    def student(self) -> Student:
        """The trained model and its tokenizer."""
        return self.variant.student


@dataclass(frozen=True)
class ExportedVariant:
    """A student with one choice of vocabulary, exported to a folder of its own."""

    trained: TrainedStudent
    variant: StudentVariant
    candidate: CandidateFolder


def export_variants(
    trained: TrainedStudent,
    texts: BuildTexts,
    heads: Heads,
    max_disagreement: float,
    folder: Path,
    say: Say,
    *,
    several: bool,
) -> list[ExportedVariant]:
    """Export a trained student to ONNX, each vocabulary into a folder of its own.

    Args:
        trained: The student.
        texts: The texts of the build.
        heads: The student's heads.
        max_disagreement: Largest share of held-out texts whose label a smaller model may change.
        folder: Folder of the bundle.
        say: Shows a line.
        several: Whether there are students of other numbers of layers, from which this one's name must differ.
    """
    exported = []
    for position, variant in enumerate(trained.variants):
        own_folder = folder / _CANDIDATES / f"{trained.layers}-{position}"
        _export(variant, heads, own_folder)
        title = _title(trained, position, several=several)
        candidate = _candidate_folder(trained, variant, texts, heads, max_disagreement, own_folder, title, say)
        exported.append(ExportedVariant(trained, variant, candidate))
    return exported


def measure_variants(exported: Sequence[ExportedVariant], *, every_precision: bool) -> list[MeasuredStudent]:
    """Quantize and measure the exported variants of one student."""
    return measure_models([one.candidate for one in exported], every_precision=every_precision)


def choose_student(
    exported: Sequence[Sequence[ExportedVariant]],
    measured: Sequence[Sequence[MeasuredStudent]],
    budget: Budget | None,
    folder: Path,
) -> ChosenStudent:
    """Choose the variant that ships, and move its models and its tokenizer into the bundle's folder.

    Args:
        exported: Variants of each student.
        measured: Measurements of each of them.
        budget: Limits to choose by; None with one student.
        folder: Folder of the bundle.
    """
    position, models = choose_models([tried for student in measured for tried in student], budget)
    chosen = [one for student in exported for one in student][position]
    for path in chosen.candidate.folder.iterdir():
        shutil.move(path, folder / path.name)
    shutil.rmtree(folder / _CANDIDATES)
    return ChosenStudent(chosen.trained, chosen.variant, models)


def _title(trained: TrainedStudent, position: int, *, several: bool) -> str:
    """What tells a variant from the others of a build, in front of a precision's name."""
    layers = [f"{trained.layers}-layer"] if several else []
    trimmed = ["trimmed"] if position else []
    return " ".join(layers + trimmed)


def _export(variant: StudentVariant, heads: Heads, folder: Path) -> None:
    model, tokenizer = variant.student.model, variant.student.tokenizer
    model.config.architectures = [type(model).__name__]
    model.config.name_or_path = ""
    model.config.save_pretrained(folder)
    tokenizer.name_or_path = ""
    tokenizer.save_pretrained(folder)
    export_student(model, folder / MODEL_FILES["fp32"], variant.temperatures, heads)


def _candidate_folder(
    trained: TrainedStudent,
    variant: StudentVariant,
    texts: BuildTexts,
    heads: Heads,
    max_disagreement: float,
    folder: Path,
    title: str,
    say: Say,
) -> CandidateFolder:
    tokenizer = variant.student.tokenizer
    whole_vocabulary = variant is trained.variants[0]
    return CandidateFolder(
        folder,
        heads=heads,
        max_length=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        texts=texts.corpus.take(texts.held_out),
        calibration=texts.corpus.take(texts.train[:CALIBRATION_TEXTS]),
        max_disagreement=max_disagreement,
        ladder=int8_ladder(folder / MODEL_FILES["fp32"], variant.student.model.config.model_type == STATIC),
        title=title,
        layers=trained.layers,
        n_tokens=variant.n_tokens,
        agreement=trained.agreement,
        compared_with="the float model" if whole_vocabulary else "the float model with all tokens",
        say=lambda message: say(f"{title}: {message}" if title else message),
    )
