"""Refined supervision: by hand with a given probe, and on texts whose teachers are on no common scale."""

import numpy as np
import pytest
import scipy.special

from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods import METHODS, Evidence, MethodSettings, refined
from amalgam_edge.methods.refinement.annotators import answers, log_evidence
from amalgam_edge.scoring.scores import TeacherScores

REFINED, SOFT = METHODS["refined"], METHODS["muka-soft"]


def a_teacher(name, own, gold, own_scale, foreign_scale, rng):
    """It is right on most texts of its labels, names any class on others, and is as sure as the two scales say."""
    n_texts = len(gold)
    named = rng.integers(0, len(own), n_texts)
    for position, label in enumerate(own):
        named[(gold == label) & (rng.random(n_texts) < 0.9)] = position
    scale = np.where(np.isin(gold, own), own_scale, foreign_scale) + rng.normal(size=n_texts) * 0.7
    logits = np.eye(len(own))[named] * np.maximum(scale, 0.1)[:, None]
    return TeacherScores.from_logits(name, logits, logits[None])


@pytest.fixture
def drawn():
    """Six labels with features of their own; teacher b is always surer than a, even of what it does not know."""
    rng = np.random.default_rng(6)
    gold = rng.integers(0, 6, 600)
    features = np.eye(6)[gold] * 4 + rng.normal(size=(600, 6))
    scores = [a_teacher("a", (0, 1, 2), gold, 2.5, 1.0, rng), a_teacher("b", (3, 4, 5), gold, 5.0, 3.5, rng)]
    return gold, Evidence(scores, LabelSpace.union({"a": "uvw", "b": "xyz"}), features)


def right_teacher(supervision, gold):
    return np.mean(supervision.picked == gold // 3)


def test_certainties_on_no_common_scale_are_told_apart(drawn):
    gold, evidence = drawn
    paper = SOFT.supervise(evidence, MethodSettings())
    made = REFINED.supervise(evidence, MethodSettings())
    assert right_teacher(paper, gold) < 0.7
    assert right_teacher(made, gold) > 0.95
    assert np.mean(made.target.argmax(axis=1) == gold) > np.mean(paper.target.argmax(axis=1) == gold) + 0.2


def test_a_teacher_that_answers_by_chance_does_not_spoil_it(drawn):
    gold, evidence = drawn
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(600, 3)) * 3
    useless = TeacherScores.from_logits("c", logits, logits[None])
    labels = LabelSpace.union({"a": "uvw", "b": "xyz", "c": "rst"})
    made = REFINED.supervise(Evidence([*evidence.scores, useless], labels, evidence.features), MethodSettings())
    assert np.mean(made.target.argmax(axis=1) == gold) > 0.85


def test_two_rounds_by_hand(drawn, monkeypatch):
    """The probe's part is taken by a table; the rest is as the equations have it."""
    _, evidence = drawn
    rng = np.random.default_rng(9)
    tables = rng.dirichlet(np.ones(6), size=(2, 600))
    asked = []

    class Table:
        def __init__(self, features):
            assert features is evidence.features

        def __call__(self, target, weight):
            asked.append((target, weight))
            return tables[len(asked) - 1]

    monkeypatch.setattr(refined, "Probe", Table)
    made = REFINED.supervise(evidence, MethodSettings(refinement_rounds=2))

    padded = [
        np.pad(t.probabilities.astype(float), ((0, 0), (3 * k, 3 - 3 * k))) for k, t in enumerate(evidence.scores)
    ]
    certainty = np.stack([1 - t.uncertainty for t in evidence.scores], axis=1)
    mass = np.exp(np.concatenate([t.logits for t in evidence.scores], axis=1).astype(float) / 2)
    weights = np.sqrt(scipy.special.softmax(certainty / 0.2, axis=1) * mass.reshape(-1, 2, 3).sum(axis=2))
    weights /= weights.sum(axis=1, keepdims=True)
    target = posterior = sum(w[:, None] * p for w, p in zip(weights.T, padded, strict=True))
    first = target.mean(axis=0).reshape(2, 3)
    shares = first / first.sum(axis=1, keepdims=True)
    for table, (seen, weight) in zip(tables, asked, strict=True):
        np.testing.assert_allclose(seen, target, atol=1e-9)
        two = np.sort(seen, axis=1)[:, -2:]
        np.testing.assert_allclose(weight, two[:, 1] - two[:, 0] + 1e-6, atol=1e-12)
        said = [answers(t, evidence.labels) for t in evidence.scores]
        wanted = (table.mean(axis=0).reshape(2, 3).sum(axis=1, keepdims=True) * shares).reshape(-1)
        p = table
        for _ in range(8):
            p = p * wanted / p.mean(axis=0)
            p /= p.sum(axis=1, keepdims=True)
        posterior = np.maximum(p, 1e-4) * np.exp(sum(log_evidence(one, posterior) for one in said))
        posterior /= posterior.sum(axis=1, keepdims=True)
        target = posterior[:, :3].sum(axis=1)[:, None] * padded[0] + posterior[:, 3:].sum(axis=1)[:, None] * padded[1]
    np.testing.assert_allclose(made.target, target, atol=1e-6)
    assert set(made.weight.tolist()) == {1.0}


