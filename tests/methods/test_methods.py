"""The registry of methods, and the supervision and losses of the plain ones, compared with their equations."""

import math
import pkgutil
import subprocess
import sys
from dataclasses import asdict
from importlib import import_module
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given

import amalgam_edge.methods
from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods import (
    METHODS,
    MethodInputs,
    MethodSettings,
    Shapes,
    TeacherSignals,
    catalogue,
    weighted_divergence,
)
from amalgam_edge.scoring.scores import TeacherScores
from tests.support import gradients

LOGITS = {"a": [[2.0, 0.5], [0.1, 0.3]], "b": [[0.2, -0.4, 1.0], [3.0, -1.0, 0.0]]}
PASSES = {
    "a": [[[1.5, 0.0], [0.0, 0.4]], [[2.5, 0.1], [0.5, 0.1]]],
    "b": [[[0.0, 0.3, 0.4], [2.0, -1.0, 0.5]], [[0.5, -0.2, 0.9], [2.5, 0.0, 0.0]]],
}
CLASSES = {"a": ["x", "y"], "b": ["y", "z", "w"]}
POSITIONS = {"a": [0, 1], "b": [1, 2, 3]}


def scores_of(*teachers):
    return [TeacherScores.from_logits(t, np.array(LOGITS[t]), np.array(PASSES[t])) for t in teachers]


def labels_of(*teachers):
    return LabelSpace.union({t: CLASSES[t] for t in teachers})


def inputs_of(*teachers):
    features = np.array([[0.5, -1.0, 2.0], [1.0, 0.3, -0.7]])
    return MethodInputs(scores_of(*teachers), labels_of(*teachers), features)


def softmax(values):
    exponentials = [math.exp(v) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def certainty(teacher, text):
    runs = [softmax(run[text]) for run in PASSES[teacher]]
    mean = [sum(column) / len(runs) for column in zip(*runs, strict=True)]
    return 1 - sum(-p * math.log(p) for p in mean) / math.log(len(mean))


def target_by(weights, text):
    target = [0.0] * 4
    for teacher, weight in weights.items():
        for position, p in zip(POSITIONS[teacher], softmax(LOGITS[teacher][text]), strict=True):
            target[position] += weight * p
    return target


def test_each_teacher_is_the_most_certain_on_one_text_of_the_fixture():
    assert certainty("a", 0) > certainty("b", 0)
    assert certainty("a", 1) < certainty("b", 1)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_muka_soft_follows_its_equations(temperature):
    supervision = METHODS["muka-soft"].supervise(inputs_of("a", "b"), MethodSettings(score_temperature=temperature))
    for text in range(2):
        s = {t: certainty(t, text) for t in "ab"}
        total = sum(math.exp(v / temperature) for v in s.values())
        weights = {t: math.exp(v / temperature) / total for t, v in s.items()}
        np.testing.assert_allclose(supervision.target[text], target_by(weights, text), atol=1e-6)
        assert supervision.weight[text] == pytest.approx(abs(s["a"] - s["b"]) + 1e-6, rel=1e-4)
    assert supervision.picked.tolist() == [0, 1]


def test_muka_hard_follows_its_equations():
    supervision = METHODS["muka-hard"].supervise(inputs_of("a", "b"), MethodSettings())
    np.testing.assert_allclose(supervision.target[0], target_by({"a": 1.0}, 0), atol=1e-6)
    np.testing.assert_allclose(supervision.target[1], target_by({"b": 1.0}, 1), atol=1e-6)
    expected = [abs(certainty("a", text) - certainty("b", text)) + 1e-6 for text in range(2)]
    np.testing.assert_allclose(supervision.weight, expected, rtol=1e-4)
    assert supervision.picked.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["muka-soft", "muka-hard"])
def test_without_reweighting_every_text_weighs_1(name):
    settings = MethodSettings(reweight=False)
    supervision = METHODS[name].supervise(inputs_of("a", "b"), settings)
    reweighted = METHODS[name].supervise(inputs_of("a", "b"), MethodSettings())
    assert supervision.weight.tolist() == [1, 1]
    np.testing.assert_array_equal(supervision.target, reweighted.target)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_vanilla_kd_is_the_joint_softmax_with_shared_labels_added(temperature):
    settings = MethodSettings(distillation_temperature=temperature)
    supervision = METHODS["vanilla-kd"].supervise(inputs_of("a", "b"), settings)
    for text in range(2):
        a0, a1, b0, b1, b2 = softmax([v / temperature for v in LOGITS["a"][text] + LOGITS["b"][text]])
        np.testing.assert_allclose(supervision.target[text], [a0, a1 + b0, b1, b2], atol=1e-6)
    assert supervision.weight.tolist() == [1, 1]
    assert supervision.picked.tolist() == [-1, -1]


