"""Whether a build stops, warns or goes on, by what the scores of its teachers show."""

from __future__ import annotations

import numpy as np
import pytest

from amalgam_edge.building.competing import check_heads
from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import SIGMOID, SOFTMAX, Head
from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods.taught_heads import TaughtHead, TaughtHeads
from amalgam_edge.recipe.sections import TeacherSettings
from amalgam_edge.scoring.scores import TeacherScores

N_TEXTS = 800


def scores(name: str, strength: np.ndarray, seed: int, activation: str = SOFTMAX) -> TeacherScores:
    """A teacher of three classes that is as sure of each text as ``strength`` says, ``(n_texts,)``."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 0.3, (N_TEXTS, 3))
    logits[np.arange(N_TEXTS), rng.integers(0, 3, N_TEXTS)] += strength
    passes = logits + rng.normal(0, 0.4, (6, N_TEXTS, 3))
    return TeacherScores.from_logits(name, logits, passes, activation=activation)


@pytest.fixture(scope="module")
def independent() -> list[TeacherScores]:
    """Every text is as clear to one teacher as to the other."""
    clear = np.random.default_rng(0).uniform(0.5, 5, N_TEXTS)
    return [scores("topic", clear, 1), scores("tone", clear, 2)]


@pytest.fixture(scope="module")
def competing() -> list[TeacherScores]:
    """Each teacher knows the texts that the other does not."""
    own = np.random.default_rng(0).integers(0, 2, N_TEXTS)
    return [scores("topic", np.where(own, 5.0, 1.0), 1), scores("tone", np.where(own, 1.0, 5.0), 2)]


def one_head(names: list[str], activation: str = SOFTMAX) -> TaughtHeads:
    labels = LabelSpace.union({name: [f"{name}-{k}" for k in "xyz"] for name in names})
    return TaughtHeads((TaughtHead(Head("label", activation, labels.names), labels),))


def a_head_each(names: list[str]) -> TaughtHeads:
    taught = []
    for name in names:
        labels = LabelSpace.union({name: list("xyz")})  # labels of the same names
        taught.append(TaughtHead(Head(name, SOFTMAX, labels.names), labels))
    return TaughtHeads(tuple(taught))


def check(heads: TaughtHeads, given: list[TeacherScores], asked_for: object) -> list[str]:
    said: list[str] = []
    check_heads(heads, given, TeacherSettings(heads=asked_for), said.append, "work/scores")
    return said


def test_teachers_of_different_questions_stop_a_build_that_was_not_told_what_to_do(independent):
    with pytest.raises(AmalgamError) as stopped:
        check(one_head(["topic", "tone"]), independent, None)
    message = str(stopped.value)
    for words in ("'topic', 'tone'", "different questions", "--heads each", "--heads union", "work/scores"):
        assert words in message
    assert "\n" not in message


def test_a_shared_label_makes_one_question_of_two_but_not_without_a_word(independent, competing):
    names = {"topic": ["games", "net", "other"], "tone": ["calm", "cross", "other"]}
    labels = LabelSpace.union(names)
    heads = TaughtHeads((TaughtHead(Head("label", SOFTMAX, labels.names), labels),))
    (warning,) = check(heads, independent, None)
    assert "several teachers have the label 'other'" in warning
    assert "--heads each" in warning
    assert check(heads, competing, None) == []


@pytest.mark.parametrize("asked_for", ["union", {"label": ("topic", "tone")}])
def test_who_asks_for_one_head_gets_it(independent, asked_for):
    assert check(one_head(["topic", "tone"]), independent, asked_for) == []


def test_teachers_that_compete_are_merged_unasked(competing):
    assert check(one_head(["topic", "tone"]), competing, None) == []


def test_heads_of_teachers_that_compete_are_a_warning(competing, independent):
    (warning,) = check(a_head_each(["topic", "tone"]), competing, "each")
    assert warning.startswith("warning: heads 'topic' and 'tone' have teachers that seem to be alternatives")
    assert check(a_head_each(["topic", "tone"]), independent, "each") == []


def test_labels_that_do_not_exclude_each_other_need_no_choice(independent):
    of_sets = [scores(each.teacher, np.ones(N_TEXTS), seed, SIGMOID) for seed, each in enumerate(independent)]
    assert check(one_head(["topic", "tone"], SIGMOID), of_sets, None) == []


def test_one_teacher_competes_with_nobody(independent):
    assert check(one_head(["topic"]), independent[:1], None) == []
