"""Builds that choose among layers, vocabularies and precisions."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from amalgam_edge.building import pipeline, students
from amalgam_edge.progress import SilentProgress
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.runtime import Bundle, EdgeClassifier

ANY = "size<=100MB, latency<=10s, loss<=100%"
PRECISIONS = ["fp32", "int8", "fp16", "w8", "q4", "int8-pq"]


def manifest_of(folder):
    return json.loads((folder / "amalgam.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def options(build_options, built, quick_module, tmp_path_factory):
    """What builds here need, less the budget and the output; scores are those of the finished build."""
    work = shutil.copytree(built.work, tmp_path_factory.mktemp("work") / "work")
    return SimpleNamespace(work=work, build=["build", *build_options, "--student-layers", "1,2", "--work", work])


@pytest.fixture(scope="module")
def several(invoke, options, inputs, tmp_path_factory):
    """Students of one and two layers, each with all tokens and with fewer."""
    bundle = tmp_path_factory.mktemp("several") / "student"
    result = invoke(
        *options.build, "--budget", ANY, "--trim-vocabulary", "--cascade", "--cascade-agreement", "0", "--evaluate",
        inputs.labelled, "--output", bundle,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return SimpleNamespace(bundle=bundle, output=result.output)


def test_every_layer_vocabulary_and_precision_is_a_candidate(several):
    rows = manifest_of(several.bundle)["front"]["candidates"]
    assert len({row["name"] for row in rows}) == len(rows) == 2 * 2 * len(PRECISIONS)
    tokens = sorted({row["n_tokens"] for row in rows})
    assert len(tokens) == 2
    made = {(row["layers"], row["n_tokens"], row["precision"]) for row in rows}
    assert made == {(layers, n, precision) for layers in (1, 2) for n in tokens for precision in PRECISIONS}
    for row in rows:
        assert ("trimmed" in row["name"]) == (row["n_tokens"] == tokens[0])
        assert row["name"].startswith(f"{row['layers']}-layer ")
    assert all(row["loss_percent"] == 0 for row in rows if row["precision"] == "fp32" and row["n_tokens"] == tokens[1])


def test_the_truest_student_is_picked_and_of_its_models_the_fastest(several):
    manifest = manifest_of(several.bundle)
    rows = manifest["front"]["candidates"]
    picked = next(row for row in rows if row["name"] == manifest["front"]["picked"])
    assert picked["agreement"] == max(row["agreement"] for row in rows)
    ties = [row for row in rows if row["agreement"] == picked["agreement"]]
    assert picked["latency_ms"] == min(row["latency_ms"] for row in ties)
    assert f"that of {picked['layers']} layers agrees most with held-out supervision" in manifest["front"]["reason"]
    assert manifest["front"]["reason"] in several.output
    facts = {name: picked[name] for name in ("layers", "n_tokens", "agreement")}
    assert manifest["student"] == facts


def test_the_bundle_is_that_of_the_picked_student_alone(several, inputs):
    manifest = manifest_of(several.bundle)
    Bundle.open(several.bundle).verify()
    config = json.loads((several.bundle / "config.json").read_text("utf-8"))
    assert config["num_hidden_layers"] == manifest["student"]["layers"]
    assert config["vocab_size"] == manifest["student"]["n_tokens"]
    trimmed = "trimmed" in manifest["front"]["picked"]
    assert (manifest["vocabulary"] is not None) == trimmed
    assert list(manifest["precisions"]) == PRECISIONS
    assert {path.name for path in several.bundle.iterdir()} == {
        *("amalgam.json", "config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "report.html"),
        *("recipe.yaml", "onnx"),
    }
    assert len(list((several.bundle / "onnx").iterdir())) == len(PRECISIONS) + 1  # and the cascade's static student
    assert EdgeClassifier.from_pretrained(several.bundle)(inputs.texts[:3])[0].label
    assert set(manifest["evaluation"]["heads"]["label"]["student"]) == {*PRECISIONS, "cascade"}


def test_the_agreement_is_that_of_the_float_student_with_held_out_supervision(several):
    """Where all tokens stayed, the bundle's own float model tells; where not, it lost no more than it says."""
    manifest = manifest_of(several.bundle)
    recipe = Recipe(**manifest["recipe"])
    data = pipeline.prepare_training_data(recipe, SilentProgress())[1]
    texts, supervision = data.texts, data.supervision
    likeliest = supervision.target[texts.held_out].argmax(axis=1)
    exact = EdgeClassifier.from_pretrained(several.bundle, precision="fp32", cascade=False)
    answered = exact.logits([texts.corpus.texts[int(row)] for row in texts.held_out]).argmax(axis=1)
    row = next(
        row
        for row in manifest["front"]["candidates"]
        if row["precision"] == "fp32" and row["n_tokens"] == manifest["student"]["n_tokens"]
        and row["layers"] == manifest["student"]["layers"]
    )  # fmt: skip
    lost = row["loss_percent"] / 100
    assert manifest["student"]["agreement"] == pytest.approx(np.mean(answered == likeliest), abs=lost + 1e-9)


