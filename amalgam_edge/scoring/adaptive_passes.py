"""``passes="auto"``: each text gets as many dropout passes as it takes to tell which teacher is the most certain.

A teacher's score on a text is a mean over random masks, so finding the most certain teacher is finding the best arm of
a bandit, here by elimination (Even-Dar, Mannor and Mansour, JMLR 2006). The uncertainty is

    u = H(p̄) / log |Y|,    p̄ = (1 / n) Σ_k p_k,

with p_k the prediction of pass k. By the delta method its variance is

    Var(u) ≈ Var(v_k) / n,    v_k = −Σ_c p_kc · log p̄_c / log |Y|,

for independent masks; masks that are balanced over a round leave less. A choice is settled when no other teacher comes
within :data:`STANDARD_ERRORS` standard errors of the most certain one. Until then the teachers that do, and no others,
run more passes over the text.

Two passes say little of a variance. The estimate is therefore shrunk towards the mean variance of texts of similar
uncertainty, which has the weight of ``_PRIOR_PASSES`` passes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amalgam_edge.metrics import uncertainty
from amalgam_edge.recipe.sections import ScoringSettings

PASSES_PER_ROUND = 10  # over which masks are balanced: about 1 / p for the usual dropout probability of 0.1
FIRST_PASSES = 2  # the fewest that have a variance
STANDARD_ERRORS = 0.75

_SECOND_PASSES = 5  # after the first ones; later steps go to the end of the next round
_PRIOR_PASSES = 4
_UNCERTAINTY_BINS = 8  # of u in [0, 1]; texts in one bin are of similar uncertainty


def balanced_over(settings: ScoringSettings) -> int:
    """K, the number of passes in a round, over which systematic masks are balanced."""
    return min(settings.most_passes, PASSES_PER_ROUND)


def next_passes(
    pass_logits: Sequence[np.ndarray],
    passes: np.ndarray,
    max_passes: int,
    activation: uncertainty.Activation = uncertainty.SOFTMAX,
) -> np.ndarray:
    """Decide how many passes each teacher should have run over each text.

    Args:
        pass_logits: Logits of each teacher, ``(max_passes, n_texts, n_classes)``; those of passes that were not run are
            ignored.
        passes: Number of passes that were run, counted from the first, ``(n_teachers, n_texts)``; at least two.
        max_passes: Largest number of passes of a teacher over a text.
        activation: What makes probabilities of logits; the same for all, since only teachers of one head are compared.

    Returns:
        ``(n_teachers, n_texts)``, equal to ``passes`` where the choice is settled or ``max_passes`` were run. A single
        teacher runs ``max_passes``: there is no choice, so only its scores can be of interest.
    """
    if len(pass_logits) == 1:
        return np.full_like(passes, max_passes)
    estimates = [estimate(logits, counts, activation) for logits, counts in zip(pass_logits, passes, strict=True)]
    means, variances = (np.stack(parts) for parts in zip(*estimates, strict=True))
    texts = np.arange(means.shape[1])
    best = means.argmin(axis=0)
    errors = np.sqrt(variances + variances[best, texts])
    contenders = means - means[best, texts] <= STANDARD_ERRORS * errors
    contenders[:, contenders.sum(axis=0) == 1] = False  # none but the most certain teacher itself
    more = np.where(passes < _SECOND_PASSES, _SECOND_PASSES, (passes // PASSES_PER_ROUND + 1) * PASSES_PER_ROUND)
    return np.where(contenders, np.minimum(more, max_passes), passes)


def estimate(
    pass_logits: np.ndarray, passes: np.ndarray, activation: uncertainty.Activation = uncertainty.SOFTMAX
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate a teacher's uncertainty u about each text, and the variance of that estimate.

    Args:
        pass_logits: ``(max_passes, n_texts, n_classes)``.
        passes: Number of passes that count for each text, from the first, ``(n_texts,)``; at least two.
        activation: What makes probabilities of logits.

    Returns:
        u in [0, 1] and its variance, both ``(n_texts,)``.
    """
    probabilities, counts, mean = uncertainty.mean_prediction(pass_logits, passes, activation)
    u = uncertainty.normalised_uncertainty(mean, activation)
    influence = _influence(probabilities, mean, activation)
    squares = (np.square(influence - u) * counts).sum(axis=0)
    bins = np.minimum((u * _UNCERTAINTY_BINS).astype(int), _UNCERTAINTY_BINS - 1)
    squares_in_bin = np.bincount(bins, squares, _UNCERTAINTY_BINS)
    freedom_in_bin = np.bincount(bins, passes - 1, _UNCERTAINTY_BINS)
    prior = (squares_in_bin / np.maximum(freedom_in_bin, 1))[bins]
    return u, (squares + _PRIOR_PASSES * prior) / (passes - 1 + _PRIOR_PASSES) / passes


def _influence(probabilities: np.ndarray, mean: np.ndarray, activation: uncertainty.Activation) -> np.ndarray:
    """v_k of each pass, ``(max_passes, n_texts)``; of independent labels the mean of that of each label."""
    logs = np.log(np.maximum(mean, np.finfo(float).tiny))
    if activation == uncertainty.SOFTMAX:
        return -(probabilities * (logs / np.log(mean.shape[-1]))).sum(axis=-1)
    complements = np.log(np.maximum(1.0 - mean, np.finfo(float).tiny))
    influence: np.ndarray = -(probabilities * logs + (1.0 - probabilities) * complements).mean(axis=-1) / np.log(2.0)
    return influence
