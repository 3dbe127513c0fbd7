"""Refined supervision: compared with its equations, and on teachers whose certainties are on different scales."""

import numpy as np
import pytest
import scipy.special

from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods import METHODS, MethodInputs, MethodSettings, refined
from amalgam_edge.methods.refinement import probe
from amalgam_edge.methods.refinement.annotators import log_likelihood_ratio, teacher_answers
from amalgam_edge.scoring.scores import TeacherScores

REFINED, MUKA_SOFT = METHODS["refined"], METHODS["muka-soft"]
LABELS = LabelSpace.union({"a": "uvw", "b": "xyz"})


def simulated_teacher(name, known, gold, known_scale, unknown_scale, rng):
    """Scores of a teacher that is right on 90 % of the texts of its labels and predicts at random on others.

    The two scales are the sizes of its logits, and so its certainty, on texts of labels it knows and does not know.
    """
    n_texts = len(gold)
    predicted = rng.integers(0, len(known), n_texts)
    for position, label in enumerate(known):
        predicted[(gold == label) & (rng.random(n_texts) < 0.9)] = position
    scale = np.where(np.isin(gold, known), known_scale, unknown_scale) + rng.normal(size=n_texts) * 0.7
    logits = np.eye(len(known))[predicted] * np.maximum(scale, 0.1)[:, None]
    return TeacherScores.from_logits(name, logits, logits[None])


@pytest.fixture
def gold_and_inputs():
    """Six labels with informative features. Teacher b is more certain than a even on labels it does not know."""
    rng = np.random.default_rng(6)
    gold = rng.integers(0, 6, 600)
    features = np.eye(6)[gold] * 4 + rng.normal(size=(600, 6))
    scores = [
        simulated_teacher("a", (0, 1, 2), gold, 2.5, 1.0, rng),
        simulated_teacher("b", (3, 4, 5), gold, 5.0, 3.5, rng),
    ]
    return gold, MethodInputs(scores, LABELS, features)


def share_of_right_teacher(supervision, gold):
    return np.mean(supervision.picked == gold // 3)


def target_accuracy(supervision, gold):
    return np.mean(supervision.target.argmax(axis=1) == gold)


def test_the_right_teacher_is_found_though_certainties_are_on_different_scales(gold_and_inputs):
    gold, inputs = gold_and_inputs
    by_certainty = MUKA_SOFT.supervise(inputs, MethodSettings())
    supervision = REFINED.supervise(inputs, MethodSettings())
    assert share_of_right_teacher(by_certainty, gold) < 0.7
    assert share_of_right_teacher(supervision, gold) > 0.95
    assert target_accuracy(supervision, gold) > target_accuracy(by_certainty, gold) + 0.2


def test_a_teacher_that_predicts_at_random_does_little_harm(gold_and_inputs):
    gold, inputs = gold_and_inputs
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(600, 3)) * 3
    useless = TeacherScores.from_logits("c", logits, logits[None])
    labels = LabelSpace.union({"a": "uvw", "b": "xyz", "c": "rst"})
    supervision = REFINED.supervise(MethodInputs([*inputs.scores, useless], labels, inputs.features), MethodSettings())
    assert target_accuracy(supervision, gold) > 0.85


def independent_initial_weights(inputs):
    """w ∝ √(exp(s / 0.2) · Σ exp(f / 2)) normalised, of two teachers with three classes each."""
    certainty = np.stack([1 - teacher.uncertainty for teacher in inputs.scores], axis=1)
    exponentials = np.exp(np.concatenate([teacher.logits for teacher in inputs.scores], axis=1).astype(float) / 2)
    weights = np.sqrt(scipy.special.softmax(certainty / 0.2, axis=1) * exponentials.reshape(-1, 2, 3).sum(axis=2))
    return weights / weights.sum(axis=1, keepdims=True)


def padded_probabilities(inputs):
    return [
        np.pad(teacher.probabilities.astype(float), ((0, 0), (3 * k, 3 - 3 * k)))
        for k, teacher in enumerate(inputs.scores)
    ]


def independent_shares(table, shares):
    """Eight steps of iterative proportional fitting to the shares of two groups of three labels."""
    target_mean = (table.mean(axis=0).reshape(2, 3).sum(axis=1, keepdims=True) * shares).reshape(-1)
    for _ in range(8):
        table = table * target_mean / table.mean(axis=0)
        table /= table.sum(axis=1, keepdims=True)
    return table


def test_two_rounds_follow_the_equations(gold_and_inputs, monkeypatch):
    """The probe is replaced by fixed tables of probabilities; everything else is computed from the equations."""
    _, inputs = gold_and_inputs
    tables = np.random.default_rng(9).dirichlet(np.full(6, 0.3), size=(2, 600))
    assert (tables < 1e-5).any()  # smaller than what probabilities are floored at
    calls = []

    class FixedProbe:
        def __init__(self, features):
            assert features is inputs.features

        def fit_predict(self, target, weight):
            calls.append((target, weight))
            return tables[len(calls) - 1]

    monkeypatch.setattr(probe, "Probe", FixedProbe)
    supervision = REFINED.supervise(inputs, MethodSettings(refinement_rounds=2))

    padded = padded_probabilities(inputs)
    weights = independent_initial_weights(inputs)
    target = posterior = sum(w[:, None] * p for w, p in zip(weights.T, padded, strict=True))
    first_mean = target.mean(axis=0).reshape(2, 3)
    shares = first_mean / first_mean.sum(axis=1, keepdims=True)
    answers = [teacher_answers(teacher, LABELS) for teacher in inputs.scores]
    assert len(calls) == 2
    for table, (probe_target, probe_weight) in zip(tables, calls, strict=True):
        np.testing.assert_allclose(probe_target, target, atol=1e-9)
        second, first = np.sort(probe_target, axis=1)[:, -2:].T
        np.testing.assert_allclose(probe_weight, first - second + 1e-6, atol=1e-12)
        p = np.maximum(independent_shares(table, shares), 1e-4)
        posterior = p * np.exp(sum(log_likelihood_ratio(each, posterior) for each in answers))
        posterior /= posterior.sum(axis=1, keepdims=True)
        weights = np.stack([posterior[:, :3].sum(axis=1), posterior[:, 3:].sum(axis=1)], axis=1)
        target = sum(w[:, None] * q for w, q in zip(weights.T, padded, strict=True))
    np.testing.assert_allclose(supervision.target, target, atol=1e-6)
    np.testing.assert_array_equal(supervision.picked, weights.argmax(axis=1))
    assert set(supervision.weight.tolist()) == {1.0}