def test_without_rounds_certainty_and_logits_speak_alike(drawn):
    _, evidence = drawn
    made = REFINED.supervise(evidence, MethodSettings(refinement_rounds=0))
    soft, vanilla = (METHODS[name].supervise(evidence, MethodSettings()).target for name in ("muka-soft", "vanilla-kd"))
    odds = [np.log(t[:, :3].sum(axis=1) / t[:, 3:].sum(axis=1)) for t in (made.target, soft, vanilla)]
    np.testing.assert_allclose(odds[0], (odds[1] + odds[2]) / 2, atol=1e-4)


def test_a_label_keeps_its_share_beside_a_twin_of_another_teacher(monkeypatch):
    """Of labels 0 and 3 the features tell little, and each teacher is hardly surer of its own than of its twin's."""
    rng = np.random.default_rng(9)
    gold = rng.integers(0, 6, 900)
    twin = np.isin(gold, (0, 3))
    features = np.eye(6)[np.where(gold == 3, 0, gold)] * 4 + np.eye(6)[3] * (gold == 3)[:, None]
    features += rng.normal(size=features.shape)
    scores = [a_teacher("a", (0, 1, 2), gold, 2.5, 0.8, rng), a_teacher("b", (3, 4, 5), gold, 2.0, 0.8, rng)]
    for k, loud in enumerate((2.2, 1.8)):
        logits = np.array(scores[k].logits)
        loudness = loud + 0.3 * (gold[twin] == 3 * k) + rng.normal(size=twin.sum()) * 0.3
        logits[twin] = np.eye(3)[0] * loudness[:, None]
        scores[k] = TeacherScores.from_logits("ab"[k], logits, logits[None])
    evidence = Evidence(scores, LabelSpace.union({"a": "uvw", "b": "xyz"}), features)
    kept = REFINED.supervise(evidence, MethodSettings()).target.mean(axis=0)
    monkeypatch.setattr(refined, "with_shares", lambda probabilities, shares, groups: probabilities)
    lost = REFINED.supervise(evidence, MethodSettings()).target.mean(axis=0)
    assert lost[3] < 0.45 * lost[0]
    assert kept[3] > 0.5 * kept[0]


def test_one_teacher_is_distilled_as_it_is(drawn):
    _, evidence = drawn
    alone = Evidence(evidence.scores[:1], LabelSpace.union({"a": "uvw"}), evidence.features)
    made = REFINED.supervise(alone, MethodSettings())
    np.testing.assert_allclose(made.target, evidence.scores[0].probabilities, atol=1e-6)
    assert set(made.picked.tolist()) == {0}


def test_the_order_of_teachers_does_not_matter(drawn):
    _, evidence = drawn
    swapped = Evidence(evidence.scores[::-1], LabelSpace.union({"b": "xyz", "a": "uvw"}), evidence.features)
    made, other = (REFINED.supervise(one, MethodSettings()) for one in (evidence, swapped))
    np.testing.assert_allclose(made.target, other.target[:, [3, 4, 5, 0, 1, 2]], atol=1e-4)
    assert (made.picked == 1 - other.picked).mean() > 0.99


def test_shared_labels_are_nobody_s_alone():
    rng = np.random.default_rng(3)
    gold = rng.integers(0, 4, 400)
    features = np.eye(4)[gold] * 4 + rng.normal(size=(400, 4))
    scores = [a_teacher("a", (0, 1, 2), gold, 3.0, 1.0, rng), a_teacher("b", (1, 2, 3), gold, 3.0, 1.0, rng)]
    labels = LabelSpace.union({"a": "uvw", "b": "vwx"})
    made = REFINED.supervise(Evidence(scores, labels, features), MethodSettings())
    assert np.mean(made.target.argmax(axis=1) == gold) > 0.9


def test_refinement_without_features_is_refused(drawn):
    _, evidence = drawn
    with pytest.raises(ValueError, match="reads features"):
        REFINED.supervise(Evidence(evidence.scores, evidence.labels), MethodSettings())
