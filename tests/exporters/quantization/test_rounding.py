"""GPTQ rounding against rounding to the nearest level, and against a search through all roundings."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from amalgam_edge.exporters.quantization import rounding
from amalgam_edge.exporters.quantization.activations import Activation
from amalgam_edge.exporters.quantization.int8 import Int8Settings, quantize_to_int8
from amalgam_edge.exporters.quantization.rounding import round_matrix

RNG = np.random.default_rng(0)


def correlated(n_rows, width):
    return RNG.normal(size=(n_rows, 3)) @ RNG.normal(size=(3, width)) + 0.1 * RNG.normal(size=(n_rows, width))


def error(x, matrix, levels, scale):
    return np.square(x @ (levels * scale - matrix)).sum(axis=0)


def test_products_come_nearer_than_by_rounding_to_the_nearest_level():
    x, matrix = correlated(500, 200), RNG.normal(size=(200, 30))
    scale = np.abs(matrix).max(axis=0) / 64
    found = round_matrix(matrix, x.T @ x, scale)
    assert found.dtype == np.int8
    assert np.abs(found.astype(int)).max() <= 64
    plain = np.round(matrix / scale)
    assert (error(x, matrix, found, scale) < 0.4 * error(x, matrix, plain, scale)).all()


def test_uncorrelated_channels_are_rounded_to_the_nearest_level():
    matrix = RNG.normal(size=(40, 5))
    scale = np.abs(matrix).max(axis=0) / 64
    found = round_matrix(matrix, np.diag(RNG.uniform(1, 9, 40)), scale)
    np.testing.assert_array_equal(found, np.round(matrix / scale))


def test_the_rounding_is_among_the_best_tenth_of_all_roundings():
    """Six weights can be rounded up or down in 64 ways."""
    x, matrix = correlated(300, 6), RNG.normal(size=(6, 8)) * 3
    scale = np.ones(8)
    found = error(x, matrix, round_matrix(matrix, x.T @ x, scale), scale)
    ways = np.array(list(itertools.product((0, 1), repeat=6)))[:, :, None] + np.floor(matrix)
    every = np.array([error(x, matrix, way, scale) for way in ways])
    assert (np.mean(every <= found[None], axis=0) <= 0.1).all()


@pytest.mark.parametrize("gram", [np.zeros((4, 4)), np.ones((4, 4)), np.diag([1.0, 0, 0, 0])])
def test_channels_that_never_vary_are_rounded_too(gram):
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


def test_weights_beyond_the_levels_are_clipped():
    """Signed 7-bit weights of the quantizer reach from -64 to 64."""
    found = round_matrix(np.array([[3.0, -3.0], [0.5, 0.5]]), np.eye(2), np.full(2, 1 / 64))
    np.testing.assert_array_equal(found, [[64, -64], [32, 32]])


def test_the_error_of_one_weight_is_made_up_for_by_the_next():
    """By hand: the Hessian is the Gram matrix plus 1 % of its mean diagonal; the largest channel is rounded first.

    Its error of -0.4 moves the other weight by -0.4 · H01 / H11 (Frantar et al., eq. 2).
    """
    gram = np.array([[4.0, 3.0], [3.0, 8.0]])
    damped = gram + 0.01 * 6 * np.eye(2)
    moved = 0.3 + (-(7 - 6.6)) * damped[0, 1] / damped[0, 0]  # channel 1 is rounded from 6.6 up to 7
    found = round_matrix(np.array([[0.3], [6.6]]), gram, np.ones(1))
    np.testing.assert_array_equal(found[:, 0], [np.round(moved), 7])


@pytest.mark.parametrize(("weight", "level"), [(0.3973, 0), (0.3976, 1)])
def test_the_damping_is_one_percent_of_the_mean_diagonal(weight, level):
    """7.4165 is rounded down to 7, and adds 0.4165 · H01 / H00 = 0.4165 / 4.06 to the other weight."""
    gram = np.array([[4.0, 1.0], [1.0, 8.0]])
    found = round_matrix(np.array([[weight], [7.4165]]), gram, np.ones(1))
    np.testing.assert_array_equal(found[:, 0], [level, 7])


def test_many_channels_are_rounded_as_in_one_block(monkeypatch):
    """Errors are spread block by block for speed alone."""
    x, matrix = correlated(600, 300), RNG.normal(size=(300, 4))
    scale = np.abs(matrix).max(axis=0) / 64
    in_blocks = round_matrix(matrix, x.T @ x, scale)
    monkeypatch.setattr(rounding, "_BLOCK_SIZE", 300)
    np.testing.assert_array_equal(round_matrix(matrix, x.T @ x, scale), in_blocks)


def test_channels_of_one_size_are_rounded_in_their_order():
    """On every machine: sorting that is not stable orders them by its instruction set."""
    order, _ = rounding._order_and_update_matrix(np.diag(np.tile([1.0, 2.0], 150)))
    assert order.tolist() == [*range(1, 300, 2), *range(0, 300, 2)]
