from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys

import pytest

from amalgam_edge import cores, environment
from amalgam_edge.cli import doctor, main
from amalgam_edge.errors import MissingExtraError
from tests.support.manifests import edit_manifest


def test_help_of_every_command_has_an_example(invoke):
    assert "Examples:" in invoke("--help").output
    for name in main.cli.list_commands(None):
        result = invoke(name, "--help")
        assert result.exit_code == 0
        assert "Example" in result.output, name


def test_help_imports_nothing_heavy():
    probe = (
        "import sys\n"
        "from amalgam_edge.cli.main import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'torch', 'transformers', 'datasets', 'onnxruntime', 'pydantic', 'rich', 'tokenizers'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    finished = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert "HEAVY []" in finished.stdout


def test_predict_answers_arguments_in_order(invoke, built, inputs):
    texts = [inputs.texts[0], "", inputs.texts[-1], "🎮 emoji"]
    result = invoke("predict", built.bundle, *texts, "--format", "jsonl", "--all-scores")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == texts
    for row in rows:
        assert sum(row["scores"].values()) == pytest.approx(1.0)
        assert row["label"] == max(row["scores"], key=row["scores"].get)
    assert "1 text(s) were empty" in result.stderr


def test_predict_reads_files_and_standard_input_alike(invoke, built, inputs, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\r\n".join(inputs.texts), "utf-8")
    options = ["predict", built.bundle, "--format", "csv", "--precision", "fp32"]
    from_file = invoke(*options, "--file", file)
    from_pipe = invoke(*options, "--batch-size", "3", input="\n".join(inputs.texts))
    rows = [list(csv.DictReader(io.StringIO(result.stdout))) for result in (from_file, from_pipe)]
    assert [row["text"] for row in rows[0]] == inputs.texts
    assert [row["label"] for row in rows[0]] == [row["label"] for row in rows[1]]


def test_predict_gives_no_label_below_the_threshold(invoke, built, inputs):
    options = ["predict", built.bundle, inputs.texts[0], "--abstain", "1"]
    (row,) = [json.loads(line) for line in invoke(*options, "--format", "jsonl").stdout.splitlines()]
    assert row["label"] is None
    assert 0 < row["score"] < 1
    (cells,) = csv.DictReader(io.StringIO(invoke(*options, "--format", "csv").stdout))
    assert (cells["label"], float(cells["score"])) == ("", row["score"])
    assert invoke(*options).stdout.split()[:2] == ["–", f"{row['score']:.3f}"]


def test_the_threshold_of_a_bundle_may_be_overruled(invoke, mistake, built, inputs, tmp_path):
    copy = tmp_path / "student"
    shutil.copytree(built.bundle, copy)
    edit_manifest(copy, abstain=1.0)
    options = ["predict", copy, inputs.texts[0], "--format", "jsonl"]
    assert json.loads(invoke(*options).stdout)["label"] is None
    assert json.loads(invoke(*options, "--abstain", "0").stdout)["label"]
    assert "between 0 and 1" in mistake(*options, "--abstain", "1.5")
    assert "no label below a score of 1" in invoke("inspect", copy).output
    measured = json.loads(invoke("evaluate", copy, "--data", inputs.labelled, "--json").stdout)
    assert {row["answered"] for row in measured["heads"]["label"]["student"].values()} == {0.0}
    without = invoke("evaluate", copy, "--data", inputs.labelled, "--abstain", "0").output
    assert "answered" not in without


def test_evaluate_counts_what_is_answered(invoke, built, inputs):
    rows = [json.loads(line) for line in inputs.labelled.read_text("utf-8").splitlines()]
    predicted = invoke("predict", built.bundle, "--format", "jsonl", input="\n".join(row["text"] for row in rows))
    answers = [json.loads(line) for line in predicted.stdout.splitlines()]
    scores = sorted(answer["score"] for answer in answers)
    threshold = (scores[len(scores) // 2 - 1] + scores[len(scores) // 2]) / 2
    given = [(a["label"], r["label"]) for a, r in zip(answers, rows, strict=True) if a["score"] >= threshold]
    options = ["evaluate", built.bundle, "--data", inputs.labelled, "--precision", "int8", "--abstain", threshold]
    measured = json.loads(invoke(*options, "--json").stdout)["heads"]["label"]["student"]["int8"]
    assert measured["answered"] == len(given) / len(rows)
    assert measured["answered_accuracy"] == pytest.approx(sum(a == b for a, b in given) / len(given))
    assert "accuracy on those" in invoke(*options).output


def test_push_says_where_it_went_or_why_not(invoke, mistake, built, tmp_path, monkeypatch):
    assert "no bundle" in mistake("push", tmp_path, "owner/name")
    assert "is called owner/name" in mistake("push", built.bundle, "name")
    refused = mistake("push", built.bundle, "owner/name")  # the tests have no Hub
    assert refused.startswith("owner/name: cannot be pushed: the Hub is not asked")


def test_predict_counts_what_it_cut(invoke, built):
    result = invoke("predict", built.bundle, "word " * 100_000)
    assert result.exit_code == 0
    assert "1 text(s) longer than" in result.stderr
    assert len(result.stdout.splitlines()) == 1
    assert len(result.stdout) < 200


def test_predict_refuses_what_it_cannot_do(mistake, invoke, built, tmp_path):
    binary = tmp_path / "picture.png"
    binary.write_bytes(b"\x89PNG\xff\xfe")
    assert "no bundle" in mistake("predict", tmp_path, "text")
    assert "no precision 'q4'" in mistake("predict", built.bundle, "text", "--precision", "q4")
    assert "give one of them" in mistake("predict", built.bundle, "text", "--file", binary)
    assert "not a text file" in mistake("predict", built.bundle, "--file", binary)
    assert "cannot be read" in mistake("predict", built.bundle, "--file", tmp_path / "gone.txt")


def test_a_damaged_bundle_is_named_by_its_file(mistake, built, inputs, tmp_path):
    copy = tmp_path / "student"
    shutil.copytree(built.bundle, copy)
    model = copy / "onnx" / "model_quantized.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    for command in (["predict", copy, "text"], ["inspect", copy], ["evaluate", copy, "--data", inputs.labelled]):
        assert "model_quantized.onnx: damaged or changed" in mistake(*command)


def test_inspect_shows_labels_precisions_and_teachers(invoke, built):
    shown = invoke("inspect", built.bundle).output
    for word in ("games", "a:games", "b:fonts", "int8", "fp32", "refined", "all as they were built"):
        assert word in shown
    written = json.loads((built.bundle / "amalgam.json").read_text("utf-8"))
    assert json.loads(invoke("inspect", built.bundle, "--json").output) == written
    assert written["format_version"] == 3


def test_evaluate_measures_both_precisions(invoke, mistake, built, inputs, tmp_path):
    recorded = json.loads((built.bundle / "amalgam.json").read_text("utf-8"))["evaluation"]["heads"]["label"]["student"]
    result = invoke("evaluate", built.bundle, "--data", inputs.labelled, "--json")
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)
    for precision in ("fp32", "int8"):
        assert measured["heads"]["label"]["student"][precision]["accuracy"] == pytest.approx(
            recorded[precision]["accuracy"]
        )
        assert sum(map(sum, measured["heads"]["label"]["student"][precision]["confusion"])) == measured["n_texts"]
    assert "macro-F1" in invoke("evaluate", built.bundle, "--data", inputs.labelled, "--precision", "int8").output
    strangers = tmp_path / "strangers.csv"
    strangers.write_text("text,label\nsoup,cooking\n", "utf-8")
    assert "no teacher knows: 'cooking'" in mistake("evaluate", built.bundle, "--data", strangers)


def test_doctor_is_content_here_and_names_two_runtimes(invoke, monkeypatch):
    healthy = invoke("doctor")
    assert healthy.exit_code == 0, healthy.output
    assert "CPUExecutionProvider" in healthy.output
    monkeypatch.setattr(cores, "_allowed_cores", lambda: 8)
    for quota, shown in ((None, "8 usable\n"), (1.5, "2 usable, CPU quota 1.5\n"), (16.0, "8 usable, CPU quota 16\n")):
        for module in (cores, doctor):
            monkeypatch.setattr(module, "cpu_quota", lambda *process, quota=quota: quota)
        assert f"cores             {shown}" in invoke("doctor").output
    monkeypatch.setattr(environment, "_version", lambda name: "1.0")
    sick = invoke("doctor")
    assert sick.exit_code == 1
    assert "overwrite each other's files" in sick.output


def test_a_mistake_is_one_line_and_status_2(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["amalgam-edge", "inspect", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Error: ")
    assert shown.count("\n") == 1


def test_training_commands_without_their_extra_say_what_to_install(invoke, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydantic", None)
    assert invoke("build", "--help").exit_code == 0
    result = invoke("build", "--teacher", "runs/a")
    assert isinstance(result.exception, MissingExtraError)
    assert str(result.exception) == 'a recipe needs pydantic: pip install "amalgam-edge[train]"'


def test_unknown_commands_are_refused_by_click(invoke):
    result = invoke("bild")
    assert result.exit_code == 2
    assert "No such command" in result.output
