"""Fitting under an objective: its parameters are trained, saved and resumed with the student's, and not left in it."""

import copy
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open

from amalgam_edge.methods import METHODS, MethodSettings, Shapes, TeacherSignals, weighted_divergence
from amalgam_edge.methods.objectives import Objective
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.training.fitting import TrainingSettings, fit
from amalgam_edge.training.supervised_texts import SupervisedTexts

SETTINGS = TrainingSettings(epochs=2, batch_size=4, learning_rate=1e-3, weight_decay=0.0, seed=1, device="cpu")
SHAPES = Shapes(columns=((0, 1), (1, 2)), teacher_widths=(3, 5), student_width=32)


@pytest.fixture
def new_model(random_classifier):
    return lambda dropout=0.1: random_classifier(("a", "b", "c"), layers=1, dropout=dropout, seed=5)


def new_objective(name):
    torch.manual_seed(0)
    return METHODS[name].objective(SHAPES, MethodSettings(common_width=6))


def texts_with_signals(n_texts, *, seed=0, hidden_dtype=np.float16):
    """Texts of several lengths, random targets, and random signals of two teachers."""
    rng = np.random.default_rng(seed)
    ids = [[2, *rng.integers(10, 200, size=rng.integers(2, 9)).tolist(), 3] for _ in range(n_texts)]
    target = rng.dirichlet(np.ones(3), size=n_texts).astype(np.float32)
    supervision = Supervision(target, np.ones(n_texts, dtype=np.float32), np.full(n_texts, -1))
    logits = tuple(rng.normal(size=(n_texts, len(columns))).astype(np.float32) for columns in SHAPES.columns)
    hidden = tuple(rng.normal(size=(n_texts, width)).astype(hidden_dtype) for width in SHAPES.teacher_widths)
    return SupervisedTexts(ids, supervision, TeacherSignals(logits, hidden))


@pytest.fixture
def train(tokenizer, tmp_path):
    def run(
        model, objective, texts, *, held_out=None, settings=SETTINGS, folder="t", advance=lambda _: None, **options
    ):
        return fit(model, tokenizer, texts, held_out, objective, settings, tmp_path / folder, advance, **options)

    return run


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_equal(found, expected, atol=0.0):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, atol=atol, rtol=0, err_msg=name)


