"""Which models of a student ship: made in every precision, compared with the float model, chosen by a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from amalgam_edge.building.budget import Budget, Candidate, front, pick
from amalgam_edge.exporters.quantization.int8 import INT8_LADDER, Int8Settings
from amalgam_edge.exporters.quantization.precisions import PRECISIONS
from amalgam_edge.exporters.selection import gate
from amalgam_edge.exporters.selection.fidelity import Fidelity, measure_fidelity
from amalgam_edge.exporters.selection.fused_kernels import fused_kernels
from amalgam_edge.exporters.selection.latency import measure_latency
from amalgam_edge.heads import Heads
from amalgam_edge.metrics.timing import median_call_times
from amalgam_edge.progress import Say
from amalgam_edge.runtime.bundle import MODEL_FILES, TOKENIZER
from amalgam_edge.runtime.manifest import finite
from amalgam_edge.runtime.manifest_models import Front, FrontCandidate, Gate, GateAttempt, Latency, Precision
from amalgam_edge.runtime.peak_memory import peak_megabytes
from amalgam_edge.runtime.text_model import TextModel
from amalgam_edge.storage.own_files import FileContent

CALIBRATION_TEXTS = 500  # training texts on which activations are observed
_TIMED_BATCH = 32  # texts in the batch that is timed under a budget


@dataclass(frozen=True)
class CandidateFolder:
    """A folder with the float model and the tokenizer of a student, where its other models are made.

    Attributes:
        folder: The folder.
        heads: The student's heads.
        max_length: Longest input in tokens.
        pad_token_id: Token id that fills batches.
        texts: Texts held out from training, on which models are measured.
        calibration: Other texts, on which activations are observed.
        max_disagreement: Largest share of texts whose label a model may change.
        ladder: The ways to make int8, from the cheapest to the most careful.
        title: Words before each model's name that tell this folder from others; empty where there is only one.
        layers: Number of layers of the student; None for a static student.
        n_tokens: Size of the student's vocabulary; None where it is not known.
        agreement: Agreement of the student with its supervision, see :class:`~amalgam_edge.building.budget.Candidate`.
        compared_with: The model whose labels should not change, in words.
        say: Shows a line for each attempt that fails.
    """

    folder: Path
    heads: Heads
    max_length: int
    pad_token_id: int
    texts: Sequence[str]
    calibration: Sequence[str]
    max_disagreement: float
    ladder: Sequence[Int8Settings] = INT8_LADDER
    title: str = ""
    layers: int | None = None
    n_tokens: int | None = None
    agreement: float | None = None
    compared_with: str = "the float model"
    say: Say = lambda message: None

    def open(self, model: Path) -> TextModel:
        """A model of the folder, with its tokenizer."""
        tokenizer = FileContent.read(self.folder / TOKENIZER)
        return TextModel(FileContent.read(model), tokenizer, max_length=self.max_length, pad_token_id=self.pad_token_id)

    def file(self, precision: str) -> Path:
        """The file of a precision's model."""
        return self.folder / MODEL_FILES[precision]

    def name(self, precision: str) -> str:
        """Name of a precision's model among those of all folders."""
        return f"{self.title} {precision}".lstrip()


@dataclass(frozen=True)
class MadeModel:
    """How a model was made, and how near its answers are to those it is compared with."""

    made_by: str
    fidelity: Fidelity


@dataclass(frozen=True)
class MeasuredStudent:
    """The models of a student with one vocabulary, measured.

    Attributes:
        folder: The folder that holds them.
        gate: The outcome of the gate for int8.
        models: Precision → its model.
        latencies: Precision → its latency.
        candidates: Precision → everything that a budget may limit; empty without a budget.
    """

    folder: CandidateFolder
    gate: gate.GateResult
    models: Mapping[str, MadeModel]
    latencies: Mapping[str, Latency]
    candidates: Mapping[str, Candidate] = field(default_factory=dict)

    @property
    def good_enough(self) -> list[str]:
        """The precisions that may ship; the float model always may, since all others are made from it."""
        allowed = self.folder.max_disagreement
        return [name for name, made in self.models.items() if name == "fp32" or made.fidelity.disagreement <= allowed]


@dataclass(frozen=True)
class ShippedModels:
    """The models that ship, as the manifest describes them.

    Attributes:
        precisions: Precision → its model.
        default_precision: The precision that is used where none is named.
        gate: What int8 had to pass.
        front: What the budget led to; None without a budget.
    """

    precisions: Mapping[str, Precision]
    default_precision: str
    gate: Gate
    front: Front | None


def measure_models(folders: Sequence[CandidateFolder], *, every_precision: bool) -> list[MeasuredStudent]:
    """Make and measure the models of one student, each vocabulary in a folder of its own.

    All are compared with the float model of the first folder, and take turns when they are timed.

    Args:
        folders: At least one.
        every_precision: Make those that only a budget asks for too, and measure everything that it may limit.
    """
    float_logits = [folder.open(folder.file("fp32")).run(folder.texts)[0] for folder in folders]
    reference = float_logits[0]
    results = [_pass_gate(folder, reference) for folder in folders]
    made = [
        _usual_precisions(result, measure_fidelity(reference, logits, folder.heads))
        | (_other_precisions(folder, result, reference) if every_precision else {})
        for folder, result, logits in zip(folders, results, float_logits, strict=True)
    ]
    opened = {
        folder.name(precision): folder.open(folder.file(precision))
        for folder, models in zip(folders, made, strict=True)
        for precision in models
    }
    latencies = measure_latency(opened, folders[0].texts)
    measured = [
        MeasuredStudent(folder, result, models, {name: latencies[folder.name(name)] for name in models})
        for folder, result, models in zip(folders, results, made, strict=True)
    ]
    if not every_precision:
        return measured
    batch = list(folders[0].texts[:_TIMED_BATCH])
    calls = {name: _call(model, batch) for name, model in opened.items()}
    seconds = median_call_times(calls, rounds=5, seconds=0.2)
    return [
        replace(
            student,
            candidates={name: _candidate(student, name, seconds[student.folder.name(name)]) for name in student.models},
        )
        for student in measured
    ]


