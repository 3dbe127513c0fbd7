"""Static students and cascades by the command line."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

from amalgam_edge.runtime import Bundle, EdgeClassifier


def manifest_of(folder):
    return json.loads((folder / "amalgam.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def options(inputs, built):
    """What the builds here need, less student and output; scores are those of the finished build."""
    return [
        *("--teacher", inputs.a, "--teacher", inputs.b, "--corpus", inputs.corpus, "--work", built.work),
        *("--passes", "4", "--device", "cpu", "--backend", "torch", "--max-disagreement", "1"),
    ]


@pytest.fixture(scope="module")
def static(invoke, options, inputs, tmp_path_factory):
    """A static student of a trimmed vocabulary, evaluated."""
    bundle = tmp_path_factory.mktemp("static") / "student"
    result = invoke(
        "build", *options, "--student", "static", "--static-width", "16", "--trim-vocabulary", "--evaluate",
        inputs.labelled, "--output", bundle,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return SimpleNamespace(bundle=bundle, output=result.output)


@pytest.fixture(scope="module")
def cascaded(invoke, options, inputs, tmp_path_factory):
    """An encoder behind a static student, asked for so little agreement that any will do."""
    bundle = tmp_path_factory.mktemp("cascade") / "student"
    result = invoke(
        "build", *options, "--student", inputs.student, "--student-layers", "1", "--epochs", "1", "--cascade",
        "--cascade-agreement", "0", "--trim-vocabulary", "--evaluate", inputs.labelled, "--output", bundle,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return SimpleNamespace(bundle=bundle, output=result.output)


def test_a_static_bundle_is_whole_and_says_what_it_is(static):
    Bundle.open(static.bundle).verify()
    manifest = manifest_of(static.bundle)
    assert Bundle.open(static.bundle).is_static
    assert manifest["precisions"]["int8"]["quantization"] == "int8 token vectors"
    config = json.loads((static.bundle / "config.json").read_text("utf-8"))
    assert (config["model_type"], config["width"]) == ("static", 16)
    assert config["vocab_size"] == manifest["vocabulary"]["n_tokens"] < manifest["vocabulary"]["n_before"]


def test_a_static_bundle_answers_and_is_measured_as_others_are(static, inputs, invoke):
    rows = [json.loads(line) for line in inputs.labelled.read_text("utf-8").splitlines()]
    answers = EdgeClassifier.from_pretrained(static.bundle)([row["text"] for row in rows])
    hits = np.mean([answer.label == row["label"] for answer, row in zip(answers, rows, strict=True)])
    assert manifest_of(static.bundle)["evaluation"]["heads"]["label"]["student"]["int8"]["accuracy"] == pytest.approx(
        hits
    )
    measured = json.loads(invoke("evaluate", static.bundle, "--data", inputs.labelled, "--json").output)
    assert measured["heads"]["label"]["student"]["int8"]["accuracy"] == pytest.approx(hits)
    assert invoke("predict", static.bundle, rows[0]["text"]).output.split()[0] == answers[0].label
    assert "int8 token vectors" in invoke("inspect", static.bundle).output


def test_the_learning_rate_follows_the_kind_of_student():
    from amalgam_edge.building.pipeline import resolved_training
    from amalgam_edge.recipe.recipe import Recipe

    rates = {
        student: resolved_training(Recipe(student=student)).learning_rate
        for student in ("some/encoder", "static", "static:teacher:a")
    }
    assert rates == {"some/encoder": 1e-4, "static": 1e-2, "static:teacher:a": 1e-2}
    given = Recipe(student="static", learning_rate=0.5)
    assert resolved_training(given).learning_rate == 0.5


def test_a_cascade_is_in_the_bundle_and_told_everywhere(cascaded, invoke):
    manifest = manifest_of(cascaded.bundle)
    cascade = manifest["cascade"]
    assert cascade["file"] == "onnx/model_static.onnx" in manifest["files"]
    assert cascade["bytes"] == (cascaded.bundle / cascade["file"]).stat().st_size
    line = f"answers {cascade['share']:.1%} of {cascade['n_texts']} held-out texts"
    assert line in cascaded.output
    assert line in invoke("inspect", cascaded.bundle).output
    assert line in (cascaded.bundle / "README.md").read_text("utf-8")
    assert line in (cascaded.bundle / "report.html").read_text("utf-8")
    assert "student cascade" in cascaded.output


def test_the_recorded_agreement_and_share_are_those_of_the_bundle(cascaded):
    from amalgam_edge.building.inputs import read_texts
    from amalgam_edge.recipe.recipe import Recipe

    manifest = manifest_of(cascaded.bundle)
    recipe = Recipe(**manifest["recipe"])
    texts = read_texts(recipe.corpus, recipe.evaluation, recipe.teachers, recipe.hints)
    held_out = [texts.corpus.texts[int(row)] for row in texts.held_out]
    labels = [
        [answer.label for answer in EdgeClassifier.from_pretrained(cascaded.bundle, cascade=cascade)(held_out)]
        for cascade in (True, False)
    ]
    same = np.mean([a == b for a, b in zip(*labels, strict=True)])
    assert manifest["cascade"]["agreement"] == pytest.approx(same)

    tokenizer = Tokenizer.from_file(str(cascaded.bundle / "tokenizer.json"))
    session = onnxruntime.InferenceSession(str(cascaded.bundle / manifest["cascade"]["file"]))
    sure = []
    for text in held_out:
        ids = np.array([tokenizer.encode(text).ids])
        (logits,) = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        exponentials = np.exp(logits[0].astype(np.float64))
        sure.append(exponentials.max() / exponentials.sum() >= manifest["cascade"]["threshold"])
    assert manifest["cascade"]["share"] == pytest.approx(np.mean(sure), abs=1 / len(held_out))


def test_predict_can_do_without_the_cascade(cascaded, invoke, inputs):
    texts = inputs.texts[:8]
    for flags, cascade in (([], None), (["--cascade"], True), (["--no-cascade"], False)):
        result = invoke("predict", cascaded.bundle, *texts, *flags, "--format", "jsonl")
        scores = [json.loads(line)["score"] for line in result.output.splitlines()]
        answers = EdgeClassifier.from_pretrained(cascaded.bundle, cascade=cascade)(texts)
        assert scores == pytest.approx([answer.score for answer in answers])


def test_evaluate_measures_the_cascade_beside_the_precisions(cascaded, invoke, inputs):
    measured = json.loads(invoke("evaluate", cascaded.bundle, "--data", inputs.labelled, "--json").output)
    assert list(measured["heads"]["label"]["student"]) == ["fp32", "int8", "cascade"]
    recorded = manifest_of(cascaded.bundle)["evaluation"]["heads"]["label"]["student"]
    for name, row in measured["heads"]["label"]["student"].items():
        assert row["accuracy"] == pytest.approx(recorded[name]["accuracy"])
    alone = invoke("evaluate", cascaded.bundle, "--data", inputs.labelled, "--json", "--precision", "int8").output
    assert list(json.loads(alone)["heads"]["label"]["student"]) == ["int8"]


def test_a_cascade_is_compared_as_it_answers(cascaded, static, invoke, inputs):
    """The other bundle, which has none, answers with its default precision."""
    options = ["evaluate", cascaded.bundle, "--data", inputs.labelled, "--compare", static.bundle, "--json"]
    measured = json.loads(invoke(*options).output)
    (found,) = measured["comparison"]["heads"]["label"]["models"].items()
    recorded = manifest_of(static.bundle)
    assert (found[0], found[1]["other"]) == ("cascade", recorded["default_precision"])
    assert found[1]["accuracy"] == pytest.approx(measured["heads"]["label"]["student"]["cascade"]["accuracy"])
    default = recorded["evaluation"]["heads"]["label"]["student"][recorded["default_precision"]]
    assert found[1]["other_accuracy"] == pytest.approx(default["accuracy"])
    named = json.loads(invoke(*options, "--precision", "fp32").output)["comparison"]["heads"]["label"]["models"]
    assert {name: row["other"] for name, row in named.items()} == {"fp32": "fp32"}


def test_a_cascade_that_cannot_be_had_is_said(invoke, options, inputs, tmp_path, monkeypatch):
    from amalgam_edge.building import cascading

    class Contrary(cascading.CascadeModel):
        """Never answers as the encoder does."""

        def run(self, texts, *, batch_size=32):
            logits, truncated = super().run(texts, batch_size=batch_size)
            return -logits, truncated

    monkeypatch.setattr(cascading, "CascadeModel", Contrary)
    bundle = tmp_path / "student"
    result = invoke(
        "build", *options, "--student", inputs.student, "--student-layers", "1", "--epochs", "1", "--cascade",
        "--output", bundle,
    )  # fmt: skip
    assert result.exit_code == 3, result.output
    assert "no cascade: no threshold kept 99.00% agreement" in result.output
    assert "no cascade" in invoke("inspect", bundle).output
    assert manifest_of(bundle)["cascade"]["file"] is None
    assert not (bundle / "onnx" / "model_static.onnx").exists()
    assert EdgeClassifier.from_pretrained(bundle)(["chess"])[0].label
    Bundle.open(bundle).verify()


def test_optimize_measures_the_cascade_before_the_model_that_it_picks(cascaded, inputs, invoke, tmp_path, quick):
    from amalgam_edge.building.inputs import read_texts
    from amalgam_edge.recipe.recipe import Recipe

    small = tmp_path / "small"
    recipe = Recipe(**manifest_of(cascaded.bundle)["recipe"])
    texts = read_texts(recipe.corpus, recipe.evaluation, recipe.teachers, recipe.hints)
    result = invoke(
        *("optimize", cascaded.bundle, "--calibration", inputs.corpus),
        *("--budget", "size<=100MB, loss<=100%", "--output", small),
    )
    assert result.exit_code == 0, result.output
    before, after = manifest_of(cascaded.bundle)["cascade"], manifest_of(small)["cascade"]
    assert after["threshold"] == before["threshold"]  # any agreement will do
    held_out = [texts.corpus.texts[int(row)] for row in texts.held_out]
    with_it, alone = (EdgeClassifier.from_pretrained(small, cascade=c).logits(held_out) for c in (True, False))
    assert after["agreement"] == pytest.approx(np.mean(with_it.argmax(axis=1) == alone.argmax(axis=1)))
    assert f"answers {after['share']:.1%} of {after['n_texts']} held-out texts" in result.output
    Bundle.open(small).verify()


def test_optimize_leaves_out_a_cascade_that_does_not_keep_its_agreement(
    cascaded, inputs, invoke, tmp_path, monkeypatch, quick
):
    from amalgam_edge.building import cascading

    monkeypatch.setattr(cascading, "is_sure", lambda logits, threshold, heads: np.zeros(len(logits), dtype=bool))
    small = tmp_path / "small"
    result = invoke(
        *("optimize", cascaded.bundle, "--calibration", inputs.corpus), *("--budget", "loss<=100%", "--output", small)
    )
    assert result.exit_code == 0, result.output
    assert "no cascade: no threshold kept" in result.output
    assert manifest_of(small)["cascade"]["file"] is None
    assert not (small / "onnx" / "model_static.onnx").exists()
    Bundle.open(small).verify()
    assert (cascaded.bundle / "onnx" / "model_static.onnx").exists()


def test_optimize_does_without_a_static_model_that_is_gone(cascaded, inputs, invoke, mistake, tmp_path, quick):
    bundle = shutil.copytree(cascaded.bundle, tmp_path / "student")
    (bundle / "onnx" / "model_static.onnx").unlink()
    result = invoke("optimize", bundle, "--calibration", inputs.corpus, "--budget", "loss<=100%")
    assert result.exit_code == 0, result.output
    assert "no cascade any more" in result.output
    assert manifest_of(bundle)["cascade"] is None
    Bundle.open(bundle).verify()
    assert EdgeClassifier.from_pretrained(bundle)(["chess"])[0].label
    (bundle / "tokenizer_config.json").unlink()
    assert "tokenizer_config.json: missing" in mistake(
        "optimize", bundle, "--calibration", inputs.corpus, "--budget", "loss<=100%"
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--student", "static", "--student-layers", "2"], "--student-layers: a static student has no layers"),
        (["--student", "static", "--cascade"], "--cascade: it puts a static student before an encoder"),
        (["--student", "static:./nowhere"], "./nowhere: no such folder"),
        (["--student", "static:teacher:nobody"], "no teacher 'nobody'; there are a, b"),
        (["--student", "static", "--static-width", "0"], "static_width"),
        (["--student", "static", "--cascade-agreement", "1.5"], "cascade_agreement"),
    ],
)
def test_mistakes_are_named(mistake, options, tmp_path, more, message):
    assert message in mistake("build", *options, *more, "--output", tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_a_corpus_too_small_for_a_cascade_is_refused(mistake, inputs, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("chess\nmail\n", "utf-8")
    message = mistake(
        "build", "--teacher", inputs.a, "--corpus", corpus, "--student", inputs.student, "--cascade", "--output",
        tmp_path / "student",
    )  # fmt: skip
    assert "--cascade: 1 training text(s) are too few" in message
