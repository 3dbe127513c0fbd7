import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from amalgam_edge.methods import METHODS, Batch, MethodSettings, Shapes
from tests.support import gradients

UHC = METHODS["uhc"]

COLUMNS = {
    "disjoint": ((0, 1), (2, 3, 4)),
    "shared": ((0, 1, 2), (2, 1, 3)),
    "the same, in another order": ((0, 1, 2), (2, 0, 1)),
    "one teacher": ((1, 2, 0),),
    "three": ((0, 1), (1, 2), (3, 0, 2)),
}


def objective_of(columns, temperature=2.0):
    return UHC.objective(Shapes(columns, (), 3), MethodSettings(distillation_temperature=temperature))


def by_hand(columns, told, temperature):
    """Σ_i T² mean_x v KL, with the student's softmax over all labels split and renormalised, a number at a time."""

    def loss(values, _):
        total = 0.0
        for i, own in enumerate(columns):
            for row, teacher, v in zip(values["logits"], told[f"teacher_logits{i}"], told["weight"], strict=True):
                whole = [math.exp(x / temperature) for x in row]
                joint = [x / sum(whole) for x in whole]
                mass = sum(joint[column] for column in own)
                says = [math.exp(x / temperature) for x in teacher]
                for column, p in zip(own, (x / sum(says) for x in says), strict=True):
                    total += v * p * (math.log(p) - math.log(joint[column] / mass))
        return temperature**2 * total / len(values["logits"])

    return loss


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
def test_loss_and_gradient_by_hand(columns, temperature):
    batch = gradients.random_batch(columns, (), 3)
    told = gradients.in_float64(batch)
    gradients.assert_as_by_hand(objective_of(columns, temperature), batch, by_hand(columns, told, temperature))


def test_it_has_nothing_to_train_and_reads_no_hidden_state():
    assert not list(objective_of(COLUMNS["disjoint"]).parameters())
    assert not UHC.reads_hidden


def test_of_one_teacher_it_is_vanilla_distillation():
    batch = gradients.random_batch(((0, 1, 2),), (), 3)
    target = torch.softmax(batch.teacher_logits[0] / 2.0, dim=-1)
    vanilla = METHODS["vanilla-kd"].loss(batch.logits, target, batch.weight, MethodSettings())
    assert objective_of(((0, 1, 2),))(batch).item() == pytest.approx(vanilla.item(), rel=1e-6)


numbers = st.floats(-4, 4, width=32)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(numbers, min_size=5, max_size=5), min_size=1, max_size=4),
    st.lists(numbers, min_size=2, max_size=2),
    st.sampled_from([1.0, 3.0]),
)
def test_it_is_nought_where_each_part_is_its_teachers_and_never_less(rows, shifts, temperature):
    """How much of the mass a teacher's labels have is not its to say: a shift of its logits changes nothing."""
    logits = torch.tensor(rows)
    weight = torch.ones(len(rows))
    columns = COLUMNS["disjoint"]
    parts = tuple(logits[:, list(own)] + shift for own, shift in zip(columns, shifts, strict=True))
    objective = objective_of(columns, temperature)
    told = Batch(logits, logits, logits, weight, parts)
    assert objective(told).item() == pytest.approx(0.0, abs=1e-4)
    other = Batch(logits.flip(1), logits, logits, weight, parts)
    assert objective(other).item() >= -1e-4


def test_a_shared_label_is_in_the_part_of_each_teacher():
    """Two teachers of the same labels pull as one does that stands between them."""
    columns = ((0, 1), (0, 1))
    batch = gradients.random_batch(columns, (), 3)
    batch.logits.requires_grad_()
    objective_of(columns, 1.0)(batch).backward()
    means = np.mean([torch.softmax(part, dim=-1).numpy() for part in batch.teacher_logits], axis=0)
    student = torch.softmax(batch.logits.detach(), dim=-1).numpy()
    expected = 2 * batch.weight.numpy()[:, None] * (student - means) / len(student)
    np.testing.assert_allclose(batch.logits.grad, expected, atol=1e-6)
