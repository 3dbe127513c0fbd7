"""Which models of a student ship: made, measured beside the float one, and chosen by a budget."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from amalgam_edge.budget import Budget, Candidate, front, pick
from amalgam_edge.exporters import gate
from amalgam_edge.exporters.fidelity import Fidelity, compare
from amalgam_edge.exporters.fused_kernels import fused_kernels
from amalgam_edge.exporters.precisions import WEIGHT_ONLY
from amalgam_edge.exporters.quantization import LADDER, Quantization, quantize
from amalgam_edge.runtime.bundle import MODEL_FILES, TOKENIZER
from amalgam_edge.runtime.footprint import peak_megabytes
from amalgam_edge.runtime.text_model import TextModel
from amalgam_edge.timing import side_by_side

Say = Callable[[str], None]

CALIBRATION_TEXTS = 500

SMALLEST = "int8-pq"

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
        say: told of each miss.
    """

    folder: Path
    max_length: int
    pad_token_id: int
    texts: Sequence[str]
    calibration: Sequence[str]
    max_disagreement: float
    ladder: Sequence[Quantization] = LADDER
    say: Say = lambda message: None

    def open(self, model: Path) -> TextModel:
        """A model of the bundle with its tokenizer."""
        return TextModel(model, self.folder / TOKENIZER, max_length=self.max_length, pad_token_id=self.pad_token_id)

    def file(self, precision: str) -> Path:
        """Where a precision's model lies."""
        return self.folder / MODEL_FILES[precision]


def make_models(shop: Workshop, budget: Budget | None = None) -> dict[str, Any]:
    """Make int8, and under a budget the other precisions too; what is good enough stays in the folder.

    A budget's ``loss`` takes the place of the workshop's ``max_disagreement``.

    Returns:
        The manifest's ``precisions``, ``default_precision``, ``gate`` and, under a budget, ``front``.
    """
    if budget is not None:
        budget = Budget({"loss": 100 * shop.max_disagreement, **budget.limits})
    allowed = shop.max_disagreement if budget is None else budget.limits["loss"] / 100
    result = gate.pass_gate(
        shop.file("fp32"),
        shop.file("int8"),
        shop.texts,
        shop.open,
        budget=allowed,
        calibration=shop.calibration,
        ladder=shop.ladder,
        say=shop.say,
    )
    made: dict[str, tuple[str, Fidelity]] = {"fp32": ("float", Fidelity(1.0, 0.0, len(shop.texts)))}
    if result.accepted is not None:
        made["int8"] = (result.accepted.name, result.fidelity)
    if budget is not None:
        made |= _others(shop, result.accepted or shop.ladder[-1])
    models = {name: shop.open(shop.file(name)) for name in made}
    latencies = gate.measure_latency(models, shop.texts)
    kept = {name: how for name, how in made.items() if how[1].disagreement <= allowed}
    chosen: dict[str, Any] = {}
    default = "int8" if "int8" in kept else "fp32"
    if budget is not None:
        chosen = _front(_measured(shop, models, made, latencies), set(kept), budget)
        default = chosen["front"]["picked"]
    for name in made.keys() - kept.keys():
        shop.file(name).unlink()
    return {
        "precisions": {
            name: gate.Precision(
                file=MODEL_FILES[name],
                bytes=shop.file(name).stat().st_size,
                quantization=how,
                fidelity=fidelity,
                latency_ms=latencies[name],
                kernels=fused_kernels(shop.file(name)),
            ).as_dict()
            for name, (how, fidelity) in kept.items()
        },
        "default_precision": default,
        "gate": {
            "passed": result.accepted is not None,
            "n_texts": len(shop.texts),
            "max_disagreement": allowed,
            "attempts": [
                {"quantization": how.name, "disagreement": f.disagreement, "mean_kl": f.mean_kl}
                for how, f in result.attempts
            ],
        },
        **chosen,
    }


def _others(shop: Workshop, int8: Quantization) -> dict[str, tuple[str, Fidelity]]:
    """The precisions that only a budget asks for; the last is int8 with the smallest of tables."""
    source = shop.file("fp32")
    reference = shop.open(source).run(shop.texts)[0]
    ways = {name: how for name, (how, _) in WEIGHT_ONLY.items()}
    for name, (_, write) in WEIGHT_ONLY.items():
        write(source, shop.file(name))
    smallest = replace(int8, name=f"{int8.name}, tokens by product quantization", product_tables=True)
    seen = gate.observe(source, shop.file(SMALLEST), shop.calibration, shop.open) if int8.calibrated else {}
    quantize(source, shop.file(SMALLEST), smallest, seen)
    ways[SMALLEST] = smallest.name
    return {
        name: (how, compare(reference, shop.open(shop.file(name)).run(shop.texts)[0])) for name, how in ways.items()
    }


def _measured(
    shop: Workshop,
    models: Mapping[str, TextModel],
    made: Mapping[str, tuple[str, Fidelity]],
    latencies: Mapping[str, Mapping[str, float]],
) -> list[Candidate]:
    batch = list(shop.texts[:_BATCH])
    seconds = side_by_side({name: _bind(model, batch) for name, model in models.items()}, rounds=5, seconds=0.2)
    return [
        Candidate(
            name,
            how,
            megabytes=shop.file(name).stat().st_size / 1e6,
            latency_ms=latencies[name]["p50"],
            p95_ms=latencies[name]["p95"],
            batch_ms=seconds[name] * 1e3,
            memory_megabytes=peak_megabytes(
                shop.file(name),
                shop.folder / TOKENIZER,
                max_length=shop.max_length,
                pad_token_id=shop.pad_token_id,
            ),
            loss_percent=100 * fidelity.disagreement,
            mean_kl=fidelity.mean_kl,
        )
        for name, (how, fidelity) in made.items()
    ]


def _bind(model: TextModel, texts: Sequence[str]) -> Callable[[], object]:
    return lambda: model.run(texts)


def _front(candidates: Sequence[Candidate], kept: Collection[str], budget: Budget) -> dict[str, Any]:
    picked = pick([candidate for candidate in candidates if candidate.name in kept], budget)
    on_front = front(candidates)
    rows = [{**asdict(candidate), "on_front": candidate.name in on_front} for candidate in candidates]
    return {
        "front": {
            "limits": budget.limits,
            "candidates": rows,
            "picked": picked.name,
            "within_budget": picked.within_budget,
            "reason": picked.reason,
        }
    }
