"""How near one student is to another, by what they answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amalgam_edge.metrics.accuracy import agreement, mean_divergence
from amalgam_edge.runtime import manifest_models
from amalgam_edge.runtime.manifest import finite


@dataclass(frozen=True)
class Fidelity:
    """How far a model is from the float model on held-out texts.

    Attributes:
        agreement: share of texts with the same likeliest label.
        mean_kl: mean KL(float ‖ model) in nats.
        n_texts: how many texts.
    """

    agreement: float
    mean_kl: float
    n_texts: int

    @property
    def disagreement(self) -> float:
        """Share of texts with another likeliest label."""
        return round((1.0 - self.agreement) * self.n_texts) / self.n_texts

    def entry(self) -> manifest_models.Fidelity:
        """As it stands in the manifest."""
        return manifest_models.Fidelity(self.agreement, finite(self.mean_kl), self.n_texts)


def compare(reference: np.ndarray, other: np.ndarray) -> Fidelity:
    """Fidelity of logits ``(n_texts, n_labels)`` to the float model's."""
    divergence = np.maximum(0.0, mean_divergence(reference, other))  # unlike max, it keeps NaN
    return Fidelity(agreement(reference, other), float(divergence), len(reference))
