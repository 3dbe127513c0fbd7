"""Rewrites of real architectures' graphs: which are found, and that the answers stay the same."""

import numpy as np
import onnx
import onnxruntime
import pytest

from amalgam_edge.exporters.quantization.int8 import INT8_LADDER, quantize_to_int8
from amalgam_edge.exporters.rewrites.fused_attention import fuse_attention
from amalgam_edge.exporters.rewrites.padding_mask import PADDING_MASK
from amalgam_edge.exporters.selection.fused_kernels import fused_kernels
from tests.support import tiny
from tests.support.exact_openvino import compile_exactly
from tests.support.graphs import run_student

# Architectures in whose last layer nothing stands between tokens and keys.
SHORTENED = {"bert", "distilbert", "roberta", "xlm-roberta", "mpnet", "electra", "albert", "camembert"}
FUSED = SHORTENED - {"mpnet"}  # MPNet adds a bias of relative positions to the scores
RNG = np.random.default_rng(0)
IDS = RNG.integers(5, 390, (4, 11))
MASK = (np.arange(11) < np.array([[11], [1], [6], [10]])).astype(np.int64)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_each_rewrite_finds_its_pattern(exports, architecture):
    """A rewrite that no longer finds its pattern would go unnoticed: all answers stay right without it."""
    model = onnx.load(exports(architecture).path)
    names = [node.name for node in model.graph.node]
    assert (PADDING_MASK in names) == (architecture != "deberta-v2")
    assert any(name.endswith("_reach") for name in names) == (architecture in SHORTENED)
    assert fuse_attention(model) == (architecture in FUSED)  # of two layers, the last is the first token's


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_the_type_that_every_token_has_costs_no_look_up(exports, architecture):
    """Its row is folded into the token table, through whatever operations tracing leaves between the two."""
    graph = onnx.load(exports(architecture).path).graph
    assert not any("token_type" in tensor.name for tensor in graph.initializer)


@pytest.mark.parametrize("architecture", sorted(FUSED))
def test_fused_attention_answers_as_before(exports, architecture, tmp_path):
    model = onnx.load(exports(architecture).path)
    fuse_attention(model)
    onnx.save(model, tmp_path / "fused.onnx")
    expected = run_student(exports(architecture).path, IDS, MASK)
    np.testing.assert_allclose(run_student(tmp_path / "fused.onnx", IDS, MASK), expected, atol=1e-5)


def test_openvino_runs_the_fused_attention(exports, tmp_path):
    model = onnx.load(exports("bert").path)
    assert fuse_attention(model) == 1
    onnx.save(model, tmp_path / "fused.onnx")
    expected = run_student(exports("bert").path, IDS, MASK)
    np.testing.assert_allclose(compile_exactly(tmp_path / "fused.onnx")([IDS, MASK])["logits"], expected, atol=1e-4)


def test_fused_attention_has_the_heads_and_the_scale_of_the_model(exports):
    model = onnx.load(exports("bert").path)
    fuse_attention(model)
    (fused,) = [node for node in model.graph.node if node.op_type == "MultiHeadAttention"]
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in fused.attribute}
    assert attributes == {"num_heads": 2, "scale": pytest.approx(1 / np.sqrt(32 / 2))}
    assert [(opset.domain, opset.version) for opset in model.opset_import][-1] == ("com.microsoft", 1)


def test_no_slower_kernel_is_fused_from_a_quantized_models_residuals(exports, tmp_path):
    quantize_to_int8(exports("bert").path, tmp_path / "sum.onnx", INT8_LADDER[0])
    model = onnx.load(tmp_path / "sum.onnx")
    sums = [node for node in model.graph.node if node.op_type == "Sum"]
    assert len(sums) == 5  # of the embeddings, and two a layer
    assert "SkipLayerNormalization" not in fused_kernels(tmp_path / "sum.onnx")
    for node in sums:
        node.op_type = "Add"
    onnx.save(model, tmp_path / "add.onnx")
    assert fused_kernels(tmp_path / "add.onnx")["SkipLayerNormalization"] >= 2
    feed = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
    with_sum, with_add = (
        onnxruntime.InferenceSession(tmp_path / f"{name}.onnx", disabled_optimizers=["SkipLayerNormFusion"])
        for name in ("sum", "add")
    )
    np.testing.assert_array_equal(with_sum.run(["logits"], feed)[0], with_add.run(["logits"], feed)[0])
