"""The ablations of `refined`: cases and tables by hand, and the product's own variant beside the product."""

import itertools
import json

import numpy as np
import pytest

from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods import METHODS, MethodInputs, MethodSettings
from amalgam_edge.methods.refinement import annotators, probe
from amalgam_edge.numerics import linear
from amalgam_edge.progress import SilentProgress
from amalgam_edge.scoring.scores import TeacherScores
from benchmarks.refinement import run as refinement
from benchmarks.refinement import variants

TEXTS = [f"text {k}" for k in range(400)]


def teacher_scores(name, own, gold, scale, rng):
    """Scores of a teacher that is right on most texts of its own labels and less sure on others."""
    named = np.where(np.isin(gold, own) & (rng.random(len(gold)) < 0.9), gold - own[0], rng.integers(0, 3, len(gold)))
    logits = np.eye(3)[named] * (scale + np.isin(gold, own) + rng.normal(size=len(gold)) * 0.5)[:, None]
    logits += rng.normal(size=logits.shape) * 0.3
    return TeacherScores.from_logits(name, logits, logits + rng.normal(size=(4, *logits.shape)))


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(6)
    gold, test = rng.integers(0, 6, 200), rng.integers(0, 6, 90)
    scores = [teacher_scores("a", (0, 1, 2), gold, 1.5, rng), teacher_scores("b", (3, 4, 5), gold, 3.0, rng)]
    labels = LabelSpace.union({"a": "uvw", "b": "xyz"})
    features = [np.eye(20)[own] * 3 + rng.normal(size=(len(own), 20)) * 0.7 for own in (gold, test)]
    owners = {name: [0 if name in "uvw" else 1] for name in labels.names}
    return refinement.GroupData(
        MethodInputs(scores, labels, features[0]), gold, TEXTS[:200], owners, (features[1], test)
    )


def test_a_prepared_group_gives_the_features_of_its_texts_and_test_texts(prepared_group, tiny_plan):
    whole = refinement.group_data(prepared_group, SilentProgress())
    assert whole.texts == [text for text, _ in tiny_plan.corpus]
    test_features, test_gold = whole.test
    assert [whole.inputs.labels.names[label] for label in test_gold] == [label for _, label in tiny_plan.test]
    assert whole.inputs.features.shape == (len(tiny_plan.corpus), 32)
    assert test_features.shape == (len(tiny_plan.test), 32)
    again = refinement.group_data(prepared_group, SilentProgress())
    np.testing.assert_array_equal(again.inputs.features, whole.inputs.features)
    np.testing.assert_array_equal(whole.take(np.array([3, 1])).inputs.features, whole.inputs.features[[3, 1]])


def test_the_product_s_variant_is_the_product(planted):
    made = variants.VARIANTS[variants.OURS](planted.inputs, planted.gold)
    product = METHODS["refined"].supervise(planted.inputs, MethodSettings())
    np.testing.assert_allclose(made.target, product.target, atol=1e-6)
    np.testing.assert_allclose(made.weight, product.weight, atol=1e-6)
    np.testing.assert_array_equal(made.picked, product.picked)


def test_every_variant_heeds_its_options_and_leaves_the_package_as_it_was(planted, monkeypatch):
    monkeypatch.setattr(probe, "_STEPS", 4)
    before = (annotators.N_BINS, annotators.LABEL_STRENGTH, linear.PENALTY, probe.WIDTH)
    made = {name: variant(planted.inputs, planted.gold) for name, variant in variants.VARIANTS.items()}
    assert before == (annotators.N_BINS, annotators.LABEL_STRENGTH, linear.PENALTY, probe.WIDTH)
    for supervised in made.values():
        np.testing.assert_allclose(supervised.target.sum(axis=1), 1, atol=1e-5)
        assert (supervised.weight > 0).all()
    alike = [
        {one, other}
        for one, other in itertools.combinations(made, 2)
        if np.array_equal(made[one].target, made[other].target)
    ]
    by_margin = "the student's texts weighted by margin"
    assert alike == [{variants.OURS, by_margin}]  # which weigh texts differently
    assert not any(np.allclose(made[one].weight, made[other].weight) for one, other in alike)


