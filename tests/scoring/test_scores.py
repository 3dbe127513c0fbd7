import dataclasses
import hashlib

import numpy as np
import pytest
import scipy.special
import scipy.stats

from amalgam_edge.scoring.scores import ARRAYS, TeacherScores, certainty


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32) * 3


@pytest.fixture
def pass_logits():
    return np.random.default_rng(1).normal(size=(5, 6, 3)).astype(np.float32) * 3


def test_scores_are_those_of_scipy(logits, pass_logits):
    scores = TeacherScores.from_logits("t", logits, pass_logits)
    passes = scipy.special.softmax(pass_logits.astype(np.float64), axis=-1)
    mean = passes.mean(axis=0)
    entropy = scipy.stats.entropy(mean, axis=-1)
    assert scores.teacher == "t"
    np.testing.assert_array_equal(scores.logits, logits)
    np.testing.assert_allclose(scores.probabilities, scipy.special.softmax(logits, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(scores.mean_probabilities, mean, rtol=1e-6)
    np.testing.assert_allclose(scores.predictive_entropy, entropy, rtol=1e-6)
    np.testing.assert_allclose(scores.uncertainty, entropy / np.log(3), rtol=1e-5)
    np.testing.assert_allclose(
        scores.mutual_information, entropy - scipy.stats.entropy(passes, axis=-1).mean(axis=0), atol=1e-6
    )
    np.testing.assert_allclose(scores.energy, scipy.special.logsumexp(logits, axis=-1), rtol=1e-6)
    assert scores.passes.tolist() == [5] * 6
    assert len(scores) == 6


def test_texts_with_fewer_passes_are_scored_by_those_alone(logits, pass_logits):
    passes = np.array([5, 2, 1, 3, 5, 4])
    scores = TeacherScores.from_logits("t", logits, pass_logits, passes)
    for row, count in enumerate(passes):
        alone = TeacherScores.from_logits("t", logits[[row]], pass_logits[:count, [row]])
        for name in ARRAYS:
            np.testing.assert_allclose(getattr(scores, name)[row], getattr(alone, name)[0], rtol=1e-6, err_msg=name)
    assert scores.passes.tolist() == passes.tolist()


def test_uncertainty_is_that_of_the_mean_and_not_the_mean_of_the_uncertainties():
    pass_logits = np.array([[[20.0, -20.0]], [[-20.0, 20.0]]], dtype=np.float32)
    scores = TeacherScores.from_logits("t", np.zeros((1, 2), dtype=np.float32), pass_logits)
    np.testing.assert_allclose(scores.uncertainty, [1.0], atol=1e-6)
    np.testing.assert_allclose(scores.mutual_information, [np.log(2)], rtol=1e-6)


def test_arrays_have_the_types_that_are_stored(logits, pass_logits):
    scores = TeacherScores.from_logits("t", logits.astype(np.float64), pass_logits)
    assert {name: getattr(scores, name).dtype.name for name in ARRAYS} == {
        **dict.fromkeys(ARRAYS, "float32"),
        "passes": "int32",
    }


def test_take_and_concatenate_are_inverse(logits, pass_logits):
    scores = TeacherScores.from_logits("t", logits, pass_logits)
    first, rest = scores.take(np.arange(2)), scores.take(np.arange(2, 6))
    joined = TeacherScores.concatenate([first, rest])
    assert (len(first), len(rest), joined.teacher) == (2, 4, "t")
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(joined, name), getattr(scores, name))


def test_the_digest_by_hand(logits, pass_logits):
    scores = TeacherScores.from_logits("t", logits, pass_logits)
    content = b""
    for name, shape, kind in (
        ("logits", "(6, 3)", "<f4"),
        ("probabilities", "(6, 3)", "<f4"),
        ("mean_probabilities", "(6, 3)", "<f4"),
        ("predictive_entropy", "(6,)", "<f4"),
        ("mutual_information", "(6,)", "<f4"),
        ("energy", "(6,)", "<f4"),
        ("passes", "(6,)", "<i4"),
    ):
        content += f"{name} {shape} ".encode() + getattr(scores, name).astype(kind).tobytes()
    assert scores.digest() == hashlib.sha256(content).hexdigest()
    swapped = {name: getattr(scores, name).astype(getattr(scores, name).dtype.newbyteorder(">")) for name in ARRAYS}
    assert dataclasses.replace(scores, **swapped).digest() == scores.digest()


def test_certainty_is_one_minus_the_uncertainty_of_each_teacher(logits, pass_logits):
    teachers = [
        TeacherScores.from_logits(name, logits, part) for name, part in (("a", pass_logits), ("b", logits[None]))
    ]
    for column, teacher in zip(certainty(teachers).T, teachers, strict=True):
        entropy = scipy.stats.entropy(teacher.mean_probabilities.astype(np.float64), axis=-1)
        np.testing.assert_allclose(column, 1 - entropy / np.log(3), atol=1e-7)


def test_scatter_undoes_take_and_leaves_the_rest_blank(logits, pass_logits):
    scores = TeacherScores.from_logits("t", logits, pass_logits)
    rows = np.array([4, 1])
    scattered = scores.take(rows).scatter(6, rows)
    assert np.flatnonzero(scattered.scored).tolist() == [1, 4]
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(scattered, name)[rows], getattr(scores, name)[rows])
        blank = getattr(scattered, name)[[0, 2, 3, 5]]
        assert (blank == 0).all() if name == "passes" else np.isnan(blank).all()


