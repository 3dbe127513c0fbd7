"""Attention of a single query, on a graph made by hand, against numpy in float64."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.exporters.rewrites.first_token_attention import shorten_first_token_attention
from tests.support.graphs import initializers, make_graph, run_graph, value_info

RNG = np.random.default_rng(0)
TEXTS, TOKENS, WIDTH, HEADS = 3, 5, 8, 2
HEAD_WIDTH = WIDTH // HEADS


def attention(*, queries=1, scale_by="factor", values_of="x", biases="qkv", softmax_axis=-1, more_outputs=()):
    """Attention as it is traced; ``q`` has one row of the tokens. Also returns its weights in float64."""
    first = helper.make_node("Slice", ["x", "zeros", "ones", "token_axis"], ["q"], "slice")
    nodes = [first] if queries == 1 else [helper.make_node("Identity", ["x"], ["q"], "all")]
    for name, source in (("q", "q"), ("k", "x"), ("v", values_of)):
        shape = "one_query" if name == "q" and queries == 1 else "heads"
        perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes.append(helper.make_node("MatMul", [source, f"w_{name}"], [f"{name}_product"], f"{name}_product"))
        linear = f"{name}_product"
        if name in biases:
            linear = f"{name}_linear"
            nodes.append(helper.make_node("Add", [f"{name}_product", f"b_{name}"], [linear], linear))
        nodes += [
            helper.make_node("Reshape", [linear, shape], [f"{name}_heads"], f"{name}_reshape"),
            helper.make_node("Transpose", [f"{name}_heads"], [f"{name}_turned"], f"{name}_turned", perm=perm),
        ]
    nodes += [
        helper.make_node("MatMul", ["q_turned", "k_turned"], ["scores"], "scores"),
        helper.make_node("Mul", ["scores", scale_by], ["scaled"], "scaled"),
        helper.make_node("Add", ["scaled", "bias"], ["masked"], "masked"),
        helper.make_node("Softmax", ["masked"], ["weights"], "softmax", axis=softmax_axis),
        helper.make_node("MatMul", ["weights", "v_turned"], ["context"], "context"),
        helper.make_node("Transpose", ["context"], ["turned"], "turned", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["turned", "flat"], ["out"], "out"),
    ]
    constants = {f"w_{n}": RNG.normal(size=(WIDTH, WIDTH)).astype(np.float32) for n in "qkv"}
    constants |= {f"b_{n}": RNG.normal(size=WIDTH).astype(np.float32) for n in biases}
    graph = make_graph(
        nodes,
        [value_info("x", TensorProto.FLOAT, "n", "t", WIDTH), value_info("y", TensorProto.FLOAT, "n", "t", WIDTH),
         value_info("bias", TensorProto.FLOAT, "n", 1, 1, "t")],
        [value_info("out", TensorProto.FLOAT, "n", "s", WIDTH),
         *(value_info(name, TensorProto.FLOAT, "n", HEADS, "s", "t") for name in more_outputs)],
        zeros=np.array([0]), ones=np.array([1]), token_axis=np.array([1]), heads=np.array([0, -1, HEADS, HEAD_WIDTH]),
        one_query=np.array([-1, 1, HEADS, HEAD_WIDTH]), flat=np.array([0, -1, WIDTH]),
        factor=np.float32(0.5), factors=np.full((1, 1, 1, TOKENS), 0.5, np.float32),
        **constants,
    )  # fmt: skip
    weights = {name: content.astype(np.float64) for name, content in constants.items()}
    return graph, {f"b_{n}": np.zeros(WIDTH) for n in "qkv"} | weights


def inputs():
    mask = np.where(np.arange(TOKENS) < np.array([[5], [2], [4]]), 0, -1e9).astype(np.float32)
    x, y = RNG.normal(size=(2, TEXTS, TOKENS, WIDTH)).astype(np.float32)
    return {"x": x, "y": y, "bias": mask[:, None, None]}


def by_hand(weights, x, y, bias):
    """Attention of the first token, head by head, in float64."""
    out = np.zeros((TEXTS, 1, WIDTH))
    for text in range(TEXTS):
        for start in range(0, WIDTH, HEAD_WIDTH):
            unit = slice(start, start + HEAD_WIDTH)
            q = x[text, 0] @ weights["w_q"][:, unit] + weights["b_q"][unit]
            k = x[text] @ weights["w_k"][:, unit] + weights["b_k"][unit]
            v = x[text] @ weights["w_v"][:, unit] + weights["b_v"][unit]
            likely = np.exp(0.5 * k @ q + bias[text, 0, 0])
            out[text, 0, unit] = likely / likely.sum() @ v
    return out


@pytest.mark.parametrize("biases", ["qkv", "q", ""])
def test_a_single_query_needs_neither_keys_nor_values(biases):
    graph, weights = attention(biases=biases)
    values = inputs()
    np.testing.assert_allclose(run_graph(graph, **values), by_hand(weights, **values), atol=1e-5)
    assert shorten_first_token_attention(graph) == 1
    np.testing.assert_allclose(run_graph(graph, **values), by_hand(weights, **values), atol=1e-5)
    assert not {"w_k", "w_v", "b_k"} & set(initializers(graph))  # softmax does not see the keys' bias


def test_the_axis_of_the_softmax_may_be_counted_from_the_front():
    graph, weights = attention(softmax_axis=3)
    values = inputs()
    assert shorten_first_token_attention(graph) == 1
    np.testing.assert_allclose(run_graph(graph, **values), by_hand(weights, **values), atol=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        {"queries": 5},
        {"scale_by": "factors"},
        {"values_of": "y"},
        {"softmax_axis": 1},
        {"more_outputs": ["scores"]},
        {"more_outputs": ["weights"]},
    ],
    ids=[
        "many queries",
        "scaled key by key",
        "values of other tokens",
        "softmax of heads",
        "scores read",
        "weights read",
    ],
)
def test_attention_of_another_form_stays_as_it_is(other):
    graph, _ = attention(**other)
    before = graph.SerializeToString()
    assert shorten_first_token_attention(graph) == 0
    assert graph.SerializeToString() == before


@pytest.mark.parametrize(("name", "perm"), [("q", [0, 2, 3, 1]), ("k", [0, 3, 2, 1]), ("v", [2, 0, 1, 3])])
def test_heads_transposed_in_another_order_stay_as_they_are(name, perm):
    """Such a graph computes no attention, and may not even run; the rewrite must not take it for one."""
    graph, _ = attention()
    transpose = next(node for node in graph.node if node.name == f"{name}_turned")
    del transpose.attribute[:]
    transpose.attribute.append(helper.make_attribute("perm", perm))
    assert shorten_first_token_attention(graph) == 0


def test_weights_are_stored_head_by_head():
    graph, weights = attention()
    shorten_first_token_attention(graph)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for head in range(HEADS):
        unit = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
        np.testing.assert_allclose(stored["keys_by_head"][head], weights["w_k"][:, unit].T)
        np.testing.assert_allclose(stored["values_by_head"][head], weights["w_v"][:, unit])
