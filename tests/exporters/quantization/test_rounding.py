"""Rounding for the products' sake, against plain rounding and against a search through all roundings."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from amalgam_edge.exporters.quantization.activations import Activation
from amalgam_edge.exporters.quantization.int8 import Int8Settings, quantize_to_int8
from amalgam_edge.exporters.quantization.rounding import round_matrix

RNG = np.random.default_rng(0)


def correlated(n_rows, width):
    return RNG.normal(size=(n_rows, 3)) @ RNG.normal(size=(3, width)) + 0.1 * RNG.normal(size=(n_rows, width))


def error(x, matrix, levels, scale):
    return np.square(x @ (levels * scale - matrix)).sum(axis=0)


def test_products_come_nearer_than_by_plain_rounding():
    x, matrix = correlated(500, 200), RNG.normal(size=(200, 30))
    scale = np.abs(matrix).max(axis=0) / 64
    found = round_matrix(matrix, x.T @ x, scale)
    assert found.dtype == np.int8
    assert np.abs(found.astype(int)).max() <= 64
    plain = np.round(matrix / scale)
    assert (error(x, matrix, found, scale) < 0.4 * error(x, matrix, plain, scale)).all()


def test_channels_that_go_their_own_ways_are_rounded_plainly():
    matrix = RNG.normal(size=(40, 5))
    scale = np.abs(matrix).max(axis=0) / 64
    found = round_matrix(matrix, np.diag(RNG.uniform(1, 9, 40)), scale)
    np.testing.assert_array_equal(found, np.round(matrix / scale))


def test_never_worse_than_most_of_all_roundings():
    """Of six weights, up or down: 64 ways."""
    x, matrix = correlated(300, 6), RNG.normal(size=(6, 8)) * 3
    scale = np.ones(8)
    found = error(x, matrix, round_matrix(matrix, x.T @ x, scale), scale)
    ways = np.array(list(itertools.product((0, 1), repeat=6)))[:, :, None] + np.floor(matrix)
    every = np.array([error(x, matrix, way, scale) for way in ways])
    assert (np.mean(every <= found[None], axis=0) <= 0.1).all()


@pytest.mark.parametrize("gram", [np.zeros((4, 4)), np.ones((4, 4)), np.diag([1.0, 0, 0, 0])])
def test_channels_that_never_vary_are_no_trouble(gram):
    matrix = np.array([[1.0], [-0.3], [0.6], [0.2]])
    found = round_matrix(matrix, gram, np.array([1 / 64]))
    assert found[0, 0] == 64
    assert np.abs(found * (1 / 64) - matrix).max() < 0.05


def test_a_quantized_file_holds_the_rounded_weights_at_the_scales_it_had(toy, tmp_path):
    source = toy()
    floats = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(source).graph.initializer}
    x = correlated(400, 32)
    seen = {"h1": Activation(np.abs(x).max(axis=0), x.T @ x)}
    stored = {}
    for name, rounded in (("plain", False), ("rounded", True)):
        quantize_to_int8(source, tmp_path / f"{name}.onnx", Int8Settings(name, gptq_rounding=rounded), seen)
        graph = onnx.load(tmp_path / f"{name}.onnx").graph
        stored[name] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    assert stored["plain"].keys() == stored["rounded"].keys()
    changed = [k for k, v in stored["plain"].items() if not np.array_equal(v, stored["rounded"][k])]
    assert changed == ["w2_quantized"]  # the other values were not seen
    scale = stored["rounded"]["w2_scale"]
    plain, found = (error(x, floats["w2"], stored[name]["w2_quantized"], scale).sum() for name in stored)
    assert found < 0.5 * plain
