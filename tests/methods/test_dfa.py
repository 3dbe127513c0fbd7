import numpy as np
import pytest
import torch

from amalgam_edge.methods import METHODS, MethodSettings, Shapes
from tests.support import gradients

DFA = METHODS["dfa"]


def by_hand(told, n_teachers, parameters):
    hidden = np.hstack([told[f"teacher_hidden{i}"] for i in range(n_teachers)])

    def linear(values, name, rows):
        return rows @ values[f"{name}.weight"].T + values[f"{name}.bias"]

    def loss(values, still):
        wanted = linear(still, "encoder", hidden)  # lets no gradient through
        again = linear(values, "decoder", linear(values, "encoder", hidden))
        vanilla = gradients.vanilla_by_hand(
            values["logits"], told["target"], told["weight"], parameters.distillation_temperature
        )
        return (
            vanilla
            + parameters.feature_weight * ((values["hidden"] - wanted) ** 2).mean()
            + parameters.reconstruction_weight * ((again - hidden) ** 2).mean()
        )

    return loss


@pytest.mark.parametrize(("columns", "widths", "student_width"), gradients.CASES.values(), ids=gradients.CASES)
def test_loss_and_gradient_by_hand(columns, widths, student_width):
    parameters = MethodSettings(distillation_temperature=3.0, feature_weight=0.7, reconstruction_weight=1.3)
    torch.manual_seed(0)
    objective = DFA.objective(Shapes(columns, widths, student_width), parameters)
    batch = gradients.random_batch(columns, widths, student_width)
    told = gradients.in_float64(batch)
    gradients.assert_as_by_hand(objective, batch, by_hand(told, len(columns), parameters))


def test_the_target_is_not_made_to_please_the_student():
    """Where nothing need be reconstructed, nothing trains the auto-encoder."""
    columns, widths, student_width = gradients.CASES["widths differ"]
    objective = DFA.objective(Shapes(columns, widths, student_width), MethodSettings(reconstruction_weight=0.0))
    objective(gradients.random_batch(columns, widths, student_width)).backward()
    assert all(parameter.grad.abs().max() == 0 for parameter in objective.parameters())


def test_without_the_weights_it_is_vanilla_distillation():
    columns, widths, student_width = gradients.CASES["widths differ"]
    parameters = MethodSettings(feature_weight=0.0, reconstruction_weight=0.0)
    batch = gradients.random_batch(columns, widths, student_width)
    found = DFA.objective(Shapes(columns, widths, student_width), parameters)(batch)
    vanilla = METHODS["vanilla-kd"].loss(batch.logits, batch.target, batch.weight, parameters)
    assert found.item() == pytest.approx(vanilla.item(), rel=1e-6)


def test_a_student_of_the_teachers_joint_width_can_learn_to_lose_nothing():
    """Trained alone, the auto-encoder reconstructs exactly what fits into the student's width."""
    torch.manual_seed(0)
    shapes = Shapes(((0, 1), (0, 1)), (2, 2), 4)
    objective = DFA.objective(shapes, MethodSettings(feature_weight=0.0))
    batch = gradients.random_batch(shapes.columns, shapes.teacher_widths, shapes.student_width, n_texts=16)
    vanilla = METHODS["vanilla-kd"].loss(batch.logits, batch.target, batch.weight, MethodSettings()).item()
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.03)
    for _ in range(300):
        optimizer.zero_grad()
        loss = objective(batch)
        loss.backward()
        optimizer.step()
    assert loss.item() == pytest.approx(vanilla, abs=2e-3)
