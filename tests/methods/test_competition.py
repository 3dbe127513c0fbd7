"""Whether teachers compete: synthetic teachers that divide texts between them, and others that all know every text."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import rankdata

from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods.competition import (
    Answers,
    answers,
    concords,
    find_competition,
    known_share,
    relative_certainty,
)
from amalgam_edge.scoring.scores import TeacherScores

N_CLASSES = 4
DOUBTFUL, SURE = 0.6, 4.0  # logits of the class that is answered


def scores(name, strength, seed, n_classes=N_CLASSES):
    """A teacher whose answers are random, and whose logits for them, before noise of dropout, are given."""
    random = np.random.default_rng(seed)
    logits = np.zeros((len(strength), n_classes))
    logits[np.arange(len(strength)), random.integers(n_classes, size=len(strength))] = strength
    passes = logits + random.normal(0, 0.4, (10, *logits.shape))
    return TeacherScores.from_logits(name, logits.astype(np.float32), passes.astype(np.float32))


def strength(sure, random, obscurity):
    return np.where(sure, SURE, DOUBTFUL) - obscurity + random.normal(0, 0.7, len(sure))


def rivals(n_teachers, n_texts, seed=0, obscurity=0.0):
    """Teachers of which each knows its own texts."""
    random = np.random.default_rng(seed)
    owner = random.integers(n_teachers, size=n_texts)
    shared = obscurity * random.normal(size=n_texts)
    return [scores(f"t{k}", strength(owner == k, random, shared), seed + k) for k in range(n_teachers)]


def of_different_questions(n_teachers, n_texts, seed=0, obscurity=1.0):
    """Teachers that are sure of each text or not by how obscure it is, and by chance."""
    random = np.random.default_rng(seed)
    shared = obscurity * random.normal(size=n_texts)
    return [scores(f"t{k}", 2.5 - shared + random.normal(0, 1.0, n_texts), 100 + seed + k) for k in range(n_teachers)]


def space(teachers, **renamed):
    return LabelSpace.union(
        {t.teacher: renamed.get(t.teacher, [f"{t.teacher} {c}" for c in range(t.logits.shape[1])]) for t in teachers}
    )


@pytest.mark.parametrize("n_teachers", [2, 3, 5, 10])
def test_teachers_that_divide_texts_between_them_compete(n_teachers):
    teachers = rivals(n_teachers, 600)
    found = find_competition(teachers, space(teachers))
    assert (found.verdict, found.competes) == ("compete", True)
    assert found.concord < 0 and found.n_texts == 600
    assert list(found.concord_of) == [t.teacher for t in teachers]


@pytest.mark.parametrize("n_teachers", [2, 3, 6, 10])
def test_teachers_that_find_the_same_texts_obscure_do_not(n_teachers):
    teachers = of_different_questions(n_teachers, 600)
    found = find_competition(teachers, space(teachers))
    assert (found.verdict, found.competes) == ("independent", False)
    assert found.concord > 0.2


def test_topics_that_make_one_question_easy_and_the_other_hard_are_no_competition():
    random = np.random.default_rng(4)
    topic, obscurity = random.integers(2, size=600), random.normal(size=600)
    first, second = (4.0 * side - obscurity + random.normal(0, 0.8, 600) for side in (topic, 1 - topic))
    logits = [np.zeros((600, 2)), np.zeros((600, 2))]
    for each, strong in zip(logits, (first, second), strict=True):
        each[np.arange(600), topic] = np.maximum(strong, 0.1) + 1.0
    teachers = [
        TeacherScores.from_logits(f"t{k}", each.astype(np.float32), np.stack([each] * 3).astype(np.float32))
        for k, each in enumerate(logits)
    ]
    certainties = [1 - t.uncertainty for t in teachers]
    assert np.corrcoef(*map(rankdata, certainties))[0, 1] < -0.3  # what alone would say that they compete
    assert find_competition(teachers, space(teachers)).verdict == "independent"


def test_a_teacher_that_knows_every_text_competes_with_nobody():
    random = np.random.default_rng(5)
    everything = scores("all", 6.0 + random.normal(0, 0.2, 600), 1)
    other = scores("other", 1.0 + random.normal(0, 1.0, 600), 2)
    found = find_competition([everything, other], space([everything, other]))
    assert found.verdict == "independent" and found.known_to["all"] > 0.95 > found.known_to["other"]
    few = [each.take(np.arange(120)) for each in (everything, other)]
    assert find_competition(few, space(few)).verdict == "unclear"  # they might be at odds, as far as so few texts tell


def test_a_useless_teacher_among_rivals_does_not_make_them_independent():
    random = np.random.default_rng(6)
    for useless in (random.normal(0, 0.5, 600), 6.0 + random.normal(0, 0.2, 600)):  # sure of nothing, of everything
        teachers = [*rivals(2, 600), scores("useless", useless, 9)]
        assert find_competition(teachers, space(teachers)).competes


def test_two_rivals_and_a_teacher_of_another_question_are_not_told_to_part():
    random = np.random.default_rng(7)
    teachers = [*rivals(2, 600), scores("other", 2.5 + random.normal(0, 1.0, 600), 9)]
    assert find_competition(teachers, space(teachers)).competes


def test_one_teacher_at_odds_with_others_in_concord_leaves_it_unclear():
    random = np.random.default_rng(10)
    obscurity = random.normal(size=600)
    sides = (-1.0, -1.0, -1.0, -1.0, -1.0, 0.5)
    teachers = [scores(f"t{k}", 2.5 + side * obscurity + random.normal(0, 0.8, 600), k) for k, side in enumerate(sides)]
    found = find_competition(teachers, space(teachers))
    assert found.concord > 0.15 > 0 > found.concord_of["t5"]
    assert found.verdict == "unclear"


def test_teachers_that_share_a_label_compete_whatever_they_are_sure_of():
    teachers = of_different_questions(2, 600)
    labels = space(teachers, t0=["a", "b", "c", "d"], t1=["d", "e", "f", "g"])
    found = find_competition(teachers, labels)
    assert found.verdict == "compete" and "'d'" in found.reason


def test_weak_evidence_and_few_texts_decide_nothing():
    random = np.random.default_rng(8)
    chance = [scores(f"t{k}", 2.5 + random.normal(0, 1.0, 100), k) for k in range(2)]
    assert find_competition(chance, space(chance)).verdict == "unclear"
    few = of_different_questions(2, 30)
    found = find_competition(few, space(few))
    assert found.verdict == "unclear" and "30 texts" in found.reason
    none = [each.take(np.arange(0)) for each in few]
    assert find_competition(none, space(none)).verdict == "unclear"


def test_a_single_teacher_has_nobody_to_compete_with():
    (alone,) = of_different_questions(1, 200)
    found = find_competition([alone], space([alone]))
    assert found.verdict == "unclear" and "one teacher" in found.reason


def test_texts_that_a_teacher_could_not_score_are_left_out():
    teachers = rivals(3, 600)
    rows = np.arange(0, 600, 2)
    damaged = [teachers[0].take(rows).scatter(600, rows), *teachers[1:]]
    found = find_competition(damaged, space(damaged))
    assert found == find_competition([each.take(rows) for each in teachers], space(teachers))
    assert found.n_texts == 300 and np.isfinite(found.concord)


def test_a_teacher_that_says_the_same_of_every_text_is_at_odds_with_nobody():
    constant = scores("constant", np.full(400, 2.0), 1)
    constant = replace(
        constant,
        mean_probabilities=np.tile(constant.mean_probabilities[:1], (400, 1)),
        mutual_information=np.zeros(400, np.float32),
    )
    teachers = [constant, *of_different_questions(1, 400)]
    found = find_competition(teachers, space(teachers))
    assert found.concord_of["constant"] == 0 and np.isfinite(found.concord)


def test_relative_certainty_is_the_rank_less_the_mean_rank_of_the_answer():
    certainty = np.array([0.1, 0.9, 0.5, 0.5, 0.8, 0.3])
    information = np.array([0.4, 0.0, 0.2, 0.2, 0.1, 0.3])
    answer = np.array([7, 7, 7, 2, 2, 2])
    rank = rankdata(rankdata(certainty) + rankdata(-information))
    expected = rank - np.array([rank[:3].mean()] * 3 + [rank[3:].mean()] * 3)
    found = relative_certainty(Answers(answer, certainty, information))
    assert found == pytest.approx(expected / expected.std())


def test_concord_is_the_correlation_with_the_greatest_of_the_others():
    relative = np.random.default_rng(1).normal(size=(50, 3))
    expected = [
        np.corrcoef(relative[:, k], np.maximum(*(relative[:, j] for j in range(3) if j != k)))[0, 1] for k in range(3)
    ]
    assert concords(relative) == pytest.approx(expected)


def test_the_answer_is_the_likeliest_class_or_the_set_of_likely_labels():
    assert answers(np.array([[0.2, 0.8], [0.5, 0.5], [0.4, 0.6]]), "softmax").tolist() == [1, 0, 1]
    first, second, third, fourth = answers(np.array([[0.9, 0.8], [0.9, 0.1], [0.7, 0.6], [0.1, 0.2]]), "sigmoid")
    assert first == third and len({first, second, fourth}) == 3


def test_the_share_of_known_texts_is_by_the_surest_texts_of_the_teacher_itself():
    assert known_share(np.array([0.5] * 50 + [0.1] * 50)) == 0.5
    assert known_share(np.full(20, 0.3)) == 1.0
    assert known_share(np.zeros(0)) == 0.0
