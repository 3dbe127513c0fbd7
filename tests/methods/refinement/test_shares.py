"""Label shares: by hand, and compared with the rescaling that an optimiser finds."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from amalgam_edge.methods.refinement.shares import adjust_to_shares, label_shares

GROUPS = np.array([0, 0, 1, 1, 1])


@pytest.fixture
def probabilities():
    """Random distributions over five labels, of 200 texts."""
    return np.random.default_rng(4).dirichlet([5, 1, 2, 0.3, 1], size=200)


def test_shares_add_up_to_one_in_each_group():
    p = np.array([[0.1, 0.3, 0.2, 0.2, 0.2], [0.3, 0.1, 0.0, 0.6, 0.0]])
    np.testing.assert_allclose(label_shares(p, GROUPS), [0.5, 0.5, 1 / 6, 4 / 6, 1 / 6])


def test_labels_of_a_group_of_little_mass_have_their_shares():
    p = np.array([[0.5, 0.5 - 4e-6, 3e-6, 1e-6, 0.0]])
    np.testing.assert_allclose(label_shares(p, GROUPS)[2:], [0.75, 0.25, 0.0], rtol=1e-9)
    adjusted = adjust_to_shares(p, np.array([0.5, 0.5, 0.5, 0.5, 0.0]), GROUPS)
    np.testing.assert_allclose(adjusted, [[0.5 - 2e-6, 0.5 - 2e-6, 2e-6, 2e-6, 0.0]], rtol=1e-9)


def test_labels_of_a_group_without_mass_have_no_share():
    p = np.array([[0.5, 0.5, 0.0, 0.0, 0.0]])
    assert label_shares(p, GROUPS).tolist() == [0.5, 0.5, 0, 0, 0]
    np.testing.assert_array_equal(adjust_to_shares(p, label_shares(p, GROUPS), GROUPS), p)


def test_probabilities_that_have_the_shares_are_unchanged(probabilities):
    adjusted = adjust_to_shares(probabilities, label_shares(probabilities, GROUPS), GROUPS)
    np.testing.assert_allclose(adjusted, probabilities, atol=1e-12)


def test_labels_get_their_shares_and_groups_keep_their_mass(probabilities):
    shares = np.array([0.5, 0.5, 0.2, 0.3, 0.5])
    adjusted = adjust_to_shares(probabilities, shares, GROUPS)
    np.testing.assert_allclose(adjusted.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(label_shares(adjusted, GROUPS), shares, atol=0.02)
    np.testing.assert_allclose(adjusted[:, :2].sum(), probabilities[:, :2].sum(), rtol=0.02)


def test_eight_steps_of_proportional_fitting_by_hand(probabilities):
    shares = np.array([0.5, 0.5, 0.2, 0.3, 0.5])
    mass = [probabilities[:, :2].sum(), probabilities[:, 2:].sum()]
    expected = probabilities.copy()
    for _ in range(8):
        for y in range(5):
            expected[:, y] *= shares[y] * mass[GROUPS[y]] / expected[:, y].sum()
        expected = np.array([row / sum(row) for row in expected])
    np.testing.assert_allclose(adjust_to_shares(probabilities, shares, GROUPS), expected, atol=1e-12)


def test_the_adjustment_is_one_factor_per_label(probabilities):
    """Factors exp(b) such that mean softmax(log p + b) is the target: the dual of the nearest distributions in KL."""
    shares = np.array([0.6, 0.4, 0.25, 0.25, 0.5])
    group_mass = np.array([probabilities[:, :2].sum(), probabilities[:, 2:].sum()])[GROUPS]
    target_mean = shares * group_mass / len(probabilities)
    found = scipy.optimize.minimize(
        lambda b: scipy.special.logsumexp(np.log(probabilities) + b, axis=1).mean() - target_mean @ b,
        np.zeros(5),
        method="BFGS",
    )
    optimum = scipy.special.softmax(np.log(probabilities) + found.x, axis=1)
    np.testing.assert_allclose(adjust_to_shares(probabilities, shares, GROUPS), optimum, atol=0.02)


def test_groups_of_one_label_are_unchanged(probabilities):
    groups = np.arange(5)
    np.testing.assert_allclose(adjust_to_shares(probabilities, np.ones(5), groups), probabilities, atol=1e-12)
