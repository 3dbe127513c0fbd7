"""Accuracy, F1, likelihood and divergence, compared with counting by hand and with scipy."""

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amalgam_edge.metrics import accuracy as evaluation

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


def test_accuracy_by_hand():
    assert evaluation.accuracy(np.array([0, 1, 2, 1]), np.array([0, 2, 2, 1])) == 0.75


def test_rows_of_the_confusion_matrix_are_gold_classes():
    counts = evaluation.confusion_matrix(np.array([0, 0, 0, 2]), np.array([1, 1, 0, 2]), 3)
    assert counts.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]


def test_macro_f1_by_hand():
    # class 0: precision 2/3, recall 1; class 1: precision 1, recall 1/2; class 2 does not occur
    confusion = np.array([[2, 0, 0], [1, 1, 0], [0, 0, 0]])
    assert evaluation.macro_f1(confusion) == pytest.approx((0.8 + 2 / 3) / 2)


def test_macro_f1_counts_a_class_that_is_only_predicted():
    assert evaluation.macro_f1(np.array([[1, 1], [0, 0]])) == pytest.approx((2 / 3 + 0) / 2)


@given(PAIRS)
def test_accuracy_and_f1_by_plain_counting(pairs):
    gold, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    confusion = evaluation.confusion_matrix(gold, predicted, 4)
    for g in range(4):
        for p in range(4):
            assert confusion[g, p] == sum(1 for pair in pairs if pair == (g, p))
    f1_scores = []
    for label in range(4):
        hits = sum(1 for g, p in pairs if g == p == label)
        wrong = sum(1 for g, p in pairs if p == label and g != label)
        missed = sum(1 for g, p in pairs if g == label and p != label)
        if hits + wrong + missed:
            precision = hits / (hits + wrong) if hits + wrong else 0.0
            recall = hits / (hits + missed) if hits + missed else 0.0
            f1_scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    both = evaluation.accuracy_and_macro_f1(confusion)
    assert both == {"accuracy": evaluation.accuracy(gold, predicted), "macro_f1": evaluation.macro_f1(confusion)}
    assert both["macro_f1"] == pytest.approx(sum(f1_scores) / len(f1_scores))
    assert evaluation.accuracy(gold, predicted) == pytest.approx(np.trace(confusion) / len(pairs))


@pytest.mark.parametrize(
    ("abstain", "answered", "accuracy"), [(0.75, 0.5, 0.5), (0.85, 0.25, 1.0), (0.0, 1.0, 0.5), (1.0, 0.0, None)]
)
def test_answered_share_and_accuracy_by_hand(abstain, answered, accuracy):
    logits = np.log([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]])
    gold = np.array([0, 1, 0, 0])
    found = evaluation.answered_share_and_accuracy(gold, logits, abstain)
    assert found == {"answered": answered, "answered_accuracy": accuracy}


def test_a_score_equal_to_the_threshold_is_answered():
    found = evaluation.answered_share_and_accuracy(np.array([0]), np.zeros((1, 2)), 0.5)
    assert found == {"answered": 1.0, "answered_accuracy": 1.0}


def test_agreement_compares_the_predicted_classes_alone():
    reference = np.array([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [0.5, 0.4]])
    other = np.array([[0.0, 9.0], [0.1, 0.0], [1.0, 0.0], [5.0, 4.0]])
    assert evaluation.agreement(reference, other) == 0.75


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_agree_with_nothing(value):
    reference = np.array([[2.0, 1.0], [2.0, 1.0]])
    assert evaluation.agreement(reference, np.array([[value, value], [2.0, 1.0]])) == 0.5
    assert evaluation.agreement(reference, np.array([[5.0, value], [2.0, 1.0]])) == 0.5


