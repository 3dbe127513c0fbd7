"""Entropies, mutual information and energy, compared with scipy and by hand."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from amalgam_edge.metrics import uncertainty

LOGITS = arrays(np.float64, array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=5), elements=st.floats(-50, 50))


@given(LOGITS, st.floats(0.1, 10))
def test_softmax_equals_scipy_s(logits, temperature):
    expected = scipy.special.softmax(logits / temperature, axis=-1)
    np.testing.assert_allclose(uncertainty.softmax(logits, temperature), expected, rtol=1e-12, atol=1e-300)


@given(LOGITS)
def test_log_sum_exp_and_energy_equal_scipy_s(logits):
    np.testing.assert_allclose(
        uncertainty.log_sum_exp(logits, axis=0), scipy.special.logsumexp(logits, axis=0), rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(
        uncertainty.energy(logits), scipy.special.logsumexp(logits, axis=-1), rtol=1e-12, atol=1e-12
    )


@given(LOGITS)
def test_entropy_equals_scipy_s(logits):
    probabilities = scipy.special.softmax(logits, axis=-1)
    np.testing.assert_allclose(
        uncertainty.entropy(probabilities), scipy.stats.entropy(probabilities, axis=-1), rtol=1e-9, atol=1e-12
    )


def test_entropy_of_a_certain_prediction_is_zero():
    assert uncertainty.entropy(np.array([[0.0, 1.0, 0.0]])).tolist() == [0.0]


def test_entropy_is_in_nats():
    assert uncertainty.entropy(np.array([0.5, 0.5])) == pytest.approx(0.6931471805599453)


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_normalised_entropy_runs_from_zero_to_one(n_classes):
    rows = np.stack([np.full(n_classes, 1 / n_classes), np.eye(n_classes)[0]])
    np.testing.assert_allclose(uncertainty.normalised_entropy(rows), [1.0, 0.0], atol=1e-12)


def test_normalised_entropy_by_hand():
    expected = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)) / math.log(3)
    assert uncertainty.normalised_entropy(np.array([0.7, 0.2, 0.1])) == pytest.approx(expected, rel=1e-12)


@given(LOGITS)
def test_normalised_entropy_stays_within_bounds(logits):
    values = uncertainty.normalised_entropy(scipy.special.softmax(logits, axis=-1))
    assert ((values >= 0) & (values <= 1)).all()


def mutual_information(probabilities):
    """The mutual information over passes that all count."""
    n_passes, n_texts, _ = probabilities.shape
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(probabilities), -1e4)
    return uncertainty.summarise_passes(logits, np.full(n_texts, n_passes))[1]


def test_mutual_information_by_hand():
    passes = np.array([[[0.9, 0.1], [0.5, 0.5]], [[0.3, 0.7], [0.5, 0.5]]])

    def h(*p):
        return -sum(x * math.log(x) for x in p)

    expected = [h(0.6, 0.4) - (h(0.9, 0.1) + h(0.3, 0.7)) / 2, 0.0]
    np.testing.assert_allclose(mutual_information(passes), expected, atol=1e-12)


def test_mutual_information_of_opposite_certainties_is_one_bit():
    passes = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    np.testing.assert_allclose(mutual_information(passes), [math.log(2)])


@given(arrays(np.float64, (4, 3, 5), elements=st.floats(-30, 30)))
def test_mutual_information_is_the_mean_divergence_from_the_mean_prediction(logits):
    passes = scipy.special.softmax(logits, axis=-1)
    mean = passes.mean(axis=0)
    expected = scipy.special.rel_entr(passes, mean).sum(axis=-1).mean(axis=0)
    found_mean, found = uncertainty.summarise_passes(logits, np.full(3, 4))
    np.testing.assert_allclose(found_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert (found >= 0).all()


@given(
    arrays(np.float32, (5, 4, 3), elements=st.floats(-40, 40, width=32)),
    arrays(np.int64, 4, elements=st.integers(1, 5)),
)
def test_each_text_is_summarised_over_its_first_passes(pass_logits, passes):
    mean, found = uncertainty.summarise_passes(pass_logits, passes)
    for text, count in enumerate(passes):
        rows = [scipy.special.softmax(pass_logits[k, text].astype(np.float64)) for k in range(count)]
        expected_mean = sum(rows) / count
        expected = scipy.stats.entropy(expected_mean) - sum(scipy.stats.entropy(row) for row in rows) / count
        np.testing.assert_allclose(mean[text], expected_mean, rtol=1e-12)
        assert found[text] == pytest.approx(expected, abs=1e-9)
        assert found[text] >= 0


@pytest.mark.parametrize("rest", [np.nan, np.inf, -np.inf, 3e38])
def test_passes_that_do_not_count_have_no_effect(rest):
    pass_logits = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)
    expected = uncertainty.summarise_passes(pass_logits, np.array([2, 6]))
    pass_logits[2:, 0] = rest
    found = uncertainty.summarise_passes(pass_logits, np.array([2, 6]))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_with_one_pass_the_mean_is_that_pass_and_the_mutual_information_0():
    logits = np.random.default_rng(0).normal(size=(1, 5, 3))
    mean, found = uncertainty.summarise_passes(logits, np.ones(5, dtype=int))
    np.testing.assert_allclose(mean, scipy.special.softmax(logits[0], axis=-1), rtol=1e-12)
    np.testing.assert_allclose(found, np.zeros(5), atol=1e-15)


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4, 0.0], [-1e4, -1e4]])
    np.testing.assert_allclose(uncertainty.softmax(logits), [[1.0, 0.0], [0.5, 0.5]])
    np.testing.assert_allclose(uncertainty.energy(logits), [1e4, -1e4 + math.log(2)])
