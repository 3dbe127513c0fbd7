"""Budgets: builds under one, and finished bundles whose models are chosen anew."""

import json
import shutil

import numpy as np
import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime import Bundle, EdgeClassifier
from amalgam_edge.runtime.peak_memory import peak_megabytes, peak_megabytes_of_this_process

ANY = "size<=100MB, latency<=10s, loss<=100%"
EVERY = {"fp32", "int8", "fp16", "w8", "q4", "int8-pq"}


@pytest.fixture
def bundle(built, tmp_path, quick):
    return shutil.copytree(built.bundle, tmp_path / "student")


@pytest.fixture(scope="module")
def optimized(built, inputs, invoke, tmp_path_factory):
    output = tmp_path_factory.mktemp("optimized") / "small"
    result = invoke("optimize", built.bundle, "--calibration", inputs.corpus, "--budget", ANY, "--output", output)
    assert result.exit_code == 0, result.output
    return output, result.output


def manifest_of(folder):
    return json.loads((folder / "amalgam.json").read_text("utf-8"))


def test_every_precision_is_made_measured_and_usable(optimized, built, inputs):
    output, said = optimized
    manifest = manifest_of(output)
    assert set(manifest["precisions"]) == EVERY
    rows = {row["name"]: row for row in manifest["front"]["candidates"]}
    assert set(rows) == EVERY
    bundle = Bundle.open(output)
    bundle.verify()
    expected = EdgeClassifier(Bundle.open(built.bundle), precision="fp32").logits(inputs.texts)
    for name, row in rows.items():
        assert row["megabytes"] == pytest.approx(bundle.size(bundle.model_name(name)) / 1e6)
        assert row["latency_ms"] > 0
        assert row["p95_ms"] >= row["latency_ms"]
        found = EdgeClassifier(bundle, precision=name).logits(inputs.texts)
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.8
    assert rows["fp32"]["loss_percent"] == 0
    assert all(name in said for name in EVERY)


def test_the_front_is_of_those_that_no_other_beats(optimized):
    """Which they are depends on how long each took this time."""
    rows = manifest_of(optimized[0])["front"]["candidates"]
    costs = np.array([[row[cost] for cost in ("megabytes", "latency_ms", "batch_ms", "loss_percent")] for row in rows])
    beaten = [((costs <= own).all(axis=1) & (costs < own).any(axis=1)).any() for own in costs]
    assert [row["on_front"] for row in rows] == [not is_beaten for is_beaten in beaten]
    assert any(row["on_front"] for row in rows)


def test_the_pick_is_what_runs(optimized):
    output, said = optimized
    manifest = manifest_of(output)
    picked = manifest["front"]["picked"]
    fastest = min((r for r in manifest["front"]["candidates"] if r["on_front"]), key=lambda r: r["latency_ms"])
    assert manifest["default_precision"] == picked == fastest["name"]
    assert f"{picked}: {manifest['front']['reason']}" in said
    assert EdgeClassifier.from_pretrained(output).precision == picked


def test_card_and_report_tell_of_the_new_models(optimized, built):
    output, _ = optimized
    report = (output / "report.html").read_text("utf-8")
    assert "Models under the budget" in report
    assert "<svg" in report
    assert "q4" in (output / "README.md").read_text("utf-8")
    old, new = manifest_of(built.bundle), manifest_of(output)
    assert list(new["evaluation"]["heads"]["label"]["student"]) == ["fp32"]  # of the others nothing was measured
    assert (
        new["evaluation"]["heads"]["label"]["student"]["fp32"] == old["evaluation"]["heads"]["label"]["student"]["fp32"]
    )


def test_in_place_and_with_texts_of_ones_own(bundle, invoke, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"mail server {k} chess" for k in range(40)), "utf-8")
    result = invoke("optimize", bundle, "--budget", "loss<=100%", "--calibration", texts)
    assert result.exit_code == 0, result.output
    assert set(manifest_of(bundle)["precisions"]) == EVERY
    assert manifest_of(bundle)["gate"]["n_texts"] == 8
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["student", "texts.txt"]


