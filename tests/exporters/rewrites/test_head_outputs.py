"""Heads put into and dropped from graphs made by hand, against numpy."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.rewrites.calibrated_outputs import add_probabilities
from amalgam_edge.exporters.rewrites.head_outputs import (
    HeadLayer,
    drop_head,
    hidden_state,
    put_head,
    reading_hidden_state,
    with_probabilities,
)
from amalgam_edge.heads import Head, Heads

RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, 3)).astype(np.float32)
WEIGHT, BIAS = RNG.normal(size=(3, 4)).astype(np.float32), RNG.normal(size=4).astype(np.float32)
STATES = np.tanh(X).astype(np.float64)
ONE = Heads((Head("label", "softmax", ("a", "b", "c", "d")),))
TWO = Heads((Head("first", "softmax", ("a", "b")), Head("second", "sigmoid", ("c", "d"))))
NEW = Head("new", "softmax", ("p", "q", "r"))
FLAGS = Head("flags", "sigmoid", ("u",))
LAYERS = {head: HeadLayer(RNG.normal(size=(3, len(head))), RNG.normal(size=len(head))) for head in (NEW, FLAGS)}


def student(heads, *, gemm=True):
    """tanh(x) · W + b, as one node or as two."""
    last = [helper.make_node("Gemm", ["h", "w", "b"], ["logits"], "last")]
    if not gemm:
        product = helper.make_node("MatMul", ["h", "w"], ["product"], "product")
        last = [product, helper.make_node("Add", ["product", "b"], ["logits"], "last")]
    nodes = [helper.make_node("Tanh", ["x"], ["h"], "tanh"), *last]
    rows = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])
    weights = [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(BIAS, "b")]
    graph = helper.make_graph(nodes, "student", [rows], [logits], weights)
    add_probabilities(graph, heads)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shapes = {output.name: output.shape[-1] for output in session.get_outputs()}
    outputs = session.run(["logits", "probabilities"], {"x": X})
    assert shapes == {"logits": outputs[0].shape[1], "probabilities": outputs[1].shape[1]}
    return outputs


def put(model, heads, head, position=None):
    """Put a head; the heads that there are then."""
    position = len(heads) if position is None else position
    put_head(model.graph, heads, head, LAYERS[head], hidden_state(model.graph, heads), position)
    after = list(heads.heads)
    after[position : position + 1] = [head]
    return Heads(tuple(after))


def expected(head):
    logits = STATES @ LAYERS[head].weight + LAYERS[head].bias
    return logits, head.probabilities(logits)


@pytest.mark.parametrize("heads", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("gemm", [True, False])
def test_a_new_head_stands_behind_the_others_which_stay_as_they_are(heads, gemm):
    model = student(heads, gemm=gemm)
    before = run(model)
    put(model, heads, NEW)
    for was, now, own in zip(before, run(model), expected(NEW), strict=True):
        assert now[:, :4].tobytes() == was.tobytes()
        np.testing.assert_allclose(now[:, 4:], own, rtol=1e-5, atol=1e-6)


def test_a_head_replaces_another_in_its_place():
    model = student(TWO)
    before = run(model)
    after = put(model, TWO, NEW, 0)
    assert after.names == ("new", "second")
    for was, now, own in zip(before, run(model), expected(NEW), strict=True):
        np.testing.assert_allclose(now[:, :3], own, rtol=1e-5, atol=1e-6)
        assert now[:, 3:].tobytes() == np.ascontiguousarray(was[:, 2:]).tobytes()


def test_heads_are_put_and_dropped_again_and_again_and_leave_nothing_behind():
    model = student(TWO)
    before = run(model)
    size = len(put_and_dropped(model).graph.node)
    assert len(put_and_dropped(model).graph.node) == size
    for was, now in zip(before, run(model), strict=True):
        assert now.tobytes() == was.tobytes()


def put_and_dropped(model):
    heads = put(model, put(model, TWO, NEW), FLAGS)
    drop_head(model.graph, heads, "new")
    drop_head(model.graph, Heads((*TWO.heads, FLAGS)), "flags")
    return model


def test_what_was_built_goes_when_all_of_its_heads_are_dropped():
    model = student(TWO)
    heads = put(model, TWO, NEW)
    for name in ("first", "second"):
        drop_head(model.graph, heads, name)
        heads = Heads(tuple(head for head in heads if head.name != name))
    assert "last" not in {node.name for node in model.graph.node}
    assert {tensor.name for tensor in model.graph.initializer}.isdisjoint({"w", "b"})
    for now, own in zip(run(model), expected(NEW), strict=True):
        np.testing.assert_allclose(now, own, rtol=1e-5, atol=1e-6)
    assert put(model, heads, FLAGS).names == ("new", "flags")


def test_entries_that_a_quantizer_appended_to_the_hidden_state_are_not_read():
    model = student(ONE)
    hidden = hidden_state(model.graph, ONE)
    narrow = HeadLayer(LAYERS[NEW].weight[:2], LAYERS[NEW].bias)
    put_head(model.graph, ONE, NEW, narrow, hidden, 1)
    np.testing.assert_allclose(run(model)[0][:, 4:], STATES[:, :2] @ narrow.weight + narrow.bias, rtol=1e-5, atol=1e-6)


def test_the_hidden_state_can_be_read():
    model = student(TWO)
    heads = put(model, TWO, NEW)
    reading = reading_hidden_state(model, hidden_state(model.graph, heads))
    session = onnxruntime.InferenceSession(reading.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": X})[0], STATES, rtol=1e-6)
    assert len(reading.graph.node) == 2


def test_probabilities_are_added_where_an_early_version_had_none():
    model = student(ONE)
    expected_probabilities = run(model)[1]
    del model.graph.output[1:]
    model.graph.node.pop()
    with_probabilities(model.graph, ONE)
    np.testing.assert_array_equal(run(model)[1], expected_probabilities)


def test_graphs_of_another_form_are_refused():
    model = student(ONE)
    with pytest.raises(AmalgamError, match="its last layer does not read 'pooled'"):
        hidden_state(model.graph, ONE, "pooled")
    wide = HeadLayer(np.zeros((5, 3)), np.zeros(3))
    with pytest.raises(AmalgamError, match="has 3 entries, that of the float model 5"):
        put_head(model.graph, ONE, NEW, wide, hidden_state(model.graph, ONE), 1)
    put(model, ONE, NEW)
    with pytest.raises(AmalgamError, match="it gives 7 logits, and the bundle has 8 labels"):
        drop_head(model.graph, Heads((*ONE.heads, NEW, FLAGS)), "new")