def choose_models(students: Sequence[MeasuredStudent], budget: Budget | None = None) -> tuple[int, ShippedModels]:
    """Choose the student that ships, and leave in its folder the models that are good enough.

    Args:
        students: One, or under a budget several.
        budget: Limits to choose by; without one int8 is the default, where it is good enough.

    Returns:
        Position of the chosen student, and its models that ship.
    """
    position, default, outcome = 0, "int8" if "int8" in students[0].good_enough else "fp32", None
    if budget is not None:
        outcome = _front(students, budget)
        position, default = next(
            (position, precision)
            for position, student in enumerate(students)
            for precision, candidate in student.candidates.items()
            if candidate.name == outcome.picked
        )
    chosen = students[position]
    for name in chosen.models.keys() - set(chosen.good_enough):
        chosen.folder.file(name).unlink()
    return position, ShippedModels(
        precisions={name: _describe_precision(chosen, name) for name in chosen.good_enough},
        default_precision=default,
        gate=_describe_gate(chosen),
        front=outcome,
    )


def _describe_precision(student: MeasuredStudent, name: str) -> Precision:
    file, made = student.folder.file(name), student.models[name]
    return Precision(
        file=MODEL_FILES[name],
        bytes=file.stat().st_size,
        quantization=made.made_by,
        fidelity=made.fidelity.entry(),
        latency_ms=student.latencies[name],
        kernels=fused_kernels(file),
    )


def _describe_gate(student: MeasuredStudent) -> Gate:
    return Gate(
        passed=student.gate.accepted is not None,
        n_texts=len(student.folder.texts),
        max_disagreement=student.folder.max_disagreement,
        compared_with=student.folder.compared_with,
        attempts=tuple(
            GateAttempt(settings.name, fidelity.disagreement, finite(fidelity.mean_kl))
            for settings, fidelity in student.gate.attempts
        ),
    )


def _pass_gate(folder: CandidateFolder, reference: np.ndarray) -> gate.GateResult:
    return gate.pass_gate(
        folder.file("fp32"),
        folder.file("int8"),
        folder.texts,
        folder.open,
        heads=folder.heads,
        budget=folder.max_disagreement,
        calibration=folder.calibration,
        ladder=folder.ladder,
        reference=reference,
        say=folder.say,
    )


def _usual_precisions(result: gate.GateResult, float_fidelity: Fidelity) -> dict[str, MadeModel]:
    """The precisions that every build makes: float, and int8 where it passed the gate."""
    models = {"fp32": MadeModel("float", float_fidelity)}
    if result.accepted is not None:
        models["int8"] = MadeModel(result.accepted.name, result.fidelity)
    return models


def _other_precisions(folder: CandidateFolder, result: gate.GateResult, reference: np.ndarray) -> dict[str, MadeModel]:
    """The precisions that only a budget asks for."""
    int8 = result.accepted or folder.ladder[-1]
    made_by = {
        name: precision.write(folder.file("fp32"), folder.file(name), int8, result.activations)
        for name, precision in PRECISIONS.items()
        if precision.write is not None
    }
    return {
        name: MadeModel(
            how, measure_fidelity(reference, folder.open(folder.file(name)).run(folder.texts)[0], folder.heads)
        )
        for name, how in made_by.items()
    }


def _candidate(student: MeasuredStudent, precision: str, batch_seconds: float) -> Candidate:
    folder, made, latency = student.folder, student.models[precision], student.latencies[precision]
    return Candidate(
        folder.name(precision),
        made.made_by,
        megabytes=folder.file(precision).stat().st_size / 1e6,
        latency_ms=latency.p50,
        p95_ms=latency.p95,
        batch_ms=batch_seconds * 1e3,
        memory_megabytes=peak_megabytes(
            folder.file(precision),
            folder.folder / TOKENIZER,
            max_length=folder.max_length,
            pad_token_id=folder.pad_token_id,
        ),
        loss_percent=100 * made.fidelity.disagreement,
        mean_kl=made.fidelity.mean_kl,
        layers=folder.layers,
        n_tokens=folder.n_tokens,
        agreement=folder.agreement,
    )


def _call(model: TextModel, texts: Sequence[str]) -> Callable[[], object]:
    return lambda: model.run(texts)


def _front(students: Sequence[MeasuredStudent], budget: Budget) -> Front:
    """Every model that was measured, and the pick among those that are good enough."""
    candidates = [candidate for student in students for candidate in student.candidates.values()]
    picked = pick([student.candidates[name] for student in students for name in student.good_enough], budget)
    on_front = front(candidates)
    rows = [
        FrontCandidate(
            **{**vars(candidate), "mean_kl": finite(candidate.mean_kl)},
            precision=precision,
            on_front=candidate.name in on_front,
        )
        for student in students
        for precision, candidate in student.candidates.items()
    ]
    return Front(budget.limits, tuple(rows), picked.name, picked.within_budget, picked.reason)