def test_without_rounds_the_weights_are_the_initial_ones(gold_and_inputs):
    _, inputs = gold_and_inputs
    supervision = REFINED.supervise(inputs, MethodSettings(refinement_rounds=0))
    weights = independent_initial_weights(inputs)
    expected = sum(w[:, None] * p for w, p in zip(weights.T, padded_probabilities(inputs), strict=True))
    np.testing.assert_allclose(supervision.target, expected, atol=1e-6)


def test_initial_weights_are_the_geometric_mean_of_those_of_muka_soft_and_vanilla_kd(gold_and_inputs):
    _, inputs = gold_and_inputs
    methods = (REFINED, MUKA_SOFT, METHODS["vanilla-kd"])
    targets = [method.supervise(inputs, MethodSettings(refinement_rounds=0)).target for method in methods]
    log_odds = [np.log(t[:, :3].sum(axis=1) / t[:, 3:].sum(axis=1)) for t in targets]
    np.testing.assert_allclose(log_odds[0], (log_odds[1] + log_odds[2]) / 2, atol=1e-4)


def test_a_label_keeps_its_share_beside_a_similar_label_of_another_teacher(monkeypatch):
    """Labels 0 and 3 have similar features, and each teacher is hardly more certain of its own than of the other."""
    rng = np.random.default_rng(9)
    gold = rng.integers(0, 6, 900)
    similar = np.isin(gold, (0, 3))
    features = np.eye(6)[np.where(gold == 3, 0, gold)] * 4 + np.eye(6)[3] * (gold == 3)[:, None]
    features += rng.normal(size=features.shape)
    scores = [
        simulated_teacher("a", (0, 1, 2), gold, 2.5, 0.8, rng),
        simulated_teacher("b", (3, 4, 5), gold, 2.0, 0.8, rng),
    ]
    for k, scale in enumerate((2.2, 1.8)):
        logits = np.array(scores[k].logits)
        scales = scale + 0.3 * (gold[similar] == 3 * k) + rng.normal(size=similar.sum()) * 0.3
        logits[similar] = np.eye(3)[0] * scales[:, None]
        scores[k] = TeacherScores.from_logits("ab"[k], logits, logits[None])
    inputs = MethodInputs(scores, LABELS, features)
    with_shares = REFINED.supervise(inputs, MethodSettings()).target.mean(axis=0)
    monkeypatch.setattr(refined, "adjust_to_shares", lambda probabilities, shares, groups: probabilities)
    without_shares = REFINED.supervise(inputs, MethodSettings()).target.mean(axis=0)
    assert without_shares[3] < 0.45 * without_shares[0]
    assert with_shares[3] > 0.5 * with_shares[0]


def test_a_single_teacher_s_prediction_is_the_target(gold_and_inputs):
    _, inputs = gold_and_inputs
    alone = MethodInputs(inputs.scores[:1], LabelSpace.union({"a": "uvw"}))
    supervision = REFINED.supervise(alone, MethodSettings())  # without features, as there is nothing to refine
    np.testing.assert_allclose(supervision.target, inputs.scores[0].probabilities, atol=1e-6)
    assert set(supervision.picked.tolist()) == {0}


def test_the_order_of_teachers_does_not_matter(gold_and_inputs):
    _, inputs = gold_and_inputs
    swapped = MethodInputs(inputs.scores[::-1], LabelSpace.union({"b": "xyz", "a": "uvw"}), inputs.features)
    supervision, other = (REFINED.supervise(each, MethodSettings()) for each in (inputs, swapped))
    np.testing.assert_allclose(supervision.target, other.target[:, [3, 4, 5, 0, 1, 2]], atol=1e-4)
    assert (supervision.picked == 1 - other.picked).mean() > 0.99


def test_texts_of_shared_labels_get_the_right_target():
    rng = np.random.default_rng(3)
    gold = rng.integers(0, 4, 400)
    features = np.eye(4)[gold] * 4 + rng.normal(size=(400, 4))
    scores = [
        simulated_teacher("a", (0, 1, 2), gold, 3.0, 1.0, rng),
        simulated_teacher("b", (1, 2, 3), gold, 3.0, 1.0, rng),
    ]
    labels = LabelSpace.union({"a": "uvw", "b": "vwx"})
    supervision = REFINED.supervise(MethodInputs(scores, labels, features), MethodSettings())
    assert target_accuracy(supervision, gold) > 0.9


def test_refinement_without_features_is_refused(gold_and_inputs):
    _, inputs = gold_and_inputs
    with pytest.raises(ValueError, match="reads features"):
        REFINED.supervise(MethodInputs(inputs.scores, inputs.labels), MethodSettings())
