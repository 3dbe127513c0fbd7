"""Principal components, compared with a singular value decomposition."""

import numpy as np

from amalgam_edge.numerics import components
from amalgam_edge.numerics.components import principal_components


def test_components_are_those_of_the_singular_value_decomposition():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(50, 6)) * [9, 5, 3, 1, 0.5, 0.1] + 4).astype(np.float32) @ rng.normal(size=(6, 6))
    found = principal_components(vectors, 3)
    u, s, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(u[:, :3] * s[:3]), rtol=1e-3, atol=1e-4)
    assert found.dtype == np.float32


def test_the_largest_entry_of_a_direction_is_positive():
    """Of vectors along (3, −4): the direction is (−0.6, 0.8), so that the projections are −5 and 5."""
    found = principal_components(np.array([[3.0, -4.0], [-3.0, 4.0]]), 1)
    np.testing.assert_allclose(found, [[-5.0], [5.0]], rtol=1e-6)


def test_the_mean_of_many_float32_vectors_is_exact():
    """In float32 the mean of values around 10,000 would be off, and so would be the components."""
    values = np.random.default_rng(4).normal(size=(70_000, 1))
    vectors = (values + 10_000).astype(np.float32)
    expected = vectors.astype(np.float64) - vectors.astype(np.float64).mean()
    np.testing.assert_allclose(principal_components(vectors, 1), expected, atol=1e-5)


def test_all_components_keep_all_distances():
    vectors = np.random.default_rng(1).normal(size=(20, 5)).astype(np.float32)
    found = principal_components(vectors, 99)
    assert found.shape == (20, 5)
    distances = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (vectors, found)]
    np.testing.assert_allclose(*distances, atol=1e-4)


def test_components_do_not_depend_on_the_order_of_coordinates():
    vectors = np.random.default_rng(2).normal(size=(30, 4)).astype(np.float32)
    np.testing.assert_allclose(principal_components(vectors[:, ::-1], 4), principal_components(vectors, 4), atol=1e-4)


def test_rows_are_read_in_blocks(monkeypatch):
    vectors = np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32)
    whole = principal_components(vectors, 3)
    monkeypatch.setattr(components, "_ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(principal_components(vectors, 3), whole, atol=1e-5)
