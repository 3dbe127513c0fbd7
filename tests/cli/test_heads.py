"""A build with several heads, by the command line: what each head learns, and what is refused."""

from __future__ import annotations

import csv
import io
import json
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import scipy.special
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from amalgam_edge.building import pipeline
from amalgam_edge.building.students import loss_of
from amalgam_edge.progress import SilentProgress
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.runtime import Bundle, EdgeClassifier
from tests.cli.conftest import write_jsonl

pytestmark = pytest.mark.usefixtures("quick_module")


@pytest.fixture(scope="module")
def heads(inputs, invoke, make_classifier, tmp_path_factory):
    """A student with a head of two teachers, one of a third, and one of labels that do not exclude each other."""
    folder = tmp_path_factory.mktemp("heads")
    tone = make_classifier(folder / "tone", ["calm", "cross", "glad"], seed=5)
    tags = make_classifier(folder / "tags", ["x", "y"], seed=6, problem_type="multi_label_classification")
    toxic = make_classifier(folder / "toxic", ["toxic"], seed=8)
    rows = [
        {"text": text, "kind": label, "tone": tone_, "tags": tags_}
        for text, label, tone_, tags_ in zip(
            inputs.texts[::4], ["games", "net", "fonts", "text"] * 5, ["calm", ""] * 10,
            [["x"], [], ["x", "toxic"], ["y"]] * 5, strict=False,
        )
    ]  # fmt: skip
    thresholds = folder / "thresholds.yaml"
    thresholds.write_text("tags: {x: 0.3, toxic: 0.7}\n", "utf-8")
    options = [
        *("--teacher", inputs.a, "--teacher", inputs.b, "--teacher", tone, "--teacher", tags, "--teacher", toxic),
        *("--head", "kind=a,b", "--head", "tone=tone", "--head", "tags=tags,toxic", "--corpus", inputs.corpus),
        *("--student", inputs.student, "--student-layers", "1", "--passes", "4", "--epochs", "2", "--device", "cpu"),
        *("--backend", "torch", "--max-disagreement", "1", "--thresholds", thresholds, "--abstain", "tone=0.4"),
        *("--head-weight", "tone=2", "--evaluate", write_jsonl(folder / "gold.jsonl", rows), "--include-torch"),
    ]
    output = folder / "student"
    result = invoke("build", *options, "--output", output)
    assert result.exit_code == 0, result.output
    return SimpleNamespace(
        folder=output, options=options, output=result.output, rows=rows, tags=tags, tone=tone, toxic=toxic
    )


@pytest.mark.parametrize(
    "columns", [[], ["--label-column", "kind=sort"], ["--label-column", "a=sort", "--label-column", "tone=mood"]]
)
def test_gold_labels_by_teacher_without_heads_are_told_what_was_forgotten(mistake, inputs, heads, tmp_path, columns):
    gold = write_jsonl(tmp_path / "gold.jsonl", [{"text": "a", "a": "games", "tone": "calm"}])
    told = mistake(
        *("build", "--teacher", inputs.a, "--teacher", f"tone={heads.tone}", "--corpus", inputs.corpus),
        *("--student", inputs.student, "--evaluate", gold, *columns, "--output", tmp_path / "student"),
    )
    assert "--heads each" in told
    assert not (tmp_path / "student").exists()


def test_the_manifest_says_who_teaches_what(heads):
    kind, tone, tags = json.loads((heads.folder / "amalgam.json").read_text("utf-8"))["heads"]
    assert [(head["name"], head["activation"]) for head in (kind, tone, tags)] == [
        ("kind", "softmax"), ("tone", "softmax"), ("tags", "sigmoid"),
    ]  # fmt: skip
    assert [label["name"] for label in kind["labels"]] == ["games", "net", "fonts", "text"]
    assert [label["threshold"] for label in tags["labels"]] == [0.3, 0.5, 0.7]
    assert (kind["abstain"], tone["abstain"], tags["abstain"]) == (0.0, 0.4, 0.0)
    assert (kind["weight"], tone["weight"]) == (1.0, 2.0)
    assert [len(head["calibration"]["temperatures"]) for head in (kind, tone, tags)] == [1, 1, 3]
    fidelity = Bundle.open(heads.folder).manifest.precisions["int8"].fidelity
    assert set(fidelity.heads) == {"kind", "tone", "tags"}
    assert fidelity.agreement == min(fidelity.heads.values())
    assert fidelity.heads["tags"] <= fidelity.labels["tags"]


