"""Which models of a student ship: made, measured beside the float one, and chosen by a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from amalgam_edge.building.budget import Budget, Candidate, front, pick
from amalgam_edge.exporters.quantization.int8 import INT8_LADDER, Int8Settings
from amalgam_edge.exporters.quantization.precisions import PRECISIONS
from amalgam_edge.exporters.selection import gate
from amalgam_edge.exporters.selection.fidelity import Fidelity, measure_fidelity
from amalgam_edge.exporters.selection.fused_kernels import fused_kernels
from amalgam_edge.exporters.selection.latency import measure_latency
from amalgam_edge.metrics.timing import side_by_side
from amalgam_edge.runtime.bundle import MODEL_FILES, TOKENIZER
from amalgam_edge.runtime.footprint import peak_megabytes
from amalgam_edge.runtime.text_model import TextModel

Say = Callable[[str], None]

CALIBRATION_TEXTS = 500

_BATCH = 32


@dataclass(frozen=True)
class Workshop:
    """A bundle in the making.

    Attributes:
        folder: holds the float model and the tokenizer.
        max_length: texts are cut to this many tokens.
        pad_token_id: fills batches.
        texts: held out from training; models are measured on them.
        calibration: other texts, which tell what activations are like.
        max_disagreement: the share of texts whose label a model may change.
        ladder: ways to make int8.
        title: what tells it from other workshops, before each model's name; empty where it is the only one.
        layers: of the student; None where it has none.
        n_tokens: that it knows.
        agreement: of the student with its supervision, see :class:`~amalgam_edge.building.budget.Candidate`.
        compared_with: the model whose labels they should not change, in words.
        say: told of each miss.
    """

    folder: Path
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
        """A model of the bundle with its tokenizer."""
        return TextModel(model, self.folder / TOKENIZER, max_length=self.max_length, pad_token_id=self.pad_token_id)

    def file(self, precision: str) -> Path:
        """Where a precision's model lies."""
        return self.folder / MODEL_FILES[precision]

    def name(self, precision: str) -> str:
        """What a precision's model is called among those of all workshops."""
        return f"{self.title} {precision}".lstrip()


@dataclass(frozen=True)
class Tried:
    """What came of a workshop.

    Attributes:
        shop: the workshop.
        result: what became of int8.
        made: precision → how it was made, and how near it is to the float model.
        latencies: precision → p50 and p95 in milliseconds.
        candidates: precision → all that a budget asks about; empty without one.
    """

    shop: Workshop
    result: gate.GateResult
    made: Mapping[str, tuple[str, Fidelity]]
    latencies: Mapping[str, Mapping[str, float]]
    candidates: Mapping[str, Candidate] = field(default_factory=dict)

    @property
    def kept(self) -> list[str]:
        """The precisions that are good enough to ship; the float model always is, for others to be made of it."""
        allowed = self.shop.max_disagreement
        return [name for name, (_, near) in self.made.items() if name == "fp32" or near.disagreement <= allowed]


def try_models(shops: Sequence[Workshop], *, every_precision: bool) -> list[Tried]:
    """Make and measure the models of one student, each vocabulary in a workshop of its own.

    All are compared with the float model of the first workshop, and take turns when they are timed.

    Args:
        shops: at least one.
        every_precision: make those that only a budget asks for too, and measure all that it may limit.
    """
    floats = [shop.open(shop.file("fp32")).run(shop.texts)[0] for shop in shops]
    results = [_pass_gate(shop, floats[0]) for shop in shops]
    made = [
        _made(shop, result, measure_fidelity(floats[0], own))
        | (_others(shop, result, floats[0]) if every_precision else {})
        for shop, result, own in zip(shops, results, floats, strict=True)
    ]
    models = {
        shop.name(name): shop.open(shop.file(name)) for shop, its in zip(shops, made, strict=True) for name in its
    }
    latencies = measure_latency(models, shops[0].texts)
    tried = [
        Tried(shop, result, its, {name: latencies[shop.name(name)] for name in its})
        for shop, result, its in zip(shops, results, made, strict=True)
    ]
    if not every_precision:
        return tried
    batch = list(shops[0].texts[:_BATCH])
    seconds = side_by_side({name: _bind(model, batch) for name, model in models.items()}, rounds=5, seconds=0.2)
    return [
        replace(one, candidates={name: _candidate(one, name, seconds[one.shop.name(name)]) for name in one.made})
        for one in tried
    ]


