"""Static students against numpy in float64, and against the encoder that initializes them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from amalgam_edge.errors import AmalgamError
from amalgam_edge.models import static_student
from amalgam_edge.models.checkpoints import encoder_of
from amalgam_edge.models.static_student import (
    StaticConfig,
    StaticStudent,
    build_static_student,
    log_weights,
    token_vectors,
)
from amalgam_edge.models.vocabulary import kept_tokens, trim_vocabulary
from amalgam_edge.numerics.components import principal_components
from amalgam_edge.recipe.recipe import Recipe

LABELS = ("games", "science", "net")


@pytest.fixture(scope="module")
def student(classifier_folder):
    """A static student and its tokenizer, started from the tiny BERT. Read only."""
    model, tokenizer = build_static_student(str(classifier_folder), LABELS, width=8, max_length=40, device="cpu")
    return model.eval(), tokenizer


def by_hand(model, ids, mask):
    """The logits of one text, in float64."""
    table, log_weight, head, bias = (
        tensor.detach().double().numpy()
        for tensor in (model.table.weight, model.log_weight.weight, model.classifier.weight, model.classifier.bias)
    )
    seen = [token for token, shown in zip(ids, mask, strict=True) if shown]
    weights = np.array([np.exp(log_weight[token, 0]) for token in seen])
    text = sum(weight * table[token] for weight, token in zip(weights / weights.sum(), seen, strict=True))
    return head @ text + bias


def test_logits_are_a_weighted_mean_under_a_linear_head(student):
    model, _ = student
    ids = np.array([[5, 9, 9, 300, 1], [17, 1, 1, 1, 1]])
    mask = np.array([[1, 1, 1, 1, 0], [1, 0, 0, 0, 0]])
    with torch.inference_mode():
        found = model(torch.from_numpy(ids), torch.from_numpy(mask)).logits.numpy()
    expected = [by_hand(model, *row) for row in zip(ids, mask, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_text_without_tokens_gets_the_bias(student):
    model, _ = student
    with torch.inference_mode():
        found = model(torch.tensor([[1, 1]]), torch.tensor([[0, 0]])).logits.numpy()
    np.testing.assert_allclose(found[0], model.classifier.bias.detach().numpy(), atol=1e-6)


def test_each_token_goes_through_the_encoder_alone(classifier_folder, tokenizer):
    encoder = AutoModel.from_pretrained(classifier_folder).eval()
    found = token_vectors(encoder, tokenizer, "cpu")
    assert found.shape == (len(tokenizer), encoder.config.hidden_size)
    for token in (0, 7, 399):
        ids = torch.tensor([[tokenizer.cls_token_id, token, tokenizer.sep_token_id]])
        with torch.inference_mode():
            expected = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(found[token], expected.numpy(), atol=1e-5)


def test_common_tokens_weigh_less():
    weights = log_weights(1000)
    assert weights.max() == 0
    assert (np.diff(weights) > 0).all()
    # p of the first is 1 / ln 1001: a / (a + p) against the last one's, p = 1 / (1000 ln 1001)
    ratio = (1e-4 + 1e-3 / np.log(1001)) / (1e-4 + 1 / np.log(1001))
    np.testing.assert_allclose(np.exp(weights[0]), ratio, rtol=1e-4)


def test_the_table_starts_from_the_encoder(student, classifier_folder, tokenizer):
    model, _ = student
    vectors = token_vectors(AutoModel.from_pretrained(classifier_folder), tokenizer, "cpu")
    expected = principal_components(vectors, 8)
    found = model.table.weight.detach().numpy()
    np.testing.assert_allclose(found / np.linalg.norm(found), expected / np.linalg.norm(expected), atol=1e-5)
    assert np.linalg.norm(found, axis=1).mean() == pytest.approx(1, rel=1e-5)


def test_labels_length_and_head(student, classifier_folder):
    model, tokenizer = student
    assert list(model.config.id2label.values()) == list(LABELS)
    assert tokenizer.model_max_length == 40
    again, _ = build_static_student(str(classifier_folder), LABELS, width=8, device="cpu")
    np.testing.assert_array_equal(again.classifier.weight.detach(), model.classifier.weight.detach())


def test_a_width_beyond_the_encoder_is_the_encoders(classifier_folder):
    model, _ = build_static_student(str(classifier_folder), LABELS, width=999, device="cpu")
    assert model.config.width == AutoModel.from_pretrained(classifier_folder).config.hidden_size


def test_a_trimmed_student_answers_the_same(student):
    model, tokenizer = student
    texts = ["a small game about maps", "reads mail aloud"]
    used = {token for ids in tokenizer(texts)["input_ids"] for token in ids}
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    small, small_tokenizer = trim_vocabulary(model, tokenizer, kept_tokens(content, used))
    assert small.table.num_embeddings == small.log_weight.num_embeddings == small.config.vocab_size
    assert small.config.vocab_size < model.config.vocab_size
    answers = []
    for asked, reads in ((model, tokenizer), (small, small_tokenizer)):
        inputs = reads(texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            answers.append(asked(inputs["input_ids"], inputs["attention_mask"]).logits.numpy())
    np.testing.assert_allclose(*answers, atol=1e-6)


def test_a_static_student_is_saved_and_read_without_pickle(student, tmp_path):
    model, _ = student
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    again = StaticStudent.from_pretrained(tmp_path)
    assert isinstance(again.config, StaticConfig)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


@pytest.mark.parametrize(
    ("student", "static", "encoder"),
    [
        ("static", True, "teacher:first"),
        ("static:runs/a", True, "runs/a"),
        ("static:teacher:other", True, "teacher:other"),
        ("./static", False, None),
        ("statics", False, None),
        ("teacher:first", False, None),
    ],
)
def test_the_option_that_asks_for_a_static_student(student, static, encoder):
    assert Recipe(student=student).student.is_static is static
    if static:
        assert encoder_of(student, "first") == encoder


def test_an_unknown_checkpoint_is_named(tmp_path):
    with pytest.raises(AmalgamError, match="nowhere: no such folder"):
        build_static_student(str(tmp_path / "nowhere"), LABELS, width=8)


@pytest.mark.parametrize("batch", [1, 7, 400, 512])
def test_tokens_go_through_the_encoder_in_batches_of_any_size(classifier_folder, tokenizer, monkeypatch, batch):
    encoder = AutoModel.from_pretrained(classifier_folder).eval()
    whole = token_vectors(encoder, tokenizer, "cpu")
    monkeypatch.setattr(static_student, "_ENCODER_BATCH", batch)
    np.testing.assert_allclose(token_vectors(encoder, tokenizer, "cpu"), whole, atol=1e-5)


def test_the_encoder_is_left_in_the_mode_in_which_it_came(classifier_folder, tokenizer):
    encoder = AutoModel.from_pretrained(classifier_folder).train()
    in_training = token_vectors(encoder, tokenizer, "cpu")
    assert encoder.training
    np.testing.assert_array_equal(token_vectors(encoder.eval(), tokenizer, "cpu"), in_training)  # no dropout in either
    assert not encoder.training


def test_texts_of_hardly_any_weight_are_still_a_mean():
    """Weights that add up to 1e-8 count as they are; below 1e-9 the text has no tokens."""
    model = StaticStudent(StaticConfig(vocab_size=2, width=3, num_labels=2)).eval()
    with torch.no_grad():
        model.log_weight.weight.copy_(torch.tensor([[np.log(1e-8)], [np.log(1e-11)]]))
        model.classifier.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
        model.classifier.bias.zero_()
        model.table.weight.fill_(1.0)
        light, lightest = model(torch.tensor([[0], [1]]), torch.ones((2, 1), dtype=torch.long)).logits
    np.testing.assert_allclose(light, [1, 1], rtol=1e-4)
    np.testing.assert_allclose(lightest, [0.01, 0.01], rtol=1e-3)


def test_defaults(classifier_folder, tmp_path, make_classifier):
    config = StaticConfig(vocab_size=2)
    assert (config.width, config.classifier_dropout, config.pad_token_id) == (64, 0.1, 0)
    make_classifier(tmp_path, LABELS, max_position_embeddings=200)
    model, tokenizer = build_static_student(str(tmp_path), LABELS, width=4)
    again, _ = build_static_student(str(tmp_path), LABELS, width=4, seed=0)
    other, _ = build_static_student(str(tmp_path), LABELS, width=4, seed=1)
    assert tokenizer.model_max_length == 128
    assert torch.equal(model.classifier.weight, again.classifier.weight)
    assert not torch.equal(model.classifier.weight, other.classifier.weight)
    assert model.config.problem_type == "single_label_classification"


def test_a_model_that_is_no_encoder_is_refused(classifier_folder, tokenizer):
    classifier = AutoModelForSequenceClassification.from_pretrained(classifier_folder)
    with pytest.raises(AmalgamError, match="a bert cannot start a static student"):
        token_vectors(classifier, tokenizer, "cpu")