def test_the_model_gives_the_probabilities_of_each_head(heads, inputs):
    session = onnxruntime.InferenceSession(heads.folder / "onnx/model.onnx", providers=["CPUExecutionProvider"])
    encoded = AutoTokenizer.from_pretrained(heads.folder)(inputs.texts[:7], return_tensors="np", padding=True)
    feed = {name: encoded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
    logits, probabilities = session.run(["logits", "probabilities"], feed)
    expected = [
        scipy.special.softmax(logits[:, :4], axis=1),
        scipy.special.softmax(logits[:, 4:7], axis=1),
        scipy.special.expit(logits[:, 7:]),
    ]
    np.testing.assert_allclose(probabilities, np.concatenate(expected, axis=1), atol=1e-6)
    classifier = EdgeClassifier.from_pretrained(heads.folder, precision="fp32")
    np.testing.assert_allclose(classifier.predict_proba(inputs.texts[:7]), probabilities, atol=1e-5)
    for row, answer in zip(probabilities, classifier(inputs.texts[:7]), strict=True):
        assert answer["kind"].label == ["games", "net", "fonts", "text"][row[:4].argmax()]
        tone = ["calm", "cross", "glad"][row[4:7].argmax()] if row[4:7].max() >= 0.4 else None
        assert answer["tone"].label == tone
        held = {name for name, p, t in zip(("x", "y", "toxic"), row[7:], (0.3, 0.5, 0.7), strict=True) if p >= t}
        assert set(answer["tags"].labels) == held


def test_transformers_reads_the_student(heads, inputs):
    config = json.loads((heads.folder / "config.json").read_text("utf-8"))
    assert config["problem_type"] == "multi_label_classification"
    assert [*config["id2label"].values()] == [*Bundle.open(heads.folder).labels]
    assert config["id2label"]["9"] == "tags/toxic"
    model = AutoModelForSequenceClassification.from_pretrained(heads.folder)
    weights = load_file(heads.folder / "model.safetensors")
    np.testing.assert_array_equal(model.classifier.weight.detach().numpy(), weights["classifier.weight"])
    assert weights["classifier.weight"].shape[0] == 10


def test_each_head_is_measured_on_its_own_gold_labels(heads):
    measured = Bundle.open(heads.folder).manifest.evaluation.heads
    assert {name: head.n_texts for name, head in measured.items()} == {"kind": 20, "tone": 10, "tags": 20}
    classifier = EdgeClassifier.from_pretrained(heads.folder, precision="fp32", abstain={"tone": 0.0})
    answers = classifier([row["text"] for row in heads.rows])
    kind = np.mean([answer["kind"].label == row["kind"] for answer, row in zip(answers, heads.rows, strict=True)])
    tone = np.mean([a["tone"].label == row["tone"] for a, row in zip(answers, heads.rows, strict=True) if row["tone"]])
    tags = np.mean([set(a["tags"].labels) == {*row["tags"]} for a, row in zip(answers, heads.rows, strict=True)])
    found = {name: head.student["fp32"].accuracy for name, head in measured.items()}
    assert found == pytest.approx({"kind": kind, "tone": tone, "tags": tags})
    assert measured["tags"].student["fp32"].mean_average_precision is not None
    assert set(measured["tags"].teachers) == {"tags", "toxic"}


def test_the_targets_of_a_head_are_those_of_its_teachers_alone(heads, inputs, tmp_path):
    recipe = Recipe(
        teachers=[inputs.a, inputs.b, heads.tone], heads={"kind": ["a", "b"], "tone": "tone"}, corpus=inputs.corpus,
        student=inputs.student, student_layers=1, passes=4, device="cpu", backend="torch", output=tmp_path / "both",
        method="muka-soft",
    )  # fmt: skip
    both = pipeline.prepare_training_data(recipe, SilentProgress())[1]
    alone = pipeline.prepare_training_data(
        recipe.replace(teachers=[inputs.a, inputs.b], heads="union", output=tmp_path / "alone"), SilentProgress()
    )[1]
    np.testing.assert_array_equal(both.supervision.target[:, :4], alone.supervision.target)
    np.testing.assert_array_equal(both.supervision.weight[:, 0], alone.supervision.weight)
    tone = next(scores for scores in both.scores if scores.teacher == "tone")
    np.testing.assert_allclose(both.supervision.target[:, 4:], tone.probabilities, rtol=1e-6)
    assert both.supervision.picked[:, 1].max() == 0


def test_the_loss_is_the_weighted_sum_over_heads(heads, inputs, tmp_path):
    import torch

    recipe = Recipe(
        teachers=[inputs.a, heads.tags], heads="each", head_weights={"tags": 3.0}, corpus=inputs.corpus,
        student=inputs.student, student_layers=1, passes=4, device="cpu", backend="torch", output=tmp_path / "x",
        method="muka-soft",
    )  # fmt: skip
    data = pipeline.prepare_training_data(recipe, SilentProgress())[1]
    logits = torch.randn(6, 4, dtype=torch.float64)
    part = data.supervision.take(np.arange(6))
    target, weight = (torch.from_numpy(array).double() for array in (part.target, part.weight))
    found = float(loss_of(recipe.method, data.heads)(logits, target, weight))
    t, z = target.numpy(), logits.numpy()
    softmax = (t[:, :2] * (np.log(t[:, :2]) - scipy.special.log_softmax(z[:, :2], axis=1))).sum(axis=1)
    yes, p = t[:, 2:], scipy.special.expit(z[:, 2:])
    sigmoid = (yes * np.log(yes / p) + (1 - yes) * np.log((1 - yes) / (1 - p))).sum(axis=1)
    expected = (part.weight[:, 0] * softmax).mean() + 3 * (part.weight[:, 1] * sigmoid).mean()
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_output_shows_the_heads(heads, invoke):
    for words in ("agreement with supervision", "one label", "any labels", "micro-F1", "mAP"):
        assert words in heads.output
    shown = invoke("inspect", heads.folder).output
    assert "labels of head 'tags', any of which may hold" in shown
    assert "toxic  (toxic:toxic, from 0.7 on)" in shown
    card = (heads.folder / "README.md").read_text("utf-8")
    assert "- `tags`, any of: `x`, `y`, `toxic`" in card
    report = (heads.folder / "report.html").read_text("utf-8")
    assert "3 heads with 10 labels" in report and "Confusion: kind" in report


def test_predictions_have_a_column_for_each_head(heads, invoke, inputs):
    text = inputs.texts[0]
    answer = EdgeClassifier.from_pretrained(heads.folder)(text, all_scores=True)[0]
    shown = invoke("predict", heads.folder, text).output
    assert f"kind {answer['kind'].label} {answer['kind'].score:.2f} · tone " in shown
    (row,) = csv.DictReader(
        io.StringIO(invoke("predict", heads.folder, text, "--format", "csv", "--all-scores").output)
    )
    assert row["kind"] == answer["kind"].label
    assert row["tags"].split(";") == [*answer["tags"].labels] or (row["tags"], answer["tags"].labels) == ("", ())
    assert float(row["tags/toxic"]) == pytest.approx(answer["tags"].scores["toxic"])
    one = json.loads(invoke("predict", heads.folder, text, "--format", "jsonl", "--all-scores").output)
    assert one["scores"]["tone"] == pytest.approx(answer["tone"].scores)
    assert one["tags"] == [*answer["tags"].labels]
    assert [*one] == [
        "text", "kind", "kind_score", "kind_abstained", "tone", "tone_score", "tone_abstained", "tags", "tags_scores",
        "truncated", "scores",
    ]  # fmt: skip


def test_one_sigmoid_head_answers_with_sets(heads, invoke, inputs, tmp_path):
    output = tmp_path / "student"
    result = invoke(
        "build", "--teacher", heads.tags, "--teacher", heads.toxic, "--corpus", inputs.corpus, "--student", "static",
        "--passes", "2", "--epochs", "1", "--device", "cpu", "--backend", "torch", "--max-disagreement", "1",
        "--output", output,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    classifier = EdgeClassifier.from_pretrained(output)
    assert classifier.labels == ("x", "y", "toxic")
    config = json.loads((output / "config.json").read_text("utf-8"))
    assert config["problem_type"] == "multi_label_classification"
    (row,) = csv.DictReader(io.StringIO(invoke("predict", output, inputs.texts[0], "--format", "csv").output))
    (found,) = classifier(inputs.texts[0])
    assert [*row] == ["text", "labels", "label_scores", "truncated"]
    assert row["labels"] == ";".join(found.labels)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--head", "x="], "--head x: no teacher"),
        (["--head", "x=a,q", "--head", "y=tags"], "--head x: no teacher 'q'; there are a, tags"),
        (["--head", "x=a", "--head", "y=a,tags"], "teacher 'a' is named twice"),
        (["--head", "x=a"], "teacher 'tags' is in no head"),
        (["--head", "x=a,tags"], "--head x: teacher 'a' gives one label .* 'tags' any number"),
        (["--heads", "union"], "cannot share a head; give each its own with --heads each"),
        ([], "cannot share a head; give each its own with --heads each"),
        (["--heads", "each", "--head", "x=a,tags"], "give one of them"),
        (["--heads", "each", "--head-weight", "q=2"], "--head-weight q=…: no head 'q'; there are a, tags"),
        (["--heads", "each", "--abstain", "q=0.5"], "--abstain q=…: no head 'q'"),
        (["--heads", "each", "--abstain", "tags=0.5"], "--abstain tags=…: its labels hold from their thresholds on"),
        (["--heads", "each", "--method", "uhc"], "--method uhc: trains one head"),
    ],
)
def test_heads_that_do_not_fit_are_refused(options, reason, heads, inputs, mistake, tmp_path):
    import re

    message = mistake(
        "build", "--teacher", inputs.a, "--teacher", heads.tags, "--corpus", inputs.corpus, "--student", "static",
        "--passes", "2", "--backend", "torch", "--output", tmp_path / "student", *options,
    )  # fmt: skip
    assert re.search(reason, message), message
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("tags: {q: 0.5}", "head 'tags' has no label 'q'; it has x, y"),
        ("a: {games: 0.5}", "head 'a' gives its likeliest label and has no thresholds"),
        ("zz: {x: 0.5}", "no head 'zz'; there are a, tags"),
        ("tags: {x: 1.5}", "threshold of 'x' is a probability between 0 and 1, not 1.5"),
        ("tags: {x: true}", "not True"),
        ("tags: [x]", "under 'tags' a mapping is expected"),
        ("- x", "mapping"),
    ],
)
def test_thresholds_that_do_not_fit_are_refused(content, reason, heads, inputs, mistake, tmp_path):
    file = tmp_path / "thresholds.yaml"
    file.write_text(content, "utf-8")
    message = mistake(
        "build", "--teacher", inputs.a, "--teacher", heads.tags, "--heads", "each", "--corpus", inputs.corpus,
        "--student", "static", "--passes", "2", "--backend", "torch", "--thresholds", file,
        "--output", tmp_path / "student",
    )  # fmt: skip
    assert reason in message


def test_one_head_of_all_teachers_is_what_it_was_whatever_it_is_called(heads, inputs, tmp_path):
    recipe = Recipe(
        teachers=[inputs.a, inputs.b], corpus=inputs.corpus, student=inputs.student, student_layers=1, passes=4,
        device="cpu", backend="torch", output=tmp_path / "student", work=heads.folder.with_name("student.work"),
    )  # fmt: skip
    digests = set()
    for named in (None, "union", {"kind": ["a", "b"]}):
        models, data = pipeline.prepare_training_data(recipe.replace(heads=named), SilentProgress())
        digests.add(data.supervision.digest())
        assert models.students[0].model.config.problem_type == "single_label_classification"
        assert models.heads.names == ("games", "net", "fonts", "text")
        assert data.supervision.weight.ndim == 1
    assert len(digests) == 1
