"""The quality gate: nothing ships unmeasured, and nothing beyond its budget ships at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx

from amalgam_edge.exporters.quantization.activations import Activation, Activations, add_observers, joined
from amalgam_edge.exporters.quantization.quantization import (
    LADDER,
    Quantization,
    quantizable_products,
    quantize,
    with_float_nodes,
)
from amalgam_edge.exporters.selection.fidelity import Fidelity, compare
from amalgam_edge.metrics.accuracy import mean_divergence
from amalgam_edge.runtime.manifest_models import Latency
from amalgam_edge.runtime.text_model import TextModel

_TIMED_TEXTS = 200
_WARM_UP = 10
_SENSITIVITY_TEXTS = 200

OpenModel = Callable[[Path], TextModel]
Say = Callable[[str], None]


@dataclass(frozen=True)
class GateResult:
    """What the gate let through.

    Attributes:
        accepted: the way to quantize that kept within the budget, or None.
        fidelity: of the accepted one, or of the best that was tried.
        attempts: every way that was tried, with its fidelity, in order.
        activations: what was seen of them; nothing where no way asked for it.
    """

    accepted: Quantization | None
    fidelity: Fidelity
    attempts: tuple[tuple[Quantization, Fidelity], ...]
    activations: Activations


def pass_gate(
    source: Path,
    target: Path,
    texts: Sequence[str],
    open_model: OpenModel,
    *,
    budget: float,
    calibration: Sequence[str],
    ladder: Sequence[Quantization] = LADDER,
    reference: np.ndarray | None = None,
    say: Say = lambda message: None,
) -> GateResult:
    """Quantize ever more carefully until the disagreement with the float model is within the budget.

    Args:
        source: the float model.
        target: where the accepted model is left; nothing is left there if none was.
        texts: held out from training.
        open_model: opens a model with the bundle's tokenizer.
        budget: the share of texts that may change their label.
        calibration: other texts, which tell what activations are like.
        ladder: ways to quantize, the least careful first; after the last, the one nearest the float model is tried
            with its worst products in float.
        reference: logits that the quantized model's are compared with; by default the float model's own.
        say: told of each miss.
    """
    if reference is None:
        reference = open_model(source).run(texts)[0]
    attempts: list[tuple[Quantization, Fidelity]] = []

    def careful() -> Iterator[Quantization]:
        yield from ladder
        nearest = min(attempts, key=lambda attempt: attempt[1].mean_kl)[0]
        say("ranking products by the harm that quantizing them does")
        few = slice(_SENSITIVITY_TEXTS)
        yield from with_float_nodes(
            nearest, _most_harmful(source, target, texts[few], reference[few], open_model, nearest, activations)
        )

    activations: Activations = {}
    for how in careful():
        if how.calibrated and not activations:
            activations = observe(source, target, calibration, open_model)
        quantize(source, target, how, activations)
        fidelity = compare(reference, open_model(target).run(texts)[0])
        attempts.append((how, fidelity))
        if fidelity.disagreement <= budget:
            return GateResult(how, fidelity, tuple(attempts), activations)
        say(f"int8 with {how.name}: {fidelity.disagreement:.2%} of labels change, over the budget of {budget:.2%}")
    target.unlink(missing_ok=True)
    best = min((fidelity for _, fidelity in attempts), key=lambda fidelity: fidelity.disagreement)
    return GateResult(None, best, tuple(attempts), activations)


def measure_latency(models: Mapping[str, TextModel], texts: Sequence[str]) -> dict[str, Latency]:
    """Milliseconds for one text at a time, tokenizing included: p50 and p95 of each model.

    The models take turns at each text, so that whatever else the machine does bears on all alike.
    """
    timed = list(texts[:_TIMED_TEXTS])
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for text in timed[:_WARM_UP]:
        for model in models.values():
            model.run([text])
    for text in timed:
        for name, model in models.items():
            start = perf_counter()
            model.run([text])
            seconds[name].append(perf_counter() - start)
    return {
        name: Latency(p50=float(np.percentile(taken, 50) * 1e3), p95=float(np.percentile(taken, 95) * 1e3))
        for name, taken in seconds.items()
    }


def _most_harmful(
    source: Path,
    scratch: Path,
    texts: Sequence[str],
    reference: np.ndarray,
    open_model: OpenModel,
    how: Quantization,
    activations: Activations,
) -> list[str]:
    """Quantizable products by how much nearer the float model comes when that one alone is left in float.

    Weights are rounded plainly in these trials, which is quicker and changes little of the order.
    """
    divergence: dict[str, float] = {}
    with _scratch_model(scratch, "trial") as trial:
        for node in quantizable_products(source):
            quantize(source, trial, replace(how, rounded=False, float_nodes=(node,)), activations)
            divergence[node] = mean_divergence(reference, open_model(trial).run(texts)[0])
    return sorted(divergence, key=lambda node: divergence[node])


def observe(source: Path, beside: Path, texts: Sequence[str], open_model: OpenModel) -> Activations:
    """What a model multiplies on these texts.

    Args:
        source: the float model.
        beside: a file beside which there is room for another.
        texts: to look at.
        open_model: opens a model with the bundle's tokenizer.
    """
    model = onnx.load(source)
    outputs = add_observers(model.graph)
    names = [name for pair in outputs.values() for name in pair]
    with _scratch_model(beside, "observed") as observed:
        onnx.save(model, observed)
        seen: dict[str, Activation] = {}
        for values in open_model(observed).outputs(texts, names):
            for value, largest, gram in zip(outputs, values[::2], values[1::2], strict=True):
                batch = Activation(largest, gram)
                seen[value] = joined([seen[value], batch]) if value in seen else batch
    return seen


@contextmanager
def _scratch_model(beside: Path, purpose: str) -> Iterator[Path]:
    """A file beside the one that ships, for a model that does not."""
    path = beside.with_name(f"{beside.stem}.{os.getpid()}.{purpose}.onnx")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
