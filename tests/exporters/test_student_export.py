"""Exported students against torch, on all architectures."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from transformers import AutoConfig, AutoModelForSequenceClassification

import amalgam_edge
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters import student_export
from amalgam_edge.exporters.student_export import export_student
from amalgam_edge.exporters.tracing.to_onnx import to_onnx
from tests.support import tiny


@pytest.fixture(params=tiny.ARCHITECTURES)
def exported(request, exports):
    return exports(request.param)


@pytest.fixture
def bert(exports):
    return exports("bert")


def run_onnx(path, ids, mask):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]


def run_torch(model, ids, mask):
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=mask).logits.numpy()


def draw(model, texts, tokens, padding, seed=0):
    """Random ids without the padding token; text k is padded by ``padding[k]`` at its end."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, model.config.vocab_size, (texts, tokens), generator=generator)
    mask = torch.ones_like(ids)
    for row, count in enumerate(padding):
        if count:
            ids[row, -count:] = model.config.pad_token_id
            mask[row, -count:] = 0
    return ids, mask


@pytest.mark.parametrize(
    ("texts", "tokens", "padding"),
    [(1, 2, [0]), (1, 7, [0]), (2, 12, [0, 0]), (3, 13, [0, 6, 12]), (5, 41, [40, 1, 0, 20, 39]), (7, 4, [3] * 7)],
)
def test_onnx_answers_as_torch_does(exported, texts, tokens, padding):
    ids, mask = draw(exported.model, texts, tokens, padding, seed=tokens)
    found = run_onnx(exported.path, ids, mask)
    assert found.shape == (texts, 3)
    np.testing.assert_allclose(found, run_torch(exported.model, ids, mask), atol=1e-4)


def test_onnx_runs_at_the_longest_length(exported):
    length = 62 if exported.model.config.model_type in ("roberta", "xlm-roberta", "mpnet", "camembert") else 64
    ids, mask = draw(exported.model, 2, length, [0, 9])
    np.testing.assert_allclose(
        run_onnx(exported.path, ids, mask), run_torch(exported.model, ids, mask), atol=1e-4, rtol=1e-4
    )


def test_probabilities_are_the_softmax_of_the_logits(exported):
    ids, mask = draw(exported.model, 3, 9, [0, 2, 5])
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(
        ["logits", "probabilities"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    )
    weights = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(probabilities, weights / weights.sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 2.5])
def test_logits_are_divided_by_the_temperature(bert, tmp_path, temperature):
    ids, mask = draw(bert.model, 3, 9, [0, 2, 5])
    assert export_student(bert.model, tmp_path / "model.onnx", temperature) <= 1e-4
    divided = run_onnx(tmp_path / "model.onnx", ids, mask)
    np.testing.assert_allclose(divided, run_torch(bert.model, ids, mask) / temperature, atol=1e-4)
    assert [n.op_type for n in onnx.load(tmp_path / "model.onnx").graph.node][-2:] == ["Gemm", "Softmax"]


def test_masked_tokens_do_not_matter_and_others_do(exported):
    ids, mask = draw(exported.model, 3, 11, [4, 4, 4])
    before = run_onnx(exported.path, ids, mask)
    garbled = torch.where(mask == 0, (ids + 17) % 390 + 5, ids)
    np.testing.assert_allclose(run_onnx(exported.path, garbled, mask), before, atol=1e-4)
    changed = ids.clone()
    changed[:, 3] = changed[:, 3] % 300 + 50
    assert (np.abs(run_onnx(exported.path, changed, mask) - before).max(axis=1) > 1e-3).all()
    shorter = mask.clone()
    shorter[:, 6] = 0
    assert (np.abs(run_onnx(exported.path, ids, shorter) - before).max(axis=1) > 1e-3).all()


def test_a_text_does_not_depend_on_its_batch(exported):
    ids, mask = draw(exported.model, 4, 15, [0, 3, 10, 14])
    together = run_onnx(exported.path, ids, mask)
    for row in range(4):
        length = int(mask[row].sum())
        alone = run_onnx(exported.path, ids[row : row + 1, :length], mask[row : row + 1, :length])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-4)


def test_inputs_and_outputs_have_the_names_that_others_expect(exported):
    graph = onnx.load(exported.path).graph
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask"]
    assert [value.name for value in graph.output] == ["logits", "probabilities"]
    for value in graph.input:
        assert value.type.tensor_type.elem_type == onnx.TensorProto.INT64
        dims = value.type.tensor_type.shape.dim
        assert [dim.HasField("dim_value") for dim in dims] == [False, False]
    labels = graph.output[0].type.tensor_type.shape.dim
    assert not labels[0].HasField("dim_value")
    assert labels[1].dim_value == 3


