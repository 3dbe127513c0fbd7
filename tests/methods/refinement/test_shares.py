"""Shares of labels: by hand, and beside the scaling that an optimiser finds."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from amalgam_edge.methods.refinement.shares import label_shares, with_shares

GROUPS = np.array([0, 0, 1, 1, 1])


@pytest.fixture
def drawn():
    return np.random.default_rng(4).dirichlet([5, 1, 2, 0.3, 1], size=200)


def test_shares_add_up_to_one_in_each_group():
    p = np.array([[0.1, 0.3, 0.2, 0.2, 0.2], [0.3, 0.1, 0.0, 0.6, 0.0]])
    np.testing.assert_allclose(label_shares(p, GROUPS), [0.5, 0.5, 1 / 6, 4 / 6, 1 / 6])


def test_a_group_without_mass_has_no_shares():
    p = np.array([[0.5, 0.5, 0.0, 0.0, 0.0]])
    assert label_shares(p, GROUPS).tolist() == [0.5, 0.5, 0, 0, 0]
    np.testing.assert_array_equal(with_shares(p, label_shares(p, GROUPS), GROUPS), p)


def test_probabilities_of_these_shares_stay(drawn):
    np.testing.assert_allclose(with_shares(drawn, label_shares(drawn, GROUPS), GROUPS), drawn, atol=1e-12)


def test_labels_get_their_shares_and_groups_keep_theirs(drawn):
    shares = np.array([0.5, 0.5, 0.2, 0.3, 0.5])
    made = with_shares(drawn, shares, GROUPS)
    np.testing.assert_allclose(made.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(label_shares(made, GROUPS), shares, atol=0.02)
    np.testing.assert_allclose(made[:, :2].sum(), drawn[:, :2].sum(), rtol=0.02)


def test_what_is_found_are_factors_of_labels(drawn):
    """The dual of the nearest distributions in KL: factors exp(b) with mean softmax(log p + b) as wanted."""
    shares = np.array([0.6, 0.4, 0.25, 0.25, 0.5])
    wanted = shares * np.array([drawn[:, :2].sum(), drawn[:, 2:].sum()])[GROUPS] / len(drawn)
    found = scipy.optimize.minimize(
        lambda b: scipy.special.logsumexp(np.log(drawn) + b, axis=1).mean() - wanted @ b, np.zeros(5), method="BFGS"
    )
    optimum = scipy.special.softmax(np.log(drawn) + found.x, axis=1)
    np.testing.assert_allclose(with_shares(drawn, shares, GROUPS), optimum, atol=0.02)


def test_one_group_of_one_label_is_left_alone(drawn):
    alone = np.arange(5)
    np.testing.assert_allclose(with_shares(drawn, np.ones(5), alone), drawn, atol=1e-12)