@pytest.mark.parametrize("name", ["muka-soft", "muka-hard"])
def test_a_single_teacher_s_prediction_is_the_target(name):
    supervision = METHODS[name].supervise(inputs_of("b"), MethodSettings())
    np.testing.assert_allclose(supervision.target, [softmax(row) for row in LOGITS["b"]], atol=1e-6)
    assert supervision.weight.tolist() == [1, 1]
    assert supervision.picked.tolist() == [0, 0]


def test_a_single_teacher_s_softened_prediction_is_the_target_of_vanilla_kd():
    supervision = METHODS["vanilla-kd"].supervise(inputs_of("a"), MethodSettings(distillation_temperature=3.0))
    np.testing.assert_allclose(supervision.target, [softmax([v / 3 for v in row]) for row in LOGITS["a"]], atol=1e-6)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_targets_are_distributions(name):
    supervision = METHODS[name].supervise(inputs_of("a", "b"), MethodSettings())
    np.testing.assert_allclose(supervision.target.sum(axis=1), 1.0, rtol=1e-6)
    assert supervision.target.dtype == supervision.weight.dtype == np.float32
    assert supervision.target.shape == (2, 4)


@pytest.fixture
def batch():
    rng = np.random.default_rng(3)
    target = scipy.special.softmax(rng.normal(size=(7, 4)) * 2, axis=-1)
    target[0] = [0, 1, 0, 0]
    return rng.normal(size=(7, 4)) * 3, target, rng.uniform(0, 2, size=7)


def as_torch(batch):
    return tuple(torch.tensor(array, dtype=torch.float32) for array in batch)


@pytest.mark.parametrize("name", ["refined", "muka-soft", "muka-hard"])
def test_the_loss_of_muka_and_refined_is_the_weighted_divergence(name, batch):
    logits, target, weight = batch
    expected = (weight * scipy.special.rel_entr(target, scipy.special.softmax(logits, axis=-1)).sum(axis=-1)).mean()
    assert METHODS[name].loss(*as_torch(batch), MethodSettings()).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_vanilla_kd_loss_has_the_factor_of_temperature_squared(temperature, batch):
    logits, target, weight = batch
    softened = scipy.special.softmax(logits / temperature, axis=-1)
    divergence = (weight * scipy.special.rel_entr(target, softened).sum(axis=-1)).mean()
    settings = MethodSettings(distillation_temperature=temperature)
    found = METHODS["vanilla-kd"].loss(*as_torch(batch), settings).item()
    assert found == pytest.approx(temperature**2 * divergence, rel=1e-5)


def test_loss_and_gradient_are_zero_if_the_student_equals_the_target():
    target = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    logits = target.log().requires_grad_()
    loss = weighted_divergence(logits, target, torch.tensor([1.0, 3.0]))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6


def test_the_gradient_is_the_weight_times_student_minus_target(batch):
    logits, target, weight = as_torch(batch)
    logits.requires_grad_()
    weighted_divergence(logits, target, weight).backward()
    expected = batch[2][:, None] * (scipy.special.softmax(batch[0], axis=-1) - batch[1]) / len(batch[2])
    np.testing.assert_allclose(logits.grad, expected, atol=1e-6)


def test_half_precision_logits_are_compared_in_float32(batch):
    logits, target, weight = as_torch(batch)
    half = logits.half()
    found = weighted_divergence(half, target, weight)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(weighted_divergence(half.float(), target, weight).item(), rel=1e-6)


def test_double_precision_logits_are_compared_in_float64(batch):
    logits, target, weight = batch
    expected = (weight * scipy.special.rel_entr(target, scipy.special.softmax(logits, axis=-1)).sum(axis=-1)).mean()
    found = weighted_divergence(*(torch.tensor(array, dtype=torch.float64) for array in batch))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_methods_are_registered_under_their_names_in_the_order_of_the_documentation():
    assert list(METHODS) == ["refined", "muka-soft", "muka-hard", "vanilla-kd", "uhc", "cfl", "dfa"]
    assert all(METHODS[name].name == name and METHODS[name].summary and METHODS[name].paper for name in METHODS)


def test_every_module_that_holds_a_method_is_registered():
    names = [module.name for module in pkgutil.iter_modules(amalgam_edge.methods.__path__)]
    modules = [import_module(f"amalgam_edge.methods.{name}") for name in names]
    found = {module.METHOD.name for module in modules if hasattr(module, "METHOD")}
    assert found == set(METHODS)


