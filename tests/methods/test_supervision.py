"""Supervision from scores, by hand."""

import hashlib
import math

import numpy as np
import pytest

from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods import supervision
from amalgam_edge.scoring.scores import TeacherScores, certainty


def scores_of(teacher, probabilities, mean_probabilities=None):
    """Scores of a teacher with these probabilities with dropout off, and these mean probabilities with dropout on."""
    logits = np.log(np.array(probabilities))
    pass_logits = logits if mean_probabilities is None else np.log(np.array(mean_probabilities))
    return TeacherScores.from_logits(teacher, logits, pass_logits[None])


def normalised_entropy(*p):
    return -sum(x * math.log(x) for x in p) / math.log(len(p))


@pytest.fixture
def labels():
    return LabelSpace.union({"a": ["x", "y"], "b": ["y", "z", "w"]})


@pytest.fixture
def scores():
    return [
        scores_of("a", [[0.9, 0.1], [0.6, 0.4]], [[0.8, 0.2], [0.5, 0.5]]),
        scores_of("b", [[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]], [[0.3, 0.3, 0.4], [0.05, 0.05, 0.9]]),
    ]


def test_certainty_is_one_minus_the_normalised_entropy_of_the_mean_prediction(scores):
    expected = [
        [1 - normalised_entropy(0.8, 0.2), 1 - normalised_entropy(0.3, 0.3, 0.4)],
        [1 - normalised_entropy(0.5, 0.5), 1 - normalised_entropy(0.05, 0.05, 0.9)],
    ]
    np.testing.assert_allclose(certainty(scores), expected, atol=1e-6)


def test_soft_weights_by_hand():
    s = np.array([[0.6, 0.2, 0.5]])
    exponentials = [math.exp(v / 0.2) for v in (0.6, 0.2, 0.5)]
    expected = [[e / sum(exponentials) for e in exponentials]]
    np.testing.assert_allclose(supervision.soft_weights(s, 0.2), expected, rtol=1e-12)


def test_the_softmax_of_energies_is_each_teacher_s_mass_in_the_joint_softmax(scores):
    logits = np.concatenate([teacher.logits for teacher in scores], axis=1) / 2
    joint = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    weights = np.exp(supervision.energy(scores, 2.0))
    weights /= weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weights[:, 0], joint[:, :2].sum(axis=1), rtol=1e-6)


def test_energy_of_large_logits_is_finite():
    large = TeacherScores.from_logits("a", np.array([[3e4, -3e4]]), np.array([[[3e4, -3e4]]]))
    np.testing.assert_allclose(supervision.energy([large], 2.0), [[1.5e4]])


def test_hard_weights_take_the_first_of_equals():
    s = np.array([[0.1, 0.7, 0.3], [0.5, 0.5, 0.1], [0.2, 0.4, 0.4]])
    assert supervision.hard_weights(s).tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0]]


def test_margin_is_between_the_two_most_certain():
    s = np.array([[0.1, 0.7, 0.3], [0.5, 0.5, 0.1]])
    np.testing.assert_allclose(supervision.margin(s), [0.4 + 1e-6, 1e-6], rtol=1e-9)


def test_margin_of_one_teacher_is_one():
    assert supervision.margin(np.array([[0.3], [0.9]])).tolist() == [1.0, 1.0]


def test_masses_on_a_shared_label_add_up(scores, labels):
    target = supervision.mix_targets(scores, np.array([[0.25, 0.75], [1.0, 0.0]]), labels)
    # x, y, z, w; y is the second class of a and the first of b
    expected = [
        [0.25 * 0.9, 0.25 * 0.1 + 0.75 * 0.2, 0.75 * 0.3, 0.75 * 0.5],
        [0.6, 0.4, 0.0, 0.0],
    ]
    np.testing.assert_allclose(target, expected, atol=1e-6)


def test_targets_use_the_prediction_without_dropout(scores, labels):
    target = supervision.mix_targets(scores, np.array([[1.0, 0.0], [0.0, 1.0]]), labels)
    np.testing.assert_allclose(target, [[0.9, 0.1, 0, 0], [0, 0.1, 0.1, 0.8]], atol=1e-6)


@pytest.mark.parametrize("reweight", [True, False])
def test_supervision_from_weights_has_the_most_certain_teacher_and_the_margins(scores, labels, reweight):
    supervised = supervision.from_weights(scores, np.array([[0.5, 0.5], [0.5, 0.5]]), labels, reweight=reweight)
    first = [1 - normalised_entropy(0.8, 0.2), 1 - normalised_entropy(0.3, 0.3, 0.4)]
    second = [1 - normalised_entropy(0.5, 0.5), 1 - normalised_entropy(0.05, 0.05, 0.9)]
    margins = [abs(first[0] - first[1]) + 1e-6, abs(second[0] - second[1]) + 1e-6]
    np.testing.assert_allclose(supervised.weight, margins if reweight else [1.0, 1.0], rtol=1e-5)
    assert supervised.picked.tolist() == [0, 1]
    assert supervised.target.dtype == supervised.weight.dtype == np.float32
    np.testing.assert_allclose(supervised.target.sum(axis=1), 1.0, rtol=1e-6)


def test_there_must_be_a_weight_for_each_teacher(scores, labels):
    with pytest.raises(ValueError, match="zip"):
        supervision.mix_targets(scores, np.ones((2, 3)), labels)


def test_gold_labels_become_one_hot_targets():
    supervised = supervision.from_labels(np.array([2, 0]), 3)
    assert supervised.target.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert supervised.weight.tolist() == [1, 1]
    assert supervised.picked.tolist() == [-1, -1]


def test_the_digest_depends_on_target_and_weight():
    supervised = supervision.from_labels(np.array([2, 0]), 3)
    same = supervision.from_labels(np.array([2, 0]), 3)
    other_target = supervision.from_labels(np.array([2, 1]), 3)
    other_weight = supervision.Supervision(supervised.target, np.array([1, 2], dtype=np.float32), supervised.picked)
    assert supervised.digest() == same.digest()
    assert len({supervised.digest(), other_target.digest(), other_weight.digest()}) == 3


def test_the_digest_is_the_sha_256_of_target_and_weight_as_little_endian_float32():
    supervised = supervision.from_labels(np.array([2, 0]), 3)
    content = np.array([0, 0, 1, 1, 0, 0, 1, 1], dtype="<f4").tobytes()  # two rows of the target, then two weights
    assert supervised.digest() == hashlib.sha256(content).hexdigest()


def test_the_digest_does_not_depend_on_the_memory_layout():
    supervised = supervision.from_labels(np.array([2, 0]), 3)
    other_layout = supervision.Supervision(
        np.asfortranarray(supervised.target), supervised.weight.astype(">f4"), supervised.picked
    )
    assert other_layout.digest() == supervised.digest()


def test_a_selection_has_the_targets_weights_and_teachers_of_its_rows():
    everything = supervision.Supervision(np.eye(3), np.array([5.0, 6.0, 7.0]), np.array([0, 1, -1]))
    selected = everything.take(np.array([2, 0, 2]))
    assert selected.target.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert selected.weight.tolist() == [7, 5, 7]
    assert selected.picked.tolist() == [-1, 0, -1]


def test_of_equally_certain_teachers_the_first_is_picked(labels):
    alike = [scores_of("a", [[0.5, 0.5]]), scores_of("b", [[1 / 3, 1 / 3, 1 / 3]])]
    supervised = supervision.from_weights(alike, np.array([[0.5, 0.5]]), labels, reweight=True)
    assert supervised.picked.tolist() == [0]
    np.testing.assert_allclose(supervised.weight, [1e-6], rtol=1e-3)
