import numpy as np

from amalgam_edge.numerics import components
from amalgam_edge.numerics.components import principal_components


def test_components_are_those_of_singular_values():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(50, 6)) * [9, 5, 3, 1, 0.5, 0.1] + 4).astype(np.float32) @ rng.normal(size=(6, 6))
    found = principal_components(vectors, 3)
    u, s, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(u[:, :3] * s[:3]), rtol=1e-3, atol=1e-4)


def test_all_components_keep_all_distances():
    vectors = np.random.default_rng(1).normal(size=(20, 5)).astype(np.float32)
    found = principal_components(vectors, 99)
    assert found.shape == (20, 5)
    distances = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (vectors, found)]
    np.testing.assert_allclose(*distances, atol=1e-4)


def test_components_do_not_hang_on_a_sign():
    vectors = np.random.default_rng(2).normal(size=(30, 4)).astype(np.float32)
    np.testing.assert_allclose(principal_components(vectors[:, ::-1], 4), principal_components(vectors, 4), atol=1e-4)


def test_rows_are_read_in_blocks(monkeypatch):
    vectors = np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32)
    whole = principal_components(vectors, 3)
    monkeypatch.setattr(components, "_ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(principal_components(vectors, 3), whole, atol=1e-5)