def test_the_file_is_whole_and_valid(exported):
    model = onnx.load(exported.path)
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import if opset.domain == ""] == [18]
    assert all(not tensor.external_data for tensor in model.graph.initializer)
    # Beside it lie only the torch model and what the fixture keeps; no external weights.
    assert {path.suffix for path in exported.path.parent.iterdir() if path.is_file()} <= {".onnx", ".txt", ""}


def test_the_file_names_no_source_and_no_folder_of_the_builder(exported):
    model = onnx.load(exported.path)
    assert not model.graph.value_info
    assert not model.functions
    for holder in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input):
        assert not holder.metadata_props
        assert not holder.doc_string
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")  # weights may spell anything
    content = model.SerializeToString()
    checkout = Path(amalgam_edge.__file__).parents[1]
    for word in ("site-packages", ".py", "File ", str(checkout), str(exported.path.parent), str(Path.home()) + "/"):
        assert word.encode() not in content, word


def test_the_returned_difference_is_measured_and_small(exported):
    assert 0.0 < exported.difference <= 1e-4


@pytest.fixture
def damaged(bert, monkeypatch):
    """``damaged(value)``: have the exporter put out a BERT whose head is off by ``value``."""

    def damage(value):
        proto = onnx.load(bert.path)
        del proto.graph.output[1:], proto.graph.node[-1]  # the probabilities, which are added anew
        tensor = next(t for t in proto.graph.initializer if t.name.endswith("classifier.bias"))
        off = numpy_helper.to_array(tensor) + np.array([value, 0, 0], dtype=np.float32)
        tensor.CopyFrom(numpy_helper.from_array(off, tensor.name))
        monkeypatch.setattr(student_export, "to_onnx", lambda model: proto)

    return damage


@pytest.mark.parametrize("value", [1.5e-4, -0.5, float("nan"), float("inf")])
def test_an_export_that_differs_is_refused(bert, damaged, tmp_path, value):
    damaged(value)
    with pytest.raises(AmalgamError, match=r"bert differs from torch by .* \(allowed 0.0001\)"):
        export_student(bert.model, tmp_path / "model.onnx")


def test_an_export_that_hardly_differs_is_let_through_and_measured(bert, damaged, tmp_path):
    damaged(5e-5)
    assert export_student(bert.model, tmp_path / "deep" / "model.onnx") == pytest.approx(5e-5, rel=0.2)
    assert (tmp_path / "deep" / "model.onnx").is_file()


def test_a_model_in_training_mode_is_exported_without_dropout(bert, damaged, tmp_path):
    damaged(0.0)
    bert.model.train()
    assert export_student(bert.model, tmp_path / "model.onnx") <= 1e-4
    assert not bert.model.training


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_attention_implementation_is_restored(bert, tmp_path, monkeypatch, damaged, value):
    damaged(value)
    inner, seen = student_export.to_onnx, []

    def export(model):
        seen.append(model.config._attn_implementation)
        return inner(model)

    monkeypatch.setattr(student_export, "to_onnx", export)
    bert.model.set_attn_implementation("sdpa")
    try:
        if value:
            with pytest.raises(AmalgamError):
                export_student(bert.model, tmp_path / "model.onnx")
        else:
            export_student(bert.model, tmp_path / "model.onnx")
        assert seen == ["eager"]
        assert bert.model.config._attn_implementation == "sdpa"
    finally:
        bert.model.set_attn_implementation("eager")


def test_a_model_that_cannot_be_exported_is_refused_in_one_line(bert, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.onnx.errors.OnnxExporterError("no such operator\nand a page of advice")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(AmalgamError) as refused:
        export_student(bert.model, tmp_path / "model.onnx")
    assert "bert" in str(refused.value)
    assert "no such operator" in str(refused.value)
    assert "advice" not in str(refused.value)


def test_a_failing_export_prints_nothing(capfd):
    """FlauBERT drops whole layers by the throw of a die, which no graph can hold."""
    config = AutoConfig.for_model("flaubert", emb_dim=8, n_layers=1, n_heads=2, n_words=40, layerdrop=0.2, num_labels=2)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").train()
    with pytest.raises(AmalgamError, match="a flaubert cannot be exported"):
        to_onnx(model)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
