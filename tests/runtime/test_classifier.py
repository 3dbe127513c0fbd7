import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import huggingface_hub
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from transformers import AutoTokenizer, pipeline

import amalgam_edge
from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import Heads
from amalgam_edge.runtime import Bundle, EdgeClassifier, Prediction, text_model
from amalgam_edge.runtime.manifest import read_manifest, write_manifest
from tests.support import tiny
from tests.support.manifests import edit_manifest, with_head

LABELS = ("games", "science", "net", "Straße & 猫")
MAX_LENGTH = 40
LONG = "chess and maps of the night sky " * 800  # 5,600 words
TEXTS = [*tiny.TEXTS, "", " ", "👩‍🚀🎉", LONG, "tab\tand\nnewline", "\u0000 null", "é" * 90, "[MASK] [PAD] [SEP]"]


@pytest.fixture(scope="module")
def exact(bundle_folder):
    return EdgeClassifier.from_pretrained(bundle_folder, precision="fp32", threads=1)


@pytest.fixture(scope="module")
def expected(torch_folder, torch_model):
    """Probabilities computed by torch, one text at a time and without padding."""
    tokenizer = AutoTokenizer.from_pretrained(torch_folder)

    def probabilities(text):
        inputs = tokenizer(
            text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt", return_token_type_ids=False
        )
        with torch.inference_mode():
            return torch.softmax(torch_model(**inputs).logits[0].double(), -1).numpy()

    return np.stack([probabilities(text) for text in TEXTS])


def test_predictions_are_those_of_torch(exact, expected):
    found = exact(TEXTS)
    assert len(found) == len(TEXTS)
    for answer, row in zip(found, expected, strict=True):
        assert answer.label == LABELS[row.argmax()]
        assert answer.score == pytest.approx(row.max(), abs=1e-4)
        assert answer.scores is None
    assert len({answer.label for answer in found}) > 1


