"""Answers of teachers and their likelihood under each label, beside loops that count them."""

import math

import numpy as np
import pytest

from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods.refinement.annotators import Answers, answers, log_evidence
from amalgam_edge.scoring.scores import TeacherScores


def test_an_answer_is_the_class_named_and_the_fifth_of_its_certainty():
    doubt = np.linspace(0.0, 0.45, 50)  # of class 0 or 1 in turn
    p = np.stack([np.where(np.arange(50) % 2, doubt, 1 - doubt), np.where(np.arange(50) % 2, 1 - doubt, doubt)], axis=1)
    logits = np.log(np.maximum(p, 1e-9))
    said = answers(TeacherScores.from_logits("b", logits, logits[None]), LabelSpace.union({"a": "xy", "b": "yz"}))
    assert said.columns == (1, 2)
    assert said.named.tolist() == [k % 2 for k in range(50)]
    assert said.sureness.tolist() == [4 - k // 10 for k in range(50)]


def test_equal_certainties_are_equally_sure():
    logits = np.log([[0.9, 0.1]] * 7 + [[0.6, 0.4]] * 3)
    said = answers(TeacherScores.from_logits("a", logits, logits[None]), LabelSpace.union({"a": "xy"}))
    assert len(set(said.sureness[:7].tolist())) == len(set(said.sureness[7:].tolist())) == 1
    assert said.sureness[0] > said.sureness[9]


@pytest.fixture
def case():
    """A teacher that knows labels 3 and 1 of four, its answers to 40 texts, and a posterior."""
    rng = np.random.default_rng(2)
    said = Answers((3, 1), rng.integers(0, 2, 40), rng.integers(0, 5, 40))
    return said, rng.dirichlet(np.ones(4), size=40)


def counted(said, posterior):
    """As the docstring says, a label and an answer at a time."""
    n_bins, n_labels, classes = 5, posterior.shape[1], range(len(said.columns))
    outcomes = [(k, b) for k in classes for b in range(n_bins)]
    texts = range(len(posterior))

    def count(k, b, y):
        return sum(posterior[x, y] for x in texts if (said.named[x], said.sureness[x]) == (k, b))

    at_large = {o: sum(count(*o, y) for y in range(n_labels)) + 0.5 for o in outcomes}
    total = sum(at_large.values())
    at_large = {o: c / total for o, c in at_large.items()}
    sure = [sum(at_large[k, b] for k in classes) for b in range(n_bins)]
    named = [sum(at_large[k, b] for b in range(n_bins)) for k in classes]
    foreign = [y for y in range(n_labels) if y not in said.columns]
    n_foreign = sum(posterior[x, y] for x in texts for y in foreign)
    n_own = sum(posterior[x, y] for x in texts for y in said.columns)

    def supposed(k, b, y):
        if y in foreign:
            return (sum(count(k, b, z) for z in foreign) + 10 * at_large[k, b]) / (n_foreign + 10)
        right = sum(count(c, b, said.columns[c]) for c in classes)
        wrong = sum(count(c, b, z) for c in classes for z in said.columns) - right
        if said.columns[k] == y:
            return (right + 10 * 0.8 * sure[b]) / (n_own + 10)
        others = named[k] / sum(named[c] for c in classes if said.columns[c] != y)
        return others * (wrong + 10 * 0.2 * sure[b]) / (n_own + 10)

    likelihood = {
        (o, y): (count(*o, y) + 5 * supposed(*o, y)) / (posterior[:, y].sum() + 5)
        for o in outcomes
        for y in range(n_labels)
    }
    for y in range(n_labels):
        assert sum(likelihood[o, y] for o in outcomes) == pytest.approx(1)
    return [
        [
            math.log(likelihood[(said.named[x], said.sureness[x]), y] / at_large[said.named[x], said.sureness[x]])
            for y in range(n_labels)
        ]
        for x in texts
    ]


def test_evidence_is_that_of_counting(case):
    np.testing.assert_allclose(log_evidence(*case), counted(*case), atol=1e-9)


def test_of_a_teacher_that_knows_all_labels_too(case):
    said, posterior = case
    said = Answers((1, 0), said.named, said.sureness)
    two = posterior[:, :2] / posterior[:, :2].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(log_evidence(said, two), counted(said, two), atol=1e-9)


def test_answers_that_have_nothing_to_do_with_the_label_are_no_evidence():
    rng = np.random.default_rng(0)
    n_texts = 20_000
    said = Answers((0, 1), rng.integers(0, 2, n_texts), rng.integers(0, 5, n_texts))
    gold = np.eye(4)[rng.integers(0, 4, n_texts)]
    assert np.abs(log_evidence(said, gold)).max() < 0.15


def test_a_label_that_no_text_bears_is_judged_as_its_group_is(case):
    said, posterior = case
    posterior = posterior * [1, 1, 0, 1]
    evidence = log_evidence(said, posterior / posterior.sum(axis=1, keepdims=True))
    assert np.isfinite(evidence).all()
    only_foreign = log_evidence(said, np.eye(4)[np.zeros(40, dtype=int)])
    np.testing.assert_allclose(only_foreign[:, 2], np.log(1), atol=0.5)
