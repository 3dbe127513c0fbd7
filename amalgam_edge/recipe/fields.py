"""The settings of a recipe as keyword arguments, for type checkers and editors; a test holds it to the sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TypedDict

from amalgam_edge.recipe.sections import BackendName, MaskKind, Precision

PathOrName = str | PathLike[str]


class RecipeFields(TypedDict, total=False):
    """Every setting of a recipe by its name; see :mod:`amalgam_edge.recipe.sections` for what each does."""

    teachers: Sequence[PathOrName] | PathOrName
    heads: str | Mapping[str, Sequence[str]] | None
    labels: PathOrName | None
    dropout: float | None
    max_length: int
    corpus: PathOrName
    text_column: str | None
    split: str
    held_out: int
    passes: int | str
    max_passes: int
    masks: MaskKind
    seed: int
    precision: Precision
    batch_tokens: int | None
    backend: BackendName
    device: str
    threads: int | None
    engine: str
    address: str | None
    workers: int | None
    method: str
    reweight: bool
    score_temperature: float
    refinement_rounds: int
    distillation_temperature: float
    feature_weight: float
    reconstruction_weight: float
    common_width: int
    owner_column: str | None
    known_labels: PathOrName | None
    student: PathOrName
    student_layers: int | Sequence[int] | str | None
    static_width: int
    cascade: bool
    cascade_agreement: float
    epochs: int
    batch_size: int
    learning_rate: float | None
    warmup_ratio: float
    weight_decay: float
    report_to: str
    head_weights: Mapping[str, float] | None
    launch: int
    max_disagreement: float
    budget: str | None
    trim_vocabulary: bool
    calibrate: bool
    abstain: float | Mapping[str, float]
    thresholds: PathOrName | None
    include_torch: bool
    evaluate: PathOrName | None
    evaluate_split: str
    label_column: str | Sequence[str]
    output: PathOrName
    work: PathOrName | None
