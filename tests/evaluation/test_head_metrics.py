"""What is measured of a head, compared with loops over texts."""

import json

import numpy as np
import pytest

from amalgam_edge.evaluation.head_metrics import evaluate_head, head_accuracy
from amalgam_edge.gold import gold_answers
from amalgam_edge.heads import Head
from amalgam_edge.runtime.evaluation import ModelEvaluation
from amalgam_edge.storage.records import from_json, to_json

ONE = Head("topic", "softmax", ("billing", "shipping", "product"))
ANY = Head("flags", "sigmoid", ("refund", "angry", "spam"), thresholds=(0.5, 0.2, 0.9))


@pytest.fixture(scope="module")
def measured_sets():
    """Gold sets, probabilities and what is measured, of 40 texts."""
    random = np.random.default_rng(7)
    logits = random.normal(0, 2, (40, 3)).astype(np.float32)
    cells = [[label for label in ANY.labels if random.random() < 0.4] for _ in range(40)]
    wide = logits.astype(np.float64)
    return cells, 1 / (1 + np.exp(-wide)), evaluate_head(ANY, gold_answers(ANY, cells), logits, {"a": [0]})


def answered(probabilities):
    return [
        {label for label, p, t in zip(ANY.labels, row, ANY.thresholds, strict=True) if p >= t} for row in probabilities
    ]


def test_sets_are_right_as_a_whole_by_their_thresholds(measured_sets):
    cells, probabilities, row = measured_sets
    given = answered(probabilities)
    assert row.accuracy == np.mean([set(cell) == labels for cell, labels in zip(cells, given, strict=True)])
    hits = sum(len(set(cell) & labels) for cell, labels in zip(cells, given, strict=True))
    assert row.micro_f1 == pytest.approx(2 * hits / (sum(map(len, cells)) + sum(map(len, given))))
    assert row.macro_f1 == pytest.approx(np.mean([own.f1 for own in row.labels.values()]))


def test_every_label_of_a_sigmoid_head_by_loops(measured_sets):
    cells, probabilities, row = measured_sets
    given = answered(probabilities)
    for k, (label, own) in enumerate(row.labels.items()):
        hits = sum(label in cell and label in labels for cell, labels in zip(cells, given, strict=True))
        assert own.n_gold == sum(label in cell for cell in cells)
        assert own.precision == hits / sum(label in labels for labels in given)
        assert own.recall == hits / own.n_gold
        assert own.ece == pytest.approx(
            binary_ece([(p[k], label in c) for p, c in zip(probabilities, cells, strict=True)])
        )


def test_likelihood_and_calibration_are_over_all_labels_of_all_texts(measured_sets):
    cells, probabilities, row = measured_sets
    answers = [
        (p, name in cell)
        for c, cell in zip(probabilities, cells, strict=True)
        for p, name in zip(c, ANY.labels, strict=True)
    ]
    assert row.nll == pytest.approx(np.mean([-np.log(p if holds else 1 - p) for p, holds in answers]))
    assert row.ece == pytest.approx(binary_ece(answers))
    assert sum(row.reliability.share) == pytest.approx(1)


def binary_ece(answers):
    """Calibration error of yes or no, from the probability of yes and whether it holds."""
    total = 0.0
    for k in range(15):
        inside = [
            ((p >= 0.5) == holds, max(p, 1 - p)) for p, holds in answers if k / 15 < max(p, 1 - p) <= (k + 1) / 15
        ]
        total += abs(sum(right - confidence for right, confidence in inside)) / len(answers)
    return total


def test_what_does_not_fit_a_kind_of_head_is_none_or_empty(measured_sets):
    sigmoid = measured_sets[2]
    assert (sigmoid.aurc, sigmoid.risk_coverage, sigmoid.confusion, sigmoid.domains) == (None, None, (), {})
    softmax = evaluate_head(ONE, gold_answers(ONE, ["billing", "product"]), np.eye(3)[[0, 1]], {})
    assert (softmax.micro_f1, softmax.mean_average_precision, softmax.abstaining) == (None, None, None)
    assert {label: row.ece for label, row in softmax.labels.items()} == dict.fromkeys(ONE.labels)
    for row in (sigmoid, softmax):
        assert from_json(ModelEvaluation, json.loads(json.dumps(to_json(row), allow_nan=False))) == row


def test_labels_of_a_softmax_head_by_hand():
    gold = gold_answers(ONE, ["billing", "billing", "product"])
    labels = evaluate_head(ONE, gold, np.eye(3)[[0, 2, 2]], {}).labels
    assert [(row.n_gold, row.precision, row.recall) for row in labels.values()] == [
        (2, 1.0, 0.5),
        (0, None, None),
        (1, 0.5, 1.0),
    ]


def test_a_head_that_may_abstain_says_what_it_answers():
    head = Head("topic", "softmax", ("a", "b"), abstain=0.8)
    logits = np.log([[0.9, 0.1], [0.6, 0.4], [0.1, 0.9]])
    found = head_accuracy(head, gold_answers(head, ["a", "b", "a"]), logits)
    assert (found.accuracy, found.abstaining.answered, found.abstaining.answered_accuracy) == (1 / 3, 2 / 3, 0.5)
