import math

import numpy as np
import pytest
import torch

from amalgam_edge.methods import weighted_divergence
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.training.fitting import TrainingSettings, fit
from amalgam_edge.training.supervised_texts import SupervisedTexts

SETTINGS = TrainingSettings(
    epochs=2, batch_size=4, learning_rate=1e-3, warmup_ratio=0.1, weight_decay=0.0, seed=1, device="cpu"
)


def ignore(count):
    pass


def toy_texts(n_texts, seed=0):
    """Ids of two classes of texts with no word in common, and their class."""
    rng = np.random.default_rng(seed)
    gold = np.arange(n_texts) % 2
    ids = [[2, *(rng.integers(10, 25, size=rng.integers(2, 9)) + 150 * int(side)).tolist(), 3] for side in gold]
    return ids, gold


def supervised(ids, gold, weight=1.0, sharpness=0.9):
    target = np.where(np.arange(2) == np.asarray(gold)[:, None], sharpness, 1 - sharpness).astype(np.float32)
    weights = np.broadcast_to(np.asarray(weight, dtype=np.float32), len(ids)).copy()
    return SupervisedTexts(ids, Supervision(target, weights, np.full(len(ids), -1)))


def loss_by_hand(model, texts):
    """mean of v · Σ t · (log t − log p) in float64, a text at a time, without padding."""
    losses = []
    for k in range(len(texts)):
        row = texts[k]
        with torch.inference_mode():
            ids = torch.tensor([row["input_ids"]])
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].double().numpy()
        log_p = logits - np.log(np.exp(logits).sum())
        target = row["target"].astype(np.float64)
        losses.append(float(row["weight"]) * float((target * (np.log(target) - log_p)).sum()))
    return sum(losses) / len(losses)


@pytest.fixture
def new_model(random_classifier):
    """The same small model each time, with dropout alive."""
    return lambda dropout=0.1: random_classifier(("a", "b"), layers=1, dropout=dropout, seed=5)


@pytest.fixture
def train(tokenizer, tmp_path):
    """``train(model, texts, ...)`` → its history."""

    def run(model, texts, *, held_out=None, loss=weighted_divergence, settings=SETTINGS, folder="t", **options):
        advance = options.pop("advance", ignore)
        return fit(model, tokenizer, texts, held_out, loss, settings, tmp_path / folder, advance, **options)

    return run


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_weights(found, expected, atol=0.0):
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, atol=atol, rtol=0, err_msg=name)


def test_fitting_lowers_the_loss(new_model, train):
    texts, held_out = supervised(*toy_texts(24)), supervised(*toy_texts(12, seed=1))
    model = new_model()
    before = [loss_by_hand(model, part) for part in (texts, held_out)]
    settings = TrainingSettings(epochs=12, batch_size=8, learning_rate=3e-3, seed=0, device="cpu")
    train(model, texts, settings=settings)
    after = [loss_by_hand(model, part) for part in (texts, held_out)]
    assert after[0] < 0.3 * before[0]
    assert after[1] < 0.8 * before[1]


def test_the_model_comes_back_ready_to_predict(new_model, train):
    model = new_model()
    train(model, supervised(*toy_texts(4)))
    assert not any(module.training for module in model.modules())
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_the_loss_given_is_the_loss_used(new_model, train):
    """A loss of zero moves nothing; one that reads a single logit moves that logit."""
    model = new_model()
    before = weights_of(model)
    train(model, supervised(*toy_texts(8)), loss=lambda logits, target, weight: 0.0 * logits.sum())
    assert_equal_weights(weights_of(model), before)

    calls = []

    def push(logits, target, weight):
        calls.append((tuple(logits.shape), target.shape, weight.shape, target.dtype, weight.dtype))
        return -logits[:, 1].mean()

    train(model, supervised(*toy_texts(8)), loss=push, folder="second")
    after = weights_of(model)
    assert after["classifier.bias"][1] > before["classifier.bias"][1]
    assert after["classifier.bias"][0] == before["classifier.bias"][0]
    assert calls == [((4, 2), (4, 2), (4,), torch.float32, torch.float32)] * 4


def test_weight_decay_alone_shrinks_matrices_by_the_schedule(new_model, train):
    model = new_model()
    before = weights_of(model)
    settings = TrainingSettings(
        epochs=1, batch_size=2, learning_rate=0.01, warmup_ratio=0.5, weight_decay=0.5, seed=0, device="cpu"
    )
    train(model, supervised(*toy_texts(8)), loss=lambda logits, *_: 0.0 * logits.sum(), settings=settings)
    # Four updates: rates rise over two of them and fall over two.
    kept = math.prod(1 - rate * 0.5 for rate in (0.0, 0.005, 0.01, 0.005))
    after = weights_of(model)
    np.testing.assert_allclose(after["classifier.weight"], before["classifier.weight"] * kept, rtol=1e-5)
    np.testing.assert_array_equal(after["classifier.bias"], before["classifier.bias"])


