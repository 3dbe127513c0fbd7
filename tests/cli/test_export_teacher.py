from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import scipy.special
import scipy.stats
import torch
from tokenizers import Tokenizer

from amalgam_edge.building import teacher_folder
from amalgam_edge.dropout.sites import LiveDropout
from amalgam_edge.errors import AmalgamError
from amalgam_edge.models.teacher import load_teacher

TEXTS = ["a first text", "a second, longer text"]  # of the README's snippet
PASSES = 5
MAX_LENGTH = 20
FILES = {"README.md", "amalgam.json", "config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json"}

# Runs a file word for word where only what a README may count on can be imported.
PLAIN = """
import sys
for name in ("amalgam_edge", "onnx", "torch", "transformers"):
    sys.modules[name] = None
exec(compile(open(sys.argv[1], encoding="utf-8").read(), "README.md", "exec"))
"""


@pytest.fixture(scope="module")
def exported(inputs, tmp_path_factory):
    """A teacher that the real command exported. Read only."""
    folder = tmp_path_factory.mktemp("exported") / "deep" / "teacher"
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "amalgam_edge.cli", "export-teacher", f"fun={inputs.a}", "--output", str(folder)),
            *("--passes", str(PASSES), "--max-length", str(MAX_LENGTH)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return SimpleNamespace(folder=folder, stdout=finished.stdout, stderr=finished.stderr)


def manifest_of(folder):
    return json.loads((folder / "amalgam.json").read_text("utf-8"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def snippet_of(folder):
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    return code


def run_snippet(folder, tmp_path):
    """What the README's snippet prints."""
    file = tmp_path / "snippet.py"
    file.write_text(snippet_of(folder), "utf-8")
    finished = subprocess.run(
        [sys.executable, "-c", PLAIN, str(file)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return np.array([float(number) for number in finished.stdout.strip("[] \n").split()])


def logits_by_torch(teacher, text, numbers, passes):
    """``(n_passes, n_classes)`` of one text alone, by the model and the masks that it is run under."""
    inputs = teacher.tokenizer(
        text, return_tensors="pt", return_token_type_ids=False, truncation=True, max_length=teacher.max_length
    )
    mode = LiveDropout(0, passes, unbatched=[site.number for site in teacher.sites if not site.batched])
    teacher.model.train()
    logits = []
    with torch.inference_mode(), mode:
        for number in numbers:
            mode.start(number)
            logits.append(teacher.model(**inputs).logits[0].double().numpy())
    teacher.model.eval()
    return np.stack(logits)


def uncertainty_by_torch(teacher, text, passes):
    logits = logits_by_torch(teacher, text, range(passes), passes)
    return scipy.stats.entropy(scipy.special.softmax(logits, axis=-1).mean(axis=0)) / np.log(logits.shape[-1])


def test_the_folder_is_whole_and_nothing_is_beside_it(exported):
    assert {path.name for path in exported.folder.iterdir()} == FILES
    assert [path.name for path in exported.folder.parent.iterdir()] == [exported.folder.name]


def test_the_manifest_describes_the_teacher_and_its_files(exported, inputs):
    manifest = manifest_of(exported.folder)
    teacher = load_teacher("fun", str(inputs.a))
    assert manifest["kind"] == "teacher"
    assert (manifest["name"], manifest["classes"]) == ("fun", ["games", "net"])
    assert manifest["fingerprint"] == teacher.fingerprint
    assert (manifest["round"], manifest["masks"], manifest["precision"]) == (PASSES, "systematic", "fp32")
    assert manifest["max_length"] == MAX_LENGTH
    assert [(site["number"], site["p"]) for site in manifest["dropout_sites"]] == [
        (site.number, 0.1) for site in teacher.sites
    ]
    assert 0 < manifest["difference"] < 1e-4
    assert manifest["bytes"] == (exported.folder / "model.onnx").stat().st_size
    assert manifest["files"] == {
        name: hashlib.sha256(content).hexdigest()
        for name, content in contents(exported.folder).items()
        if name != "amalgam.json"
    }


def test_what_was_done_is_told_in_a_line(exported):
    (line,) = exported.stdout.splitlines()
    n_sites = len(manifest_of(exported.folder)["dropout_sites"])
    assert line.startswith(f"{exported.folder}: {n_sites} dropouts live, ")
    assert "differ from torch's by at most" in line


def test_nothing_tells_where_the_teacher_lay(exported, inputs):
    for name, content in contents(exported.folder).items():
        assert str(inputs.a.parent).encode() not in content, name


def test_the_models_inputs_are_those_of_the_readme(exported):
    readme = (exported.folder / "README.md").read_text("utf-8")
    session = onnxruntime.InferenceSession(exported.folder / "model.onnx")
    assert [each.name for each in session.get_inputs()] == ["input_ids", "attention_mask", "mc_pass", "mc_seed"]
    assert [each.shape for each in session.get_inputs()[2:]] == [[], []]
    assert [each.name for each in session.get_outputs()] == ["logits"]
    for name in ("input_ids", "attention_mask", "mc_pass", "mc_seed", "logits"):
        assert f"`{name}`" in readme
    assert readme.startswith("# fun: ")
    assert f"balanced over each {PASSES} passes" in readme
    assert "Classes: games, net." in readme


def test_the_readmes_snippet_runs_word_for_word_and_is_right(exported, inputs, tmp_path):
    found = run_snippet(exported.folder, tmp_path)
    teacher = load_teacher("fun", str(inputs.a), max_length=MAX_LENGTH)
    expected = [uncertainty_by_torch(teacher, text, PASSES) for text in TEXTS]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert abs(expected[0] - expected[1]) > 1e-3
    assert all(json.dumps(text) in snippet_of(exported.folder) for text in TEXTS)


def test_passes_beyond_the_first_round_and_long_texts_are_those_of_torch(exported, inputs):
    teacher = load_teacher("fun", str(inputs.a), max_length=MAX_LENGTH)
    text = "penguins on ice and snow, racing " * 9
    tokenizer = Tokenizer.from_file(str(exported.folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_LENGTH)
    encoded = tokenizer.encode(text)
    assert len(encoded.ids) == MAX_LENGTH
    session = onnxruntime.InferenceSession(exported.folder / "model.onnx")
    inputs = {
        "input_ids": np.array([encoded.ids]),
        "attention_mask": np.array([encoded.attention_mask]),
        "mc_seed": np.array(0),
    }
    numbers = [0, PASSES - 1, PASSES, 3 * PASSES + 2]
    found = [session.run(None, inputs | {"mc_pass": np.array(number)})[0][0] for number in numbers]
    np.testing.assert_allclose(found, logits_by_torch(teacher, text, numbers, PASSES), atol=1e-3)
    plain = session.run(None, inputs | {"mc_pass": np.array(-1)})[0][0]
    with torch.inference_mode():
        expected = teacher.model(input_ids=torch.tensor([encoded.ids])).logits[0]
    np.testing.assert_allclose(plain, expected, atol=1e-3)


def test_an_export_is_kept_unless_told_and_then_replaced_whole(exported, invoke, mistake, make_classifier, tmp_path):
    """By a teacher without dropout of its own, in every other setting too."""
    folder = tmp_path / "teacher"
    shutil.copytree(exported.folder, folder)
    (folder / "left over").touch()
    still = make_classifier(tmp_path / "still", ["x", "y", "z"], architecture="distilbert", dropout=0.0, layers=1)
    again = ["export-teacher", still, "--output", folder, "--passes", "2", "--masks", "independent"]
    before = contents(folder)
    assert mistake(*again) == f"{folder}: not empty; --overwrite replaces it"
    assert "give --dropout P" in mistake(*again, "--overwrite")
    assert contents(folder) == before
    result = invoke(*again, "--overwrite", "--dropout", "0.3", "--precision", "fp16")
    assert result.exit_code == 0, result.output
    assert {path.name for path in folder.iterdir()} == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["still", "teacher"]
    manifest = manifest_of(folder)
    assert (manifest["name"], manifest["precision"], manifest["round"]) == ("still", "fp16", 1)
    assert 1e-5 < manifest["difference"] < 0.05  # of what ships, not of the float32 that it was made from
    assert {site["p"] for site in manifest["dropout_sites"]} == {0.3}
    assert "balanced" not in (folder / "README.md").read_text("utf-8")
    found = run_snippet(folder, tmp_path)
    teacher = load_teacher("still", str(still), dropout=0.3)
    logits = [logits_by_torch(teacher, text, range(2), 1) for text in TEXTS]  # each pass a round of its own
    expected = [scipy.stats.entropy(scipy.special.softmax(each, axis=-1).mean(axis=0)) / np.log(3) for each in logits]
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_passes_are_those_that_scoring_runs(invoke, inputs, tmp_path, monkeypatch):
    """More than ten come in rounds of ten, and so does what auto runs."""
    lengths = []

    def export(teacher, path, *, passes, **options):
        lengths.append(passes)
        path.write_bytes(b"a model")
        return 0.0

    monkeypatch.setattr(teacher_folder, "export_teacher", export)
    for passes, runs in (("16", 16), ("auto", 10)):
        output = tmp_path / passes
        result = invoke("export-teacher", inputs.a, "--output", output, "--passes", passes)
        assert result.exit_code == 0, result.output
        assert manifest_of(output)["round"] == 10
        assert f"for k in range({runs})" in snippet_of(output)
        assert "balanced over each 10 passes" in (output / "README.md").read_text("utf-8")
    assert lengths == [10, 10]


def test_a_teacher_without_dropout_is_refused_with_the_remedy(mistake, make_classifier, tmp_path):
    still = make_classifier(tmp_path / "still", ["x", "y"], dropout=0.0, layers=1)
    message = mistake("export-teacher", still, "--output", tmp_path / "exported")
    assert "teacher 'still' has no dropout above zero" in message
    assert "give --dropout P" in message
    assert [path.name for path in tmp_path.iterdir()] == ["still"]


def test_an_export_is_no_bundle(exported, mistake, inputs):
    for command in (
        ["predict", exported.folder, "text"],
        ["inspect", exported.folder],
        ["evaluate", exported.folder, "--data", inputs.labelled],
    ):
        message = mistake(*command)
        assert message == f"{exported.folder}: an exported teacher, no bundle; build one with amalgam-edge build"


def test_a_build_does_not_go_on_with_an_export(exported, mistake, build_options):
    before = contents(exported.folder)
    assert "an exported teacher" in mistake("build", *build_options, "--output", exported.folder, "--resume")
    assert "not empty" in mistake("build", *build_options, "--output", exported.folder)
    assert contents(exported.folder) == before


def test_what_is_no_export_is_never_replaced(mistake, inputs, tmp_path, monkeypatch):
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    file = tmp_path / "file"
    file.write_text("mine")
    for overwrite in ([], ["--overwrite"]):
        assert f"{file}: a file stands there" in mistake("export-teacher", inputs.a, "--output", file, *overwrite)
        message = mistake("export-teacher", inputs.a, "--output", foreign, *overwrite)
        assert message.startswith(f"{foreign}: ")
    monkeypatch.chdir(foreign)
    assert "current folder cannot be replaced" in mistake("export-teacher", inputs.a, "--output", ".", "--overwrite")
    assert (foreign / "thesis.txt").read_text() == "years of work"
    assert file.read_text() == "mine"


def test_a_failed_export_leaves_nothing(mistake, inputs, tmp_path, monkeypatch):
    def fail(teacher, path, **options):
        path.write_bytes(b"half a model")
        raise AmalgamError("cannot be exported")

    monkeypatch.setattr(teacher_folder, "export_teacher", fail)
    assert mistake("export-teacher", inputs.a, "--output", tmp_path / "exported") == "cannot be exported"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inside", ["exported", "deep/exported"])
def test_an_output_that_cannot_be_a_folder_is_refused(mistake, inputs, tmp_path, inside):
    (tmp_path / "file").write_text("mine")
    assert "file" in mistake("export-teacher", inputs.a, "--output", tmp_path / "file" / inside)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--passes", "1"], "passes: "),
        (["--dropout", "0"], "dropout: "),
        (["--dropout", "1"], "dropout: "),
        (["--max-length", "3"], "max_length: "),
    ],
)
def test_values_out_of_range_are_refused(mistake, inputs, tmp_path, options, named):
    assert named in mistake("export-teacher", inputs.a, "--output", tmp_path / "exported", *options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--passes", "many"], "'many' is neither a whole number nor auto"),
        (["--masks", "random"], "'systematic', 'independent'"),
        (["--precision", "int8"], "'fp32', 'fp16'"),
    ],
)
def test_values_of_another_kind_are_refused_with_the_usage(invoke, inputs, tmp_path, options, named):
    result = invoke("export-teacher", inputs.a, "--output", tmp_path / "exported", *options)
    assert result.exit_code == 2, result.exception
    assert named in result.output
    assert list(tmp_path.iterdir()) == []


def test_teachers_that_are_none_are_refused(mistake, invoke, tmp_path):
    output = ["--output", tmp_path / "exported"]
    assert "no such folder" in mistake("export-teacher", tmp_path / "nowhere", *output)
    assert "not a transformers model folder" in mistake("export-teacher", tmp_path, *output)
    assert invoke("export-teacher", *output).exit_code == 2
    assert mistake("export-teacher", tmp_path) == "no output given: name one with --output"


def test_help_shows_examples(invoke):
    shown = invoke("export-teacher", "--help").output
    assert "amalgam-edge export-teacher runs/teacher-a --output teacher-a-mc/" in shown
    for option in ("--passes", "--masks", "--dropout", "--precision", "--overwrite"):
        assert option in shown