def test_predictions_are_those_of_the_transformers_pipeline(exact, torch_folder):
    texts = [text for text in TEXTS if text]
    theirs = pipeline("text-classification", model=str(torch_folder), device="cpu")(
        texts, truncation=True, max_length=MAX_LENGTH, batch_size=4
    )
    for ours, other in zip(exact(texts), theirs, strict=True):
        assert ours.label == other["label"]
        assert ours.score == pytest.approx(other["score"], abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_predictions_keep_the_order_of_the_texts_for_any_batch_size(exact, expected, batch_size):
    order = np.random.default_rng(batch_size).permutation(len(TEXTS))
    found = exact([TEXTS[k] for k in order], all_scores=True, batch_size=batch_size)
    probabilities = np.array([[answer.scores[label] for label in LABELS] for answer in found])
    np.testing.assert_allclose(probabilities, expected[order], atol=1e-4)


def test_all_scores_sum_to_one_and_stand_in_descending_order(exact):
    for answer in exact(TEXTS, all_scores=True):
        assert set(answer.scores) == set(LABELS)
        values = list(answer.scores.values())
        assert sum(values) == pytest.approx(1.0, abs=1e-9)
        assert values == sorted(values, reverse=True)
        assert next(iter(answer.scores.items())) == (answer.label, answer.score)


def test_long_texts_are_cut_and_flagged(exact, expected, tokenizer):
    flags = [answer.truncated for answer in exact(TEXTS)]
    assert flags == [len(tokenizer(text)["input_ids"]) > MAX_LENGTH for text in TEXTS]
    assert flags[TEXTS.index(LONG)]
    row = expected[TEXTS.index(LONG)]
    (answer,) = exact([LONG], all_scores=True)
    np.testing.assert_allclose([answer.scores[label] for label in LABELS], row, atol=1e-4)


def test_a_text_of_exactly_the_longest_input_is_not_cut(exact, tokenizer):
    fits, longer = ("?" * count for count in (MAX_LENGTH - 3, MAX_LENGTH - 2))
    assert [len(tokenizer(text)["input_ids"]) for text in (fits, longer)] == [MAX_LENGTH, MAX_LENGTH + 1]
    assert [answer.truncated for answer in exact([fits, longer])] == [False, True]


def test_scores_are_the_softmax_of_the_logits(exact, expected):
    logits = exact.logits(TEXTS)
    assert logits.shape == (len(TEXTS), 4)
    assert logits.dtype == np.float32
    exponentials = np.exp(logits.astype(float))
    np.testing.assert_allclose(exponentials / exponentials.sum(1, keepdims=True), expected, atol=1e-4)


def test_int8_is_the_default_and_close_to_float32(bundle_folder, expected):
    classifier = EdgeClassifier.from_pretrained(str(bundle_folder))
    assert classifier.precision == "int8"
    found = np.array([[a.scores[label] for label in LABELS] for a in classifier(TEXTS, all_scores=True)])
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.8
    assert np.abs(found - expected).mean() < 0.1
    assert np.abs(found - expected).max() > 1e-6  # it is another model


def test_no_label_is_given_below_the_threshold(bundle_folder, exact, expected):
    threshold = float(np.median(expected.max(axis=1)))
    unsure = EdgeClassifier.from_pretrained(bundle_folder, precision="fp32", threads=1, abstain=threshold)
    answers = unsure(TEXTS, all_scores=True)
    assert {answer.label is None for answer in answers} == {True, False}
    for answer, sure in zip(answers, exact(TEXTS, all_scores=True), strict=True):
        assert answer.label == (sure.label if sure.score >= threshold else None)
        assert (answer.score, answer.scores) == (sure.score, sure.scores)


def test_a_score_equal_to_the_threshold_gets_its_label(bundle_folder, exact):
    (answer,) = exact(["chess"])

    def label_at(threshold):
        classifier = EdgeClassifier.from_pretrained(bundle_folder, precision="fp32", threads=1, abstain=threshold)
        return classifier(["chess"])[0].label

    assert label_at(answer.score) == answer.label
    assert label_at(np.nextafter(answer.score, 1)) is None
    assert label_at(0) == answer.label


def test_the_default_threshold_is_that_of_the_bundle(copied):
    edit_manifest(copied, abstain=1.0)
    assert EdgeClassifier.from_pretrained(copied)(["chess"])[0].label is None
    assert EdgeClassifier.from_pretrained(copied, abstain=0)(["chess"])[0].label in LABELS


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_zero_to_one_is_refused(bundle_folder, threshold):
    with pytest.raises(AmalgamError, match="abstain is a score between 0 and 1"):
        EdgeClassifier.from_pretrained(bundle_folder, abstain=threshold)


def test_no_texts_give_no_predictions(exact):
    assert exact([]) == []
    assert exact(()) == []


def test_without_a_threshold_every_text_gets_a_label_even_if_its_score_is_nan(bundle_folder, monkeypatch):
    classifier = EdgeClassifier.from_pretrained(bundle_folder, precision="fp32", threads=1)
    logits = np.full((1, len(LABELS)), np.nan, dtype=np.float32)
    monkeypatch.setattr(classifier, "run", lambda texts, batch_size=None: (logits, np.zeros(1, dtype=bool)))
    assert classifier(["chess"])[0].label == LABELS[0]


@pytest.mark.parametrize(("model_type", "expected"), [("bert", 32), ("static", 256)])
def test_the_default_batch_size_depends_on_the_student(copied, monkeypatch, model_type, expected):
    edit_manifest(copied, model_type=model_type)
    sizes = []
    split = text_model.split_by_length
    monkeypatch.setattr(text_model, "split_by_length", lambda lengths, size: sizes.append(size) or split(lengths, size))
    classifier = EdgeClassifier.from_pretrained(copied)
    classifier(["chess"])
    classifier(["chess"], batch_size=3)
    assert sizes == [expected, 3]


def test_labels_with_equal_scores_stand_in_their_order(bundle_folder, monkeypatch):
    classifier = EdgeClassifier.from_pretrained(bundle_folder, precision="fp32", threads=1)
    logits = np.tile(np.array([0.0, 1.0], dtype=np.float32), (1, 150))
    monkeypatch.setattr(classifier, "heads", Heads.of_labels([*map(str, range(300))]))
    monkeypatch.setattr(classifier, "run", lambda texts, batch_size=None: (logits, np.zeros(1, dtype=bool)))
    (answer,) = classifier(["chess"], all_scores=True)
    assert [*map(int, answer.scores)] == [*range(1, 300, 2), *range(0, 300, 2)]


def test_texts_may_be_any_sequence(exact):
    assert exact(tuple(tiny.TEXTS)) == exact(list(tiny.TEXTS))


def test_a_lone_surrogate_is_read_as_a_question_mark(exact):
    """JSON can hold half of a surrogate pair, which UTF-8 cannot encode."""
    np.testing.assert_array_equal(exact.logits(["games \ud83d"]), exact.logits(["games ?"]))


def test_an_unknown_precision_is_refused(bundle_folder):
    with pytest.raises(AmalgamError, match="no precision 'fp16'"):
        EdgeClassifier.from_pretrained(bundle_folder, precision="fp16")


@pytest.mark.parametrize("name", ["onnx/model.onnx", "tokenizer.json"])
def test_a_damaged_file_is_not_loaded(copied, flip, name):
    flip(copied / name)
    with pytest.raises(AmalgamError, match="damaged") as refused:
        EdgeClassifier.from_pretrained(copied, precision="fp32")
    assert str(copied / name) in str(refused.value)


def test_only_files_that_are_used_are_verified(copied, flip):
    flip(copied / "onnx" / "model_quantized.onnx")
    EdgeClassifier.from_pretrained(copied, precision="fp32")
    with pytest.raises(AmalgamError, match="damaged"):
        EdgeClassifier.from_pretrained(copied)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(AmalgamError, match="no bundle"):
        EdgeClassifier.from_pretrained(tmp_path / "nowhere")


@pytest.fixture
def hub(monkeypatch):
    """The names that the Hub is asked for."""
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file, **options: asked.append(name))
    return asked