def test_take_follows_the_order_of_rows(logits, pass_logits):
    scores = TeacherScores.from_logits("t", logits, pass_logits)
    rows = np.array([4, 0, 4])
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(scores.take(rows), name), getattr(scores, name)[[4, 0, 4]])


def test_scores_of_independent_labels_are_those_of_scipy(logits, pass_logits):
    scores = TeacherScores.from_logits("t", logits, pass_logits, activation="sigmoid")
    passes = scipy.special.expit(pass_logits.astype(np.float64))
    mean = passes.mean(axis=0)

    def entropy(p):
        return scipy.special.entr(p) + scipy.special.entr(1 - p)

    np.testing.assert_allclose(scores.probabilities, scipy.special.expit(logits.astype(np.float64)), rtol=1e-6)
    np.testing.assert_allclose(scores.mean_probabilities, mean, rtol=1e-6)
    np.testing.assert_allclose(scores.predictive_entropy, entropy(mean).sum(axis=-1), rtol=1e-6)
    np.testing.assert_allclose(scores.uncertainty, entropy(mean).mean(axis=-1) / np.log(2), rtol=1e-5)
    information = entropy(mean).sum(axis=-1) - entropy(passes).sum(axis=-1).mean(axis=0)
    np.testing.assert_allclose(scores.mutual_information, information, atol=1e-6)
    np.testing.assert_allclose(scores.energy, np.logaddexp(0, logits.astype(np.float64)).sum(axis=-1), rtol=1e-6)


def test_one_label_that_holds_or_not_is_two_classes_to_uncertainty(logits, pass_logits):
    alone = TeacherScores.from_logits("t", logits[:, :1], pass_logits[..., :1], activation="sigmoid")
    zeros = np.zeros_like(pass_logits[..., :1])
    both = TeacherScores.from_logits("t", logits[:, :2], np.concatenate([zeros, pass_logits[..., :1]], axis=-1))
    np.testing.assert_allclose(alone.uncertainty, both.uncertainty, rtol=1e-5)


def test_what_makes_probabilities_stays_with_the_scores(logits, pass_logits):
    scores = TeacherScores.from_logits("t", logits, pass_logits, activation="sigmoid")
    taken = scores.take(np.array([4, 1]))
    for same in (taken, taken.scatter(6, np.array([4, 1])), TeacherScores.concatenate([scores, scores])):
        assert same.activation == "sigmoid"
    assert TeacherScores.blank("t", 3, activation="sigmoid").activation == "sigmoid"
    np.testing.assert_array_equal(taken.uncertainty, scores.uncertainty[[4, 1]])
