"""What a classifier answers: of a softmax head one label, of a sigmoid head a set of labels, of several heads all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np

from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import SIGMOID, SOFTMAX, Head, Heads

Abstain = float | Mapping[str, float]  # one threshold for all softmax heads, or head → threshold
Answer = str | tuple[str, ...] | None  # of a softmax head a label or None, of a sigmoid head the labels that hold


@dataclass(frozen=True)
class Prediction:
    """The classification of one text by a softmax head.

    Attributes:
        label: The likeliest label; None if its score is below the threshold.
        score: Probability of the likeliest label.
        scores: Label → probability, the likeliest first; None unless all scores were requested.
        truncated: Whether the text was longer than the model's input, so that its end was not read.
    """

    label: str | None
    score: float
    scores: dict[str, float] | None = None
    truncated: bool = False

    @property
    def answer(self) -> Answer:
        """The label."""
        return self.label


@dataclass(frozen=True)
class LabelSet:
    """The classification of one text by a sigmoid head, of whose labels any number may hold.

    Attributes:
        held: Label that holds → its probability, the likeliest first.
        score: Probability of the likeliest label, whether it holds or not.
        scores: Label → probability, the likeliest first; None unless all scores were requested.
        truncated: Whether the text was longer than the model's input, so that its end was not read.
    """

    held: dict[str, float]
    score: float
    scores: dict[str, float] | None = None
    truncated: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that hold, the likeliest first."""
        return tuple(self.held)

    @property
    def answer(self) -> Answer:
        """The labels that hold."""
        return self.labels


@dataclass(frozen=True)
class HeadPredictions(Mapping[str, Prediction | LabelSet]):
    """The classification of one text by several heads: name of a head → its prediction.

    Attributes:
        heads: Name of a head → its prediction, in the order of the heads.
        truncated: Whether the text was longer than the model's input, so that its end was not read.
    """

    heads: dict[str, Prediction | LabelSet]
    truncated: bool = False

    def __getitem__(self, name: str) -> Prediction | LabelSet:
        return self.heads[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.heads)

    def __len__(self) -> int:
        return len(self.heads)

    @property
    def answer(self) -> dict[str, Answer]:
        """Name of a head → its answer."""
        return {name: prediction.answer for name, prediction in self.heads.items()}


def with_abstain(heads: Heads, abstain: Abstain | None) -> Heads:
    """The heads with other thresholds below which they give no label.

    Args:
        heads: The heads.
        abstain: A threshold for all softmax heads, or for those that are named; None leaves all as they are.

    Raises:
        AmalgamError: A threshold is no score, or is of no softmax head.
    """
    if abstain is None:
        return heads
    if not isinstance(abstain, Mapping):
        _require_score(abstain)
        abstain = {head.name: abstain for head in heads if head.activation == SOFTMAX}
    for name, threshold in abstain.items():
        if heads[name].activation == SIGMOID:
            raise AmalgamError(f"abstain: head '{name}' gives every label that holds, and so never abstains")
        _require_score(threshold)
    return Heads(tuple(replace(head, abstain=abstain.get(head.name, head.abstain)) for head in heads))


def _require_score(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise AmalgamError(f"abstain is a score between 0 and 1 (got {threshold!r})")


def abstains(head: Head, probabilities: np.ndarray) -> np.ndarray:
    """Whether a softmax head gives no label, ``(n_texts,)`` of bool; without a threshold it always gives one.

    Args:
        head: The head.
        probabilities: Its probabilities, ``(n_texts, n_labels)``; a score of NaN is below any threshold.
    """
    if head.activation == SIGMOID or head.abstain == 0:
        return np.zeros(len(probabilities), dtype=bool)
    return ~(probabilities.max(axis=1) >= head.abstain)


def any_abstains(heads: Heads, probabilities: np.ndarray) -> np.ndarray:
    """Whether some head gives no label, ``(n_texts,)`` of bool, of probabilities ``(n_texts, n_labels)``."""
    parts = zip(heads, heads.split(probabilities), strict=True)
    return np.any([abstains(head, part) for head, part in parts], axis=0)


def predictions_of(
    heads: Heads, logits: np.ndarray, truncated: np.ndarray, *, all_scores: bool
) -> list[Prediction] | list[LabelSet] | list[HeadPredictions]:
    """What the heads answer.

    Args:
        heads: The heads.
        logits: Logits ``(n_texts, n_labels)``.
        truncated: Whether each text was cut, ``(n_texts,)`` of bool.
        all_scores: Whether to give the probability of every label.
    """
    by_head = [
        _of_softmax(head, part, truncated, all_scores)
        if head.activation == SOFTMAX
        else _of_sigmoid(head, part, truncated, all_scores)
        for head, part in zip(heads, heads.split(logits), strict=True)
    ]
    if len(by_head) == 1:
        return by_head[0]
    names = heads.names
    return [
        HeadPredictions(dict(zip(names, answers, strict=True)), was_cut)
        for *answers, was_cut in zip(*by_head, truncated.tolist(), strict=True)
    ]


def _of_softmax(head: Head, logits: np.ndarray, truncated: np.ndarray, all_scores: bool) -> list[Prediction]:
    probabilities = head.probabilities(logits)
    best = probabilities.argmax(axis=1)
    scores = probabilities[np.arange(len(best)), best]
    columns = (
        best.tolist(),
        abstains(head, probabilities).tolist(),
        scores.tolist(),
        _all_ranked(head.labels, probabilities, all_scores),
        truncated.tolist(),
    )
    return [
        Prediction(None if abstained else head.labels[label], score, ranked, was_cut)
        for label, abstained, score, ranked, was_cut in zip(*columns, strict=True)
    ]


def _of_sigmoid(head: Head, logits: np.ndarray, truncated: np.ndarray, all_scores: bool) -> list[LabelSet]:
    probabilities = head.probabilities(logits)
    holds = head.holds(probabilities)
    columns = (
        probabilities,
        holds,
        probabilities.max(axis=1).tolist(),
        _all_ranked(head.labels, probabilities, all_scores),
        truncated.tolist(),
    )
    return [
        LabelSet(_ranked(head.labels, row, np.flatnonzero(held)), score, ranked, was_cut)
        for row, held, score, ranked, was_cut in zip(*columns, strict=True)
    ]


def _all_ranked(
    labels: Sequence[str], probabilities: np.ndarray, all_scores: bool
) -> Sequence[dict[str, float] | None]:
    if not all_scores:
        return [*repeat(None, len(probabilities))]
    return [_ranked(labels, row, np.arange(len(labels))) for row in probabilities]


def _ranked(labels: Sequence[str], probabilities: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    """Label → probability of those at the positions ``chosen``, the likeliest first."""
    order = chosen[np.argsort(-probabilities[chosen], kind="stable")]
    return {labels[k]: float(probabilities[k]) for k in order}
