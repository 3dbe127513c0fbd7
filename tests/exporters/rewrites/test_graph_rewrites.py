"""Rewrites of students' graphs, against the graphs as they were traced and against numpy in float64."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.exporters.quantization.quantization import LADDER, quantize
from amalgam_edge.exporters.rewrites.constant_rows import fold_constant_rows
from amalgam_edge.exporters.rewrites.first_token_attention import shorten_first_token_attention
from amalgam_edge.exporters.rewrites.fused_attention import fuse_attention
from amalgam_edge.exporters.rewrites.fused_kernels import fused_kernels
from amalgam_edge.exporters.rewrites.graphs import GraphIndex, add_constant, replace_nodes
from amalgam_edge.exporters.rewrites.plain_mask import PLAIN_MASK, make_mask_plain
from tests.support import tiny
from tests.support.exact_openvino import compile_exactly

SHORT = {"bert", "distilbert", "roberta", "xlm-roberta", "mpnet", "electra", "albert", "camembert"}
RNG = np.random.default_rng(0)


def value(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, list(shape))


def graph_of(nodes, inputs, outputs, **constants):
    weights = [numpy_helper.from_array(np.asarray(content), name) for name, content in constants.items()]
    return helper.make_graph(nodes, "g", inputs, outputs, weights)


def run(graph, **feed):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


# Of real architectures


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_what_is_rewritten_of_each_architecture(exports, architecture):
    """A rewrite that no longer finds its pattern would go unseen: all answers stay right without it."""
    model = onnx.load(exports(architecture).path)
    names = [node.name for node in model.graph.node]
    assert (PLAIN_MASK in names) == (architecture != "deberta-v2")
    assert any(name.endswith("_reach") for name in names) == (architecture in SHORT)
    assert fuse_attention(model) == (architecture in SHORT - {"mpnet"})  # of two layers, the last is the first token's


@pytest.mark.parametrize("architecture", sorted(SHORT - {"mpnet"}))
def test_fused_attention_answers_alike(exports, architecture):
    model = onnx.load(exports(architecture).path)
    ids = RNG.integers(5, 390, (4, 11))
    mask = (np.arange(11) < np.array([[11], [1], [6], [10]])).astype(np.int64)
    expected, found = [], []
    for answers in (expected, found):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        answers.append(session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0])
        fuse_attention(model)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)


def test_other_runtimes_know_the_fused_attention(exports, tmp_path):
    model = onnx.load(exports("bert").path)
    assert fuse_attention(model) == 1
    onnx.save(model, tmp_path / "fused.onnx")
    ids = RNG.integers(5, 390, (2, 7))
    mask = np.array([[1] * 7, [1] * 4 + [0] * 3])
    session = onnxruntime.InferenceSession(exports("bert").path, providers=["CPUExecutionProvider"])
    expected = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
    compiled = compile_exactly(tmp_path / "fused.onnx")
    np.testing.assert_allclose(compiled([ids, mask])["logits"], expected, atol=1e-4)


def test_what_onnx_runtime_fuses_is_told(exports, tmp_path):
    found = fused_kernels(exports("bert").path)
    assert found["BiasGelu"] == 2  # of each layer
    assert "MultiHeadAttention" not in found
    assert "SkipLayerNormalization" not in found  # it would be slower
    quantize(exports("bert").path, tmp_path / "q.onnx", LADDER[0])
    found = fused_kernels(tmp_path / "q.onnx")
    assert found["MultiHeadAttention"] == 1
    assert found["DynamicQuantizeMatMul"] + found.get("MatMulIntegerToFloat", 0) >= 8
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_no_slower_kernel_is_made_of_a_quantized_models_residuals(exports, tmp_path):
    quantize(exports("bert").path, tmp_path / "apart.onnx", LADDER[0])
    model = onnx.load(tmp_path / "apart.onnx")
    sums = [node for node in model.graph.node if node.op_type == "Sum"]
    assert len(sums) == 5  # of the embeddings, and two a layer
    assert "SkipLayerNormalization" not in fused_kernels(tmp_path / "apart.onnx")
    for node in sums:
        node.op_type = "Add"
    onnx.save(model, tmp_path / "together.onnx")
    assert fused_kernels(tmp_path / "together.onnx")["SkipLayerNormalization"] >= 2
    ids = RNG.integers(5, 390, (4, 11))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    with_sum, with_add = (
        onnxruntime.InferenceSession(tmp_path / f"{name}.onnx", disabled_optimizers=["SkipLayerNormFusion"])
        for name in ("apart", "together")
    )
    np.testing.assert_array_equal(with_sum.run(["logits"], feed)[0], with_add.run(["logits"], feed)[0])


# Rows that every token gets


def embeddings(kinds, *, twice=False):
    """Token vectors plus those of kinds, which are gathered from a buffer as tracing leaves them."""
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["size"], "size"),
        helper.make_node("Expand", ["kinds", "size"], ["kind_ids"], "expand"),
        helper.make_node("Gather", ["words", "input_ids"], ["vectors"], "look_up"),
        helper.make_node("Gather", ["types", "kind_ids"], ["of_kinds"], "look_up_kinds"),
        helper.make_node("Add", ["vectors", "of_kinds"], ["sum"], "add"),
        helper.make_node("Add", ["sum", "vectors" if twice else "sum"], ["out"], "out"),
    ]
    words, types = (RNG.normal(size=shape).astype(np.float32) for shape in ((9, 4), (2, 4)))
    graph = graph_of(
        nodes,
        [value("input_ids", TensorProto.INT64, "n", "t")],
        [value("out", TensorProto.FLOAT, "n", "t", 4)],
        words=words, types=types, kinds=np.array(kinds),
    )  # fmt: skip
    return graph, words, types


@pytest.mark.parametrize("kind", [0, 1])
def test_a_row_of_every_token_goes_into_the_table(kind):
    graph, words, types = embeddings([kind, kind, kind])
    assert fold_constant_rows(graph) == 1
    assert [node.op_type for node in graph.node] == ["Gather", "Identity", "Add"]
    assert {tensor.name for tensor in graph.initializer} == {"words"}
    ids = np.array([[1, 2, 8]])
    np.testing.assert_allclose(run(graph, input_ids=ids), 2 * (words[ids] + types[kind]), rtol=1e-6)


@pytest.mark.parametrize(("kinds", "twice"), [([0, 1, 0], False), ([0, 0, 0], True)])
def test_rows_that_differ_or_tables_that_others_read_stay(kinds, twice):
    graph, words, types = embeddings(kinds, twice=twice)
    assert fold_constant_rows(graph) == 0
    ids = np.array([[1, 2, 8]])
    total = words[ids] + types[kinds]
    np.testing.assert_allclose(run(graph, input_ids=ids), total + (words[ids] if twice else total), rtol=1e-6)


# The mask


def masked(*nodes, of="mask"):
    """scores + mask, where these nodes make the mask of ``attention_mask``."""
    return graph_of(
        [*nodes, helper.make_node("Add", ["scores", of], ["out"], "add")],
        [value("attention_mask", TensorProto.INT64, "n", "t"), value("input_ids", TensorProto.INT64, "n", "t"),
         value("scores", TensorProto.FLOAT, "n", 2, "t", "t")],
        [value("out", TensorProto.FLOAT, "n", 2, "t", "t")],
        one=np.float32(1), low=np.float32(-1e9), axes=np.array([1, 2]), zero=np.float32(0), pad=np.array(0),
    )  # fmt: skip


ARITHMETIC = (
    helper.make_node("Cast", ["attention_mask"], ["cast"], "cast", to=TensorProto.FLOAT),
    helper.make_node("Sub", ["one", "cast"], ["off"], "off"),
    helper.make_node("Mul", ["off", "low"], ["lows"], "lows"),
    helper.make_node("Unsqueeze", ["lows", "axes"], ["mask"], "mask"),
)
# Query times key: padding as a query sees nothing either.
SQUARE = (
    helper.make_node("Cast", ["attention_mask"], ["cast"], "cast", to=TensorProto.FLOAT),
    helper.make_node("Unsqueeze", ["cast", "axes"], ["keys"], "keys"),
    helper.make_node("Transpose", ["keys"], ["queries"], "queries", perm=[0, 1, 3, 2]),
    helper.make_node("Mul", ["keys", "queries"], ["both"], "both"),
    helper.make_node("Sub", ["one", "both"], ["off"], "off"),
    helper.make_node("Mul", ["off", "low"], ["mask"], "mask"),
)
# Padding known by its token.
BY_TOKEN = (
    helper.make_node("Equal", ["input_ids", "pad"], ["is_pad"], "is_pad"),
    helper.make_node("Where", ["is_pad", "low", "zero"], ["lows"], "lows"),
    helper.make_node("Unsqueeze", ["lows", "axes"], ["mask"], "mask"),
)


def test_a_mask_is_found_by_what_it_computes():
    graph = masked(*ARITHMETIC)
    assert make_mask_plain(graph, 18)
    assert [node.op_type for node in graph.node] == ["Cast", "Unsqueeze", "Where", "Add"]
    scores = RNG.normal(size=(2, 2, 3, 3)).astype(np.float32)
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    found = run(graph, scores=scores, attention_mask=mask, input_ids=mask)
    np.testing.assert_allclose(found, scores + np.where(mask, 0, -1e9).astype(np.float32)[:, None, None], rtol=1e-6)


@pytest.mark.parametrize("nodes", [SQUARE, BY_TOKEN], ids=["square", "by token"])
def test_another_mask_is_left_alone(nodes):
    graph = masked(*nodes)
    before = graph.SerializeToString()
    assert not make_mask_plain(graph, 18)
    assert graph.SerializeToString() == before


# Attention of the first token

TEXTS, TOKENS, WIDTH, HEADS = 3, 5, 8, 2


def attention(*, queries=1, scale_by="factor", values_of="x", mask=True):
    """Attention as it is traced; ``q`` has one row of the tokens."""
    head = WIDTH // HEADS
    first = helper.make_node("Slice", ["x", "zeros", "ones", "ones"], ["q"], "slice")
    nodes = [first] if queries == 1 else [helper.make_node("Identity", ["x"], ["q"], "all")]
    for name, source, order in (("q", "q", "q"), ("k", "x", "k"), ("v", values_of, "v")):
        shape = "one_query" if name == "q" and queries == 1 else "heads"
        perm = [0, 2, 3, 1] if order == "k" else [0, 2, 1, 3]
        nodes += [
            helper.make_node("MatMul", [source, f"w_{name}"], [f"{name}_product"], f"{name}_product"),
            helper.make_node("Add", [f"{name}_product", f"b_{name}"], [f"{name}_linear"], f"{name}_linear"),
            helper.make_node("Reshape", [f"{name}_linear", shape], [f"{name}_heads"], f"{name}_reshape"),
            helper.make_node("Transpose", [f"{name}_heads"], [f"{name}_turned"], f"{name}_turned", perm=perm),
        ]
    nodes += [
        helper.make_node("MatMul", ["q_turned", "k_turned"], ["scores"], "scores"),
        helper.make_node("Mul", ["scores", scale_by], ["scaled"], "scaled"),
        helper.make_node("Add", ["scaled", "bias" if mask else "nothing"], ["masked"], "masked"),
        helper.make_node("Softmax", ["masked"], ["weights"], "softmax", axis=-1),
        helper.make_node("MatMul", ["weights", "v_turned"], ["context"], "context"),
        helper.make_node("Transpose", ["context"], ["turned"], "turned", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["turned", "flat"], ["out"], "out"),
    ]
    constants = {f"w_{n}": RNG.normal(size=(WIDTH, WIDTH)).astype(np.float32) for n in "qkv"}
    constants |= {f"b_{n}": RNG.normal(size=WIDTH).astype(np.float32) for n in "qkv"}
    graph = graph_of(
        nodes,
        [value("x", TensorProto.FLOAT, "n", "t", WIDTH), value("y", TensorProto.FLOAT, "n", "t", WIDTH),
         value("bias", TensorProto.FLOAT, "n", 1, 1, "t")],
        [value("out", TensorProto.FLOAT, "n", "s", WIDTH)],
        zeros=np.array([0]), ones=np.array([1]), heads=np.array([0, -1, HEADS, head]),
        one_query=np.array([-1, 1, HEADS, head]), flat=np.array([0, -1, WIDTH]),
        factor=np.float32(0.5), factors=np.full((1, 1, 1, TOKENS), 0.5, np.float32), nothing=np.float32(0),
        **constants,
    )  # fmt: skip
    # the slice runs along the tokens
    if queries == 1:
        graph.initializer.append(numpy_helper.from_array(np.array([1]), "token_axis"))
        graph.node[0].input[3] = "token_axis"
    return graph, {name: content.astype(np.float64) for name, content in constants.items()}


def feed():
    mask = np.where(np.arange(TOKENS) < np.array([[5], [2], [4]]), 0, -1e9).astype(np.float32)
    x, y = RNG.normal(size=(2, TEXTS, TOKENS, WIDTH)).astype(np.float32)
    return {"x": x, "y": y, "bias": mask[:, None, None]}


def by_hand(weights, x, y, bias):
    """Attention of the first token, head by head, in float64."""
    out = np.zeros((TEXTS, 1, WIDTH))
    head = WIDTH // HEADS
    for text in range(TEXTS):
        for start in range(0, WIDTH, head):
            unit = slice(start, start + head)
            q = x[text, 0] @ weights["w_q"][:, unit] + weights["b_q"][unit]
            k = x[text] @ weights["w_k"][:, unit] + weights["b_k"][unit]
            v = x[text] @ weights["w_v"][:, unit] + weights["b_v"][unit]
            likely = np.exp(0.5 * k @ q + bias[text, 0, 0])
            out[text, 0, unit] = likely / likely.sum() @ v
    return out


def test_a_single_query_needs_neither_keys_nor_values():
    graph, weights = attention()
    inputs = feed()
    assert shorten_first_token_attention(graph) == 1
    np.testing.assert_allclose(run(graph, **inputs), by_hand(weights, **inputs), atol=1e-5)
    names = {tensor.name for tensor in graph.initializer}
    assert "w_k" not in names
    assert "w_v" not in names
    assert "b_k" not in names  # a constant that softmax does not see


@pytest.mark.parametrize(
    "other", [{"queries": 5}, {"scale_by": "factors"}, {"values_of": "y"}], ids=["queries", "scaled by key", "values"]
)
def test_attention_of_another_form_is_left_alone(other):
    graph, _ = attention(**other)
    before = graph.SerializeToString()
    assert shorten_first_token_attention(graph) == 0
    assert graph.SerializeToString() == before


# Finding one's way


def test_a_name_that_is_taken_is_not_taken_twice():
    graph, _, _ = embeddings([0])
    assert add_constant(graph, np.zeros(1), "words") == "words_1"
    assert add_constant(graph, np.zeros(1), "words") == "words_2"


def test_readers_producers_and_constants():
    graph, words, _ = embeddings([0])
    index = GraphIndex(graph)
    assert index.producer("vectors").name == "look_up"
    assert index.producer("vectors", "MatMul") is None
    assert index.producer("input_ids") is None
    assert [node.name for node in index.readers("sum")] == ["out", "out"]
    assert index.only_reader("sum", "Add") is None
    assert index.only_reader("of_kinds", "Add").name == "add"
    assert index.only_reader("out", "Add") is None
    np.testing.assert_array_equal(index.constant("words"), words)
    assert index.constant("sum") is None
    assert index.scalar("kinds") == 0
    assert index.scalar("words") is None


def test_what_nobody_reads_any_more_goes():
    graph, words, _ = embeddings([0])
    replace_nodes(graph, {"sum": [helper.make_node("Neg", ["vectors"], ["sum"], "neg")]})
    assert [node.name for node in graph.node] == ["look_up", "neg", "out"]
    assert [tensor.name for tensor in graph.initializer] == ["words"]
    np.testing.assert_allclose(run(graph, input_ids=np.array([[3]])), -2 * words[[[3]]], rtol=1e-6)
