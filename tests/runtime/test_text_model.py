import json

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime import text_model
from amalgam_edge.runtime.text_model import TextModel
from amalgam_edge.storage.own_files import FileContent
from tests.support import tiny

PAD = 1


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """A model whose logits are: sum of the unmasked ids, their number, width of the batch, largest masked id."""
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "axis"], ["total"], keepdims=1),
        helper.make_node("ReduceSum", ["attention_mask", "axis"], ["count"], keepdims=1),
        helper.make_node("Mul", ["count", "zero"], ["nothing"]),
        helper.make_node("Shape", ["input_ids"], ["width"], start=1),
        helper.make_node("Add", ["nothing", "width"], ["widths"]),
        helper.make_node("ReduceMax", ["masked_out", "axis"], ["pads"], keepdims=1),
        helper.make_node("Sub", ["one", "attention_mask"], ["hidden"]),
        helper.make_node("Mul", ["input_ids", "hidden"], ["masked_out"]),
        helper.make_node("Concat", ["total", "count", "widths", "pads"], ["all"], axis=1),
        helper.make_node("Cast", ["all"], ["logits"], to=TensorProto.FLOAT),
    ]
    nodes.insert(6, nodes.pop(8))
    nodes.insert(6, nodes.pop(8))  # topological order: hidden, masked_out, pads
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["n", "t"]) for n in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [
            numpy_helper.from_array(np.array([1]), "axis"),
            numpy_helper.from_array(np.array([0]), "zero"),
            numpy_helper.from_array(np.array([1]), "one"),
        ],
    )
    path = tmp_path_factory.mktemp("probe") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return path


def opened(model, tokenizer, **options):
    return TextModel(FileContent.read(model), FileContent.read(tokenizer), **options)


@pytest.fixture(scope="module")
def model(probe, tokenizer_folder):
    return opened(probe, tokenizer_folder / "tokenizer.json", max_length=20, pad_token_id=PAD, threads=1)


def expected(tokenizer, texts):
    ids = [tokenizer(text, truncation=True, max_length=20)["input_ids"] for text in texts]
    return [sum(row) for row in ids], [len(row) for row in ids]


def test_tokens_are_those_of_transformers(model, tokenizer):
    logits, _ = model.run(tiny.TEXTS)
    totals, lengths = expected(tokenizer, tiny.TEXTS)
    assert logits[:, 0].tolist() == totals
    assert logits[:, 1].tolist() == lengths


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1, max_size=9), batch=st.integers(1, 10)
)
def test_logits_keep_the_order_of_the_texts(model, tokenizer, texts, batch):
    logits, truncated = model.run(texts, batch_size=batch)
    totals, lengths = expected(tokenizer, texts)
    assert logits[:, 0].tolist() == totals
    assert logits[:, 1].tolist() == lengths
    assert truncated.tolist() == [len(tokenizer(text)["input_ids"]) > 20 for text in texts]


def test_texts_of_similar_length_run_together_and_batches_are_no_wider_than_needed(model, tokenizer):
    texts = list(tiny.TEXTS)
    logits, _ = model.run(texts, batch_size=4)
    lengths, widths = np.array(expected(tokenizer, texts)[1]), logits[:, 2]
    assert (widths >= lengths).all()
    assert set(widths) <= set(lengths)
    longest_first = np.argsort(-lengths, kind="stable")
    assert (np.diff(widths[longest_first]) <= 0).all()
    as_given = np.repeat(np.maximum.reduceat(lengths, np.arange(0, len(texts), 4)), 4)[: len(texts)]
    assert (widths - lengths).sum() < (as_given - lengths).sum()


def test_padding_is_the_padding_token_and_masked(model):
    logits, _ = model.run(["x", "a longer text with more words"], batch_size=32)
    assert logits[0, 3] == PAD
    assert logits[1, 3] == 0


def test_truncation_and_padding_in_the_tokenizer_file_are_ignored(probe, tokenizer_folder, tmp_path, tokenizer):
    content = json.loads((tokenizer_folder / "tokenizer.json").read_text("utf-8"))
    content["truncation"] = {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[UNK]",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    model = opened(probe, tmp_path / "tokenizer.json", max_length=20, pad_token_id=PAD)
    logits, _ = model.run(tiny.TEXTS)
    assert (logits[:, 0].tolist(), logits[:, 1].tolist()) == expected(tokenizer, tiny.TEXTS)


def test_an_empty_text_without_special_tokens_is_padded_to_one_token(probe, tokenizer_folder, tmp_path):
    content = json.loads((tokenizer_folder / "tokenizer.json").read_text("utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps({**content, "post_processor": None}), "utf-8")
    model = opened(probe, tmp_path / "tokenizer.json", max_length=20, pad_token_id=PAD)
    assert model.run([""])[0].tolist() == [[0, 0, 1, PAD]]


def test_no_texts_are_refused(model):
    with pytest.raises(AmalgamError, match="no texts"):
        model.run([])


@pytest.mark.parametrize("content", ["", "{}", "not json", "[1]"])
def test_content_that_is_no_tokenizer_is_refused(probe, tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content, "utf-8")
    with pytest.raises(AmalgamError, match="cannot be read as a tokenizer"):
        opened(probe, tmp_path / "tokenizer.json", max_length=20, pad_token_id=PAD)


def test_a_missing_tokenizer_is_refused(probe, tmp_path):
    with pytest.raises(AmalgamError, match="tokenizer"):
        opened(probe, tmp_path / "nowhere.json", max_length=20, pad_token_id=PAD)


def test_without_a_batch_size_texts_run_in_the_batches_of_a_classifier(model, monkeypatch):
    """int8 logits depend a little on the other texts in a batch, so what is measured has to run as what ships."""
    sizes = []
    split = text_model.split_by_length
    monkeypatch.setattr(text_model, "split_by_length", lambda lengths, size: sizes.append(size) or split(lengths, size))
    model.run(["x"])
    model.answer(model.tokenize(["x"]))
    assert len(list(model.outputs(["x"], ["logits"]))) == 1
    assert sizes == [32, 32, 32]
