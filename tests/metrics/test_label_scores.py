"""Precision, recall and F1 of each label, compared with counting text by text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amalgam_edge.metrics.accuracy import binary_negative_log_likelihood, confusion_matrix
from amalgam_edge.metrics.label_scores import LabelCounts

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)
SETS = st.lists(st.tuples(*[st.booleans()] * 3), min_size=1, max_size=20)


def counted(gold, predicted):
    """Precision, recall and F1 of one label from whether each text has it and is given it."""
    hits = sum(g and p for g, p in zip(gold, predicted, strict=True))
    precision = hits / sum(predicted) if sum(predicted) else None
    recall = hits / sum(gold) if sum(gold) else None
    named = sum(gold) + sum(predicted)
    return {"precision": precision, "recall": recall, "f1": 2 * hits / named if named else None}


@given(PAIRS)
def test_one_label_a_text(pairs):
    gold, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    scores = LabelCounts.of_confusion(confusion_matrix(gold, predicted, 4)).scores()
    assert scores == [counted((gold == k).tolist(), (predicted == k).tolist()) for k in range(4)]


@given(SETS, st.randoms(use_true_random=False))
def test_any_number_of_labels(rows, random):
    gold = np.array(rows)
    predicted = np.array([[random.random() < 0.5 for _ in row] for row in rows])
    scores = LabelCounts.of_label_sets(gold, predicted).scores()
    assert scores == [counted(g.tolist(), p.tolist()) for g, p in zip(gold.T, predicted.T, strict=True)]


def test_by_hand():
    # label 0: given to two texts, right once; label 1 never given; label 2 neither there nor given
    confusion = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0]])
    first, second, third = LabelCounts.of_confusion(confusion).scores()
    assert first == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3)}
    assert second == {"precision": None, "recall": 0.0, "f1": 0.0}
    assert third == {"precision": None, "recall": None, "f1": None}


def test_binary_likelihood_by_hand():
    probabilities = np.array([[0.9, 0.2], [0.4, 0.5]])
    gold = np.array([[True, False], [True, True]])
    expected = -(np.log(0.9) + np.log(0.8) + np.log(0.4) + np.log(0.5)) / 4
    logits = np.log(probabilities / (1 - probabilities))
    assert binary_negative_log_likelihood(gold, logits) == pytest.approx(expected)
    assert binary_negative_log_likelihood(np.array([[True, False]]), np.array([[-1000.0, -1000.0]])) == 500.0
