from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from amalgam_edge.building import stages
from amalgam_edge.errors import MissingExtraError
from amalgam_edge.methods import METHODS, MethodSettings, Objective, Told
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.runtime import Bundle, EdgeClassifier
from amalgam_edge.scoring import hidden_states as hidden
from tests.support.interrupted import assert_same_model, training_dies_in_the_second_epoch

NEW = ("uhc", "cfl", "dfa")


def options_of(name):
    """What a build here has beside the options that every build has."""
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


def test_methods_without_the_extra_say_what_to_install(invoke, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("amalgam_edge.methods")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = invoke("methods")
    assert isinstance(result.exception, MissingExtraError)
    assert 'pip install "amalgam-edge[train]"' in str(result.exception)


def test_the_options_of_build_have_the_defaults_that_are_listed():
    assert {name: getattr(Recipe(), name) for name in vars(MethodSettings())} == vars(MethodSettings())


def test_what_a_recipe_says_reaches_the_method():
    changed = {
        "reweight": False,
        "score_temperature": 0.5,
        "distillation_temperature": 3.0,
        "feature_weight": 0.0,
        "reconstruction_weight": 4.0,
        "common_width": 9,
    }
    assert stages.method_of(Recipe(method="cfl", **changed)) == (METHODS["cfl"], MethodSettings(**changed))


@pytest.fixture(scope="module")
def students(invoke, build_options, tmp_path_factory):
    """A bundle by each new method, all from one work folder; and what was said."""
    folder = tmp_path_factory.mktemp("methods")
    said = {}
    for name in NEW:
        result = invoke(
            "build", *build_options, *options_of(name), "--output", folder / name, "--work", folder / "work"
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        said[name] = result.stderr
    return folder, said


@pytest.mark.parametrize("name", NEW)
def test_a_build_by_each_method_ends_with_a_bundle(students, inputs, name):
    bundle = Bundle.open(students[0] / name)
    bundle.verify()
    assert bundle.manifest["recipe"]["method"] == name
    assert [label["name"] for label in bundle.manifest["labels"]] == ["games", "net", "fonts", "text"]
    answers = EdgeClassifier.from_pretrained(students[0] / name)(inputs.texts[:4], all_scores=True)
    assert all(np.isfinite(list(answer.scores.values())).all() for answer in answers)


def test_hidden_states_are_computed_once_and_for_methods_that_read_them(students):
    folder, said = students
    assert "reading hidden states" not in said["uhc"]
    assert "reading hidden states" in said["cfl"]
    assert "[10/10]" in said["dfa"] and "[9/9]" in said["uhc"]  # steps are counted with it
    stores = sorted(path.name.rsplit("-", 1)[0] for path in (folder / "work" / "hidden").iterdir())
    assert stores == ["a", "b"]
    assert sorted(path.name for path in (folder / "work").iterdir()) == ["hidden", "scores"]


def test_methods_differ_in_their_students_alone(students, inputs):
    folder, _ = students
    manifests = [json.loads((folder / name / "amalgam.json").read_text("utf-8")) for name in NEW]
    assert len({manifest["supervision"] for manifest in manifests}) == 1
    logits = [EdgeClassifier.from_pretrained(folder / name, precision="fp32").logits(inputs.texts[:4]) for name in NEW]
    assert not np.allclose(logits[0], logits[1], atol=1e-3)
    assert not np.allclose(logits[1], logits[2], atol=1e-5)


def test_nothing_of_the_objective_is_exported(students):
    """The graph has as many weights as that of a student that never met one."""
    folder, _ = students
    sizes = {name: (folder / name / "onnx" / "model.onnx").stat().st_size for name in NEW}
    assert max(sizes.values()) - min(sizes.values()) < 200


def test_a_build_killed_in_training_resumes_to_the_same_model(
    students, invoke, build_options, tmp_path, monkeypatch
):  # fmt: skip
    """The second time around no teacher runs: scores and hidden states are there."""
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
    assert (stopped.exit_code, "Aborted!" in stopped.output) == (1, True)
    assert not broken.exists()
    result = run("--resume")
    assert result.exit_code == 0, result.output
    assert_same_model(folder / "cfl", broken)


def test_a_static_student_of_teachers_that_share_a_label(invoke, inputs, make_classifier, tmp_path):
    """Its hidden state is its text's vector, narrower than any teacher's."""
    other = make_classifier(tmp_path / "c", ["net", "fonts"], seed=4, hidden_size=16)
    result = invoke(
        "build", "--teacher", inputs.a, "--teacher", other, "--corpus", inputs.corpus, "--student", "static",
        "--static-width", "6", "--passes", "2", "--backend", "torch", "--epochs", "1", "--max-disagreement", "1",
        "--method", "dfa", "--device", "cpu", "--output", tmp_path / "student",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert [label["name"] for label in Bundle.open(tmp_path / "student").manifest["labels"]] == [
        "games",
        "net",
        "fonts",
    ]


def test_mistakes_are_told_in_one_line_before_any_work(mistake, inputs, build_options, tmp_path):
    output = tmp_path / "student"
    cases = [
        (["--method", "uhd"], "no method 'uhd'; there are refined, muka-soft, muka-hard, vanilla-kd, uhc, cfl, dfa"),
        (["--method", "cfl", "--common-width", "0"], "common_width"),
        (["--method", "cfl", "--feature-weight", "-1"], "feature_weight"),
        (["--method", "dfa", "--reconstruction-weight", "-0.5"], "reconstruction_weight"),
    ]
    for options, expected in cases:
        assert expected in mistake("build", *build_options, *options, "--output", output)
        assert not list(tmp_path.iterdir())


@pytest.fixture
def models(inputs):
    recipe = Recipe(teachers=[str(inputs.a), str(inputs.b)], student=str(inputs.student), method="dfa", seed=3)
    return recipe, *stages.load_models(recipe)


def test_an_objective_begins_as_the_seed_has_it_and_draws_from_nobodys_randomness(models):
    recipe, _, labels, (student,) = models
    told = Told(hidden=(np.zeros((2, 3)), np.zeros((2, 5))))

    def begun(seed):
        return stages.objective(recipe.model_copy(update={"seed": seed}), labels, student, told)

    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, again, other = begun(3), begun(3), begun(4)
    assert torch.equal(torch.rand(3), expected)
    assert isinstance(first, Objective)
    assert first.encoder.weight.shape == (32, 8)
    assert torch.equal(first.encoder.weight, again.encoder.weight)
    assert not torch.equal(first.encoder.weight, other.encoder.weight)
