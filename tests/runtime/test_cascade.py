from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from amalgam_edge import cores
from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import Heads
from amalgam_edge.runtime import EdgeClassifier, model_runner, text_model
from amalgam_edge.runtime.bundle import STATIC_FILE
from amalgam_edge.runtime.cascade import CascadeModel, is_sure
from amalgam_edge.runtime.manifest import read_manifest, write_manifest
from amalgam_edge.runtime.manifest_models import Cascade, StaticModel
from amalgam_edge.runtime.tokens import BatchTokenizer
from tests.support import tiny

TEXTS = [*tiny.TEXTS, "", "chess and chess and chess"]


@pytest.fixture(scope="module")
def static_model(tmp_path_factory, tokenizer):
    """A model whose four logits are the sum of one random row per token, so that it is sure of some texts only."""
    table = np.random.default_rng(3).normal(size=(len(tokenizer), 4)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["shown"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["shown", "last"], ["mask"]),
        helper.make_node("Mul", ["rows", "mask"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "tokens"], ["logits"], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["n", "t"]) for n in ("input_ids", "attention_mask")]
    constants = {"table": table, "last": np.array([-1]), "tokens": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "static",
        inputs,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = tmp_path_factory.mktemp("static") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path, table


def static_logits(table, tokenizer, texts):
    return np.array([table[tokenizer(text, truncation=True, max_length=40)["input_ids"]].sum(axis=0) for text in texts])


@pytest.fixture
def cascaded(copied, static_model):
    """A copy of the bundle with a cascade, and a function that rewrites the manifest's entry for it."""
    (copied / STATIC_FILE).write_bytes(static_model[0].read_bytes())

    def write(**entry):
        cascade = {
            "file": STATIC_FILE,
            "threshold": 0.9,
            "bytes": 1,
            "width": 4,
            "agreement": 1.0,
            "share": 0.5,
            **entry,
        }
        static = StaticModel(**cascade) if cascade["file"] else None
        write_manifest(copied, replace(read_manifest(copied), cascade=Cascade(0.99, 10, (), static)))
        return copied

    write()
    return copied, write


def test_the_static_student_answers_where_it_is_sure_and_the_encoder_elsewhere(cascaded, static_model, tokenizer):
    folder, _ = cascaded
    static = static_logits(static_model[1], tokenizer, TEXTS).astype(np.float64)
    shares = np.exp(static - static.max(axis=1, keepdims=True))
    sure = (shares / shares.sum(axis=1, keepdims=True)).max(axis=1) >= 0.9
    assert 0 < sure.sum() < len(TEXTS)
    encoder = EdgeClassifier.from_pretrained(folder, precision="fp32", cascade=False).logits(TEXTS)
    found = EdgeClassifier.from_pretrained(folder, precision="fp32").logits(TEXTS)
    np.testing.assert_allclose(found, np.where(sure[:, None], static, encoder), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_a_threshold_that_every_text_or_none_passes(cascaded, static_model, tokenizer, threshold):
    folder = cascaded[1](threshold=threshold)
    found = EdgeClassifier.from_pretrained(folder, precision="fp32").logits(TEXTS)
    if threshold == 0.0:
        expected = static_logits(static_model[1], tokenizer, TEXTS)
    else:
        expected = EdgeClassifier.from_pretrained(folder, precision="fp32", cascade=False).logits(TEXTS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_texts_are_tokenized_once(cascaded, monkeypatch):
    classifier = EdgeClassifier.from_pretrained(cascaded[0])
    seen = []
    encode = BatchTokenizer.encode
    monkeypatch.setattr(BatchTokenizer, "encode", lambda self, texts: seen.append(len(texts)) or encode(self, texts))
    classifier(TEXTS)
    assert seen == [len(TEXTS)]


def test_the_static_student_has_larger_batches_than_the_encoder(cascaded, monkeypatch):
    sizes = []
    split = text_model.split_by_length
    monkeypatch.setattr(text_model, "split_by_length", lambda lengths, size: sizes.append(size) or split(lengths, size))
    classifier = EdgeClassifier.from_pretrained(cascaded[0])
    classifier(TEXTS)
    classifier._model.get().run(TEXTS)  # without a batch size, as the cascade is measured
    assert sizes == [256, 32] * 2


def test_labels_do_not_depend_on_the_batch_size(cascaded):
    classifier = EdgeClassifier.from_pretrained(cascaded[0], precision="fp32")
    whole = [answer.label for answer in classifier(TEXTS)]
    assert [answer.label for answer in classifier(TEXTS, batch_size=3)] == whole
    assert [classifier([text])[0].label for text in TEXTS] == whole


def test_concurrent_calls_share_a_cascade(cascaded):
    classifier = EdgeClassifier.from_pretrained(cascaded[0], precision="fp32", threads=1)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: [answer.label for answer in classifier(TEXTS)], range(12)))
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_cut_texts_are_flagged_whichever_model_answers(cascaded, threshold):
    folder = cascaded[1](threshold=threshold)
    answers = EdgeClassifier.from_pretrained(folder)(["x", "word " * 200])
    assert [answer.truncated for answer in answers] == [False, True]


def test_the_static_student_is_sure_from_the_threshold_on_and_never_of_nan():
    logits = np.array([[np.nan, 9.0], [0.0, 9.0], [0.0, 0.0], [0.0, -1e-9]])
    heads = Heads.of_labels("ab")
    assert is_sure(logits, 0.5, heads).tolist() == [False, True, True, True]
    assert is_sure(logits, np.nextafter(0.5, 1), heads).tolist() == [False, True, False, True]


def test_no_label_is_given_below_the_threshold_whichever_model_answers(cascaded):
    folder, _ = cascaded
    sure = EdgeClassifier.from_pretrained(folder, precision="fp32")(TEXTS)
    threshold = float(np.median([answer.score for answer in sure]))
    answers = EdgeClassifier.from_pretrained(folder, precision="fp32", abstain=threshold)(TEXTS)
    assert {answer.label is None for answer in answers} == {True, False}
    assert [answer.label for answer in answers] == [a.label if a.score >= threshold else None for a in sure]


def test_a_requested_cascade_that_the_bundle_lacks_is_refused(copied):
    assert not isinstance(EdgeClassifier.from_pretrained(copied)._model.get(), CascadeModel)
    with pytest.raises(AmalgamError, match="holds no cascade; build it with --cascade"):
        EdgeClassifier.from_pretrained(copied, cascade=True)


def test_a_cascade_that_the_gate_refused_counts_as_none(cascaded):
    folder = cascaded[1](file=None)
    EdgeClassifier.from_pretrained(folder)
    with pytest.raises(AmalgamError, match="holds no cascade"):
        EdgeClassifier.from_pretrained(folder, cascade=True)


def test_a_damaged_file_is_named_and_not_needed_without_the_cascade(cascaded, flip):
    folder, _ = cascaded
    flip(folder / STATIC_FILE)
    with pytest.raises(AmalgamError, match=r"model_static\.onnx: damaged or changed"):
        EdgeClassifier.from_pretrained(folder)
    EdgeClassifier.from_pretrained(folder, cascade=False)


def test_a_missing_file_is_named(cascaded):
    folder, _ = cascaded
    (folder / STATIC_FILE).unlink()
    with pytest.raises(AmalgamError, match=r"model_static\.onnx: missing from the bundle"):
        EdgeClassifier.from_pretrained(folder, cascade=True)


def test_a_file_that_is_no_model_is_named(cascaded):
    folder, write = cascaded
    (folder / STATIC_FILE).write_bytes(b"no model")
    write()
    with pytest.raises(AmalgamError, match=r"model_static\.onnx: onnxruntime cannot load it"):
        EdgeClassifier.from_pretrained(folder)


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ({"threshold": None}, "cascade.threshold: a number is expected, not null"),
        ({"threshold": "high"}, "cascade.threshold: a number is expected, not a string"),
        ({"threshold": 1.1}, "cascade.threshold: is more than 1"),
        ({"file": "../elsewhere.onnx"}, "cascade.file: is no name of a file within the folder"),
    ],
)
def test_a_damaged_entry_is_named(cascaded, entry, fault):
    folder, _ = cascaded
    manifest = json.loads((folder / "amalgam.json").read_text("utf-8"))
    manifest["cascade"] |= entry
    (folder / "amalgam.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(AmalgamError, match=rf"amalgam\.json: a damaged manifest, {re.escape(fault)}; copy the bundle"):
        EdgeClassifier.from_pretrained(folder)


def test_a_static_model_that_was_not_built_with_the_bundle_is_refused(cascaded):
    folder = cascaded[1](file="onnx/elsewhere.onnx")
    with pytest.raises(AmalgamError, match="missing from the bundle"):
        EdgeClassifier.from_pretrained(folder)


def test_both_models_compute_with_the_threads_that_were_asked_for(cascaded, monkeypatch):
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)
    model = EdgeClassifier.from_pretrained(cascaded[0], threads=3)._model.get()
    assert (model._static._threads, model._encoder._runner._threads) == (3, 3)


def test_on_a_gpu_the_encoder_runs_and_the_static_student_stays_on_the_cpu(cascaded, monkeypatch):
    opened, inner = [], model_runner.open_session

    def open_here(model, threads=None, device="cpu"):
        opened.append((model.path.name, threads, device))
        return inner(model, threads)

    monkeypatch.setattr(model_runner, "open_session", open_here)
    EdgeClassifier.from_pretrained(cascaded[0], device="cuda:1")
    assert opened == [("model.onnx", None, "cuda:1"), ("model_static.onnx", None, "cpu")]
