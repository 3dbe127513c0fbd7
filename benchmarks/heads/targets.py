"""One teacher a head: which of its predictions is the better target, and should texts that it doubts weigh less?

    python -m benchmarks.heads.teachers
    python -m benchmarks.heads.targets --heads section library language --corpus texts.jsonl

The target is the teacher's prediction with dropout off, or its mean over dropout passes; a text weighs 1, or the
teacher's certainty of it. A logistic regression on the features of the frozen encoder stands in for the student. It is
fitted to each pair of the two over the unlabeled texts, and measured on the test texts. Softmax heads only.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from amalgam_edge.building.pipeline import prepare_training_data
from amalgam_edge.console_progress import ConsoleProgress
from amalgam_edge.gold import GoldAnswers
from amalgam_edge.methods.taught_heads import scores_of
from amalgam_edge.metrics.accuracy import accuracy, negative_log_likelihood
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.reports.tables import Column, Table
from amalgam_edge.scoring.scores import TeacherScores
from benchmarks.heads.teachers import RUNS
from benchmarks.refinement.stand_in import read_features, stand_in_logits
from examples.teachers import encoder_folder

_STEPS = 80  # optimiser steps of the fit that stands in for the student


def variants(scores: TeacherScores) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Target ``(n_texts, n_labels)`` and weight ``(n_texts,)`` of each variant."""
    targets = {"dropout off": scores.probabilities, "mean over passes": scores.mean_probabilities}
    weights = {"1": np.ones(len(scores.uncertainty)), "certainty": 1.0 - scores.uncertainty}
    return {
        f"{target}, weight {weight}": (targets[target], weights[weight]) for weight in weights for target in targets
    }


def measure(
    features: np.ndarray, test: np.ndarray, gold: GoldAnswers, target: np.ndarray, weight: np.ndarray
) -> tuple[float, float]:
    """Accuracy and mean negative log-likelihood in nats on the test texts.

    Args:
        features: Vectors of the unlabeled texts, ``(n_texts, width)``.
        test: Vectors of the test texts, ``(n_test, width)``.
        gold: The gold answers of the test texts.
        target: What the unlabeled texts are fitted to, ``(n_texts, n_labels)``.
        weight: How much each of them counts, ``(n_texts,)``.
    """
    logits = stand_in_logits(features, test, target, weight, steps=_STEPS)[gold.rows]
    return accuracy(gold.answers, logits.argmax(axis=1)), negative_log_likelihood(gold.answers, logits)


def to_table(found: Mapping[str, Mapping[str, tuple[float, float]]]) -> Table:
    """A row for each variant: accuracy and NLL of each head, and their means."""
    heads = [*next(iter(found.values()))]
    rows = []
    for variant, of_head in found.items():
        means = np.mean([*of_head.values()], axis=0)
        rows.append((variant, *(f"{100 * right:.1f}, {nll:.3f}" for right, nll in [*of_head.values(), means])))
    return Table((Column("target and weight", numeric=False), *map(Column, [*heads, "mean"])), tuple(rows))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", required=True, help="names of softmax teachers below RUNS/teachers")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of teachers and scores")
    parser.add_argument("--corpus", type=Path, help="unlabeled texts  [default: RUNS/corpus.jsonl]")
    parser.add_argument("--threads", type=int, default=1, help="threads to compute with")
    return parser.parse_args()


def main() -> None:
    """Score, fit, print."""
    options, progress = parse(), ConsoleProgress()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    recipe = Recipe(
        teachers=[f"{name}={options.runs / 'teachers' / name}" for name in options.heads],
        heads="each",
        corpus=str(options.corpus or options.runs / "corpus.jsonl"),
        evaluate=str(options.runs / "test.csv"),
        label_column=[f"{name}={name}" for name in options.heads],
        student=encoder_folder(),
        threads=options.threads,
        work=str(options.runs / "work"),
    )
    models, data = prepare_training_data(recipe, progress)
    features, test = read_features(recipe, models, data.texts, progress)
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for taught in data.heads:
        (scores,) = scores_of(taught, data.scores)
        gold = models.gold[taught.head.name]
        for variant, (target, weight) in variants(scores).items():
            found.setdefault(variant, {})[taught.head.name] = measure(features, test, gold, target, weight)
    print(f"Accuracy in percent, NLL in nats.\n\n{to_table(found).to_markdown()}")


if __name__ == "__main__":
    main()
