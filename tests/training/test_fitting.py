"""Fitting under a loss: the updates, the schedule, the curve, checkpoints and resuming."""

import math
import os
import shutil
import sys
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from amalgam_edge.errors import AmalgamError
from amalgam_edge.methods import weighted_divergence
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.storage import syncing
from amalgam_edge.training.fitting import TrainingSettings, check_logger, fit, last_checkpoint
from amalgam_edge.training.supervised_texts import PaddingCollator, SupervisedTexts
from amalgam_edge.training.trainers import COMPLETE

SETTINGS = TrainingSettings(
    epochs=2, batch_size=4, learning_rate=1e-3, warmup_ratio=0.1, weight_decay=0.0, seed=1, device="cpu"
)


def ignore(count):
    pass


def toy_texts(n_texts, seed=0):
    """Token ids of texts of two classes that have no word in common, and their classes."""
    rng = np.random.default_rng(seed)
    gold = np.arange(n_texts) % 2
    ids = [[2, *(rng.integers(10, 25, size=rng.integers(2, 9)) + 150 * int(side)).tolist(), 3] for side in gold]
    return ids, gold


def supervised(ids, gold, weight=1.0, sharpness=0.9):
    target = np.where(np.arange(2) == np.asarray(gold)[:, None], sharpness, 1 - sharpness).astype(np.float32)
    weights = np.broadcast_to(np.asarray(weight, dtype=np.float32), len(ids)).copy()
    return SupervisedTexts(ids, Supervision(target, weights, np.full(len(ids), -1)))


def loss_text_by_text(model, texts):
    """mean v · Σ t · (log t − log p) in float64, one text at a time and without padding."""
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
    """Makes the same small model each time, with dropout."""
    return lambda dropout=0.1: random_classifier(("a", "b"), layers=1, dropout=dropout, seed=5)


@pytest.fixture
def train(tokenizer, tmp_path):
    """Runs ``fit`` with defaults for the tests and returns the training curve."""

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
    before = [loss_text_by_text(model, part) for part in (texts, held_out)]
    settings = TrainingSettings(epochs=12, batch_size=8, learning_rate=3e-3, seed=0, device="cpu")
    train(model, texts, settings=settings)
    after = [loss_text_by_text(model, part) for part in (texts, held_out)]
    assert after[0] < 0.3 * before[0]
    assert after[1] < 0.8 * before[1]


def test_the_model_ends_on_the_cpu_in_evaluation_mode(new_model, train):
    model = new_model()
    train(model, supervised(*toy_texts(4)))
    assert not any(module.training for module in model.modules())
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_the_given_loss_is_minimised(new_model, train):
    """A loss of zero changes nothing; a loss of one logit changes that logit."""
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


@pytest.mark.parametrize(
    ("n_texts", "warmup_ratio", "rates"),
    [
        (8, 0.5, (0.0, 1 / 2, 1.0, 1 / 2)),
        (12, 0.5, (0.0, 1 / 3, 2 / 3, 1.0, 2 / 3, 1 / 3)),
        (12, 0.4, (0.0, 1 / 3, 2 / 3, 1.0, 2 / 3, 1 / 3)),  # 2.4 updates are rounded up
        (8, 0.0, (1.0, 3 / 4, 2 / 4, 1 / 4)),
    ],
)
def test_the_learning_rate_rises_and_falls_linearly(new_model, train, n_texts, warmup_ratio, rates):
    """Under a loss of 0, an update multiplies matrices by 1 − rate · weight decay and leaves biases unchanged."""
    model = new_model()
    weights = [model.classifier.weight.detach().clone()]
    bias = model.classifier.bias.detach().clone()
    settings = TrainingSettings(
        epochs=1, batch_size=2, learning_rate=0.01, warmup_ratio=warmup_ratio, weight_decay=0.5, seed=0, device="cpu"
    )
    train(
        model,
        supervised(*toy_texts(n_texts)),
        loss=lambda logits, *_: 0.0 * logits.sum(),
        settings=settings,
        advance=lambda _: weights.append(model.classifier.weight.detach().clone()),
    )
    factors = [float((after / before).median()) for before, after in pairwise(weights)]
    np.testing.assert_allclose(factors, [1 - 0.01 * rate * 0.5 for rate in rates], rtol=1e-6)
    np.testing.assert_array_equal(model.classifier.bias.detach(), bias)


def test_a_text_of_weight_0_has_no_effect(new_model, train):
    ids, gold = toy_texts(12)
    weight = np.tile([1.0, 0.5, 0.0], 4)
    other_gold = np.where(weight == 0, 1 - gold, gold)
    other_ids = [[2, *([77] * (len(row) - 2)), 3] if w == 0 else row for row, w in zip(ids, weight, strict=True)]
    finals = []
    for folder, texts in (("a", supervised(ids, gold, weight)), ("b", supervised(other_ids, other_gold, weight))):
        model = new_model(dropout=0.0)
        train(model, texts, folder=folder)
        finals.append(weights_of(model))
    # The words of such a text affect nothing but the rounding.
    assert_equal_weights(finals[0], finals[1], atol=1e-5)
    model = new_model(dropout=0.0)
    train(model, supervised(ids, other_gold, 1.0), folder="c")
    head = model.state_dict()["classifier.weight"]
    assert not torch.allclose(head, finals[0]["classifier.weight"], rtol=0, atol=1e-4)


