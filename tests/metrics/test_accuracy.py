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


def test_confusion_has_gold_in_rows():
    counts = evaluation.confusion_matrix(np.array([0, 0, 0, 2]), np.array([1, 1, 0, 2]), 3)
    assert counts.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]


def test_macro_f1_by_hand():
    # class 0: precision 2/3, recall 1; class 1: precision 1, recall 1/2; class 2 does not occur
    confusion = np.array([[2, 0, 0], [1, 1, 0], [0, 0, 0]])
    assert evaluation.macro_f1(confusion) == pytest.approx((0.8 + 2 / 3) / 2)


def test_macro_f1_counts_a_class_that_is_only_predicted():
    assert evaluation.macro_f1(np.array([[1, 1], [0, 0]])) == pytest.approx((2 / 3 + 0) / 2)


@given(PAIRS)
def test_scores_by_plain_counting(pairs):
    gold, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    confusion = evaluation.confusion_matrix(gold, predicted, 4)
    for g in range(4):
        for p in range(4):
            assert confusion[g, p] == sum(1 for pair in pairs if pair == (g, p))
    scores = []
    for label in range(4):
        hits = sum(1 for g, p in pairs if g == p == label)
        wrongly = sum(1 for g, p in pairs if p == label and g != label)
        missed = sum(1 for g, p in pairs if g == label and p != label)
        if hits + wrongly + missed:
            precision = hits / (hits + wrongly) if hits + wrongly else 0.0
            recall = hits / (hits + missed) if hits + missed else 0.0
            scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    assert evaluation.macro_f1(confusion) == pytest.approx(sum(scores) / len(scores))
    assert evaluation.accuracy(gold, predicted) == pytest.approx(np.trace(confusion) / len(pairs))


def test_answers_are_counted_by_hand():
    logits = np.log([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]])
    gold = np.array([0, 1, 0, 0])
    assert evaluation.answered_share_and_accuracy(gold, logits, 0.75) == {"answered": 0.5, "answered_accuracy": 0.5}
    assert evaluation.answered_share_and_accuracy(gold, logits, 0.85) == {"answered": 0.25, "answered_accuracy": 1.0}
    assert evaluation.answered_share_and_accuracy(gold, logits, 0.0) == {"answered": 1.0, "answered_accuracy": 0.5}
    assert evaluation.answered_share_and_accuracy(gold, logits, 1.0) == {"answered": 0.0, "answered_accuracy": None}


def test_agreement_looks_at_the_winning_class_only():
    reference = np.array([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [0.5, 0.4]])
    other = np.array([[0.0, 9.0], [0.1, 0.0], [1.0, 0.0], [5.0, 4.0]])
    assert evaluation.agreement(reference, other) == 0.75


@given(arrays(np.float64, (2, 5, 3), elements=st.floats(-20, 20)))
def test_mean_divergence_is_that_of_scipy(logits):
    p, q = scipy.special.softmax(logits, axis=-1)
    expected = scipy.special.rel_entr(p, q).sum(axis=-1).mean()
    assert evaluation.mean_divergence(logits[0], logits[1]) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_mean_divergence_is_not_symmetric_and_zero_for_shifted_logits():
    a, b = np.array([[2.0, 0.0]]), np.array([[0.0, 1.0]])
    assert evaluation.mean_divergence(a, b) != pytest.approx(evaluation.mean_divergence(b, a))
    assert evaluation.mean_divergence(a, a + 7) == pytest.approx(0.0, abs=1e-12)


def test_mean_divergence_survives_large_float32_logits():
    logits = np.array([[300.0, -300.0]], dtype=np.float32)
    assert evaluation.mean_divergence(logits, -logits) == pytest.approx(600.0)


CONFUSION = np.array([[3, 1, 0, 2], [0, 2, 0, 0], [1, 0, 4, 0], [0, 0, 0, 0]])


def test_a_domain_by_hand():
    """Three of six texts of class 0 are right, and both of class 1; class 3 is predicted, but not asked for."""
    found = evaluation.domain_accuracy_and_macro_f1(CONFUSION, [0, 1])
    assert found["n_texts"] == 8
    assert found["accuracy"] == 5 / 8
    # class 0: 6 gold, 3 predicted, 3 hits; class 1: 2 gold, 3 predicted, 2 hits
    assert found["macro_f1"] == pytest.approx((2 * 3 / 9 + 2 * 2 / 5) / 2)


def test_texts_of_other_domains_have_no_say():
    """The text of class 2 that is taken for class 0 is none of this domain's."""
    without = CONFUSION.copy()
    without[2] = 0
    assert evaluation.domain_accuracy_and_macro_f1(CONFUSION, [0, 1]) == evaluation.domain_accuracy_and_macro_f1(
        without, [0, 1]
    )


def test_a_domain_without_texts_has_no_numbers():
    assert evaluation.domain_accuracy_and_macro_f1(CONFUSION, [3]) == {"n_texts": 0, "accuracy": None, "macro_f1": None}


def test_the_domain_of_all_labels_is_the_whole():
    found = evaluation.domain_accuracy_and_macro_f1(CONFUSION, range(4))
    assert found["accuracy"] == pytest.approx(9 / 13)
    assert found["macro_f1"] == pytest.approx(evaluation.macro_f1(CONFUSION))


def test_the_likelihood_by_hand():
    logits = np.log([[0.9, 0.1], [0.6, 0.4]])
    expected = -(np.log(0.9) + np.log(0.4)) / 2
    assert evaluation.negative_log_likelihood(np.array([0, 1]), logits) == pytest.approx(expected, rel=1e-12)


@given(arrays(np.float32, (5, 3), elements=st.floats(-100, 100, width=32)), st.lists(st.integers(0, 2), min_size=5))
def test_the_likelihood_is_that_of_scipy_in_float64(logits, gold):
    gold = np.array(gold[:5])
    expected = -scipy.special.log_softmax(logits.astype(np.float64), axis=1)[np.arange(5), gold].mean()
    assert evaluation.negative_log_likelihood(gold, logits) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_the_likelihood_of_a_sure_mistake_is_finite():
    logits = np.array([[3000.0, 0.0]], dtype=np.float16)
    assert evaluation.negative_log_likelihood(np.array([1]), logits) == pytest.approx(3000.0)
