"""Smoothing, on a graph made by hand, against the formula of SmoothQuant."""

import numpy as np
import pytest
from onnx import numpy_helper

from amalgam_edge.exporters.quantization.activations import Activation
from amalgam_edge.exporters.quantization.smoothing import smooth
from tests.support.two_products import WEIGHTS, X, by_hand, model, run

LARGEST = np.abs(X).max(axis=(0, 1))


def seen(largest):
    largest = np.asarray(largest, dtype=float)
    return Activation(largest, np.outer(largest, largest))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_smoothing_changes_no_answer(alpha):
    made = model()
    smooth(made.graph, {"x": seen(LARGEST), "rows": seen([1, 2, 3, 40])}, alpha)
    np.testing.assert_allclose(run(made)[0], by_hand(), rtol=1e-4, atol=1e-4)
    assert [node.op_type for node in made.graph.node].count("Mul") == 2


def test_channels_become_alike_in_size():
    made = model()
    smoothed = smooth(made.graph, {"x": seen(LARGEST)}, 1.0)["x"]
    divisor = next(numpy_helper.to_array(t) for t in made.graph.initializer if t.name == smoothed.divisor)
    size = LARGEST * divisor
    assert size[:5].max() / size[:5].min() == pytest.approx(1.0, rel=1e-4)
    assert np.isfinite(divisor).all()  # the last channel is always zero
    np.testing.assert_allclose(smoothed.activation.largest, size, rtol=1e-5)
    np.testing.assert_allclose(smoothed.activation.gram, np.outer(size, size), rtol=1e-4)
    assert [node.input[0] for node in made.graph.node if node.name in ("first", "second")] == [smoothed.name] * 2


def test_factors_by_hand():
    """Factors of 4^½ / 1^½ = 2 and of 1, divided by their geometric mean."""
    made = model()
    weights = {"q": np.ones((6, 4)), "k": np.ones((6, 4)) / 2}
    for tensor in made.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].astype(np.float32), tensor.name))
    largest = np.array([4, 4, 1, 1, 1, 1.0])
    smoothed = smooth(made.graph, {"x": seen(largest)}, 0.5)["x"]
    factors = np.array([2, 2, 1, 1, 1, 1]) / 2 ** (2 / 6)
    np.testing.assert_allclose(smoothed.activation.largest, largest / factors, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "smoothed"), [("q", 3.1, True), ("x", 3.1, True), ("q", 2.9, False), ("x", 2.9, False)]
)
def test_only_channels_that_differ_threefold_in_size_are_smoothed(name, size, smoothed):
    made = model()
    weights = {"q": np.ones((6, 4)), "k": np.ones((6, 4))}
    largest = np.ones(6)
    (weights["q"][0] if name == "q" else largest)[:1] = size
    for tensor in made.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].astype(np.float32), tensor.name))
    before = made.SerializeToString()
    assert list(smooth(made.graph, {"x": seen(largest)}, 0.5)) == (["x"] if smoothed else [])
    assert (made.SerializeToString() == before) == (not smoothed)


def test_weights_that_layers_share_stay_as_they_are():
    made = model(shared=True)
    before = made.SerializeToString()
    assert smooth(made.graph, {"x": seen(LARGEST), "t": seen([1, 1, 1, 1, 1, 9])}, 0.5) == {}
    assert made.SerializeToString() == before
    assert set(WEIGHTS) > {"q"}


def test_a_channel_that_is_always_zero_counts_as_one_of_1e_5():
    made = model()
    largest = np.array([4, 4, 1, 1, 1, 0.0])
    smoothed = smooth(made.graph, {"x": seen(largest)}, 0.5)["x"]
    divisor = next(numpy_helper.to_array(t) for t in made.graph.initializer if t.name == smoothed.divisor)
    rows = np.maximum(np.abs(WEIGHTS["q"]), np.abs(WEIGHTS["k"])).max(axis=1)
    factors = np.maximum(largest, 1e-5) ** 0.5 / rows**0.5
    np.testing.assert_allclose(divisor, np.exp(np.log(factors).mean()) / factors, rtol=1e-4)
