"""The objective of CFL, compared with its equations."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from amalgam_edge.methods import METHODS, MethodSettings, Shapes
from amalgam_edge.methods.objectives.common_features import squared_discrepancy
from tests.support import gradients

CFL = METHODS["cfl"]
BANDWIDTHS = (0.1, 0.2, 0.5, 1.0, 2.0)  # as docs/method.md has them


def linear(values, name, rows):
    return rows @ values[f"{name}.weight"].T + values[f"{name}.bias"]


def discrepancy_by_loops(one, other):
    """MMD² of the directions, one pair of vectors at a time."""
    x, y = ([row / np.linalg.norm(row) for row in sample] for sample in (one, other))

    def mean_kernel(a, b):
        return sum(
            math.exp(-float(((p - q) ** 2).sum()) / (2 * width**2)) for p in a for q in b for width in BANDWIDTHS
        ) / (len(a) * len(b) * len(BANDWIDTHS))

    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)


def equations(constants, n_teachers, parameters):
    def common(values, projection, hidden):
        return linear(values, "extractor", np.maximum(linear(values, projection, hidden), 0))

    def loss(values, _):
        total = gradients.vanilla_kd_loss(
            values["logits"], constants["target"], constants["weight"], parameters.distillation_temperature
        )
        student = common(values, "student_projection", values["hidden"])
        for i in range(n_teachers):
            hidden = constants[f"teacher_hidden{i}"]
            teacher = common(values, f"teacher_projections.{i}", hidden)
            reconstruction_error = ((linear(values, f"decoders.{i}", teacher) - hidden) ** 2).mean()
            total += parameters.feature_weight * discrepancy_by_loops(student, teacher)
            total += parameters.reconstruction_weight * reconstruction_error
        return total

    return loss


@pytest.mark.parametrize(("columns", "widths", "student_width"), gradients.CASES.values(), ids=gradients.CASES)
def test_loss_and_gradient_match_the_equations(columns, widths, student_width):
    parameters = MethodSettings(
        distillation_temperature=3.0, feature_weight=0.7, reconstruction_weight=1.3, common_width=3
    )
    torch.manual_seed(0)
    objective = CFL.objective(Shapes(columns, widths, student_width), parameters)
    batch = gradients.random_batch(columns, widths, student_width, n_texts=4)
    constants = gradients.in_float64(batch)
    gradients.assert_matches_equations(objective, batch, equations(constants, len(columns), parameters))


def test_a_batch_of_one_text_has_a_finite_loss():
    columns, widths, student_width = gradients.CASES["widths differ"]
    batch = gradients.random_batch(columns, widths, student_width, n_texts=1)
    loss = CFL.objective(Shapes(columns, widths, student_width), MethodSettings())(batch)
    loss.backward()
    assert math.isfinite(loss.item())


def test_the_common_space_has_the_common_width():
    objective = CFL.objective(Shapes(((0, 1),), (5,), 4), MethodSettings(common_width=7))
    assert {name: tuple(p.shape) for name, p in objective.named_parameters() if p.ndim == 2} == {
        "student_projection.weight": (7, 4),
        "teacher_projections.0.weight": (7, 5),
        "extractor.weight": (7, 7),
        "decoders.0.weight": (5, 7),
    }


samples = st.lists(
    st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3).filter(lambda row: max(map(abs, row)) > 0.1),
    min_size=1,
    max_size=5,
).map(torch.tensor)


@settings(max_examples=50, deadline=None)
@given(samples, samples, st.floats(0.1, 10))
def test_the_discrepancy_is_a_distance_of_directions(one, other, scale):
    discrepancy = squared_discrepancy(one, other).item()
    assert discrepancy == pytest.approx(discrepancy_by_loops(one.double().numpy(), other.double().numpy()), abs=2e-5)
    assert discrepancy >= -1e-5
    assert discrepancy == pytest.approx(squared_discrepancy(other, one).item(), abs=1e-5)
    assert squared_discrepancy(one, one * scale).item() == pytest.approx(0.0, abs=2e-5)
    assert squared_discrepancy(one.flip(0), other).item() == pytest.approx(discrepancy, abs=1e-5)


def test_the_discrepancy_of_opposite_directions():
    one, other = torch.eye(4)[:1], -torch.eye(4)[:1]
    expected = 2 - 2 * np.mean([math.exp(-4 / (2 * width**2)) for width in BANDWIDTHS])
    assert squared_discrepancy(one, other).item() == pytest.approx(expected, rel=1e-5)
