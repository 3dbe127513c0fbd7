"""The probe, compared with a fold-by-fold fit by another optimiser."""

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
    """Features, targets over three labels, and weights of 60 texts."""
    rng = np.random.default_rng(4)
    features = rng.normal(size=(60, 5)) * [3, 2, 1, 0.5, 0.1] + 7
    target = scipy.special.softmax(features[:, :3] - 7 + rng.normal(size=(60, 3)), axis=1)
    return features, target, rng.uniform(0.1, 2, size=60)


def fit_independently(inputs, target, weight):
    """The minimum of the documented loss, in float64 and from zero."""
    n, width = inputs.shape
    shape = (width + 1, target.shape[1])

    def loss(flat):
        weights = flat.reshape(shape)
        log_p = scipy.special.log_softmax(inputs @ weights[:-1] + weights[-1], axis=1)
        return -(weight[:, None] * target * log_p).sum() / n + PENALTY / 2 / n * (weights[:-1] ** 2).sum()

    return scipy.optimize.minimize(loss, np.zeros(shape).ravel(), tol=1e-12).x.reshape(shape)


def test_each_fold_is_predicted_by_a_fit_to_the_other_folds(texts, monkeypatch):
    monkeypatch.setattr(module, "_STEPS", 300)
    features, target, weight = texts
    predicted = Probe(features, seed=1).fit_predict(target, weight)
    inputs = principal_components(features, 128).astype(float)
    inputs /= np.sqrt((inputs**2).sum(axis=1).mean())
    share = weight / weight.mean()
    folds = np.random.default_rng(1).permutation(60) % 4
    for fold in range(4):
        in_fold = folds == fold
        weights = fit_independently(inputs[~in_fold], target[~in_fold], share[~in_fold])
        expected = scipy.special.softmax(inputs[in_fold] @ weights[:-1] + weights[-1], axis=1)
        np.testing.assert_allclose(predicted[in_fold], expected, atol=1e-4)


def test_the_prediction_for_a_text_does_not_depend_on_its_own_target(texts):
    features, target, weight = texts
    weight = np.ones_like(weight)
    changed = target.copy()
    changed[17] = changed[17][[2, 0, 1]]
    before, after = (Probe(features).fit_predict(each, weight) for each in (target, changed))
    np.testing.assert_array_equal(before[17], after[17])
    assert (before != after).any(axis=1).sum() > 40  # the texts of the other folds depend on it


def test_a_second_fit_starts_from_the_first(texts, monkeypatch):
    features, target, weight = texts
    monkeypatch.setattr(module, "_STEPS", 2)
    probe = Probe(features)
    first, second = (probe.fit_predict(target, weight) for _ in range(2))
    monkeypatch.setattr(module, "_STEPS", 300)
    converged = Probe(features).fit_predict(target, weight)
    assert np.abs(second - converged).mean() < 0.95 * np.abs(first - converged).mean()


def test_each_fold_is_fitted_to_at_most_so_many_texts_and_all_are_predicted(texts, monkeypatch):
    features, target, weight = texts
    monkeypatch.setattr(module, "MOST_TEXTS", 20)
    limited = Probe(features).fit_predict(target, weight)
    np.testing.assert_allclose(limited.sum(axis=1), 1.0)
    monkeypatch.undo()
    whole = Probe(features).fit_predict(target, weight)
    assert (limited != whole).all(axis=1).any()
    assert np.mean(limited.argmax(axis=1) == whole.argmax(axis=1)) > 0.7


@pytest.mark.parametrize("n_texts", [2, 3])
def test_two_or_three_texts_are_enough(n_texts):
    features = np.random.default_rng(0).normal(size=(n_texts, 6))
    predicted = Probe(features).fit_predict(np.eye(n_texts), np.ones(n_texts))
    np.testing.assert_allclose(predicted.sum(axis=1), 1.0)


def test_identical_features_give_the_mean_target():
    target = np.repeat([[1.0, 0.0], [0.0, 1.0]], [30, 10], axis=0)
    predicted = Probe(np.ones((40, 3))).fit_predict(target, np.ones(40))
    assert np.isfinite(predicted).all()
    np.testing.assert_allclose(predicted[:, 0], 0.75, atol=0.15)


def test_the_constants_are_the_documented_ones():
    """docs/method.md names four folds, 128 components and a fixed number of steps; each build has the same folds."""
    assert (module.N_FOLDS, module.WIDTH, module.MOST_TEXTS, module._STEPS) == (4, 128, 20_000, 25)
    features, target = np.random.default_rng(8).normal(size=(50, 6)), np.eye(3)[np.arange(50) % 3]
    by_default, of_seed_0 = (
        Probe(features, **options).fit_predict(target, np.ones(50)) for options in ({}, {"seed": 0})
    )
    np.testing.assert_array_equal(by_default, of_seed_0)


def test_a_fold_is_fitted_to_a_random_selection_of_the_others(monkeypatch):
    """If a fold is fitted to few texts, they are from all over the corpus."""
    monkeypatch.setattr(module, "MOST_TEXTS", 40)
    target = np.repeat(np.eye(2), [200, 200], axis=0)
    predicted = Probe(np.zeros((400, 3))).fit_predict(target, np.ones(400))
    assert 0.2 < predicted[:, 0].mean() < 0.8
