"""Hints: supervision that does not contradict what is known of a text."""

import numpy as np
import pytest

from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods import METHODS, MethodInputs, MethodSettings
from amalgam_edge.methods.hints import Hints
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.scoring.scores import TeacherScores

LABELS = LabelSpace.union({"a": "uvw", "b": "xyz"})
KNOWLEDGE = LABELS.knowledge
NOTHING = np.empty(0, dtype=int), np.empty((0, 6))


def test_a_known_owner_keeps_its_share_of_the_mass_scaled_to_one():
    given = np.array([[0.1, 0.2, 0.1, 0.3, 0.2, 0.1], [0.5, 0, 0.5, 0, 0, 0], [0.1, 0.2, 0.1, 0.3, 0.2, 0.1]])
    hints = Hints(np.array([0, 1, -1]), *NOTHING)
    expected = [[0.25, 0.5, 0.25, 0, 0, 0], [0, 0, 0, 1 / 3, 1 / 3, 1 / 3], given[2]]
    np.testing.assert_allclose(hints.restrict(given, KNOWLEDGE), expected, atol=1e-9)


def test_a_known_label_goes_before_the_owner():
    hints = Hints(np.array([0, -1]), np.array([0]), np.eye(6)[[4]])
    given = np.full((2, 6), 1 / 6)
    np.testing.assert_array_equal(hints.restrict(given, KNOWLEDGE), [np.eye(6)[4], given[1]])


def test_labels_that_do_not_exclude_each_other_are_fixed_only_where_they_are_known():
    made = Supervision(np.full((3, 6), 0.3, np.float32), np.array([0.2, 0.3, 0.4], np.float32), np.array([1, 1, 1]))
    hints = Hints(np.array([0, -1, -1]), np.array([2]), np.array([[1, 0, 1, 0, 0, 0]]))
    applied = hints.apply(made, KNOWLEDGE, exclusive=False)
    np.testing.assert_allclose(applied.target, [[0.3] * 6, [0.3] * 6, [1, 0, 1, 0, 0, 0]], atol=1e-7)
    np.testing.assert_allclose(applied.weight, [0.2, 0.3, 1.0])
    assert applied.picked.tolist() == [0, 1, 1]
    assert made.target[2, 0] == np.float32(0.3)  # what was given is left alone


@pytest.fixture(scope="module")
def misleading() -> tuple[MethodInputs, np.ndarray]:
    """Two teachers of half of the labels each, one surer of every text, and features that show the label."""
    generator = np.random.default_rng(3)
    gold = generator.integers(0, 6, 600)
    scores = []
    for position, name in enumerate("ab"):
        own = gold // 3 == position
        guess = np.where(own, gold % 3, generator.integers(0, 3, 600))
        logits = (1.0 + 4.0 * position) * np.eye(3)[guess] + generator.normal(0, 0.2, (600, 3))
        scores.append(TeacherScores.from_logits(name, logits, logits[None] + generator.normal(0, 0.3, (4, 600, 3))))
    features = (np.eye(6)[gold] @ generator.normal(0, 1, (6, 12)) + generator.normal(0, 0.6, (600, 12))).astype("f4")
    return MethodInputs(scores, LABELS, features), gold


def selected(target: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Whether the teacher with the most mass is the one that knows the label."""
    return (target @ KNOWLEDGE).argmax(axis=1) == gold // 3


def test_owners_of_some_texts_teach_which_teacher_to_follow_on_others(misleading):
    inputs, gold = misleading
    known = np.arange(600) % 4 == 0
    hints = Hints(np.where(known, gold // 3, -1), *NOTHING)
    refined, settings = METHODS["refined"], MethodSettings()
    without = refined.supervise(inputs, settings).target
    told = refined.supervise(MethodInputs(inputs.scores, LABELS, inputs.features, hints), settings).target
    assert selected(told, gold)[known].all()
    assert selected(without, gold)[~known].mean() < 0.7
    assert selected(told, gold)[~known].mean() > 0.9


def test_known_labels_do_so_too(misleading):
    inputs, gold = misleading
    rows = np.arange(0, 600, 8)
    hints = Hints(np.full(600, -1), rows, np.eye(6)[gold[rows]])
    told = METHODS["refined"].supervise(MethodInputs(inputs.scores, LABELS, inputs.features, hints), MethodSettings())
    others = np.setdiff1d(np.arange(600), rows)
    assert selected(told.target, gold)[others].mean() > 0.9
    np.testing.assert_array_equal(told.target[rows].argmax(axis=1), gold[rows])
