"""The probe beside a fold-by-fold fit by another optimiser."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from amalgam_edge.methods.refinement import probe as module
from amalgam_edge.methods.refinement.probe import Probe
from amalgam_edge.numerics.components import principal_components
from amalgam_edge.numerics.linear import PENALTY


@pytest.fixture
def texts():
    """Features, targets over three labels, and weights, of 60 texts."""
    rng = np.random.default_rng(4)
    features = rng.normal(size=(60, 5)) * [3, 2, 1, 0.5, 0.1] + 7
    target = scipy.special.softmax(features[:, :3] - 7 + rng.normal(size=(60, 3)), axis=1)
    return features, target, rng.uniform(0.1, 2, size=60)


def fitted_by_hand(inputs, target, weight):
    """Minimise the documented loss of some texts in float64, from zero."""
    n, width = inputs.shape
    shape = (width + 1, target.shape[1])

    def loss(flat):
        weights = flat.reshape(shape)
        log_p = scipy.special.log_softmax(inputs @ weights[:-1] + weights[-1], axis=1)
        return -(weight[:, None] * target * log_p).sum() / n + PENALTY / 2 / n * (weights[:-1] ** 2).sum()

    return scipy.optimize.minimize(loss, np.zeros(shape).ravel(), tol=1e-12).x.reshape(shape)


def test_a_text_is_answered_by_a_fit_to_the_other_folds(texts, monkeypatch):
    monkeypatch.setattr(module, "_STEPS", 300)
    features, target, weight = texts
    made = Probe(features, seed=1)
    answered = made(target, weight)
    inputs = principal_components(features, 128).astype(float)
    inputs /= np.sqrt((inputs**2).sum(axis=1).mean())
    share = weight / weight.mean()
    folds = np.random.default_rng(1).permutation(60) % 4
    for fold in range(4):
        own = folds == fold
        weights = fitted_by_hand(inputs[~own], target[~own], share[~own])
        expected = scipy.special.softmax(inputs[own] @ weights[:-1] + weights[-1], axis=1)
        np.testing.assert_allclose(answered[own], expected, atol=1e-4)


def test_what_is_said_of_a_text_does_not_depend_on_its_own_target(texts):
    features, target, weight = texts
    weight = np.ones_like(weight)
    changed = target.copy()
    changed[17] = changed[17][[2, 0, 1]]
    before, after = Probe(features)(target, weight), Probe(features)(changed, weight)
    np.testing.assert_array_equal(before[17], after[17])
    assert (before != after).any(axis=1).sum() > 40  # texts of the other folds were told by it


def test_a_second_fit_starts_from_the_first(texts, monkeypatch):
    features, target, weight = texts
    monkeypatch.setattr(module, "_STEPS", 2)
    made = Probe(features)
    first, second = made(target, weight), made(target, weight)
    monkeypatch.setattr(module, "_STEPS", 300)
    settled = Probe(features)(target, weight)
    assert np.abs(second - settled).mean() < 0.95 * np.abs(first - settled).mean()


def test_of_many_texts_some_are_fitted_to_and_all_are_answered(texts, monkeypatch):
    features, target, weight = texts
    monkeypatch.setattr(module, "MOST_TEXTS", 20)
    answered = Probe(features)(target, weight)
    np.testing.assert_allclose(answered.sum(axis=1), 1.0)
    monkeypatch.undo()
    whole = Probe(features)(target, weight)
    assert (answered != whole).all(axis=1).any()
    assert np.mean(answered.argmax(axis=1) == whole.argmax(axis=1)) > 0.7


@pytest.mark.parametrize("n_texts", [2, 3])
def test_few_texts_will_do(n_texts):
    answered = Probe(np.random.default_rng(0).normal(size=(n_texts, 6)))(np.eye(n_texts), np.ones(n_texts))
    np.testing.assert_allclose(answered.sum(axis=1), 1.0)


def test_texts_that_are_all_alike_are_answered_by_the_mean():
    target = np.repeat([[1.0, 0.0], [0.0, 1.0]], [30, 10], axis=0)
    answered = Probe(np.ones((40, 3)))(target, np.ones(40))
    assert np.isfinite(answered).all()
    np.testing.assert_allclose(answered[:, 0], 0.75, atol=0.15)
