"""Static students as ONNX, float and int8, against numpy in float64."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from amalgam_edge.exporters import static_export
from amalgam_edge.exporters.quantization.int8 import INT8_LADDER, Int8Settings, quantizable_products
from amalgam_edge.exporters.static_export import export_int8_static_student, int8_ladder, int8_tables_only
from amalgam_edge.exporters.student_export import export_student
from amalgam_edge.heads import Heads
from amalgam_edge.models.static_student import StaticConfig, StaticStudent

N_TOKENS, WIDTH, N_LABELS = 300, 24, 5
HEADS = Heads.of_labels("abcde")


@pytest.fixture(scope="module")
def student():
    """A static student with random weights of many sizes. Read only."""
    torch.manual_seed(0)
    model = StaticStudent(StaticConfig(vocab_size=N_TOKENS, width=WIDTH, num_labels=N_LABELS))
    with torch.no_grad():
        model.table.weight.normal_().mul_(torch.logspace(-2, 2, N_TOKENS)[:, None])
        model.log_weight.weight.normal_()
        model.classifier.weight.normal_()
    return model.eval()


@pytest.fixture(scope="module")
def files(student, tmp_path_factory):
    """The float and the quantized export. Read only."""
    folder = tmp_path_factory.mktemp("static")
    export_student(student, folder / "float.onnx")
    export_int8_static_student(student, folder / "int8.onnx", HEADS)
    assert {path.name for path in folder.iterdir()} == {"float.onnx", "int8.onnx"}
    return folder / "float.onnx", folder / "int8.onnx"


def run(path, ids, mask):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]


def batch(n_texts, n_tokens, seed=0):
    rng = np.random.default_rng(seed)
    mask = (np.arange(n_tokens) < rng.integers(1, n_tokens + 1, n_texts)[:, None]).astype(np.int64)
    return rng.integers(0, N_TOKENS, (n_texts, n_tokens)), mask


def by_hand(student, table, ids, mask):
    """Logits in float64 with another table."""
    weights = np.exp(student.log_weight.weight.detach().double().numpy()[ids, 0]) * mask
    texts = (weights[..., None] * table[ids]).sum(axis=1) / weights.sum(axis=1, keepdims=True)
    head = student.classifier
    return texts @ head.weight.detach().double().numpy().T + head.bias.detach().double().numpy()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (7, 3), (33, 17)])
def test_the_float_model_is_the_weighted_mean(student, files, shape):
    ids, mask = batch(*shape)
    table = student.table.weight.detach().double().numpy()
    np.testing.assert_allclose(run(files[0], ids, mask), by_hand(student, table, ids, mask), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (33, 17)])
def test_the_quantized_model_is_the_mean_of_rounded_rows(student, files, shape):
    ids, mask = batch(*shape, seed=1)
    table = student.table.weight.detach().double().numpy()
    step = np.abs(table).max(axis=1, keepdims=True) / 127
    expected = by_hand(student, np.rint(table / step) * step, ids, mask)
    np.testing.assert_allclose(run(files[1], ids, mask), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_the_files_use_nothing_but_onnx_itself(files):
    for path in files:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
        shapes = {i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
        assert set(shapes) == {"input_ids", "attention_mask"}
        assert all(isinstance(side, str) for shape in shapes.values() for side in shape)
        assert {i.type.tensor_type.elem_type for i in model.graph.input} == {TensorProto.INT64}
        assert model.graph.output[0].name == "logits"


def test_the_head_stays_in_float_and_the_table_does_not(files):
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(files[1]).graph.initializer}
    assert [t.shape for t in tensors.values() if t.dtype == np.int8] == [(N_TOKENS, WIDTH)]
    assert {t.shape for t in tensors.values() if t.dtype == np.float32} >= {(N_TOKENS, 1)}
    assert any(set(t.shape) == {WIDTH, N_LABELS} and t.dtype == np.float32 for t in tensors.values())
    assert not any(node.op_type.endswith("Integer") for node in onnx.load(files[1]).graph.node)
    assert len(int8_tables_only(files[0]).float_nodes) == len(quantizable_products(files[0])) == 1


def test_the_int8_table_is_nearly_all_of_the_file(files):
    assert files[1].stat().st_size < N_TOKENS * (WIDTH + 8) + N_LABELS * (WIDTH + 1) * 4 + 6000


def test_the_gate_tries_int8_tables_on_a_static_student_and_the_ladder_on_others(files):
    assert int8_ladder(files[0], is_static=False) is INT8_LADDER
    (only,) = int8_ladder(files[0], is_static=True)
    assert only == int8_tables_only(files[0])
    assert only == Int8Settings("int8 token vectors", float_nodes=only.float_nodes)


def test_a_failed_export_leaves_no_float_file_behind(student, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("cut off")

    monkeypatch.setattr(static_export, "quantize_to_int8", fail)
    with pytest.raises(RuntimeError, match="cut off"):
        export_int8_static_student(student, tmp_path / "int8.onnx", HEADS)
    assert list(tmp_path.iterdir()) == []
