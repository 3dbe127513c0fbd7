"""Temperature scaling and calibration error, compared with scipy and with plain loops."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amalgam_edge.metrics.calibration import calibrate, earns_its_place, fit_temperature, reliability

COLDEST, HOTTEST, N_BINS = 0.1, 10.0, 15  # as docs/method.md has them


def cross_entropy(logits, target, weight, temperature):
    return (weight * -(target * scipy.special.log_softmax(logits / temperature, axis=1)).sum(axis=1)).sum()


def example(seed, n_texts=200, n_labels=4, temperature=1.0):
    """Logits, noisy targets that these logits give at another temperature, and weights."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3.0, size=(n_texts, n_labels))
    target = scipy.special.softmax(logits / temperature + rng.normal(scale=0.5, size=logits.shape), axis=1)
    return logits, target, rng.uniform(0.01, 1.0, n_texts)


@pytest.mark.parametrize("temperature", [0.3, 0.9, 1.0, 2.5, 6.0])
def test_the_temperature_that_made_the_targets_is_found(temperature):
    logits, _, weight = example(0)
    target = scipy.special.softmax(logits / temperature, axis=1)
    assert fit_temperature(logits.astype(np.float32), target, weight) == pytest.approx(temperature, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_temperature_is_the_minimum_that_scipy_finds(seed):
    logits, target, weight = example(seed, temperature=1.7)
    found = scipy.optimize.minimize_scalar(
        lambda log: cross_entropy(logits, target, weight, np.exp(log)),
        bounds=np.log((COLDEST, HOTTEST)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert fit_temperature(logits, target, weight) == pytest.approx(np.exp(found.x), rel=1e-4)


@given(arrays(np.float64, (6, 3), elements=st.floats(-30, 30)), st.integers(0, 2**31), st.floats(-8, 8))
def test_no_other_temperature_has_a_lower_cross_entropy(logits, seed, shift):
    rng = np.random.default_rng(seed)
    target, weight = rng.dirichlet(np.ones(3), 6), rng.uniform(0, 1, 6)
    fitted = fit_temperature(logits, target, weight)
    assert COLDEST <= fitted <= HOTTEST
    least = cross_entropy(logits, target, weight, fitted)
    for other in np.clip(fitted * np.array([0.5, 0.99, 1.01, 2.0]), COLDEST, HOTTEST):
        assert least <= cross_entropy(logits, target, weight, other) + 1e-9 * (1 + abs(least))
    assert fit_temperature(logits + shift, target, weight) == pytest.approx(fitted, rel=1e-3)


def test_a_text_counts_by_its_weight():
    logits, target, _ = example(3, n_texts=3)
    twice = fit_temperature(logits[[0, 1, 1, 2]], target[[0, 1, 1, 2]], np.ones(4))
    assert fit_temperature(logits, target, np.array([1.0, 2.0, 1.0])) == pytest.approx(twice)
    alone = fit_temperature(logits[1:2], target[1:2], np.ones(1))
    assert fit_temperature(logits, target, np.array([0.0, 7.0, 0.0])) == pytest.approx(alone)


def test_certain_targets_give_the_limits():
    logits = np.array([[2.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(logits, np.eye(2), np.ones(2)) == COLDEST
    assert fit_temperature(logits, np.eye(2)[::-1], np.ones(2)) == HOTTEST


@pytest.mark.parametrize(
    ("logits", "target", "weight"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0)),
        (np.ones((4, 3)), np.eye(3)[[0, 1, 2, 0]], np.ones(4)),
        (np.arange(12.0).reshape(4, 3), np.full((4, 3), 1 / 3), np.zeros(4)),
        (np.full((2, 3), np.nan), np.full((2, 3), 1 / 3), np.ones(2)),
        (np.array([[1e6, -1e6, 0.0]]), np.eye(3)[:1], np.ones(1)),
    ],
    ids=["no texts", "logits all alike", "no weight", "nothing finite", "certain beyond rounding"],
)
def test_the_temperature_is_1_if_it_makes_no_difference(logits, target, weight):
    assert fit_temperature(logits, target, weight) == 1.0
    assert calibrate(logits, target, weight).temperatures[0] == 1.0


def test_two_alike_texts_are_enough():
    logits, target = np.array([[3.0, 0.0], [3.0, 0.0]]), np.array([[0.8, 0.2], [0.8, 0.2]])
    fitted = calibrate(logits, target, np.array([0.3, 0.4]))
    assert fitted.temperatures[0] == pytest.approx(3.0 / np.log(0.8 / 0.2))  # softmax(3 / T) is 0.8
    assert fitted.n_texts == 2
    assert fitted.ece_before == pytest.approx(1 / (1 + np.exp(-3.0)) - 0.8)
    assert fitted.ece_after == pytest.approx(0.0, abs=1e-9)


def test_a_single_text_proves_nothing():
    logits, target = np.array([[3.0, 0.0]]), np.array([[0.8, 0.2]])
    assert fit_temperature(logits, target, np.ones(1)) == pytest.approx(3.0 / np.log(0.8 / 0.2))
    assert calibrate(logits, target, np.ones(1)).temperatures == (1.0, 1.0)


def test_the_temperature_stays_1_unless_it_helps_texts_that_it_was_not_fitted_to():
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3.0, size=(40, 4))
    target = np.stack([rng.multinomial(1, p / p.sum()) for p in scipy.special.softmax(logits, axis=1)])
    weight = np.ones(40)
    temperature = fit_temperature(logits, target, weight)
    assert cross_entropy(logits, target, weight, temperature) < cross_entropy(logits, target, weight, 1.0)
    by_fold = [fit_temperature(logits[k::2], target[k::2], weight[k::2]) for k in (1, 0)]
    crossed = sum(cross_entropy(logits[k::2], target[k::2], weight[k::2], t) for k, t in enumerate(by_fold))
    assert crossed > cross_entropy(logits, target, weight, 1.0)  # the labels were drawn at 1: any other is chance
    assert calibrate(logits, target, weight).temperatures == (1.0,) * 4


def test_a_smaller_cross_entropy_alone_does_not_do():
    rng, weight = np.random.default_rng(5), np.ones(60)
    logits = rng.normal(scale=2.0, size=(60, 3))
    target = np.stack([rng.multinomial(1, p / p.sum()) for p in scipy.special.softmax(logits / 1.3, axis=1)])
    crossed = logits.copy()
    for k in (0, 1):
        crossed[k::2] /= fit_temperature(logits[1 - k :: 2], target[1 - k :: 2], weight[1 - k :: 2])
    assert cross_entropy(crossed, target, weight, 1.0) < cross_entropy(logits, target, weight, 1.0)
    assert error_by_loops(crossed, target, weight, 1.0) > error_by_loops(logits, target, weight, 1.0)
    assert not earns_its_place(logits, target, weight)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["logits", "target", "weight"])
def test_rows_that_are_not_finite_are_left_out(value, place):
    arrays = dict(zip(("logits", "target", "weight"), example(4), strict=True))
    expected = calibrate(**{name: array[1:] for name, array in arrays.items()})
    arrays[place][0] = value
    assert calibrate(**arrays) == expected
    assert expected.n_texts == 199


def error_by_loops(logits, target, weight, temperature):
    """The expected calibration error by loops over bins that exclude their lower and include their upper edge."""
    p = scipy.special.softmax(logits / temperature, axis=1)
    confidence, best = p.max(axis=1), p.argmax(axis=1)
    error = 0.0
    for k in range(N_BINS):
        inside = [i for i, c in enumerate(confidence) if k / N_BINS < c <= (k + 1) / N_BINS]
        total = sum(weight[i] for i in inside)
        if total:
            right = sum(weight[i] * target[i, best[i]] for i in inside) / total
            error += total / sum(weight) * abs(right - sum(weight[i] * confidence[i] for i in inside) / total)
    return error


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_calibration_error_by_plain_loops(temperature):
    logits, target, weight = example(5, n_texts=60)
    found = reliability(logits, target, weight, temperature)
    assert found.error == pytest.approx(error_by_loops(logits, target, weight, temperature))
    assert found.share.sum() == pytest.approx(1.0)


def test_the_calibration_error_on_gold_by_hand():
    """Two texts at 0.9, one of them right, and one at 0.6, right: 2/3 · |0.5 − 0.9| + 1/3 · |1 − 0.6|."""
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    found = reliability(np.log(probabilities), np.eye(2)[[0, 0, 0]])
    assert found.error == pytest.approx(2 / 3 * 0.4 + 1 / 3 * 0.4)
    filled = found.share > 0
    np.testing.assert_allclose(found.confidence[filled], [0.6, 0.9])
    np.testing.assert_allclose(found.accuracy[filled], [1.0, 0.5])
    np.testing.assert_allclose(found.share[filled], [1 / 3, 2 / 3])


def test_a_confidence_on_an_edge_is_in_the_bin_below():
    found = reliability(np.zeros((1, 3)), np.eye(3)[:1])  # confidence 1/3 = 5/15
    assert found.share.tolist() == [0.0] * 4 + [1.0] + [0.0] * 10


def test_full_confidence_is_in_the_last_bin():
    found = reliability(np.array([[1e4, 0.0]]), np.eye(2)[:1])
    assert found.share.tolist() == [0.0] * (N_BINS - 1) + [1.0]
    assert found.error == 0.0


def test_calibration_holds_the_errors_before_and_after():
    logits, target, weight = example(6, temperature=3.0)
    found = calibrate(logits, target, weight)
    assert found.temperatures == (fit_temperature(logits, target, weight),) * logits.shape[1]
    assert found.ece_before == pytest.approx(error_by_loops(logits, target, weight, 1.0))
    assert found.ece_after == pytest.approx(error_by_loops(logits, target, weight, found.temperatures[0]))
    assert found.ece_after < found.ece_before
    assert vars(found).keys() == {"temperatures", "n_texts", "ece_before", "ece_after"}
