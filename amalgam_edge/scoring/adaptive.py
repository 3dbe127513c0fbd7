"""Passes where they count: as many as it takes to tell which teacher is the most certain.

The score of a teacher on a text is a mean over random masks, so the choice between teachers is that of the best of a
few arms, by elimination. u = H(p̄) / log |Y| has, by the delta method, the variance Var(v_k) / n with
v_k = −Σ_c p_kc · log p̄_c / log |Y|: what n passes leave if masks are independent; balanced masks leave less. A
choice is settled when no other teacher comes within ``Z`` standard errors of the most certain one; until then these
teachers, and no others, run more passes over the text.

From two passes a variance is hardly known, so it is drawn towards that of texts of like uncertainty, by as much as if
they had been ``_PRIOR_PASSES`` more passes of the text's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amalgam_edge.metrics import uncertainty
from amalgam_edge.recipe.sections import ScoringSettings

ROUND = 10  # passes over which masks are balanced: about 1 / p for the usual p of 0.1
FIRST_PASSES = 2
Z = 0.75

_SECOND_PASSES = 5  # and then by whole rounds
_PRIOR_PASSES = 4
_BINS = 8


def balanced_over(settings: ScoringSettings) -> int:
    """The number of passes in a round, over which systematic masks are balanced."""
    return min(settings.most_passes, ROUND)


def next_passes(pass_logits: Sequence[np.ndarray], passes: np.ndarray, most: int) -> np.ndarray:
    """How many passes each teacher should have run over each text.

    Args:
        pass_logits: of each teacher, ``(most_passes, n_texts, n_classes)``.
        passes: how many of them were run, from the first, ``(n_teachers, n_texts)``; at least two.
        most: more than which no teacher runs over a text.

    Returns:
        ``(n_teachers, n_texts)``; equal to ``passes`` where the choice is settled or the most were run. A teacher
        alone, of whom nothing but its scores can be wanted, runs the most.
    """
    if len(pass_logits) == 1:
        return np.full_like(passes, most)
    estimates = [estimate(logits, counts) for logits, counts in zip(pass_logits, passes, strict=True)]
    means, variances = (np.stack(parts) for parts in zip(*estimates, strict=True))
    texts = np.arange(means.shape[1])
    first = means.argmin(axis=0)
    errors = np.sqrt(variances + variances[first, texts])
    rivals = means - means[first, texts] <= Z * errors
    rivals[:, rivals.sum(axis=0) == 1] = False  # the first itself, alone
    more = np.where(passes < _SECOND_PASSES, _SECOND_PASSES, (passes // ROUND + 1) * ROUND)
    return np.where(rivals, np.minimum(more, most), passes)


def estimate(pass_logits: np.ndarray, passes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normalised entropy of the mean prediction, and the variance of its error.

    Args:
        pass_logits: ``(most_passes, n_texts, n_classes)``.
        passes: how many of them count for each text, from the first, ``(n_texts,)``; at least two.

    Returns:
        Both ``(n_texts,)``.
    """
    probabilities, counts, mean = uncertainty.mean_prediction(pass_logits, passes)
    u = uncertainty.normalised_entropy(mean)
    logs = np.log(np.maximum(mean, np.finfo(float).tiny)) / np.log(mean.shape[-1])
    influence = -(probabilities * logs).sum(axis=-1)
    squares = (np.square(influence - u) * counts).sum(axis=0)
    alike = np.minimum((u * _BINS).astype(int), _BINS - 1)
    pooled = (np.bincount(alike, squares, _BINS) / np.maximum(np.bincount(alike, passes - 1, _BINS), 1))[alike]
    return u, (squares + _PRIOR_PASSES * pooled) / (passes - 1 + _PRIOR_PASSES) / passes