def test_constants_are_put_back_after_an_error():
    with pytest.raises(ZeroDivisionError), variants.constants(linear, PENALTY=7.0):
        assert linear.PENALTY == 7.0
        _ = 1 / 0
    assert linear.PENALTY == 0.3


@pytest.mark.parametrize(("name", "n", "n_first"), [("90/10", 222, 200), ("10/90", 222, 22), ("few", 100, None)])
def test_cases_have_their_shares(name, n, n_first):
    first = np.arange(400) % 2 == 0
    rows = refinement.CASES[name](TEXTS, first)
    assert len(rows) == len({*rows.tolist()}) == n
    assert rows.tolist() == sorted(rows)
    assert n_first in (None, first[rows].sum())
    backwards = refinement.CASES[name](TEXTS[::-1], first[::-1])
    assert {TEXTS[row] for row in rows} == {TEXTS[::-1][row] for row in backwards}


def test_texts_are_thinned_by_another_hash_than_the_corpora_were():
    by_corpus = sorted(range(400), key=lambda row: refinement.by_hash(TEXTS[row]))
    kept = refinement.CASES["few"](TEXTS, np.ones(400, dtype=bool))
    assert 10 < len({*by_corpus[:100]} & {*kept.tolist()}) < 45


def test_a_case_is_measured_on_test_texts_of_its_shares(planted):
    case = refinement.case_of(planted, "90/10")
    first = np.isin(case.gold, (0, 1, 2))
    assert first.mean() == pytest.approx(0.9, abs=0.01)
    assert [teacher.teacher for teacher in case.inputs.scores] == ["a", "b"]
    measured = refinement.measure(case, variants.VARIANTS["told the labels"])
    assert measured["target_accuracy"] == measured["teacher_selection"] == 1
    assert measured["n_texts"] == len(case.gold)
    assert measured["student_accuracy"] > 0.85
    weights = refinement.share_weights(np.isin(planted.test[1], (0, 1, 2)), 0.9)
    assert np.average(np.isin(planted.test[1], (0, 1, 2)), weights=weights) == pytest.approx(0.9)


def test_tables_show_the_results(tmp_path):
    ours = {"options": repr(variants.VARIANTS["refined"]), "n_texts": 9, "target_accuracy": 0.5}
    paper = {**ours, "options": repr(variants.VARIANTS["muka-soft"])}
    for seed, case, values in [(0, "as it is", (0.8, 0.7)), (1, "as it is", (0.6, 0.65)), (0, "few", (0.5, 0.3))]:
        rows = {
            name: {**row, **dict.fromkeys(refinement.MEASURES, value)}
            for name, row, value in zip(("refined", "muka-soft"), (ours, paper), values, strict=True)
        }
        rows["2 rounds"] = {**rows["refined"], "options": "of old"}
        path = refinement.results_path(tmp_path, refinement.Group("debian_sections", "two", seed), case)
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            json.dumps({"corpus": "debian_sections", "seed": seed, "case": case, "key": "k", "variants": rows})
        )
    half_made = {"corpus": "debian_sections", "seed": 2, "case": "few", "key": "k", "variants": {"refined": ours}}
    (path.parent / "half-made.json").write_text(json.dumps(half_made))
    assert {*refinement.read_case(path, "k")} == {"refined", "muka-soft"}
    assert refinement.read_case(path, "of others") == {}
    text = refinement.write_tables(tmp_path)
    assert "2 groups: debian_sections seed 0, debian_sections seed 1" in text
    assert "| variant | as it is | few | all | worst − muka-soft |" in text
    assert "| refined | 70.0 | 50.0 | 63.3 | -5.0 |" in text
    assert "| muka-soft | 67.5 | 30.0 | 55.0 | +0.0 |" in text
    assert "2 rounds" not in text
    lines = (tmp_path / "refinement.csv").read_text().splitlines()
    assert len(lines) == 1 + 6
    assert lines[0].startswith("corpus,seed,case,n_texts,variant,target_accuracy,student_accuracy")


def test_without_results_there_are_no_tables(tmp_path):
    assert refinement.write_tables(tmp_path).endswith("no results yet")
