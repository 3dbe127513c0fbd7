from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.optimize
import scipy.special
import yaml

from amalgam_edge.building import pipeline
from amalgam_edge.building.inputs import read_texts
from amalgam_edge.building.students import calibrate_student
from amalgam_edge.cli.main import cli
from amalgam_edge.exporters.selection import gate
from amalgam_edge.exporters.selection.fidelity import Fidelity
from amalgam_edge.metrics.calibration import reliability
from amalgam_edge.progress import SilentProgress
from amalgam_edge.recipe.recipe import Recipe, recipe_options
from amalgam_edge.recipe.sections import MethodSettings
from amalgam_edge.runtime import Bundle, EdgeClassifier
from tests.support.interrupted import assert_same_model, training_dies_in_the_second_epoch


def manifest_of(folder):
    return json.loads((folder / "amalgam.json").read_text("utf-8"))


def test_a_build_leaves_a_whole_bundle_and_nothing_beside_it(built):
    assert sorted(path.name for path in built.folder.iterdir()) == ["student", "student.work"]
    names = {path.relative_to(built.bundle).as_posix() for path in built.bundle.rglob("*") if path.is_file()}
    assert names >= {
        "amalgam.json",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
        "report.html",
        "recipe.yaml",
        "onnx/model.onnx",
        "onnx/model_quantized.onnx",
    }
    Bundle.open(built.bundle).verify()


def test_the_student_answers_over_the_union_of_labels(built, inputs):
    manifest = manifest_of(built.bundle)
    assert [label["name"] for label in manifest["heads"][0]["labels"]] == ["games", "net", "fonts", "text"]
    answers = EdgeClassifier.from_pretrained(built.bundle)(inputs.texts[:5], all_scores=True)
    assert all(set(answer.scores) == {"games", "net", "fonts", "text"} for answer in answers)


def test_the_manifest_says_what_left_the_corpus(built, inputs):
    corpus = manifest_of(built.bundle)["corpus"]
    assert corpus["n_blank"] == 1
    assert corpus["n_texts"] == len(set(inputs.texts))
    assert corpus["n_train"] < corpus["n_texts"]
    assert corpus["n_truncated"] == 0


