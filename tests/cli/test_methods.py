from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from amalgam_edge.building.heads import taught_heads
from amalgam_edge.building.inputs import new_student
from amalgam_edge.building.students import objective_of
from amalgam_edge.methods import METHODS, MethodSettings, TeacherSignals
from amalgam_edge.methods.objectives import Objective
from amalgam_edge.models.teacher import load_all
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.runtime import Bundle, EdgeClassifier
from amalgam_edge.scoring import hidden_states as hidden
from tests.support.interrupted import assert_same_model, training_dies_in_the_second_epoch

WITH_OBJECTIVE = ("uhc", "cfl", "dfa")


def options_of(name):
    """The options of a build by a method, besides those that all builds share."""
    return ["--method", name, "--epochs", "2", "--common-width", "8", "--max-disagreement", "1"]


def test_methods_are_listed_with_their_papers_and_options(invoke):
    result = invoke("methods")
    assert result.exit_code == 0, result.output
    header, *lines = result.output.splitlines()
    assert header.split()[:2] == ["method", "paper"]
    assert [line.split()[0] for line in lines] == list(METHODS)
    for line, method in zip(lines, METHODS.values(), strict=True):
        assert method.paper in line
        assert method.summary in line
    assert "--score-temperature 0.2, --refinement-rounds 4" in lines[0]
    assert lines[5].endswith("--feature-weight 1, --reconstruction-weight 1, --common-width 128")


def test_methods_as_json(invoke):
    listed = json.loads(invoke("methods", "--json").output)
    assert [row["name"] for row in listed] == list(METHODS)
    assert listed[-1]["parameters"] == {
        "distillation_temperature": 2.0,
        "feature_weight": 1.0,
        "reconstruction_weight": 1.0,
    }


def test_methods_are_listed_without_the_training_extra(invoke):
    """In a process of its own, in which nothing but the required dependencies can be imported."""
    blocked = ("torch", "transformers", "pydantic", "datasets", "pyarrow", "yaml", "rich", "matplotlib", "onnx")
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "sys.argv = ['amalgam-edge', 'methods']\n"
        "from amalgam_edge.cli.main import main\n"
        "main()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    assert run.stdout == invoke("methods").stdout


def test_the_settings_of_a_recipe_reach_the_method():
    changed = {
        "reweight": False,
        "score_temperature": 0.5,
        "distillation_temperature": 3.0,
        "feature_weight": 0.0,
        "reconstruction_weight": 4.0,
        "common_width": 9,
    }
    assert Recipe(method="cfl", **changed).method == MethodSettings("cfl", **changed)