def choose_models(tried: Sequence[Tried], budget: Budget | None = None) -> tuple[int, dict[str, Any]]:
    """Choose the workshop that ships, and leave in its folder what is good enough.

    Args:
        tried: one, or under a budget several.
        budget: picks among all models; without one int8 is the default, where it is good enough.

    Returns:
        Its position, and the manifest's ``precisions``, ``default_precision``, ``gate`` and, under a budget, ``front``.
    """
    position, default, entries = 0, "int8" if "int8" in tried[0].kept else "fp32", {}
    if budget is not None:
        entries = _front(tried, budget)
        position, default = next(
            (position, precision)
            for position, one in enumerate(tried)
            for precision, candidate in one.candidates.items()
            if candidate.name == entries["front"]["picked"]
        )
    chosen = tried[position]
    shop, result = chosen.shop, chosen.result
    for name in chosen.made.keys() - set(chosen.kept):
        shop.file(name).unlink()
    return position, {
        "precisions": {
            name: gate.PrecisionEntry(
                file=MODEL_FILES[name],
                bytes=shop.file(name).stat().st_size,
                quantization=chosen.made[name][0],
                fidelity=chosen.made[name][1],
                latency_ms=chosen.latencies[name],
                kernels=fused_kernels(shop.file(name)),
            ).as_dict()
            for name in chosen.kept
        },
        "default_precision": default,
        "gate": {
            "passed": result.accepted is not None,
            "n_texts": len(shop.texts),
            "max_disagreement": shop.max_disagreement,
            "compared_with": shop.compared_with,
            "attempts": [
                {"quantization": how.name, "disagreement": f.disagreement, "mean_kl": f.mean_kl}
                for how, f in result.attempts
            ],
        },
        **entries,
    }


def _pass_gate(shop: Workshop, reference: np.ndarray) -> gate.GateResult:
    return gate.pass_gate(
        shop.file("fp32"),
        shop.file("int8"),
        shop.texts,
        shop.open,
        budget=shop.max_disagreement,
        calibration=shop.calibration,
        ladder=shop.ladder,
        reference=reference,
        say=shop.say,
    )


def _made(shop: Workshop, result: gate.GateResult, of_float: Fidelity) -> dict[str, tuple[str, Fidelity]]:
    """The precisions that every build makes: how, and how near they are to what they are compared with."""
    int8 = {} if result.accepted is None else {"int8": (result.accepted.name, result.fidelity)}
    return {"fp32": ("float", of_float), **int8}


def _others(shop: Workshop, result: gate.GateResult, reference: np.ndarray) -> dict[str, tuple[str, Fidelity]]:
    """The precisions that only a budget asks for."""
    source = shop.file("fp32")
    int8 = result.accepted or shop.ladder[-1]
    ways = {
        name: precision.write(source, shop.file(name), int8, result.activations)
        for name, precision in PRECISIONS.items()
        if precision.write is not None
    }
    return {
        name: (how, measure_fidelity(reference, shop.open(shop.file(name)).run(shop.texts)[0]))
        for name, how in ways.items()
    }


def _candidate(tried: Tried, precision: str, batch_seconds: float) -> Candidate:
    shop, (how, fidelity) = tried.shop, tried.made[precision]
    return Candidate(
        shop.name(precision),
        how,
        megabytes=shop.file(precision).stat().st_size / 1e6,
        latency_ms=tried.latencies[precision]["p50"],
        p95_ms=tried.latencies[precision]["p95"],
        batch_ms=batch_seconds * 1e3,
        memory_megabytes=peak_megabytes(
            shop.file(precision),
            shop.folder / TOKENIZER,
            max_length=shop.max_length,
            pad_token_id=shop.pad_token_id,
        ),
        loss_percent=100 * fidelity.disagreement,
        mean_kl=fidelity.mean_kl,
        layers=shop.layers,
        n_tokens=shop.n_tokens,
        agreement=shop.agreement,
    )


def _bind(model: TextModel, texts: Sequence[str]) -> Callable[[], object]:
    return lambda: model.run(texts)


def _front(tried: Sequence[Tried], budget: Budget) -> dict[str, Any]:
    """The manifest's ``front``: every model that was measured, and the pick among those that are good enough."""
    candidates = [candidate for one in tried for candidate in one.candidates.values()]
    picked = pick([one.candidates[name] for one in tried for name in one.kept], budget)
    on_front = front(candidates)
    rows = [
        {**asdict(candidate), "precision": precision, "on_front": candidate.name in on_front}
        for one in tried
        for precision, candidate in one.candidates.items()
    ]
    return {
        "front": {
            "limits": budget.limits,
            "candidates": rows,
            "picked": picked.name,
            "within_budget": picked.within_budget,
            "reason": picked.reason,
        }
    }
