"""How faithful a quantized or trimmed student is to its float model, measured by their logits on the same texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from amalgam_edge.metrics.accuracy import agreement, mean_divergence
from amalgam_edge.runtime import manifest_models
from amalgam_edge.runtime.manifest import finite


@dataclass(frozen=True)
class Fidelity:
    """How far a model's answers are from those of the float model on held-out texts.

    Attributes:
        agreement: The share of texts whose most likely label is the same.
        mean_kl: The mean of KL(float model ‖ model) over the texts, in nats.
        n_texts: The number of texts.
    """

    agreement: float
    mean_kl: float
    n_texts: int

    @property
    def disagreement(self) -> float:
        """The share of texts whose most likely label differs, a whole number of texts over ``n_texts``."""
        return round((1.0 - self.agreement) * self.n_texts) / self.n_texts

    def entry(self) -> manifest_models.Fidelity:
        """As it stands in the manifest."""
        return manifest_models.Fidelity(self.agreement, finite(self.mean_kl), self.n_texts)


def measure_fidelity(reference: np.ndarray, other: np.ndarray) -> Fidelity:
    """Compare a model's logits with those of the float model, both ``(n_texts, n_classes)``.

    Args:
        reference: The float model's logits.
        other: The other model's logits for the same texts.
    """
    divergence = np.maximum(0.0, mean_divergence(reference, other))  # unlike max, it keeps NaN
    return Fidelity(agreement(reference, other), float(divergence), len(reference))
