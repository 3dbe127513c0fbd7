"""How faithful a quantized or trimmed student is to its float model, measured by their logits on the same texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from amalgam_edge.heads import SIGMOID, SOFTMAX, Head, Heads
from amalgam_edge.metrics.accuracy import label_agreement, mean_binary_divergence, mean_divergence
from amalgam_edge.runtime import manifest_models
from amalgam_edge.runtime.manifest import finite


@dataclass(frozen=True)
class Fidelity:
    """How far a model's answers are from those of the float model on held-out texts.

    Attributes:
        agreement: The share of texts with the same answer, of the head where it is lowest: the same likeliest label, or
            the same set of labels.
        mean_kl: The mean of KL(float model ‖ model) over the texts, in nats, summed over heads.
        n_texts: The number of texts.
        heads: Name of a head → its own agreement.
        labels: Name of a sigmoid head → the lowest share of texts, over its labels, on which a label holds for both or
            for neither.
    """

    agreement: float
    mean_kl: float
    n_texts: int
    heads: Mapping[str, float]
    labels: Mapping[str, float]

    @property
    def disagreement(self) -> float:
        """The share of texts whose answer differs, a whole number of texts over ``n_texts``."""
        return round((1.0 - self.agreement) * self.n_texts) / self.n_texts

    def entry(self) -> manifest_models.Fidelity:
        """As it stands in the manifest."""
        return manifest_models.Fidelity(self.agreement, finite(self.mean_kl), self.n_texts, self.heads, self.labels)


def measure_fidelity(reference: np.ndarray, other: np.ndarray, heads: Heads) -> Fidelity:
    """Compare a model's logits with those of the float model, both ``(n_texts, n_labels)``.

    Args:
        reference: The float model's logits.
        other: The other model's logits for the same texts.
        heads: The heads that they answer.
    """
    same = heads.same_answers(reference, other).mean(axis=0)
    parts = list(zip(heads, heads.split(reference), heads.split(other), strict=True))
    divergence = divergence_of_heads(reference, other, heads)
    return Fidelity(
        agreement=float(same.min()),
        mean_kl=float(np.maximum(0.0, divergence)),  # unlike max, it keeps NaN
        n_texts=len(reference),
        heads=dict(zip(heads.names, same.tolist(), strict=True)),
        labels={
            head.name: float(label_agreement(head.answers(one), head.answers(two)).min())
            for head, one, two in parts
            if head.activation == SIGMOID
        },
    )


def divergence_of_heads(reference: np.ndarray, other: np.ndarray, heads: Heads) -> float:
    """The mean of KL(reference ‖ other) over the texts, in nats, summed over heads."""
    parts = zip(heads, heads.split(reference), heads.split(other), strict=True)
    return sum(_divergence(head, one, two) for head, one, two in parts)


def _divergence(head: Head, reference: np.ndarray, other: np.ndarray) -> float:
    measure = mean_divergence if head.activation == SOFTMAX else mean_binary_divergence
    return measure(reference, other)