def test_progress_report_and_work_folder_of_several_students(several, options):
    for layers in (1, 2):
        for step in (f"training the student of {layers} layers", f"quantizing and measuring, {layers} layers"):
            assert step in several.output
    for words in ("agreement with supervision", "layers", "tokens"):
        assert words in several.output
        assert words in (several.bundle / "report.html").read_text("utf-8")
    steps = [line for line in several.output.splitlines() if line.startswith("[")]
    last, total = steps[-1].removeprefix("[").split("]")[0].split("/")
    assert last == total
    assert int(total) == len({line.split("]")[0] for line in steps})
    assert sorted(path.name for path in options.work.iterdir()) == ["features", "scores"]


def test_a_killed_build_goes_on_with_the_student_that_it_was_at(invoke, options, tmp_path, monkeypatch):
    output = tmp_path / "student"
    command = [*options.build, "--budget", ANY, "--seed", "3", "--output", output]
    real = students.fit
    told = {}

    def watched(*arguments, folder, advance, die, **more):
        def watch(count):
            told.setdefault(folder.name, []).append(count)
            if die and folder.name == "2-layers":
                raise KeyboardInterrupt
            advance(count)

        return real(*arguments, folder=folder, advance=watch, **more)

    monkeypatch.setattr(students, "fit", lambda *a, **k: watched(*a, die=True, **k))
    stopped = invoke(*command)
    assert stopped.exit_code == 130
    assert not output.exists()
    assert set(told) == {"1-layers", "2-layers"}
    updates = sum(told.pop("1-layers"))
    told.clear()
    monkeypatch.setattr(students, "fit", lambda *a, **k: watched(*a, die=False, **k))
    result = invoke(*command, "--resume")
    assert result.exit_code == 0, result.output
    assert told["1-layers"] == [updates]  # all at once: it was trained already
    assert told["2-layers"] == [1] * updates
    assert {row["layers"] for row in manifest_of(output)["front"]["candidates"]} == {1, 2}
    assert "nothing to do" in invoke(*command, "--resume").output


def test_a_budget_that_no_student_meets_says_by_how_much(invoke, options, tmp_path):
    output = tmp_path / "student"
    result = invoke(*options.build, "--budget", "size<=1kB, loss<=100%", "--output", output)
    assert result.exit_code == 3
    front = manifest_of(output)["front"]
    smallest = min(front["candidates"], key=lambda row: row["megabytes"])
    assert front["picked"] == smallest["name"]
    assert f"size is {smallest['megabytes']:.3g} MB" in front["reason"].replace("whose size", "size")
    Bundle.open(output).verify()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--student-layers", "1,2"], "--student-layers 1,2: several students need a budget to choose by"),
        (["--student-layers", "2,2", "--budget", ANY], "--student-layers: 2 is named twice"),
        (["--student-layers", "1,9", "--budget", ANY], "has 3 layers"),
        (["--student-layers", "1,x", "--budget", ANY], "student_layers"),
        (["--student-layers", "0,1", "--budget", ANY], "student_layers"),
        (["--student", "static", "--student-layers", "1,2", "--budget", ANY], "a static student has no layers"),
    ],
)
def test_layers_that_make_no_choice_are_refused_before_any_work(mistake, build_options, tmp_path, more, message):
    output = tmp_path / "student"
    assert message in mistake("build", *build_options, *more, "--output", output)
    assert not list(tmp_path.iterdir())