@given(arrays(np.float64, (2, 5, 3), elements=st.floats(-20, 20)))
def test_mean_divergence_equals_scipy_s(logits):
    p, q = scipy.special.softmax(logits, axis=-1)
    expected = scipy.special.rel_entr(p, q).sum(axis=-1).mean()
    assert evaluation.mean_divergence(logits[0], logits[1]) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_mean_divergence_is_not_symmetric_and_zero_for_shifted_logits():
    a, b = np.array([[2.0, 0.0]]), np.array([[0.0, 1.0]])
    assert evaluation.mean_divergence(a, b) != pytest.approx(evaluation.mean_divergence(b, a))
    assert evaluation.mean_divergence(a, a + 7) == pytest.approx(0.0, abs=1e-12)


def test_mean_divergence_of_float32_logits_is_computed_in_float64():
    logits = np.random.default_rng(0).normal(scale=3, size=(2, 50, 4)).astype(np.float32)
    p, q = scipy.special.softmax(logits.astype(np.float64), axis=-1)
    expected = scipy.special.rel_entr(p, q).sum(axis=-1).mean()
    assert evaluation.mean_divergence(logits[0], logits[1]) == pytest.approx(expected, rel=1e-12)


def test_mean_divergence_of_large_float32_logits_is_finite():
    logits = np.array([[300.0, -300.0]], dtype=np.float32)
    assert evaluation.mean_divergence(logits, -logits) == pytest.approx(600.0)


CONFUSION = np.array([[3, 1, 0, 2], [0, 2, 0, 0], [1, 0, 4, 0], [0, 0, 0, 0]])


def test_domain_accuracy_and_macro_f1_by_hand():
    """Three of six texts of class 0 are right, and both of class 1. Class 3 is predicted but not of the domain."""
    found = evaluation.domain_accuracy_and_macro_f1(CONFUSION, [0, 1])
    assert found["n_texts"] == 8
    assert found["accuracy"] == 5 / 8
    # class 0: 6 gold, 3 predicted, 3 hits; class 1: 2 gold, 3 predicted, 2 hits
    assert found["macro_f1"] == pytest.approx((2 * 3 / 9 + 2 * 2 / 5) / 2)


def test_texts_of_other_domains_do_not_count():
    """Not even the text of class 2 that is classified as class 0."""
    without = CONFUSION.copy()
    without[2] = 0
    found, expected = (evaluation.domain_accuracy_and_macro_f1(each, [0, 1]) for each in (CONFUSION, without))
    assert found == expected


def test_a_domain_without_texts_has_no_accuracy():
    assert evaluation.domain_accuracy_and_macro_f1(CONFUSION, [3]) == {"n_texts": 0, "accuracy": None, "macro_f1": None}


def test_a_domain_of_all_labels_gives_the_overall_values():
    found = evaluation.domain_accuracy_and_macro_f1(CONFUSION, range(4))
    assert found["accuracy"] == pytest.approx(9 / 13)
    assert found["macro_f1"] == pytest.approx(evaluation.macro_f1(CONFUSION))


def test_negative_log_likelihood_by_hand():
    logits = np.log([[0.9, 0.1], [0.6, 0.4]])
    expected = -(np.log(0.9) + np.log(0.4)) / 2
    assert evaluation.negative_log_likelihood(np.array([0, 1]), logits) == pytest.approx(expected, rel=1e-12)


@given(arrays(np.float32, (5, 3), elements=st.floats(-100, 100, width=32)), st.lists(st.integers(0, 2), min_size=5))
def test_negative_log_likelihood_equals_scipy_s_in_float64(logits, gold):
    gold = np.array(gold[:5])
    expected = -scipy.special.log_softmax(logits.astype(np.float64), axis=1)[np.arange(5), gold].mean()
    assert evaluation.negative_log_likelihood(gold, logits) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_negative_log_likelihood_of_a_confident_mistake_is_finite():
    logits = np.array([[3000.0, 0.0]], dtype=np.float16)
    assert evaluation.negative_log_likelihood(np.array([1]), logits) == pytest.approx(3000.0)
