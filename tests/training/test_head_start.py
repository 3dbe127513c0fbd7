"""The fitted head, compared with another optimiser's on the hidden states of single texts."""

import copy

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch

from amalgam_edge.methods import METHODS, MethodSettings, weighted_divergence
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.models.hidden_state import capture_hidden_state, last_layer
from amalgam_edge.models.student import build_student
from amalgam_edge.numerics.linear import PENALTY
from amalgam_edge.training import head_start
from amalgam_edge.training.head_start import start_head
from tests.support import tiny

LABELS = ("games", "net", "fonts")


@pytest.fixture
def student(classifier_folder):
    return build_student(str(classifier_folder), LABELS, layers=1, max_length=24)


@pytest.fixture
def supervision():
    rng = np.random.default_rng(5)
    target = rng.dirichlet(np.full(3, 0.4), size=len(tiny.TEXTS)).astype(np.float32)
    weight = rng.uniform(0.1, 2.0, size=len(target)).astype(np.float32)
    return Supervision(target, weight, np.zeros(len(target), dtype=int))


def with_fitted_head(student, supervision, loss=weighted_divergence, texts=tiny.TEXTS):
    model, tokenizer = student
    model = copy.deepcopy(model)
    ids = tokenizer(list(texts), truncation=True)["input_ids"]
    start_head(model, ids, supervision, loss, pad_token_id=tokenizer.pad_token_id, device="cpu")
    return model


def states_of(model, tokenizer):
    states = []
    with torch.inference_mode(), capture_hidden_state(model.eval()) as latest:
        for text in tiny.TEXTS:
            model(**tokenizer(text, return_tensors="pt", truncation=True, return_token_type_ids=False))
            states.append(latest()[0].double().numpy())
    return np.stack(states)


def logits_of_best_head(states, supervision, temperature=1.0):
    """Logits at the minimum of the documented loss, found in float64 by another optimiser."""
    centred = states - states.mean(axis=0)
    inputs = centred / np.sqrt((centred**2).sum(axis=1).mean())
    share = supervision.weight / supervision.weight.mean()
    n, width = inputs.shape

    def loss(flat):
        weights = flat.reshape(width + 1, 3)
        log_p = scipy.special.log_softmax((inputs @ weights[:-1] + weights[-1]) / temperature, axis=1)
        entropy = -(share[:, None] * supervision.target * log_p).sum() / n
        return temperature**2 * entropy + PENALTY / 2 / n * (weights[:-1] ** 2).sum()

    best = scipy.optimize.minimize(loss, np.zeros((width + 1) * 3), tol=1e-10).x.reshape(width + 1, 3)
    return inputs @ best[:-1] + best[-1]


@pytest.mark.parametrize(("method", "temperature"), [("muka-soft", 1.0), ("vanilla-kd", 2.0)])
def test_the_head_is_the_best_linear_one_under_the_method_s_loss(
    student, supervision, monkeypatch, method, temperature
):
    monkeypatch.setattr(head_start, "_STEPS", 500)
    settings = MethodSettings()
    model = with_fitted_head(student, supervision, lambda *given: METHODS[method].loss(*given, settings))
    states = states_of(model, student[1])
    expected = logits_of_best_head(states, supervision, temperature)
    layer = last_layer(model)
    found = states @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
    found, expected = (scipy.special.softmax(logits, axis=1) for logits in (found, expected))
    np.testing.assert_allclose(found, expected, atol=0.01)
    assert np.abs(found - supervision.target).mean() < np.abs(1 / 3 - supervision.target).mean()


def test_only_the_last_layer_changes(student, supervision):
    before = student[0].state_dict()
    after = with_fitted_head(student, supervision).state_dict()
    changed = [name for name in after if not before[name].equal(after[name])]
    assert changed == ["classifier.weight", "classifier.bias"]


def test_of_many_texts_evenly_spaced_ones_are_used(student, supervision, monkeypatch):
    monkeypatch.setattr(head_start, "MOST_TEXTS", 5)
    some = with_fitted_head(student, supervision)
    rows = np.linspace(0, len(tiny.TEXTS) - 1, 5).round().astype(int)
    monkeypatch.undo()
    same = with_fitted_head(student, supervision.take(rows), texts=[tiny.TEXTS[row] for row in rows])
    assert torch.equal(last_layer(some).weight, last_layer(same).weight)


def test_identical_texts_give_a_head_that_predicts_the_mean_target(student):
    target = np.array([[0.6, 0.3, 0.1]] * 4, dtype=np.float32)
    supervision = Supervision(target, np.ones(4, dtype=np.float32), np.zeros(4, dtype=int))
    model = with_fitted_head(student, supervision, texts=["the same text"] * 4)
    inputs = student[1]("the same text", return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        predicted = model.eval()(**inputs).logits.softmax(dim=-1)[0]
    np.testing.assert_allclose(predicted, [0.6, 0.3, 0.1], atol=0.01)


def test_a_model_whose_last_layer_reads_all_tokens_is_unchanged(supervision, tmp_path):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    model = GPT2ForSequenceClassification(
        GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2, n_positions=16, num_labels=3, pad_token_id=0)
    )
    before = model.score.weight.clone()
    start_head(model, [[1, 2, 3], [4, 5]], supervision.take(np.array([0, 1])), weighted_divergence, pad_token_id=0)
    assert torch.equal(model.score.weight, before)


def test_the_fit_takes_at_most_sixty_steps_of_at_most_twenty_thousand_texts(student, supervision, monkeypatch):
    calls = []

    def note(inputs, n_labels, loss, *, steps):
        calls.append((len(inputs), n_labels, steps))
        return torch.zeros(inputs.shape[1] + 1, n_labels, dtype=torch.float64)

    def states(model, input_ids, pad_token_id, device):
        return torch.zeros(len(input_ids), 2, dtype=torch.float64)

    monkeypatch.setattr(head_start, "fit_linear", note)
    monkeypatch.setattr(head_start, "_hidden_states", states)
    monkeypatch.setattr(head_start, "last_layer", lambda model: torch.nn.Linear(2, 3))
    many = Supervision(np.ones((20_001, 3)), np.ones(20_001), np.zeros(20_001))
    for rows in (supervision, many):
        start_head(student[0], [[2, 3]] * len(rows.target), rows, weighted_divergence, pad_token_id=0, device="cpu")
    assert calls == [(len(tiny.TEXTS), 3, 60), (20_000, 3, 60)]