def test_defaults_are_the_documented_ones():
    assert asdict(MethodSettings()) == {
        "name": "refined",
        "reweight": True,
        "score_temperature": 0.2,
        "refinement_rounds": 4,
        "distillation_temperature": 2.0,
        "feature_weight": 1.0,
        "reconstruction_weight": 1.0,
        "common_width": 128,
    }


def test_hidden_states_and_features_are_read_by_the_documented_methods_alone():
    assert [name for name in METHODS if METHODS[name].reads_hidden] == ["cfl", "dfa"]
    assert [name for name in METHODS if METHODS[name].reads_features] == ["refined"]
    assert [name for name in METHODS if METHODS[name].objective] == ["uhc", "cfl", "dfa"]


def test_importing_the_methods_loads_no_training_stack():
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'pydantic', 'datasets', 'tokenizers', 'onnxruntime'):\n"
        "    sys.modules[name] = None\n"
        "from amalgam_edge.methods import METHODS, Method, MethodSettings, catalogue\n"
        "print(*METHODS)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == list(METHODS)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_reads_exactly_the_parameters_that_it_lists(name):
    """Settings that hold only these are enough, and a change of each of them changes the outcome."""
    method = METHODS[name]
    shapes = Shapes(((0, 1), (1, 2, 3)), (3, 5) if method.reads_hidden else (), 4)
    batch = gradients.random_batch(shapes.columns, shapes.teacher_widths, 4)

    def outcome(**changes):
        values = {**asdict(MethodSettings()), **changes}
        listed = SimpleNamespace(**{parameter: values[parameter] for parameter in method.parameters})
        supervision = method.supervise(inputs_of("a", "b"), listed)
        torch.manual_seed(0)
        losses = [method.loss(batch.logits, batch.target, batch.weight, listed).item()]
        if method.objective is not None:
            losses.append(method.objective(shapes, listed)(batch).item())
        return [*losses, *supervision.target.ravel().tolist(), *supervision.weight.tolist()]

    by_default = outcome()
    for parameter in method.parameters:
        value = getattr(MethodSettings(), parameter)
        changed = (not value) if isinstance(value, bool) else value * 2
        assert outcome(**{parameter: changed}) != by_default, parameter


def test_every_parameter_is_read_by_some_method():
    parameters = {name for method in METHODS.values() for name in method.parameters}
    assert parameters == set(asdict(MethodSettings())) - {"name"}


def test_the_catalogue_lists_all_methods_in_order():
    listed = catalogue()
    assert [row["name"] for row in listed] == list(METHODS)
    rows = {row["name"]: row for row in listed}
    assert rows["muka-hard"] == {
        "name": "muka-hard",
        "summary": METHODS["muka-hard"].summary,
        "paper": "arXiv 2112.07327",
        "parameters": {"reweight": True},
    }
    assert rows["cfl"]["parameters"]["common_width"] == 128


@given(st.lists(st.integers(0, 6), max_size=8), st.lists(st.integers(0, 7), max_size=5))
def test_teacher_signals_are_selected_by_rows_once_and_again(rows, rows_of_selection):
    table = np.arange(14).reshape(7, 2)
    signals = TeacherSignals(logits=(table, table + 100), hidden=(table + 200,)).take(np.array(rows, dtype=int))
    for part, offset in zip((*signals.logits, *signals.hidden), (0, 100, 200), strict=True):
        assert len(part) == len(rows)
        assert [part[k].tolist() for k in range(len(rows))] == [(table[row] + offset).tolist() for row in rows]
    again = np.array([row for row in rows_of_selection if row < len(rows)], dtype=int)
    selected_twice = signals.take(again).hidden[0]
    expected = table[np.array(rows, dtype=int)[again]] + 200
    assert [selected_twice[k].tolist() for k in range(len(again))] == expected.tolist()


@pytest.mark.parametrize("name", ["cfl", "dfa"])
def test_without_the_weights_of_features_it_is_vanilla_distillation(name):
    columns, widths, student_width = gradients.CASES["widths differ"]
    parameters = MethodSettings(feature_weight=0.0, reconstruction_weight=0.0)
    batch = gradients.random_batch(columns, widths, student_width)
    loss = METHODS[name].objective(Shapes(columns, widths, student_width), parameters)(batch)
    vanilla_kd = METHODS["vanilla-kd"].loss(batch.logits, batch.target, batch.weight, parameters)
    assert loss.item() == pytest.approx(vanilla_kd.item(), rel=1e-6)