def test_the_run_depends_on_the_seed_alone(new_model, train):
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
    assert done == [3, 1, 1, 1]  # earlier updates are reported at once
    assert [entry["step"] for entry in rest] == [entry["step"] for entry in whole]
    for found, expected in zip(rest, whole, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


def test_resuming_without_a_checkpoint_starts_from_the_beginning(new_model, train):
    texts = supervised(*toy_texts(6))
    first, second = new_model(), new_model()
    train(first, texts, folder="a")
    train(second, texts, folder="b", resume=True)
    assert_equal_weights(weights_of(second), weights_of(first))


def test_without_resume_an_old_checkpoint_is_ignored(new_model, train):
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


def test_the_curve_has_training_losses_and_held_out_losses(new_model, train):
    """A held-out loss is the mean over single texts without padding, whatever the batches and their padding."""
    model = new_model()
    held_out = supervised(*toy_texts(7, seed=2), weight=np.linspace(0.1, 2.0, 7))
    assert len({len(held_out[k]["input_ids"]) for k in range(7)}) > 2
    history = train(model, supervised(*toy_texts(10)), held_out=held_out)
    losses = [entry for entry in history if "loss" in entry]
    held = [entry for entry in history if "held_out_loss" in entry]
    assert [entry["step"] for entry in losses] == [1, 2, 3, 4, 5, 6]
    assert [(entry["step"], entry["epoch"]) for entry in held] == [(3, 1.0), (6, 2.0)]
    assert held[-1]["held_out_loss"] == pytest.approx(loss_text_by_text(model, held_out), rel=1e-4)
    assert all(math.isfinite(value) for entry in history for value in entry.values())


def test_a_training_loss_is_the_mean_over_texts_without_padding(new_model, train):
    """The learning rate of the first update is 0 under warm-up, so the model is still the initial one."""
    model = new_model(dropout=0.0)
    texts = supervised(*toy_texts(5), weight=[0.2, 1.0, 0.7, 1.5, 0.0])
    expected = loss_text_by_text(model, texts)
    settings = TrainingSettings(epochs=1, batch_size=5, device="cpu")
    (entry,) = train(model, texts, settings=settings)
    assert entry["loss"] == pytest.approx(expected, rel=1e-4)


def test_without_held_out_texts_there_are_no_held_out_losses(new_model, train):
    history = train(new_model(), supervised(*toy_texts(4)))
    assert history
    assert not any("held_out_loss" in entry for entry in history)


def test_there_must_be_as_many_targets_as_texts():
    supervision = Supervision(np.ones((2, 2)), np.ones(2), np.zeros(2))
    with pytest.raises(ValueError, match="3 texts but 2 targets"):
        SupervisedTexts([[1], [2], [3]], supervision)


def test_defaults_are_the_documented_ones():
    assert asdict(TrainingSettings()) == {
        "epochs": 5,
        "batch_size": 32,
        "learning_rate": None,
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
        "seed": 0,
        "device": "auto",
        "threads": None,
        "report_to": "none",
        "head_weights": None,
        "processes": 1,
    }
    assert TrainingSettings().peak_learning_rate() == 1e-4


def test_the_curve_has_about_fifty_training_losses(new_model, train):
    settings = TrainingSettings(epochs=2, batch_size=1, device="cpu")
    history = train(new_model(), supervised(*toy_texts(52)), settings=settings)
    assert [entry["step"] for entry in history] == list(range(2, 105, 2))  # 104 updates, of which every second


@pytest.fixture
def model_and_inputs(new_model):
    """A model, and a list that all its inputs are appended to: token ids and attention mask of each batch."""
    model, batches = new_model(), []

    def note(module, positional, named):
        batches.append((named["input_ids"], named["attention_mask"]))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return model, batches


def test_batches_are_padded_with_the_tokenizer_s_padding_token(model_and_inputs, tokenizer, tmp_path):
    class OtherPadding:
        pad_token_id = 7

    model, batches = model_and_inputs
    fit(model, OtherPadding(), supervised(*toy_texts(8)), None, weighted_divergence, SETTINGS, tmp_path, ignore)
    padding = [ids[mask == 0] for ids, mask in batches]
    assert sum(map(len, padding)) > 0
    assert all((of_batch == 7).all() for of_batch in padding)


def test_texts_are_shuffled_and_those_of_a_batch_sorted_by_length(model_and_inputs, train):
    """transformers sorts groups of three batches here, and then moves the longest text of all to the front."""
    model, batches = model_and_inputs
    ids = [[2, *[50] * k, 3] for k in range(1, 61)]
    settings = TrainingSettings(epochs=1, batch_size=4, seed=1, device="cpu")
    train(model, supervised(ids, np.arange(60) % 2), settings=settings)
    lengths = [mask.sum(dim=1).tolist() for _, mask in batches]
    in_order = [length for of_batch in lengths for length in of_batch]
    assert sorted(in_order) == list(range(3, 63))
    assert in_order != sorted(in_order, reverse=True)
    n_sorted = sum(of_batch == sorted(of_batch, reverse=True) for of_batch in lengths)
    assert n_sorted >= len(lengths) - 2


def test_the_order_of_texts_depends_on_the_seed(new_model, train):
    """Of a model without dropout, whose runs could differ in nothing else."""
    finals = []
    for seed in (1, 2):
        model = new_model(dropout=0.0)
        settings = TrainingSettings(epochs=1, batch_size=4, seed=seed, device="cpu")
        train(model, supervised(*toy_texts(20)), settings=settings, folder=str(seed))
        finals.append(model.classifier.weight)
    assert not torch.allclose(*finals, rtol=0, atol=1e-7)


def test_one_checkpoint_is_kept_and_it_is_the_last(new_model, train, tmp_path):
    train(new_model(), supervised(*toy_texts(8)), folder="kept")
    assert [path.name for path in (tmp_path / "kept").glob("checkpoint-*")] == ["checkpoint-4"]
    assert last_checkpoint(tmp_path / "kept") == tmp_path / "kept" / "checkpoint-4"


def test_the_last_checkpoint_has_the_most_updates_and_is_complete(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for n_updates, file in ((9, COMPLETE), (10, COMPLETE), (11, "trainer_state.json")):
        (tmp_path / f"checkpoint-{n_updates}").mkdir()
        (tmp_path / f"checkpoint-{n_updates}" / file).touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_a_checkpoint_is_on_the_disk_before_the_one_before_it_is_deleted(new_model, train, tmp_path, monkeypatch):
    folder, done = tmp_path / "kept", []
    synced = []
    monkeypatch.setattr(syncing, "_sync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    real = shutil.rmtree

    def delete(path, **options):
        newest = max(folder.glob("checkpoint-*"), key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]))
        files = [file for file in newest.rglob("*") if file.is_file()]
        assert {file.stat().st_ino for file in files} <= set(synced)
        assert (newest / COMPLETE).exists()
        assert len(files) > 4
        done.append(path)
        real(path, **options)

    monkeypatch.setattr(shutil, "rmtree", delete)
    train(new_model(), supervised(*toy_texts(8)), folder="kept")
    assert [path.name for path in done] == ["checkpoint-2"]
    assert last_checkpoint(folder) == folder / "checkpoint-4"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no resource limits")
@pytest.mark.parametrize("failing", ["model.safetensors", "optimizer.pt"])
def test_a_full_disk_ends_training_in_one_line_and_keeps_the_last_checkpoint(new_model, train, tmp_path, failing):
    from tests.support.faults import no_file_longer_than

    folder = tmp_path / "kept"
    train(new_model(), supervised(*toy_texts(8)), settings=replace(SETTINGS, epochs=1), folder="kept")
    sizes = {name: (folder / "checkpoint-2" / name).stat().st_size for name in ("model.safetensors", "optimizer.pt")}
    assert sizes["model.safetensors"] < sizes["optimizer.pt"]
    with pytest.raises(AmalgamError) as told, no_file_longer_than(sizes[failing] - 1000):
        train(new_model(), supervised(*toy_texts(8)), settings=SETTINGS, folder="kept", resume=True)
    assert str(folder) in str(told.value)
    assert ": cannot be written (" in str(told.value)
    assert "\n" not in str(told.value)
    assert last_checkpoint(folder) == folder / "checkpoint-2"


def test_a_known_logger_or_none_is_accepted_and_others_are_refused():
    check_logger("none")
    with pytest.raises(AmalgamError, match=r"--report-to nonesuch: not known, .* there are none"):
        check_logger("nonesuch")


def test_examples_are_joined_with_one_tensor_per_teacher():
    examples = [
        {
            "input_ids": [5] * (k + 1),
            "target": np.array([k, 1.0], dtype=np.float32),
            "weight": np.float32(k),
            "teacher_logits": [np.full(2, k), np.full(3, 10 + k)],
            "teacher_hidden": [],
        }
        for k in range(2)
    ]
    batch = PaddingCollator(9)(examples)
    assert batch["input_ids"].tolist() == [[5, 9], [5, 5]]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert batch["target"].tolist() == [[0, 1], [1, 1]]
    assert batch["weight"].tolist() == [0, 1]
    assert [part.tolist() for part in batch["teacher_logits"]] == [[[0, 0], [1, 1]], [[10] * 3, [11] * 3]]
    assert batch["teacher_hidden"] == []


def test_fitting_prints_nothing(new_model, train, capsys):
    train(new_model(), supervised(*toy_texts(4)))
    assert capsys.readouterr().out == ""
