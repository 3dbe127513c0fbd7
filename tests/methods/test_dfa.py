"""The objective of DFA, compared with its equations."""

import numpy as np
import pytest
import torch

from amalgam_edge.methods import METHODS, MethodSettings, Shapes
from tests.support import gradients

DFA = METHODS["dfa"]


def equations(constants, n_teachers, parameters):
    hidden = np.hstack([constants[f"teacher_hidden{i}"] for i in range(n_teachers)])

    def linear(values, name, rows):
        return rows @ values[f"{name}.weight"].T + values[f"{name}.bias"]

    def loss(values, constant_values):
        compressed = linear(constant_values, "encoder", hidden)  # lets no gradient through
        reconstructed = linear(values, "decoder", linear(values, "encoder", hidden))
        vanilla_kd = gradients.vanilla_kd_loss(
            values["logits"], constants["target"], constants["weight"], parameters.distillation_temperature
        )
        return (
            vanilla_kd
            + parameters.feature_weight * ((values["hidden"] - compressed) ** 2).mean()
            + parameters.reconstruction_weight * ((reconstructed - hidden) ** 2).mean()
        )

    return loss


@pytest.mark.parametrize(("columns", "widths", "student_width"), gradients.CASES.values(), ids=gradients.CASES)
def test_loss_and_gradient_match_the_equations(columns, widths, student_width):
    parameters = MethodSettings(distillation_temperature=3.0, feature_weight=0.7, reconstruction_weight=1.3)
    torch.manual_seed(0)
    objective = DFA.objective(Shapes(columns, widths, student_width), parameters)
    batch = gradients.random_batch(columns, widths, student_width)
    constants = gradients.in_float64(batch)
    gradients.assert_matches_equations(objective, batch, equations(constants, len(columns), parameters))


def test_the_encoder_is_not_trained_to_match_the_student():
    """Without a weight on the reconstruction no gradient reaches encoder and decoder."""
    columns, widths, student_width = gradients.CASES["widths differ"]
    objective = DFA.objective(Shapes(columns, widths, student_width), MethodSettings(reconstruction_weight=0.0))
    objective(gradients.random_batch(columns, widths, student_width)).backward()
    assert all(parameter.grad.abs().max() == 0 for parameter in objective.parameters())


def test_a_student_as_wide_as_all_teachers_together_allows_exact_reconstruction():
    torch.manual_seed(0)
    shapes = Shapes(((0, 1), (0, 1)), (2, 2), 4)
    objective = DFA.objective(shapes, MethodSettings(feature_weight=0.0))
    batch = gradients.random_batch(shapes.columns, shapes.teacher_widths, shapes.student_width, n_texts=16)
    vanilla_kd = METHODS["vanilla-kd"].loss(batch.logits, batch.target, batch.weight, MethodSettings()).item()
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.03)
    for _ in range(300):
        optimizer.zero_grad()
        loss = objective(batch)
        loss.backward()
        optimizer.step()
    assert loss.item() == pytest.approx(vanilla_kd, abs=2e-3)