def test_texts_that_are_cut_are_counted(invoke, inputs, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join([*inputs.texts, "word " * 100_000, "🎮"]), "utf-8")
    result = invoke(
        "build", "--teacher", inputs.a, "--corpus", corpus, "--student", "static", "--passes", "2",
        "--backend", "torch", "--epochs", "1", "--max-disagreement", "1", "--output", tmp_path / "student",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "; 1 longer than 64 tokens are cut" in result.stderr
    assert manifest_of(tmp_path / "student")["corpus"]["n_truncated"] == 1


def test_a_trimmed_vocabulary_is_told_and_works(invoke, inputs, build_options, tmp_path):
    bundle = tmp_path / "student"
    options = ["--output", bundle, "--max-disagreement", "1", "--trim-vocabulary"]
    result = invoke("build", *build_options, *options)
    assert result.exit_code == 0, result.output
    assert "trimming the vocabulary" in result.output
    vocabulary = manifest_of(bundle)["vocabulary"]
    assert vocabulary["n_tokens"] < vocabulary["n_before"]
    config = json.loads((bundle / "config.json").read_text("utf-8"))
    assert config["vocab_size"] == vocabulary["n_tokens"]
    shown = f"{vocabulary['n_tokens']} of {vocabulary['n_before']} tokens"
    assert shown in invoke("inspect", bundle).output
    assert f"{vocabulary['n_tokens']} of its encoder's {vocabulary['n_before']}" in (bundle / "README.md").read_text(
        "utf-8"
    )
    assert EdgeClassifier.from_pretrained(bundle)(["never seen: Ünïcødé 漢字 🐧"])[0].label


def test_the_tables_are_printed(built):
    for word in ("teacher", "own accuracy", "precision", "agreement", "macro-F1", "int8", "fp32"):
        assert word in built.output


def test_the_evaluation_is_that_of_the_shipped_model(built, inputs):
    rows = [json.loads(line) for line in inputs.labelled.read_text("utf-8").splitlines()]
    classifier = EdgeClassifier.from_pretrained(built.bundle, precision="fp32")
    hits = [
        answer.label == row["label"] for answer, row in zip(classifier([r["text"] for r in rows]), rows, strict=True)
    ]
    recorded = manifest_of(built.bundle)["evaluation"]["heads"]["label"]["student"]["fp32"]["accuracy"]
    assert recorded == pytest.approx(np.mean(hits))


def test_the_recorded_agreement_is_that_of_the_two_models_that_ship(built):
    """The held-out texts are those of the recipe's split; both models answer them again here."""
    manifest = manifest_of(built.bundle)
    recipe = Recipe(**manifest["recipe"])
    texts = read_texts(recipe.corpus, recipe.evaluation, recipe.teachers, recipe.hints)
    held_out = [texts.corpus.texts[int(row)] for row in texts.held_out]
    labels = {
        precision: [
            answer.label for answer in EdgeClassifier.from_pretrained(built.bundle, precision=precision)(held_out)
        ]
        for precision in ("fp32", "int8")
    }
    same = np.mean([a == b for a, b in zip(labels["fp32"], labels["int8"], strict=True)])
    assert manifest["precisions"]["int8"]["fidelity"]["agreement"] == pytest.approx(same)


def training_data_of(built):
    """An untrained student of a build, and the data that it was trained on."""
    recipe = Recipe(**manifest_of(built.bundle)["recipe"])
    models, data = pipeline.prepare_training_data(recipe, SilentProgress())
    return models.students[0], data


def test_the_shipped_model_is_calibrated_on_held_out_supervision(built):
    """Its temperature is the best for what teachers say of held-out texts, if such a one helps texts unseen; else 1."""
    _, data = training_data_of(built)
    texts = data.texts
    held_out = data.supervision.take(texts.held_out)
    (head,) = manifest_of(built.bundle)["heads"]
    calibration = head["calibration"]
    (temperature,) = calibration["temperatures"]
    exact = EdgeClassifier.from_pretrained(built.bundle, precision="fp32")
    shipped = exact.logits([texts.corpus.texts[int(row)] for row in texts.held_out]).astype(float)
    trained = shipped * temperature

    def cross_entropy(rows, log_temperature):
        log_p = scipy.special.log_softmax(trained[rows] / np.exp(log_temperature), axis=1)
        return -(held_out.weight[rows] * (held_out.target[rows] * log_p).sum(axis=1)).sum()

    def best(rows):
        return scipy.optimize.minimize_scalar(partial(cross_entropy, rows), bounds=(-2, 2), method="bounded").x

    even, odd, every = slice(0, None, 2), slice(1, None, 2), slice(None)
    unseen = cross_entropy(even, best(odd)) + cross_entropy(odd, best(even))
    if temperature == 1.0:
        crossed = trained.copy()
        crossed[even], crossed[odd] = trained[even] / np.exp(best(odd)), trained[odd] / np.exp(best(even))
        errors = [reliability(logits, held_out.target, held_out.weight).error for logits in (crossed, trained)]
        assert unseen >= cross_entropy(every, 0.0) or errors[0] >= errors[1]
    else:
        assert unseen < cross_entropy(every, 0.0)
        assert np.exp(best(every)) == pytest.approx(temperature, rel=0.01)
    assert calibration["n_texts"] == len(texts.held_out)
    assert calibration["gold"]["n_texts"] == manifest_of(built.bundle)["evaluation"]["n_texts"]


def test_a_temperature_that_helps_is_in_the_shipped_model(invoke, static_options, tmp_path):
    """A student that learned for long is surer than its teachers; the logits that ship are divided by T."""
    output = tmp_path / "student"
    options = [*static_options, "--learning-rate", "0.2", "--epochs", "20"]
    for name, extra in (("raw", ["--no-calibrate"]), ("student", [])):
        result = invoke("build", *options, *extra, "--output", tmp_path / name, "--work", tmp_path / "work")
        assert result.exit_code == 0, result.output
    (temperature,) = manifest_of(output)["heads"][0]["calibration"]["temperatures"]
    assert temperature != 1.0
    probe = ["chess cards", "mail server", "unknown words"]
    raw, divided = (
        EdgeClassifier.from_pretrained(f, precision="fp32").logits(probe) for f in (tmp_path / "raw", output)
    )
    np.testing.assert_allclose(divided, raw / temperature, rtol=1e-4, atol=1e-5)


def test_calibration_looks_behind_the_temperature_of_vanilla_kd(built):
    student, data = training_data_of(built)
    fitted = []
    for temperature in (1.0, 8.0):
        method = MethodSettings("vanilla-kd", distillation_temperature=temperature)
        fitted.append(calibrate_student(student, data, method))
    assert fitted[0] == fitted[1]


def test_calibration_is_told(built, invoke):
    line = "temperature "
    assert line in built.output
    assert line in invoke("inspect", built.bundle).output
    assert "## Scores" in (built.bundle / "README.md").read_text("utf-8")
    report = (built.bundle / "report.html").read_text("utf-8")
    assert "<h2>Calibration</h2>" in report
    assert "<h2>Reliability</h2>" in report


def test_scores_may_stay_as_they_are_and_the_student_may_abstain(built, invoke, inputs, build_options, tmp_path):
    bundle = tmp_path / "student"
    result = invoke(
        "build", *build_options, "--no-calibrate", "--abstain", "0.9999", "--evaluate", inputs.labelled,
        "--max-disagreement", "1", "--work", built.work, "--output", bundle,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "calibrating" not in result.stderr
    manifest = manifest_of(bundle)
    (head,) = manifest["heads"]
    assert (head["calibration"], head["abstain"]) == (None, 0.9999)
    assert "accuracy on those" in result.output
    assert EdgeClassifier.from_pretrained(bundle)(inputs.texts[:1])[0].label is None
    calibrated, raw = (
        EdgeClassifier.from_pretrained(folder, precision="fp32").logits(inputs.texts[:4])
        for folder in (built.bundle, bundle)
    )
    (temperature,) = manifest_of(built.bundle)["heads"][0]["calibration"]["temperatures"]
    np.testing.assert_allclose(calibrated * temperature, raw, rtol=1e-4, atol=1e-5)


def test_scores_are_kept_as_parquet_with_the_columns_of_the_design(built, inputs):
    shards = sorted(built.work.glob("scores/a-*/shard-*.parquet"))
    table = pq.read_table(shards[0])
    assert table.num_rows == len(set(inputs.texts))
    assert set(table.column_names) == {
        "text",
        "logits",
        "probabilities",
        "mean_probabilities",
        "predictive_entropy",
        "mutual_information",
        "energy",
        "passes",
    }


def test_no_checkpoint_is_left_in_the_work_folder(built):
    assert sorted(path.name for path in built.work.iterdir()) == ["features", "scores"]


def test_the_resolved_recipe_gives_the_same_supervision_and_the_same_labels(built, invoke, inputs, tmp_path):
    again = tmp_path / "again"
    recipe = built.bundle / "recipe.yaml"
    assert set(yaml.safe_load(recipe.read_text("utf-8"))) == set(recipe_options())
    result = invoke("build", "--recipe", recipe, "--output", again, "--work", tmp_path / "fresh")
    assert result.exit_code == 0, result.output
    first, second = manifest_of(built.bundle), manifest_of(again)
    assert first["supervision"] == second["supervision"]
    assert first["heads"][0]["labels"] == second["heads"][0]["labels"]
    answers = [
        [answer.label for answer in EdgeClassifier.from_pretrained(folder)(inputs.texts)]
        for folder in (built.bundle, again)
    ]
    assert answers[0] == answers[1]


def test_a_second_build_reuses_the_scores(built, invoke, static_options, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a teacher was run again")

    monkeypatch.setattr("amalgam_edge.scoring.score.score_texts", refuse)
    result = invoke(
        "build", *static_options, "--method", "vanilla-kd", "--output", tmp_path / "kd", "--work", built.work,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert manifest_of(tmp_path / "kd")["recipe"]["method"] == "vanilla-kd"


def test_a_teacher_can_be_the_student_and_torch_weights_can_ship(invoke, inputs, tmp_path):
    from transformers import AutoModelForSequenceClassification

    bundle = tmp_path / "student"
    result = invoke(
        "build", "--teacher", f"first={inputs.a}", "--corpus", inputs.corpus, "--student", "teacher:first",
        "--passes", "2", "--backend", "torch", "--epochs", "1", "--include-torch", "--max-disagreement", "1",
        "--output", bundle,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    model = AutoModelForSequenceClassification.from_pretrained(bundle)
    assert model.config.id2label == {0: "games", 1: "net"}
    assert (bundle / "model.safetensors").exists()


def test_a_miss_of_the_gate_ships_float_only_and_exits_3(invoke, build_options, inputs, tmp_path, monkeypatch):
    worst = Fidelity(agreement=0.5, mean_kl=1.0, n_texts=8, heads={"label": 0.5}, labels={})
    monkeypatch.setattr(gate, "measure_fidelity", lambda *_: worst)
    bundle = tmp_path / "student"
    result = invoke("build", *build_options, "--output", bundle)
    assert result.exit_code == 3, result.output
    assert "no int8 model kept within" in result.output
    manifest = manifest_of(bundle)
    assert list(manifest["precisions"]) == ["fp32"]
    assert not manifest["gate"]["passed"]
    assert sorted(path.name for path in (bundle / "onnx").iterdir()) == ["model.onnx"]
    assert "No int8 model kept" in (bundle / "report.html").read_text("utf-8")
    assert EdgeClassifier.from_pretrained(bundle).precision == "fp32"


def test_a_build_killed_in_training_resumes_to_the_same_model(built, invoke, build_options, tmp_path):
    def run(output, *extra):
        return invoke("build", *build_options, "--epochs", "2", "--max-disagreement", "1", "--output", output, *extra)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(whole).exit_code == 0
    with training_dies_in_the_second_epoch():
        stopped = run(broken)
    assert (stopped.exit_code, "interrupted" in stopped.output) == (130, True)
    assert not broken.exists()
    result = run(broken, "--resume")
    assert result.exit_code == 0, result.output
    assert_same_model(whole, broken)
    assert "nothing to do" in run(broken, "--resume").output


def test_bad_input_is_refused_in_one_line_and_leaves_nothing(mistake, inputs, build_options, tmp_path, make_classifier):
    output = tmp_path / "student"
    empty_folder = tmp_path / "no-model"
    empty_folder.mkdir()
    empty = tmp_path / "empty.txt"
    empty.touch()
    binary = tmp_path / "picture.txt"
    binary.write_bytes(b"\x89PNG\0\0\0\1")
    strangers = tmp_path / "strangers.jsonl"
    strangers.write_text('{"text": "a", "label": "cooking"}\n', "utf-8")
    base = ["--corpus", inputs.corpus, "--student", inputs.student, "--output", output]
    a = ["--teacher", inputs.a]
    cases = [
        (base, "no teacher given"),
        (["--teacher", empty_folder, *base], "not a transformers model folder"),
        (["--teacher", tmp_path / "nowhere", *base], "no such folder"),
        (["--teacher", "no-owner/no-model", *base], "neither a folder here nor"),
        ([*a, "--teacher", f"a={inputs.b}", *base], "two teachers are called 'a'"),
        ([*a, *base, "--text-column", "body"], "no column 'body'"),
        ([*a, *base, "--corpus", empty], "the file is empty"),
        ([*a, *base, "--corpus", binary], "a binary file"),
        ([*a, *base, "--corpus", tmp_path / "gone.csv"], "no such file or folder"),
        ([*a, *base, "--evaluate", strangers], "no teacher knows: 'cooking'"),
        ([*a, *base, "--evaluate", inputs.corpus], "no column 'label'"),
        ([*a, *base, "--student-layers", "9"], "has 3 layers"),
        ([*a, *base, "--student", "teacher:z"], "no teacher 'z'"),
        ([*a, *base, "--method", "magic"], "no method 'magic'"),
        ([*a, *base, "--passes", "1"], "passes"),
        ([*a, *base, "--dropout", "1.5"], "dropout"),
        ([*a, *base, "--passes", "auto", "--max-passes", "1"], "max_passes"),
        ([*a, *base, "--device", "cuda:7"], "--device cuda:7"),
        ([*a, *base, "--device", "cuda:7", "--backend", "torch"], "--device cuda:7"),
        ([*a, *base, "--device", "cuda:7", "--backend", "onnxruntime"], "--device cuda:7"),
        ([*a, *base, "--threads", "0"], "threads"),
        ([*a, *base, "--batch-tokens", "0"], "batch_tokens"),
        ([*a, *base, "--report-to", "nonsense"], "--report-to nonsense"),
        ([*a, *base, "--labels", tmp_path / "gone.yaml"], "no such labels file"),
        ([*a, *base, "--recipe", tmp_path / "gone.yaml"], "no such recipe"),
    ]
    for arguments, expected in cases:
        assert expected in mistake("build", *arguments), arguments
        assert not output.exists()
        assert not list(tmp_path.glob("student*")), arguments


def test_a_full_output_folder_is_kept_unless_told(built, mistake, invoke, build_options, static_options, tmp_path):
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    assert "holds something that is no bundle" in mistake("build", *build_options, "--output", foreign, "--overwrite")
    assert (foreign / "thesis.txt").exists()
    copy = tmp_path / "student"
    shutil.copytree(built.bundle, copy)
    assert "--overwrite replaces it" in mistake("build", *build_options, "--output", copy)
    assert "another recipe" in mistake("build", *build_options, "--seed", "5", "--output", copy, "--resume")
    result = invoke(
        "build", *static_options, "--seed", "5", "--output", copy, "--work", built.work, "--overwrite",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert manifest_of(copy)["recipe"]["seed"] == 5


def test_every_field_of_the_recipe_is_an_option_of_build():
    options = {parameter.name for parameter in cli.get_command(None, "build").params}
    assert options == set(recipe_options()) | {"head", "recipe_file", "overwrite", "resume"}  # --head is of heads


def test_generic_labels_are_kept_apart_and_said_so_and_can_be_named(invoke, inputs, make_classifier, tmp_path):
    generic = make_classifier(tmp_path / "g", ["LABEL_0", "LABEL_1"], seed=3)
    base = [
        "build", "--teacher", inputs.a, "--teacher", generic, "--corpus", inputs.corpus, "--student", "static",
        "--passes", "2", "--backend", "torch", "--epochs", "1", "--max-disagreement", "1",
    ]  # fmt: skip
    apart = invoke(*base, "--output", tmp_path / "apart")
    assert "teacher 'g' has generic label names" in apart.output
    assert [label["name"] for label in manifest_of(tmp_path / "apart")["heads"][0]["labels"]] == [
        "games",
        "net",
        "g/LABEL_0",
        "g/LABEL_1",
    ]
    names = tmp_path / "labels.yaml"
    names.write_text("g: {LABEL_0: net, LABEL_1: fonts}\n")
    named = invoke(*base, "--labels", names, "--output", tmp_path / "named")
    assert named.exit_code == 0, named.output
    assert [label["name"] for label in manifest_of(tmp_path / "named")["heads"][0]["labels"]] == [
        "games",
        "net",
        "fonts",
    ]
