"""The objective of UHC, compared with its equations."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from amalgam_edge.methods import METHODS, MethodSettings, Shapes
from amalgam_edge.methods.objectives import TrainingBatch
from tests.support import gradients

UHC = METHODS["uhc"]

COLUMNS = {
    "disjoint": ((0, 1), (2, 3, 4)),
    "shared": ((0, 1, 2), (2, 1, 3)),
    "the same, in another order": ((0, 1, 2), (2, 0, 1)),
    "one teacher": ((1, 2, 0),),
    "three": ((0, 1), (1, 2), (3, 0, 2)),
}


def objective_for(columns, temperature=2.0):
    return UHC.objective(Shapes(columns, (), 3), MethodSettings(distillation_temperature=temperature))


def equations(columns, constants, temperature):
    """Σ_i T² mean_x v KL, where the student's softmax over all labels is split and renormalised, number by number."""

    def loss(values, _):
        total = 0.0
        for i, of_teacher in enumerate(columns):
            for row, teacher_row, v in zip(
                values["logits"], constants[f"teacher_logits{i}"], constants["weight"], strict=True
            ):
                exponentials = [math.exp(x / temperature) for x in row]
                joint = [x / sum(exponentials) for x in exponentials]
                mass = sum(joint[column] for column in of_teacher)
                teacher_exponentials = [math.exp(x / temperature) for x in teacher_row]
                teacher = [x / sum(teacher_exponentials) for x in teacher_exponentials]
                for column, p in zip(of_teacher, teacher, strict=True):
                    total += v * p * (math.log(p) - math.log(joint[column] / mass))
        return temperature**2 * total / len(values["logits"])

    return loss


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
def test_loss_and_gradient_match_the_equations(columns, temperature):
    batch = gradients.random_batch(columns, (), 3)
    constants = gradients.in_float64(batch)
    gradients.assert_matches_equations(
        objective_for(columns, temperature), batch, equations(columns, constants, temperature)
    )


def test_it_has_no_parameters_and_reads_no_hidden_state():
    assert not list(objective_for(COLUMNS["disjoint"]).parameters())
    assert not UHC.reads_hidden


def test_with_one_teacher_it_is_vanilla_distillation():
    batch = gradients.random_batch(((0, 1, 2),), (), 3)
    target = torch.softmax(batch.teacher_logits[0] / 2.0, dim=-1)
    vanilla_kd = METHODS["vanilla-kd"].loss(batch.logits, target, batch.weight, MethodSettings())
    assert objective_for(((0, 1, 2),))(batch).item() == pytest.approx(vanilla_kd.item(), rel=1e-6)


numbers = st.floats(-4, 4, width=32)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(numbers, min_size=5, max_size=5), min_size=1, max_size=4),
    st.lists(numbers, min_size=2, max_size=2),
    st.sampled_from([1.0, 3.0]),
)
def test_it_is_zero_if_each_part_equals_its_teacher_s_and_never_negative(rows, shifts, temperature):
    """Shifting a teacher's logits changes nothing: it does not say how much mass its labels have together."""
    logits = torch.tensor(rows)
    weight = torch.ones(len(rows))
    columns = COLUMNS["disjoint"]
    parts = tuple(logits[:, list(of_teacher)] + shift for of_teacher, shift in zip(columns, shifts, strict=True))
    objective = objective_for(columns, temperature)
    same = TrainingBatch(logits, logits, logits, weight, parts)
    assert objective(same).item() == pytest.approx(0.0, abs=1e-4)
    other = TrainingBatch(logits.flip(1), logits, logits, weight, parts)
    assert objective(other).item() >= -1e-4


def test_a_shared_label_is_in_the_term_of_each_teacher():
    """Two teachers of the same labels have the gradient of their mean, twice."""
    columns = ((0, 1), (0, 1))
    batch = gradients.random_batch(columns, (), 3)
    batch.logits.requires_grad_()
    objective_for(columns, 1.0)(batch).backward()
    mean = np.mean([torch.softmax(part, dim=-1).numpy() for part in batch.teacher_logits], axis=0)
    student = torch.softmax(batch.logits.detach(), dim=-1).numpy()
    expected = 2 * batch.weight.numpy()[:, None] * (student - mean) / len(student)
    np.testing.assert_allclose(batch.logits.grad, expected, atol=1e-6)