@pytest.mark.parametrize(
    ("labels", "warned"),
    [
        (["games", "", "soup"], "'soup'; only texts are used"),
        (["b", "a", "c", "d", "e"], "'b', 'a', 'c' and 2 more; only texts are used"),
    ],
)
def test_texts_with_labels_that_are_not_the_bundles_are_told_and_used(bundle, invoke, tmp_path, labels, warned):
    words = optimized_on_labels(bundle, invoke, tmp_path, labels)
    assert "labels that the bundle does not have" in words
    assert warned in words


def test_of_texts_with_the_bundles_labels_nothing_is_told(bundle, invoke, tmp_path):
    assert "labels that the bundle does not have" not in optimized_on_labels(bundle, invoke, tmp_path, ["games", "net"])


def optimized_on_labels(bundle, invoke, tmp_path, labels):
    """The words that the command prints when it measures on texts with these labels."""
    texts = tmp_path / "texts.csv"
    rows = [f"mail server {k} chess,{labels[k % len(labels)]}" for k in range(40)]
    texts.write_text("\n".join(["text,label", *rows]), "utf-8")
    result = invoke("optimize", bundle, "--budget", "loss<=100%", "--calibration", texts)
    assert result.exit_code == 0, result.output
    assert manifest_of(bundle)["gate"]["n_texts"] == 8
    return " ".join(result.output.split())  # the console may break lines


def test_what_is_known_of_the_student_stands_beside_its_models(optimized, built):
    output, said = optimized
    student = manifest_of(built.bundle)["student"]
    assert student["layers"] == 1
    for row in manifest_of(output)["front"]["candidates"]:
        assert {name: row[name] for name in student} == student
    assert f"{student['agreement']:.1%}" in said


def test_a_budget_that_cannot_be_met_says_by_how_much(bundle, inputs, invoke):
    result = invoke("optimize", bundle, "--calibration", inputs.corpus, "--budget", "size<=1kB, loss<=100%")
    assert result.exit_code == 3
    assert "nothing meets the budget" in result.output
    assert "too much" in result.output
    assert not manifest_of(bundle)["front"]["within_budget"]
    Bundle.open(bundle).verify()


def test_models_that_change_too_many_labels_do_not_ship(bundle, inputs, invoke):
    result = invoke("optimize", bundle, "--calibration", inputs.corpus, "--budget", "loss<=0%")
    manifest = manifest_of(bundle)
    losses = {row["name"]: row["loss_percent"] for row in manifest["front"]["candidates"]}
    assert set(manifest["precisions"]) == {name for name, loss in losses.items() if loss == 0}
    assert result.exit_code == 0
    on_disk = {path.name for path in (bundle / "onnx").iterdir()}
    assert on_disk == {row["file"].removeprefix("onnx/") for row in manifest["precisions"].values()}


def test_mistakes_are_told_before_any_work(bundle, inputs, mistake, tmp_path):
    before = (bundle / "amalgam.json").read_bytes()
    assert "'size' is not understood" in mistake("optimize", bundle, "--budget", "size")
    assert "no such file" in mistake("optimize", bundle, "--budget", ANY, "--calibration", tmp_path / "no.txt")
    (tmp_path / "one.txt").write_text("a text", "utf-8")
    assert "one text is too few" in mistake("optimize", bundle, "--budget", ANY, "--calibration", tmp_path / "one.txt")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    assert "not empty" in mistake(
        "optimize", bundle, "--calibration", inputs.corpus, "--budget", ANY, "--output", tmp_path / "full"
    )
    assert "no bundle" in mistake("optimize", tmp_path / "full", "--budget", ANY)
    assert (bundle / "amalgam.json").read_bytes() == before


