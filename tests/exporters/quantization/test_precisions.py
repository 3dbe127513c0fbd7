"""The table of precisions, held together with the files of a bundle."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.exporters.quantization.activations import Activation
from amalgam_edge.exporters.quantization.int8 import Int8Settings, quantize_to_int8
from amalgam_edge.exporters.quantization.precisions import PRECISIONS
from amalgam_edge.exporters.quantization.weight_only import write_fp16, write_q4, write_w8
from amalgam_edge.runtime.bundle import MODEL_FILES

SETTINGS = Int8Settings("some int8", calibrated=True, gptq_rounding=True)
ALL = Activation(np.ones(32), np.eye(32))


def test_the_bundle_has_a_file_for_each_precision():
    assert {name: f"onnx/model{row.file_suffix}.onnx" for name, row in PRECISIONS.items()} == MODEL_FILES
    assert list(PRECISIONS) == list(MODEL_FILES)


def test_file_names_are_those_that_transformers_js_and_optimum_know():
    """https://huggingface.co/docs/transformers.js/guides/dtypes: fp32, int8 and fp16 are found by these suffixes."""
    assert [PRECISIONS[name].file_suffix for name in ("fp32", "int8", "fp16")] == ["", "_quantized", "_fp16"]


def test_a_build_without_a_budget_makes_the_first_two():
    assert [name for name, row in PRECISIONS.items() if row.write is None] == ["fp32", "int8"]


@pytest.mark.parametrize(
    ("name", "description"),
    [
        ("fp16", "half floats"),
        ("w8", "8-bit weights by blocks of 32"),
        ("q4", "4-bit weights by blocks of 32"),
        ("int8-pq", "some int8, tokens by product quantization"),
    ],
)
def test_each_writer_leaves_the_float_model_alone_and_says_what_it_did(toy, tmp_path, name, description):
    source = toy()
    before = source.read_bytes()
    assert PRECISIONS[name].write(source, tmp_path / "m.onnx", SETTINGS, {"bag": ALL}) == description
    assert source.read_bytes() == before
    assert (tmp_path / "m.onnx").read_bytes() != before


@pytest.mark.parametrize(("name", "write"), [("fp16", write_fp16), ("w8", write_w8), ("q4", write_q4)])
def test_precisions_without_calibration_are_what_their_name_says(toy, tmp_path, name, write):
    source = toy()
    PRECISIONS[name].write(source, tmp_path / "table.onnx", SETTINGS, {})
    write(source, tmp_path / "direct.onnx")
    assert (tmp_path / "table.onnx").read_bytes() == (tmp_path / "direct.onnx").read_bytes()


def large_table(path):
    """A look-up in a table that is large enough for product quantization, under one product."""
    rng = np.random.default_rng(0)
    weights = {"table": rng.normal(size=(1100, 32)), "w": rng.normal(size=(32, 4))}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["bag"], "look_up"),
            helper.make_node("MatMul", ["bag", "w"], ["logits"], "w"),
        ],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "t"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", "t", 4])],
        [numpy_helper.from_array(value.astype(np.float32), key) for key, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def test_int8_pq_is_the_accepted_int8_model_with_other_tables(tmp_path):
    large_table(tmp_path / "float.onnx")
    PRECISIONS["int8-pq"].write(tmp_path / "float.onnx", tmp_path / "pq.onnx", SETTINGS, {"bag": ALL})
    quantize_to_int8(tmp_path / "float.onnx", tmp_path / "int8.onnx", SETTINGS, {"bag": ALL})
    pq, int8 = (
        {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / f"{name}.onnx").graph.initializer}
        for name in ("pq", "int8")
    )
    assert {"table_codes", "table_codebook_rows"} <= pq.keys()  # the codebook is stored in int8 rows itself
    assert {"table_rows", "table_scales"} <= int8.keys()
    np.testing.assert_array_equal(pq["w_quantized"], int8["w_quantized"])
