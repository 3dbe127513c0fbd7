"""Teachers' answers and their likelihoods under each label, compared with loops that count them one by one."""

import math

import numpy as np
import pytest

from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods.refinement.annotators import TeacherAnswers, log_likelihood_ratio, teacher_answers
from amalgam_edge.scoring.scores import TeacherScores


def test_an_answer_is_the_predicted_class_and_the_fifth_of_the_certainty():
    even = np.arange(50) % 2 == 0
    doubt = np.linspace(0.0, 0.45, 50)
    p = np.where(np.stack([even, ~even], axis=1), 1 - doubt[:, None], doubt[:, None])
    logits = np.log(np.maximum(p, 1e-9))
    answers = teacher_answers(
        TeacherScores.from_logits("b", logits, logits[None]), LabelSpace.union({"a": "xy", "b": "yz"})
    )
    assert answers.columns == (1, 2)
    assert answers.predicted.tolist() == [k % 2 for k in range(50)]
    assert answers.certainty_bin.tolist() == [4 - k // 10 for k in range(50)]


def test_certainty_is_that_under_dropout_and_the_class_that_without():
    logits = np.log([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    pass_logits = np.log([[[0.5, 0.5], [0.3, 0.7], [0.01, 0.99]]])
    scores = TeacherScores.from_logits("a", logits, pass_logits)
    answers = teacher_answers(scores, LabelSpace.union({"a": "xy"}))
    assert answers.predicted.tolist() == [0, 1, 0]
    assert answers.certainty_bin.tolist() == [0, 2, 4]


def test_a_certainty_on_an_edge_is_in_the_bin_above():
    """Of six texts the four edges are the certainties of the middle ones."""
    p = np.array([0.55, 0.6, 0.7, 0.8, 0.9, 0.99])
    logits = np.log(np.stack([p, 1 - p], axis=1))
    scores = TeacherScores.from_logits("a", logits, logits[None])
    answers = teacher_answers(scores, LabelSpace.union({"a": "xy"}))
    assert answers.certainty_bin.tolist() == [0, 1, 2, 3, 4, 4]


def test_equal_certainties_are_in_the_same_bin():
    logits = np.log([[0.9, 0.1]] * 7 + [[0.6, 0.4]] * 3)
    bins = teacher_answers(
        TeacherScores.from_logits("a", logits, logits[None]), LabelSpace.union({"a": "xy"})
    ).certainty_bin.tolist()
    assert len(set(bins[:7])) == len(set(bins[7:])) == 1
    assert bins[0] > bins[9]


@pytest.fixture
def answers_and_posterior():
    """The answers to 40 texts of a teacher that knows labels 3 and 1 of four, and a posterior over the four."""
    rng = np.random.default_rng(2)
    answers = TeacherAnswers((3, 1), rng.integers(0, 2, 40), rng.integers(0, 5, 40))
    return answers, rng.dirichlet(np.ones(4), size=40)


def counted_log_ratios(answers, posterior):
    """The log likelihood ratios as the docstrings define them, one label and one answer at a time."""
    n_bins, n_labels, classes = 5, posterior.shape[1], range(len(answers.columns))
    outcomes = [(k, b) for k in classes for b in range(n_bins)]
    texts = range(len(posterior))

    def count(k, b, y):
        return sum(posterior[x, y] for x in texts if (answers.predicted[x], answers.certainty_bin[x]) == (k, b))

    marginal = {o: sum(count(*o, y) for y in range(n_labels)) + 0.5 for o in outcomes}
    total = sum(marginal.values())
    marginal = {o: c / total for o, c in marginal.items()}
    bin_frequency = [sum(marginal[k, b] for k in classes) for b in range(n_bins)]
    class_frequency = [sum(marginal[k, b] for b in range(n_bins)) for k in classes]
    unknown = [y for y in range(n_labels) if y not in answers.columns]
    n_unknown = sum(posterior[x, y] for x in texts for y in unknown)
    n_known = sum(posterior[x, y] for x in texts for y in answers.columns)

    def prior(k, b, y):
        if y in unknown:
            return (sum(count(k, b, z) for z in unknown) + 10 * marginal[k, b]) / (n_unknown + 10)
        right = sum(count(c, b, answers.columns[c]) for c in classes)
        wrong = sum(count(c, b, z) for c in classes for z in answers.columns) - right
        if answers.columns[k] == y:
            return (right + 10 * 0.8 * bin_frequency[b]) / (n_known + 10)
        share_of_errors = class_frequency[k] / sum(class_frequency[c] for c in classes if answers.columns[c] != y)
        return share_of_errors * (wrong + 10 * 0.2 * bin_frequency[b]) / (n_known + 10)

    likelihood = {
        (o, y): (count(*o, y) + 5 * prior(*o, y)) / (posterior[:, y].sum() + 5)
        for o in outcomes
        for y in range(n_labels)
    }
    for y in range(n_labels):
        assert sum(likelihood[o, y] for o in outcomes) == pytest.approx(1)
    given = [(answers.predicted[x], answers.certainty_bin[x]) for x in texts]
    return [[math.log(likelihood[answer, y] / marginal[answer]) for y in range(n_labels)] for answer in given]


def test_likelihood_ratios_are_those_of_counting(answers_and_posterior):
    np.testing.assert_allclose(
        log_likelihood_ratio(*answers_and_posterior), counted_log_ratios(*answers_and_posterior), atol=1e-9
    )


def test_likelihood_ratios_of_a_teacher_that_knows_all_labels(answers_and_posterior):
    answers, posterior = answers_and_posterior
    answers = TeacherAnswers((1, 0), answers.predicted, answers.certainty_bin)
    posterior = posterior[:, :2] / posterior[:, :2].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        log_likelihood_ratio(answers, posterior), counted_log_ratios(answers, posterior), atol=1e-9
    )


def test_likelihood_ratios_of_a_teacher_of_three_classes():
    rng = np.random.default_rng(5)
    answers = TeacherAnswers((4, 0, 2), rng.integers(0, 3, 60), rng.integers(0, 5, 60))
    posterior = rng.dirichlet(np.ones(5), size=60)
    np.testing.assert_allclose(
        log_likelihood_ratio(answers, posterior), counted_log_ratios(answers, posterior), atol=1e-9
    )


def test_answers_that_are_independent_of_the_label_have_ratios_near_one():
    rng = np.random.default_rng(0)
    n_texts = 20_000
    answers = TeacherAnswers((0, 1), rng.integers(0, 2, n_texts), rng.integers(0, 5, n_texts))
    posterior = np.eye(4)[rng.integers(0, 4, n_texts)]
    assert np.abs(log_likelihood_ratio(answers, posterior)).max() < 0.15


def test_a_label_without_texts_takes_the_prior_of_its_group(answers_and_posterior):
    answers, posterior = answers_and_posterior
    posterior = posterior * [1, 1, 0, 1]
    ratios = log_likelihood_ratio(answers, posterior / posterior.sum(axis=1, keepdims=True))
    assert np.isfinite(ratios).all()
    all_of_label_0 = log_likelihood_ratio(answers, np.eye(4)[np.zeros(40, dtype=int)])
    np.testing.assert_allclose(all_of_label_0[:, 2], np.log(1), atol=0.5)
