"""A cheap stand-in for the student: a logistic regression on the features of the frozen encoder."""

from __future__ import annotations

import numpy as np

from amalgam_edge.building.data import BuildTexts, Models
from amalgam_edge.building.supervising import student_features
from amalgam_edge.progress import Progress
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.scoring.run import choose_backend
from benchmarks.refinement.variants import fit_logistic, predict_logits, root_mean_square_norm


def read_features(recipe: Recipe, models: Models, texts: BuildTexts, progress: Progress) -> list[np.ndarray]:
    """Features of the unlabeled and of the labelled texts, ``(n_texts, width)`` each.

    They are kept in the recipe's work folder, where the product looks for them.
    """
    batch_tokens = recipe.compute.batch_tokens or choose_backend(recipe.compute, recipe.scoring).batch_tokens
    features = []
    progress.begin(2)
    for corpus in (texts.corpus, texts.labelled):
        with progress.step("reading the texts with the student's encoder", len(corpus), "texts") as advance:
            features.append(
                student_features(recipe.student, models.teachers, corpus, recipe.work_folder, batch_tokens, advance)
            )
    return features


def stand_in_logits(
    features: np.ndarray, test: np.ndarray, target: np.ndarray, weight: np.ndarray, *, steps: int
) -> np.ndarray:
    """Logits of test texts, ``(n_test, n_labels)``, of a regression that is fitted to supervision of other texts.

    Args:
        features: Features of the texts that it is fitted to, ``(n_texts, width)``.
        test: Features of the test texts, ``(n_test, width)``.
        target: Distributions over labels, ``(n_texts, n_labels)``.
        weight: Weight of each text, ``(n_texts,)``.
        steps: Steps of the optimiser.
    """
    seen = features.astype(np.float64)
    centre = seen.mean(axis=0)
    scale = root_mean_square_norm(seen - centre)
    fitted = fit_logistic((seen - centre) / scale, target.astype(np.float64), weight.astype(np.float64), steps=steps)
    return predict_logits(fitted, (test - centre) / scale)