class Recorder(Objective):
    """Keeps the batches that it reads."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, batch):
        self.batches.append(batch)
        return (batch.logits - batch.hidden.mean(dim=-1, keepdim=True)).square().mean()


def test_an_objective_reads_the_student_s_outputs_and_the_teachers_signals(new_model, train):
    """Each row belongs to its text, wherever shuffling has put it, and everything is float32."""
    texts, model, recorder = texts_with_signals(10), new_model(dropout=0.0), Recorder()
    before = copy.deepcopy(model)
    train(model, recorder, texts, settings=TrainingSettings(epochs=1, batch_size=4, seed=1, device="cpu"))
    assert [len(batch.logits) for batch in recorder.batches] == [4, 4, 2]
    seen = set()
    for batch in recorder.batches:
        parts = (batch.logits, batch.hidden, batch.target, batch.weight, *batch.teacher_logits, *batch.teacher_hidden)
        assert {part.dtype for part in parts} == {torch.float32}
        for k, target in enumerate(batch.target):
            (row,) = (r for r in range(10) if np.array_equal(texts[r]["target"], target))
            seen.add(row)
            for name in ("teacher_logits", "teacher_hidden"):
                for part, expected in zip(getattr(batch, name), texts[row][name], strict=True):
                    np.testing.assert_array_equal(part[k], expected)
            if batch is recorder.batches[0]:  # before the first update
                ids = torch.tensor([texts[row]["input_ids"]])
                with torch.inference_mode():
                    expected = before.bert(input_ids=ids).pooler_output[0]
                np.testing.assert_allclose(batch.hidden[k].detach(), expected, atol=1e-5)
    assert seen == set(range(10))


@pytest.mark.parametrize("name", ["cfl", "dfa"])
def test_the_parameters_of_an_objective_are_trained_with_the_student(new_model, train, name):
    model, objective = new_model(), new_objective(name)
    before = state_of(model), state_of(objective)
    history = train(model, objective, texts_with_signals(12), held_out=texts_with_signals(6, seed=1))
    for after, initial in ((state_of(model), before[0]), (state_of(objective), before[1])):
        trainable = [name for name, tensor in initial.items() if tensor.is_floating_point()]
        assert [name for name in trainable if not torch.equal(after[name], initial[name])] == trainable
    assert {key for entry in history for key in entry} == {"step", "epoch", "loss", "held_out_loss"}
    assert all(math.isfinite(value) for entry in history for value in entry.values())


@pytest.mark.parametrize("name", ["uhc", "cfl", "dfa"])
def test_nothing_but_the_student_s_weights_changes(new_model, train, name):
    model, objective = new_model(), new_objective(name)
    names = list(state_of(model))
    train(model, objective, texts_with_signals(6))
    assert list(state_of(model)) == names
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not any(module.training for module in (*model.modules(), *objective.modules()))
    assert {p.device.type for p in (*model.parameters(), *objective.parameters())} == {"cpu"}


@pytest.mark.parametrize("name", ["uhc", "cfl", "dfa"])
def test_fitting_lowers_an_objective(new_model, train, name):
    settings = TrainingSettings(epochs=8, batch_size=8, learning_rate=3e-3, warmup_ratio=0.0, device="cpu")
    history = train(new_model(dropout=0.0), new_objective(name), texts_with_signals(16), settings=settings)
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert np.mean(losses[-2:]) < 0.8 * np.mean(losses[:2])


class InterruptedFitError(Exception):
    pass


@pytest.mark.parametrize("name", ["uhc", "cfl", "dfa"])
def test_a_resumed_run_ends_as_an_undisturbed_one(new_model, train, tmp_path, name):
    texts, held_out = texts_with_signals(10), texts_with_signals(6, seed=1)
    undisturbed, undisturbed_objective = new_model(), new_objective(name)
    whole = train(undisturbed, undisturbed_objective, texts, held_out=held_out, folder="whole")

    done = []

    def cut_off(count):
        done.append(count)
        if sum(done) == 4:  # three updates an epoch
            raise InterruptedFitError

    with pytest.raises(InterruptedFitError):
        train(new_model(), new_objective(name), texts, held_out=held_out, folder="cut", advance=cut_off)
    (checkpoint,) = (tmp_path / "cut").glob("checkpoint-*/model.safetensors")
    with safe_open(checkpoint, "np") as kept:
        assert {key.split(".")[0] for key in kept.keys()} == (  # noqa: SIM118  (no mapping)
            {"student", "objective"} if state_of(undisturbed_objective) else {"student"}
        )

    resumed, objective, done = new_model(), new_objective(name), []
    with torch.no_grad():
        for parameter in objective.parameters():  # so that it can only come from the checkpoint
            parameter.fill_(7.0)
    rest = train(resumed, objective, texts, held_out=held_out, folder="cut", advance=done.append, resume=True)
    assert done == [3, 1, 1, 1]
    assert_equal(state_of(resumed), state_of(undisturbed), atol=1e-5)
    assert_equal(state_of(objective), state_of(undisturbed_objective), atol=1e-5)
    for found, expected in zip(rest, whole, strict=True):
        assert found == pytest.approx(expected, abs=1e-4)


def test_an_objective_that_equals_a_loss_trains_the_same_student(new_model, train):

    class Plain(Objective):
        def forward(self, batch):
            return weighted_divergence(batch.logits, batch.target, batch.weight)

    plain, wrapped = new_model(), new_model()
    losses = [
        train(plain, weighted_divergence, texts_with_signals(10), folder="plain"),
        train(wrapped, Plain(), texts_with_signals(10), folder="wrapped"),
    ]
    assert_equal(state_of(wrapped), state_of(plain))
    assert losses[0] == losses[1]