@pytest.mark.parametrize("source", ["student", "a/b/c", "./student", "../student", "/student", "größe/student"])
def test_paths_are_not_looked_up_on_the_hub(hub, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AmalgamError, match="no bundle"):
        EdgeClassifier.from_pretrained(source)
    assert hub == []


def test_a_folder_wins_over_the_hub(hub, copied, monkeypatch):
    monkeypatch.chdir(copied.parent.parent)
    EdgeClassifier.from_pretrained(f"{copied.parent.name}/{copied.name}")
    assert hub == []


def test_concurrent_calls_get_the_right_logits(exact):
    parts = [TEXTS[k:] + TEXTS[:k] for k in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(exact.logits, parts * 3))
    for part, found in zip(parts * 3, answers, strict=True):
        np.testing.assert_allclose(found, exact.logits(part), atol=1e-5)


def test_the_package_exports_the_classifier():
    assert amalgam_edge.EdgeClassifier is EdgeClassifier
    with pytest.raises(AttributeError, match="Nothing"):
        _ = amalgam_edge.Nothing


HEAVY = {
    *("torch", "transformers", "datasets", "optimum", "onnx", "pydantic"),
    *("pyarrow", "rich", "matplotlib", "yaml", "huggingface_hub"),
}


@pytest.mark.parametrize(
    "code",
    [
        "from amalgam_edge.runtime import EdgeClassifier",
        "import amalgam_edge; amalgam_edge.EdgeClassifier.from_pretrained({0!r})",
    ],
)
def test_the_runtime_imports_no_training_package(code, bundle_folder):
    code = code.format(str(bundle_folder))
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(run.stdout.split())
    assert {"onnxruntime", "tokenizers", "numpy"} <= loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.fixture
def other_bundle(bundle_folder, tmp_path):
    """A bundle whose labels stand in another order, so that a mixture of both answers wrongly."""
    other = shutil.copytree(bundle_folder, tmp_path / "other")
    manifest = read_manifest(other)
    model = onnx.load(other / "onnx" / "model.onnx")
    rename_output(model, "logits", "plain")
    order = numpy_helper.from_array(np.array([3, 2, 1, 0]), "order")
    model.graph.initializer.append(order)
    model.graph.node.append(onnx.helper.make_node("Gather", ["plain", "order"], ["logits"], axis=1))
    onnx.save(model, other / "onnx" / "model.onnx")
    write_manifest(other, with_head(manifest, labels=manifest.heads[0].labels[::-1]))
    return other


def rename_output(model, old, new):
    for node in model.graph.node:
        node.output[:] = [new if name == old else name for name in node.output]


def exchange(folder, other):
    """Put another folder in the place of one."""
    folder.rename(folder.with_name("away"))
    other.rename(folder)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_folder_exchanged_beneath_a_classifier_changes_nothing(copied, other_bundle, expected, threads):
    classifier = EdgeClassifier.from_pretrained(copied, precision="fp32", threads=threads)
    exchange(copied, other_bundle)
    assert EdgeClassifier.from_pretrained(copied, precision="fp32").labels == LABELS[::-1]
    shutil.rmtree(copied)
    for _ in range(3):
        found = classifier([*TEXTS, *TEXTS], batch_size=2)  # several batches, so that a second session is opened
        assert [answer.label for answer in found] == [LABELS[row.argmax()] for row in expected] * 2


@pytest.mark.parametrize("replaced_at", ["tokenizer.json", "onnx/model.onnx"])
def test_a_bundle_replaced_while_it_is_read_is_read_anew(copied, other_bundle, expected, monkeypatch, replaced_at):
    read = Bundle.read
    left = [other_bundle]

    def read_after_exchange(bundle, name):
        if name == replaced_at and left:
            exchange(copied, left.pop())
        return read(bundle, name)

    monkeypatch.setattr(Bundle, "read", read_after_exchange)
    found = EdgeClassifier.from_pretrained(copied, precision="fp32")
    assert not left
    # Files that are the same in both may be read from either; the labels and the model are of one bundle.
    assert [answer.label for answer in found(TEXTS)] == [LABELS[row.argmax()] for row in expected]


def test_a_bundle_replaced_again_and_again_is_given_up(copied, monkeypatch):
    def read(bundle, name):
        manifest = read_manifest(copied)
        write_manifest(copied, with_head(manifest, abstain=manifest.heads[0].abstain + 0.01))
        raise AmalgamError("changed")

    monkeypatch.setattr(Bundle, "read", read)
    with pytest.raises(AmalgamError, match="replaced again and again"):
        EdgeClassifier.from_pretrained(copied)


def test_a_prediction_of_label_and_score_alone_has_no_scores_and_was_not_cut():
    assert Prediction("games", 0.5) == Prediction(label="games", score=0.5, scores=None, truncated=False)
