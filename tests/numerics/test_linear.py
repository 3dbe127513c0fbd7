"""Linear classifiers, compared with a closed form and with another optimiser."""

import numpy as np
import scipy.optimize
import scipy.special
import torch

from amalgam_edge.numerics.linear import apply_linear, fit_linear

PENALTY = 0.3


def test_least_squares_has_the_ridge_solution():
    """mean (X W + b − Y)² / 2 + 0.3 / 2n · ‖W‖², without a penalty on b."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 2)) + 3
    target = torch.from_numpy(y)
    fitted = fit_linear(
        torch.from_numpy(x), 2, lambda logits: (logits - target).square().sum() / 2 / len(target), steps=200
    )
    design = np.hstack([x, np.ones((30, 1))])
    expected = np.linalg.solve(design.T @ design + PENALTY * np.diag([1, 1, 1, 1, 0]), design.T @ y)
    np.testing.assert_allclose(fitted, expected, atol=1e-5)


def test_logistic_regression_has_the_minimum_that_scipy_finds():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 3)), rng.dirichlet(np.ones(3), size=40)
    target = torch.from_numpy(y)
    fitted = fit_linear(
        torch.from_numpy(x), 3, lambda z: -(target * torch.log_softmax(z, dim=1)).sum() / len(target), steps=200
    )

    def loss(flat):
        weights = flat.reshape(4, 3)
        log_p = scipy.special.log_softmax(x @ weights[:-1] + weights[-1], axis=1)
        return -(y * log_p).sum() / 40 + PENALTY / 80 * (weights[:-1] ** 2).sum()

    expected = scipy.optimize.minimize(loss, np.zeros(12), tol=1e-12).x.reshape(4, 3)
    found, best = (x @ weights[:-1] + weights[-1] for weights in (fitted.numpy(), expected))
    np.testing.assert_allclose(scipy.special.softmax(found, axis=1), scipy.special.softmax(best, axis=1), atol=1e-4)


def test_the_start_is_used_and_not_changed():
    inputs, start = torch.eye(3, dtype=torch.float64), torch.full((4, 2), 5.0, dtype=torch.float64)
    fitted = fit_linear(inputs, 2, lambda logits: 0.0 * logits.sum(), steps=1, start=start)
    assert (start == 5.0).all()
    assert (fitted[:-1] != 5.0).all()  # the penalty pulls at them
    assert (fitted[-1] == 5.0).all()


def test_logits_are_the_linear_function():
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]])
    assert apply_linear(weights, torch.tensor([[1.0, 1.0], [0.0, 2.0]])).tolist() == [[14.0, 26.0], [16.0, 28.0]]