def test_a_text_of_no_weight_does_not_matter(new_model, train):
    ids, gold = toy_texts(12)
    weight = np.tile([1.0, 0.5, 0.0], 4)
    other_gold = np.where(weight == 0, 1 - gold, gold)
    other_ids = [[2, *([77] * (len(row) - 2)), 3] if w == 0 else row for row, w in zip(ids, weight, strict=True)]
    finals = []
    for folder, texts in (("a", supervised(ids, gold, weight)), ("b", supervised(other_ids, other_gold, weight))):
        model = new_model(dropout=0.0)
        train(model, texts, folder=folder)
        finals.append(weights_of(model))
    # What such a text's words are leaves no trace but in the rounding.
    assert_equal_weights(finals[0], finals[1], atol=1e-5)
    model = new_model(dropout=0.0)
    train(model, supervised(ids, other_gold, 1.0), folder="c")
    head = model.state_dict()["classifier.weight"]
    assert not torch.allclose(head, finals[0]["classifier.weight"], rtol=0, atol=1e-4)


def test_the_seed_makes_the_run(new_model, train):
    texts = supervised(*toy_texts(10))
    finals = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        model = new_model()
        torch.rand(3)
        train(model, texts, folder=folder, settings=TrainingSettings(epochs=1, batch_size=4, seed=seed, device="cpu"))
        finals.append(weights_of(model))
    assert_equal_weights(finals[0], finals[1])
    assert not torch.equal(finals[0]["classifier.weight"], finals[2]["classifier.weight"])


class InterruptedFitError(Exception):
    pass


def test_a_resumed_run_ends_as_an_undisturbed_one(new_model, train):
    texts, held_out = supervised(*toy_texts(10)), supervised(*toy_texts(6, seed=1))
    undisturbed = new_model()
    whole = train(undisturbed, texts, held_out=held_out, folder="whole")

    done = []

    def cut_off(count):
        done.append(count)
        if sum(done) == 4:  # three updates an epoch
            raise InterruptedFitError

    with pytest.raises(InterruptedFitError):
        train(new_model(), texts, held_out=held_out, folder="cut", advance=cut_off)

    resumed, done = new_model(), []
    rest = train(resumed, texts, held_out=held_out, folder="cut", advance=done.append, resume=True)
    assert_equal_weights(weights_of(resumed), weights_of(undisturbed), atol=1e-5)
    assert done == [3, 1, 1, 1]  # what was done before counts as progress
    assert [entry["step"] for entry in rest] == [entry["step"] for entry in whole]
    for found, expected in zip(rest, whole, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


def test_resuming_where_nothing_was_done_starts_afresh(new_model, train):
    texts = supervised(*toy_texts(6))
    first, second = new_model(), new_model()
    train(first, texts, folder="a")
    train(second, texts, folder="b", resume=True)
    assert_equal_weights(weights_of(second), weights_of(first))


def test_without_resume_an_old_checkpoint_is_not_followed(new_model, train):
    texts = supervised(*toy_texts(6))
    first, second = new_model(), new_model()
    train(first, texts)
    done = []
    train(second, texts, advance=done.append)
    assert done == [1, 1, 1, 1]
    assert_equal_weights(weights_of(second), weights_of(first))


@pytest.mark.parametrize(("n_texts", "batch_size", "epochs", "n_updates"), [(8, 4, 2, 4), (9, 4, 2, 6), (3, 8, 1, 1)])
def test_progress_adds_up_to_the_number_of_updates(new_model, train, n_texts, batch_size, epochs, n_updates):
    settings = TrainingSettings(epochs=epochs, batch_size=batch_size, device="cpu")
    assert settings.n_updates(n_texts) == n_updates
    done = []
    train(new_model(), supervised(*toy_texts(n_texts)), settings=settings, advance=done.append)
    assert done == [1] * n_updates


def test_the_history_has_losses_and_held_out_losses(new_model, train):
    """Held-out losses are those of single texts without padding, though they run padded and in uneven batches."""
    model = new_model()
    held_out = supervised(*toy_texts(7, seed=2), weight=np.linspace(0.1, 2.0, 7))
    assert len({len(held_out[k]["input_ids"]) for k in range(7)}) > 2
    history = train(model, supervised(*toy_texts(10)), held_out=held_out)
    losses = [entry for entry in history if "loss" in entry]
    held = [entry for entry in history if "held_out_loss" in entry]
    assert [entry["step"] for entry in losses] == [1, 2, 3, 4, 5, 6]
    assert [(entry["step"], entry["epoch"]) for entry in held] == [(3, 1.0), (6, 2.0)]
    assert held[-1]["held_out_loss"] == pytest.approx(loss_by_hand(model, held_out), rel=1e-4)
    assert all(math.isfinite(value) for entry in history for value in entry.values())


def test_a_training_loss_is_that_of_the_texts_without_padding(new_model, train):
    """At the first update the rate is still zero under warm-up, so the model is the one from before."""
    model = new_model(dropout=0.0)
    texts = supervised(*toy_texts(5), weight=[0.2, 1.0, 0.7, 1.5, 0.0])
    expected = loss_by_hand(model, texts)
    settings = TrainingSettings(epochs=1, batch_size=5, device="cpu")
    (entry,) = train(model, texts, settings=settings)
    assert entry["loss"] == pytest.approx(expected, rel=1e-4)


def test_without_held_out_texts_there_are_no_such_losses(new_model, train):
    history = train(new_model(), supervised(*toy_texts(4)))
    assert history
    assert not any("held_out_loss" in entry for entry in history)


def test_texts_and_targets_must_match():
    supervision = Supervision(np.ones((2, 2)), np.ones(2), np.zeros(2))
    with pytest.raises(ValueError, match="3 texts but 2 targets"):
        SupervisedTexts([[1], [2], [3]], supervision)
