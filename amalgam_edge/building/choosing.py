"""The students of a build, each exported, quantized and measured, and the choice of the one that ships."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amalgam_edge.building import stages
from amalgam_edge.building.candidates import CALIBRATION_TEXTS, Tried, Workshop, choose_models, try_models
from amalgam_edge.building.stages import Lesson, Student, Trained, Variant
from amalgam_edge.exporters.static_export import int8_ladder
from amalgam_edge.exporters.student_export import export_student
from amalgam_edge.progress import Progress
from amalgam_edge.runtime.bundle import MODEL_FILES
from amalgam_edge.runtime.model_types import STATIC

_CANDIDATES = "candidates"


@dataclass(frozen=True)
class Chosen:
    """What ships.

    Attributes:
        trained: the student.
        variant: with as many tokens as the bundle has.
        measured: the manifest's account of its models, see :func:`~amalgam_edge.building.candidates.choose_models`.
    """

    trained: Trained
    variant: Variant
    measured: dict[str, Any]

    @property
    def student(self) -> Student:
        """The model that was trained, and its tokenizer."""
        return self.variant.student


def choose_student(lesson: Lesson, students: Sequence[Trained], folder: Path, progress: Progress) -> Chosen:
    """Make every student's models, and leave those of the one that ships in ``folder``, with its tokenizer.

    Args:
        lesson: of the build.
        students: one, or under a budget several.
        folder: of the bundle.
        progress: two steps a student.
    """
    budget = stages.budget_of(lesson.recipe)
    tried: list[Tried] = []
    origins: list[tuple[Trained, Variant]] = []
    for trained in students:
        of_which = f", {trained.layers} layers" if len(students) > 1 else ""
        shops = []
        with progress.step(f"exporting to ONNX{of_which}"):
            for variant in trained.variants:
                room = folder / _CANDIDATES / str(len(origins))
                _export(variant, room)
                title = _title(trained, variant, several=len(students) > 1)
                shops.append(_workshop(lesson, trained, variant, room, title, progress))
                origins.append((trained, variant))
        with progress.step(f"quantizing and measuring{of_which}"):
            tried += try_models(shops, every_precision=budget is not None)
    position, measured = choose_models(tried, budget)
    for path in tried[position].shop.folder.iterdir():
        shutil.move(path, folder / path.name)
    shutil.rmtree(folder / _CANDIDATES)
    return Chosen(*origins[position], measured)


def _title(trained: Trained, variant: Variant, *, several: bool) -> str:
    """What tells a variant from the others of a build, in front of a precision's name."""
    layers = [f"{trained.layers}-layer"] if several else []
    trimmed = ["trimmed"] if variant is not trained.variants[0] else []
    return " ".join(layers + trimmed)


def _export(variant: Variant, room: Path) -> None:
    model, tokenizer = variant.student.model, variant.student.tokenizer
    model.config.architectures = [type(model).__name__]
    model.config.name_or_path = ""
    model.config.save_pretrained(room)
    tokenizer.name_or_path = ""
    tokenizer.save_pretrained(room)
    export_student(model, room / MODEL_FILES["fp32"], variant.temperature)


def _workshop(
    lesson: Lesson, trained: Trained, variant: Variant, room: Path, title: str, progress: Progress
) -> Workshop:
    texts, budget, tokenizer = lesson.texts, stages.budget_of(lesson.recipe), variant.student.tokenizer
    all_tokens = variant is trained.variants[0]
    return Workshop(
        room,
        max_length=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        texts=texts.corpus.take(texts.held_out),
        calibration=texts.corpus.take(texts.train[:CALIBRATION_TEXTS]),
        max_disagreement=lesson.recipe.max_disagreement if budget is None else budget.limits["loss"] / 100,
        ladder=int8_ladder(room / MODEL_FILES["fp32"], variant.student.model.config.model_type == STATIC),
        title=title,
        layers=trained.layers,
        n_tokens=variant.n_tokens,
        agreement=trained.agreement,
        compared_with="the float model" if all_tokens else "the float model with all tokens",
        say=lambda message: progress.say(f"{title}: {message}" if title else message),
    )
