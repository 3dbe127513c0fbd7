"""The quality gate: no int8 model ships unmeasured, and none that changes more labels than the budget allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from amalgam_edge.exporters.quantization.activations import Activations
from amalgam_edge.exporters.quantization.int8 import (
    INT8_LADDER,
    Int8Settings,
    quantizable_products,
    quantize_to_int8,
    with_float_nodes,
)
from amalgam_edge.exporters.selection.calibration import OpenModel, observe_activations, scratch_model
from amalgam_edge.exporters.selection.fidelity import Fidelity, divergence_of_heads, measure_fidelity
from amalgam_edge.heads import Heads
from amalgam_edge.progress import Say

_RANKING_TEXTS = 200  # on how many texts products are ranked by the harm that quantizing them does


@dataclass(frozen=True)
class GateResult:
    """What the gate let through.

    Attributes:
        accepted: The first settings that were within the budget; None if none were.
        fidelity: The fidelity of the accepted settings, or else of those with the fewest changed labels.
        attempts: All settings that were tried, in order, each with its fidelity.
        activations: The statistics on calibration texts; empty if no settings asked for them.
    """

    accepted: Int8Settings | None
    fidelity: Fidelity
    attempts: tuple[tuple[Int8Settings, Fidelity], ...]
    activations: Activations


def pass_gate(
    source: Path,
    target: Path,
    texts: Sequence[str],
    open_model: OpenModel,
    *,
    heads: Heads,
    budget: float,
    calibration: Sequence[str],
    ladder: Sequence[Int8Settings] = INT8_LADDER,
    reference: np.ndarray | None = None,
    say: Say = lambda message: None,
) -> GateResult:
    """Quantize ever more carefully until few enough labels change.

    Args:
        source: The file of the float model.
        target: Where the accepted int8 model is written; no file is left there if none is accepted.
        texts: Texts held out from training.
        open_model: Opens a model with the bundle's tokenizer.
        heads: The heads that the model answers, each of which has to keep to the budget.
        budget: The share of the texts that may change their label.
        calibration: Other texts, on which the statistics of activations are gathered.
        ladder: The settings to try, the least careful first. After the last, the settings nearest the float model are
            tried with their most harmful products left in float.
        reference: The logits that the int8 model's are compared with; by default the float model's.
        say: Gets a message for each attempt that changes too many labels.
    """
    if reference is None:
        reference = open_model(source).run(texts)[0]
    gate = _Gate(source, target, texts, open_model, heads, budget, calibration, reference, say)
    accepted = gate.first_within_budget(ladder)
    if accepted is None:
        accepted = gate.first_within_budget(gate.settings_with_float_products())
    if accepted is not None:
        return GateResult(accepted, gate.attempts[-1][1], tuple(gate.attempts), gate.activations)
    target.unlink(missing_ok=True)
    best = min((fidelity for _, fidelity in gate.attempts), key=lambda fidelity: fidelity.disagreement)
    return GateResult(None, best, tuple(gate.attempts), gate.activations)


class _Gate:
    """The attempts to quantize one model; the arguments are those of :func:`pass_gate`.

    Attributes:
        attempts: All settings that were tried so far, each with its fidelity.
        activations: The statistics on calibration texts, gathered when settings first ask for them.
    """

    def __init__(
        self,
        source: Path,
        target: Path,
        texts: Sequence[str],
        open_model: OpenModel,
        heads: Heads,
        budget: float,
        calibration: Sequence[str],
        reference: np.ndarray,
        say: Say,
    ) -> None:
        self.attempts: list[tuple[Int8Settings, Fidelity]] = []
        self.activations: Activations = {}
        self._source, self._target = source, target
        self._texts, self._calibration = texts, calibration
        self._open_model = open_model
        self._heads = heads
        self._budget = budget
        self._reference = reference
        self._say = say

    def first_within_budget(self, ladder: Iterable[Int8Settings]) -> Int8Settings | None:
        """Try settings in turn, and return the first that is within the budget; the target holds its model."""
        for settings in ladder:
            if settings.calibrated and not self.activations:
                self.activations = observe_activations(self._source, self._target, self._calibration, self._open_model)
            quantize_to_int8(self._source, self._target, settings, self.activations)
            fidelity = measure_fidelity(
                self._reference, self._open_model(self._target).run(self._texts)[0], self._heads
            )
            self.attempts.append((settings, fidelity))
            if fidelity.disagreement <= self._budget:
                return settings
            self._say(
                f"int8 with {settings.name}: {fidelity.disagreement:.2%} of labels change, "
                f"over the budget of {self._budget:.2%}"
            )
        return None

    def settings_with_float_products(self) -> Iterator[Int8Settings]:
        """The settings nearest the float model so far, with ever more of their most harmful products in float."""
        nearest = min(self.attempts, key=lambda attempt: attempt[1].mean_kl)[0]
        self._say("ranking products by the harm that quantizing them does")
        return with_float_nodes(nearest, self._most_harmful_products(nearest))

    def _most_harmful_products(self, settings: Int8Settings) -> list[str]:
        """Quantizable products, those first whose return to float alone brings the model nearest to the float model.

        The trials round weights to the nearest level, which is quicker than GPTQ and hardly changes the order.
        """
        texts, reference = self._texts[:_RANKING_TEXTS], self._reference[:_RANKING_TEXTS]
        divergence: dict[str, float] = {}
        with scratch_model(self._target, "trial") as trial:
            for node in quantizable_products(self._source):
                in_float = replace(settings, gptq_rounding=False, float_nodes=(node,))
                quantize_to_int8(self._source, trial, in_float, self.activations)
                divergence[node] = divergence_of_heads(reference, self._open_model(trial).run(texts)[0], self._heads)
        return sorted(divergence, key=lambda node: divergence[node])
