"""Channels split into several copies, on a feed-forward made by hand and on real architectures."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.exporters.quantization.activations import Activation
from amalgam_edge.exporters.quantization.outlier_splitting import copies_of_channels, split_outliers, splittable_values
from amalgam_edge.exporters.quantization.smoothing import smooth
from tests.support import tiny

RNG = np.random.default_rng(0)
WIDTH = 40
VALUES = {
    "up": RNG.normal(size=(6, WIDTH)),
    "bias": RNG.normal(size=WIDTH),
    "root": np.sqrt(2.0),
    "one": 1.0,
    "half": 0.5,
    "down": RNG.normal(size=(WIDTH, 3)),
}
VALUES["bias"][7] = 30.0  # after GELU this channel is far larger than the others
X = RNG.normal(size=(2, 5, 6))


def feed_forward(gemm=False, **changes):
    first = (
        [helper.make_node("Gemm", ["x", "up", "bias"], ["h"], "up")]
        if gemm
        else [helper.make_node("MatMul", ["x", "up"], ["p"], "up"), helper.make_node("Add", ["p", "bias"], ["h"], "a")]
    )
    nodes = [
        *first,
        helper.make_node("Div", ["h", "root"], ["scaled"], "div"),
        helper.make_node("Erf", ["scaled"], ["erf"], "erf"),
        helper.make_node("Add", ["erf", "one"], ["added"], "added"),
        helper.make_node("Mul", ["h", "added"], ["product"], "product"),
        helper.make_node("Mul", ["product", "half"], ["hidden"], "hidden"),
        helper.make_node("MatMul", ["hidden", "down"], ["y"], "down"),
        helper.make_node("Neg", [changes.get("also", "y")], ["other"], "other"),
    ]
    values = VALUES | {name: value for name, value in changes.items() if name in VALUES}
    shape = ["n", 6] if gemm else ["n", "t", 6]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x.astype(np.float32)})[0]


def hidden(x):
    h = x @ VALUES["up"] + VALUES["bias"]
    return h * (1 + np.vectorize(math.erf)(h / np.sqrt(2))) * 0.5


def seen(x):
    rows = hidden(x).reshape(-1, WIDTH)
    return {"hidden": Activation(np.abs(rows).max(axis=0), rows.T @ rows)}


@pytest.mark.parametrize("gemm", [False, True])
def test_splitting_changes_no_answer_and_the_largest_shrinks(gemm):
    model, x = feed_forward(gemm), X[0] if gemm else X
    found = splittable_values(model.graph)
    assert list(found) == ["hidden"]
    assert found["hidden"].vectors == ("bias",)
    smoothed = smooth(model.graph, seen(x), 0.0)
    split = split_outliers(model.graph, found, smoothed)["hidden"]
    np.testing.assert_allclose(run(model, x), hidden(x) @ VALUES["down"], rtol=1e-4, atol=1e-4)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert shapes["up"] == (6, WIDTH + 16)
    assert shapes["bias"] == shapes[split.divisor] == (WIDTH + 16,)
    assert shapes["down"] == (WIDTH + 16, 3)
    assert split.activation.largest.max() < smoothed["hidden"].activation.largest.max() / 3
    model.graph.output.append(helper.make_empty_tensor_value_info(split.name))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = session.run([split.name], {"x": x.astype(np.float32)})[0].reshape(-1, WIDTH + 16).astype(float)
    np.testing.assert_allclose(split.activation.largest, np.abs(rows).max(axis=0), rtol=1e-4)
    np.testing.assert_allclose(split.activation.gram, rows.T @ rows, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("also", ["hidden", "product", "h", "p"])
def test_a_value_that_something_else_reads_is_not_split(also):
    assert splittable_values(feed_forward(also=also).graph) == {}


def test_a_constant_without_an_entry_for_each_channel_prevents_splitting():
    assert splittable_values(feed_forward(half=np.full((5, 1), 0.5)).graph) == {}


def test_a_value_that_was_not_smoothed_stays_as_it_is():
    model = feed_forward()
    before = model.SerializeToString()
    assert split_outliers(model.graph, splittable_values(model.graph), {}) == {}
    assert model.SerializeToString() == before


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=50))
def test_no_other_split_makes_the_largest_copy_smaller(sizes):
    """To get below a limit, each channel needs more than largest / limit copies."""
    largest = np.array(sizes)
    copies = copies_of_channels(largest)
    assert copies.sum() == len(largest) + 16
    limit = (largest / copies).max()
    needed = np.floor(largest / limit * (1 + 1e-9)).astype(int) + 1  # copies that make every channel smaller still
    assert needed.sum() > copies.sum()


# With GELU after one product; ModernBERT's is multiplied by a gate, ALBERT's layers share their weights.
SPLIT = {"bert", "distilbert", "roberta", "xlm-roberta", "mpnet", "electra", "camembert", "deberta-v2"}
GELU_IN_THE_HEAD = {"electra", "deberta-v2"}


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_feed_forwards_of_real_architectures_are_found(exports, architecture):
    found = splittable_values(onnx.load(exports(architecture).path).graph)
    assert len([name for name in found if "gelu" in name]) == (
        2 * (architecture in SPLIT) + (architecture in GELU_IN_THE_HEAD)
    )


@pytest.mark.parametrize(("width", "copies"), [(1, 16), (1536, 16), (1537, 32), (3072, 32), (3073, 48)])
def test_there_are_sixteen_copies_for_each_1536_channels(width, copies):
    assert copies_of_channels(np.ones(width)).sum() == width + copies


def two_products(operation="Tanh", **changes):
    """Two products whose sum goes through an activation function."""
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["a"], "up"),
        helper.make_node("MatMul", ["x", changes.get("second", "gate")], ["b"], "gate"),
        helper.make_node("Mul", ["a", "b"], ["gated"], "gated"),
        helper.make_node(operation, ["gated" if "gated" in changes else "a"], ["hidden"], "activation"),
        helper.make_node("MatMul", ["hidden", "down"], ["y"], "down"),
    ]
    weights = {"up": (6, WIDTH), "gate": (6, WIDTH), "down": (WIDTH, 3)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(RNG.normal(size=shape).astype(np.float32), name) for name, shape in weights.items()],
    )
    if "gated" not in changes:
        del graph.node[1:3]
    return graph


@pytest.mark.parametrize("operation", ["Erf", "Gelu", "Neg", "Relu", "Sigmoid", "Sqrt", "Tanh"])
def test_one_product_under_an_activation_function_can_be_split(operation):
    assert list(splittable_values(two_products(operation))) == ["hidden"]


def test_a_value_of_two_products_is_not_split():
    """As in ModernBERT, where a gate is multiplied in: the copies would have to be made of both."""
    assert splittable_values(two_products(gated=True)) == {}


def test_an_operation_across_channels_prevents_splitting():
    assert splittable_values(two_products("Softmax")) == {}


def test_a_value_that_is_a_product_itself_is_not_split():
    graph = two_products()
    del graph.node[1]
    graph.node[1].input[0] = "a"
    assert splittable_values(graph) == {}


def test_a_product_whose_weights_another_one_shares_is_not_split():
    """As in ALBERT: the other product would get more outputs too."""
    graph = two_products()
    graph.node.append(helper.make_node("MatMul", ["x", "up"], ["again"], "again"))
    assert splittable_values(graph) == {}