@pytest.fixture(scope="module")
def students(invoke, build_options, tmp_path_factory):
    """The folder of a bundle by each method with an objective, all from one work folder; and their standard error."""
    folder = tmp_path_factory.mktemp("methods")
    messages = {}
    for name in WITH_OBJECTIVE:
        result = invoke(
            "build", *build_options, *options_of(name), "--output", folder / name, "--work", folder / "work"
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        messages[name] = result.stderr
    return folder, messages


@pytest.mark.parametrize("name", WITH_OBJECTIVE)
def test_a_build_by_each_method_ends_with_a_bundle(students, inputs, name):
    bundle = Bundle.open(students[0] / name)
    bundle.verify()
    assert bundle.manifest.method == name
    assert bundle.labels == ("games", "net", "fonts", "text")
    answers = EdgeClassifier.from_pretrained(students[0] / name)(inputs.texts[:4], all_scores=True)
    assert all(np.isfinite(list(answer.scores.values())).all() for answer in answers)


def test_hidden_states_are_computed_once_and_only_for_methods_that_read_them(students):
    folder, messages = students
    assert "reading hidden states" not in messages["uhc"]
    assert "reading hidden states" in messages["cfl"]
    assert "[10/10]" in messages["dfa"] and "[9/9]" in messages["uhc"]  # it is one of the steps
    stores = sorted(path.name.rsplit("-", 1)[0] for path in (folder / "work" / "hidden").iterdir())
    assert stores == ["a", "b"]
    assert sorted(path.name for path in (folder / "work").iterdir()) == ["hidden", "scores"]


def test_methods_share_their_supervision_and_differ_in_their_students(students, inputs):
    folder, _ = students
    manifests = [json.loads((folder / name / "amalgam.json").read_text("utf-8")) for name in WITH_OBJECTIVE]
    assert len({manifest["supervision"] for manifest in manifests}) == 1
    logits = [
        EdgeClassifier.from_pretrained(folder / name, precision="fp32").logits(inputs.texts[:4])
        for name in WITH_OBJECTIVE
    ]
    assert not np.allclose(logits[0], logits[1], atol=1e-3)
    assert not np.allclose(logits[1], logits[2], atol=1e-5)


def test_the_objective_is_not_exported(students):
    """The graph is as large for objectives with parameters as for one without."""
    folder, _ = students
    sizes = {name: (folder / name / "onnx" / "model.onnx").stat().st_size for name in WITH_OBJECTIVE}
    assert max(sizes.values()) - min(sizes.values()) < 200


def test_a_build_killed_in_training_resumes_to_the_same_model(
    students, invoke, build_options, tmp_path, monkeypatch
):  # fmt: skip
    """No teacher runs again: scores and hidden states are in the work folder."""
    folder, broken = students[0], tmp_path / "broken"

    def run(*extra):
        return invoke(
            "build", *build_options, *options_of("cfl"), "--output", broken, "--work", folder / "work", *extra
        )  # fmt: skip

    def refuse(*_):
        raise AssertionError("a teacher was run again")

    monkeypatch.setattr(hidden, "hidden_states", refuse)
    monkeypatch.setattr("amalgam_edge.scoring.score.score_texts", refuse)
    with training_dies_in_the_second_epoch():
        stopped = run()
    assert (stopped.exit_code, "interrupted" in stopped.output) == (130, True)
    assert not broken.exists()
    result = run("--resume")
    assert result.exit_code == 0, result.output
    assert_same_model(folder / "cfl", broken)


def test_a_static_student_of_teachers_that_share_a_label(invoke, inputs, make_classifier, tmp_path):
    """The hidden state of a static student is its text vector, narrower than any teacher's hidden state."""
    other = make_classifier(tmp_path / "c", ["net", "fonts"], seed=4, hidden_size=16)
    result = invoke(
        "build", "--teacher", inputs.a, "--teacher", other, "--corpus", inputs.corpus, "--student", "static",
        "--static-width", "6", "--passes", "2", "--backend", "torch", "--epochs", "1", "--max-disagreement", "1",
        "--method", "dfa", "--device", "cpu", "--output", tmp_path / "student",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert [*Bundle.open(tmp_path / "student").labels] == [
        "games",
        "net",
        "fonts",
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--method", "uhd"], "no method 'uhd'; there are refined, muka-soft, muka-hard, vanilla-kd, uhc, cfl, dfa"),
        (["--method", "cfl", "--common-width", "0"], "common_width"),
        (["--method", "cfl", "--feature-weight", "-1"], "feature_weight"),
        (["--method", "dfa", "--reconstruction-weight", "-0.5"], "reconstruction_weight"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(mistake, build_options, tmp_path, options, expected):
    assert expected in mistake("build", *build_options, *options, "--output", tmp_path / "student")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def models(inputs):
    recipe = Recipe(teachers=[str(inputs.a), str(inputs.b)], student=str(inputs.student), method="dfa", seed=3)
    teachers = load_all(recipe.teachers)
    heads = taught_heads(teachers, recipe.teachers, recipe.training, recipe.export)
    return recipe.method, heads, new_student(recipe.student, teachers, heads.heads, None)


def test_the_initial_weights_of_an_objective_depend_on_the_seed_alone_and_leave_the_random_state(models):
    method, heads, student = models
    signals = TeacherSignals(hidden=(np.zeros((2, 3)), np.zeros((2, 5))))

    def new_objective(seed):
        return objective_of(method, seed, heads, student, signals)

    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, same_seed, other_seed = new_objective(3), new_objective(3), new_objective(4)
    assert torch.equal(torch.rand(3), expected)
    assert isinstance(first, Objective)
    assert first.encoder.weight.shape == (32, 8)
    assert torch.equal(first.encoder.weight, same_seed.encoder.weight)
    assert not torch.equal(first.encoder.weight, other_seed.encoder.weight)
