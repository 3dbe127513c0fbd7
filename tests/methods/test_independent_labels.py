"""Supervision and loss of sigmoid heads, compared with loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods import METHODS, MethodInputs, MethodSettings
from amalgam_edge.methods.losses import weighted_binary_divergence
from amalgam_edge.scoring.scores import TeacherScores

LABELS = LabelSpace.union({"one": ["a", "b"], "two": ["b", "c"]})
RNG = np.random.default_rng(0)
PASSES = {name: RNG.normal(0, 2, (6, 5, 2)) for name in ("one", "two")}
LOGITS = {name: passes.mean(axis=0) for name, passes in PASSES.items()}


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def entropy(p: float) -> float:
    return -(p * math.log(p) + (1 - p) * math.log(1 - p))


@pytest.fixture(scope="module")
def inputs() -> MethodInputs:
    scores = [TeacherScores.from_logits(name, LOGITS[name], PASSES[name], activation="sigmoid") for name in PASSES]
    return MethodInputs(scores, LABELS)


def own(name: str, text: int, label: str) -> tuple[float, float]:
    """A teacher's probability of a label and its certainty of it, by loops."""
    k = LABELS.names.index(label)
    column = LABELS.columns[name].index(k)
    mean = sum(sigmoid(PASSES[name][p, text, column]) for p in range(6)) / 6
    return sigmoid(LOGITS[name][text, column]), 1 - entropy(mean) / math.log(2)


@pytest.mark.parametrize("method", ["muka-soft", "refined"])
def test_a_shared_label_is_split_by_certainty_of_that_label(inputs, method):
    settings = MethodSettings(name=method)
    found = METHODS[method].supervise_labels(inputs, settings)
    for text in range(5):
        assert found.target[text, 0] == pytest.approx(own("one", text, "a")[0], abs=1e-6)
        assert found.target[text, 2] == pytest.approx(own("two", text, "c")[0], abs=1e-6)
        (p, s), (q, t) = own("one", text, "b"), own("two", text, "b")
        e, f = math.exp(s / settings.score_temperature), math.exp(t / settings.score_temperature)
        assert found.target[text, 1] == pytest.approx((e * p + f * q) / (e + f), abs=1e-6)
    assert (found.weight == 1).all()


def test_the_hard_choice_is_the_more_certain_teacher_of_each_label(inputs):
    found = METHODS["muka-hard"].supervise_labels(inputs, MethodSettings(name="muka-hard"))
    for text in range(5):
        (p, s), (q, t) = own("one", text, "b"), own("two", text, "b")
        assert found.target[text, 1] == pytest.approx(p if s >= t else q, abs=1e-6)


def test_the_most_trusted_teacher_is_the_most_certain_one_on_average_over_its_labels(inputs):
    found = METHODS["muka-soft"].supervise_labels(inputs, MethodSettings(name="muka-soft"))
    for text in range(5):
        one = sum(own("one", text, label)[1] for label in "ab") / 2
        two = sum(own("two", text, label)[1] for label in "bc") / 2
        assert found.picked[text] == (0 if one >= two else 1)


def test_vanilla_distillation_takes_the_mean_of_softened_probabilities(inputs):
    found = METHODS["vanilla-kd"].supervise_labels(
        inputs, MethodSettings(name="vanilla-kd", distillation_temperature=2.0)
    )
    for text in range(5):
        p, q = sigmoid(LOGITS["one"][text, 1] / 2), sigmoid(LOGITS["two"][text, 0] / 2)
        assert found.target[text, 1] == pytest.approx((p + q) / 2, abs=1e-6)
    assert (found.picked == -1).all()


def test_one_teacher_is_its_own_target(inputs):
    alone = MethodInputs(inputs.scores[:1], LabelSpace.union({"one": ["a", "b"]}))
    for method in ("muka-soft", "muka-hard", "refined"):
        found = METHODS[method].supervise_labels(alone, MethodSettings(name=method))
        np.testing.assert_allclose(found.target, inputs.scores[0].probabilities, rtol=1e-6)


def test_the_loss_is_the_mean_over_texts_of_the_summed_divergences_of_labels():
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5]], dtype=torch.float64)
    target = torch.tensor([[0.9, 0.2], [1.0, 0.0]], dtype=torch.float64)
    weight = torch.tensor([1.0, 3.0], dtype=torch.float64)
    expected = 0.0
    for x in range(2):
        for y in range(2):
            p, t = sigmoid(float(logits[x, y])), float(target[x, y])
            part = (t * math.log(t / p) if t else 0) + ((1 - t) * math.log((1 - t) / (1 - p)) if t < 1 else 0)
            expected += float(weight[x]) * part / 2
    assert float(weighted_binary_divergence(logits, target, weight)) == pytest.approx(expected)


def test_the_loss_is_zero_where_the_student_says_what_the_target_says():
    logits = torch.randn(4, 3, dtype=torch.float64)
    loss = weighted_binary_divergence(logits, torch.sigmoid(logits), torch.ones(4, dtype=torch.float64))
    assert float(loss) == pytest.approx(0, abs=1e-12)


def test_the_gradient_is_that_of_binary_cross_entropy():
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    target = torch.rand(4, 3, dtype=torch.float64)
    weighted_binary_divergence(logits, target, torch.ones(4, dtype=torch.float64)).backward()
    np.testing.assert_allclose(logits.grad.numpy(), ((torch.sigmoid(logits) - target) / 4).detach().numpy(), atol=1e-12)