@pytest.mark.parametrize(
    "location",
    [
        "{folder}/corpus.jsonl",
        "reference://::http://127.0.0.1:9/{{os.environ}}",
        "http://127.0.0.1:9/a.txt",
        "s3://bucket/a.txt",
        "hf://datasets/owner/name",
        "file:///etc/passwd",
        "/dev/zero",
        "**/*.txt",
        7,
        None,
    ],
)
def test_a_corpus_that_the_bundle_states_is_shown_and_never_opened(bundle, mistake, tmp_path, monkeypatch, location):
    stated = location.format(folder=tmp_path) if isinstance(location, str) else location
    (tmp_path / "corpus.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n', "utf-8")
    manifest = manifest_of(bundle)
    manifest["recipe"]["corpus"] = stated
    (bundle / "amalgam.json").write_text(json.dumps(manifest), "utf-8")
    monkeypatch.setattr("amalgam_edge.corpus.sources.load_table", lambda *read: pytest.fail(f"{read} was opened"))
    message = mistake("optimize", bundle, "--budget", ANY)
    assert "name some with --calibration" in message
    assert stated is None or repr(stated) in message


def test_texts_that_the_bundle_held_out_are_held_out_again(bundle, inputs, invoke, tmp_path, monkeypatch):
    """The same texts as in the build, if the user names the corpus of the build."""
    from amalgam_edge.building import optimizing
    from amalgam_edge.building.inputs import read_texts
    from amalgam_edge.recipe.recipe import Recipe

    recipe = Recipe(**manifest_of(bundle)["recipe"])
    built_from = read_texts(recipe.corpus, recipe.evaluation, recipe.teachers, recipe.hints)
    found = []

    def stop(bundle, texts, *others):
        found.append(texts)
        raise AmalgamError("seen")

    monkeypatch.setattr(optimizing, "CandidateFolder", lambda *given, **named: stop(None, named["texts"]))
    invoke("optimize", bundle, "--calibration", inputs.corpus, "--budget", ANY, "--output", tmp_path / "small")
    assert found == [built_from.corpus.take(built_from.held_out)]


@pytest.mark.parametrize("held_out", ["all", -3, None, 10**30, [], 1.5])
def test_a_number_of_held_out_texts_that_is_none_is_the_default(bundle, held_out):
    from dataclasses import replace

    from amalgam_edge.building.head_checks import held_out_texts
    from amalgam_edge.recipe.sections import CorpusSettings

    opened = Bundle.open(bundle)
    stated = replace(opened, manifest=replace(opened.manifest, recipe={"held_out": held_out}))
    assert held_out_texts(stated) == CorpusSettings().held_out


def test_a_build_under_a_budget(invoke, build_options, built, tmp_path, quick):
    work = shutil.copytree(built.work, tmp_path / "work")
    output = tmp_path / "student"
    result = invoke("build", *build_options, "--budget", ANY, "--work", work, "--output", output)
    assert result.exit_code == 0, result.output
    manifest = manifest_of(output)
    assert set(manifest["precisions"]) == EVERY
    assert manifest["default_precision"] == manifest["front"]["picked"]
    assert "Models under the budget" in (output / "report.html").read_text("utf-8")
    assert f"{manifest['front']['picked']}: {manifest['front']['reason']}" in result.output


def test_a_build_refuses_a_budget_before_any_work(mistake, build_options, tmp_path):
    output = tmp_path / "student"
    assert "not understood" in mistake("build", *build_options, "--budget", "fast", "--output", output)
    assert not output.exists()


def test_memory_is_that_of_a_process_of_its_own(built):
    tokenizer = built.bundle / "tokenizer.json"
    megabytes = peak_megabytes(built.bundle / "onnx" / "model.onnx", tokenizer, max_length=48, pad_token_id=1)
    own = peak_megabytes_of_this_process()
    if own is None:
        assert megabytes is None
    else:
        assert 20 < megabytes < own  # this one has loaded torch
    assert peak_megabytes(tokenizer, tokenizer, max_length=48, pad_token_id=1) is None
