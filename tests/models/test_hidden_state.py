"""Hidden states of all architectures: the last layer, by hand, makes the logits of them."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from amalgam_edge.errors import AmalgamError
from amalgam_edge.models.hidden_state import capture_hidden_state, last_layer
from amalgam_edge.models.static_student import StaticConfig, StaticStudent
from tests.support import tiny


def run(model, inputs):
    with torch.inference_mode(), capture_hidden_state(model) as latest:
        logits = model(**inputs).logits
        return latest(), logits


def assert_leads_to_the_logits(model, inputs):
    """The last layer, by hand in numpy, makes the model's logits of the hidden states."""
    hidden, logits = run(model, inputs)
    layer = last_layer(model)
    weight, bias = (tensor.detach().double().numpy() for tensor in (layer.weight, layer.bias))
    assert hidden.shape == (len(logits), layer.in_features)
    np.testing.assert_allclose(hidden.double().numpy() @ weight.T + bias, logits.numpy(), atol=1e-4)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_logits_come_out_of_the_hidden_state(random_classifier, tokenizer, architecture):
    model = random_classifier(architecture=architecture)
    assert_leads_to_the_logits(model, tiny.padded(tokenizer, tiny.TEXTS[:5]))


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_last_layer_is_found_among_layers_with_as_many_outputs(random_classifier, tokenizer, architecture):
    """Every layer of the encoder then has an output a label."""
    model = random_classifier([f"label {k}" for k in range(32)], architecture=architecture, layers=1)
    assert_leads_to_the_logits(model, tiny.padded(tokenizer, tiny.TEXTS[:3]))


def test_a_static_student_has_a_hidden_state(tokenizer):
    torch.manual_seed(0)
    model = StaticStudent(StaticConfig(vocab_size=len(tokenizer), width=5, num_labels=3)).eval()
    assert_leads_to_the_logits(model, tiny.padded(tokenizer, tiny.TEXTS[:4]))


def test_padding_does_not_change_the_hidden_state(random_classifier, tokenizer):
    model = random_classifier()
    short, _ = run(model, tiny.padded(tokenizer, tiny.TEXTS[1:2]))
    long, _ = run(model, tiny.padded(tokenizer, tiny.TEXTS[1:2], length=30))
    np.testing.assert_allclose(short, long, atol=1e-5)


def test_gradients_flow_through_the_hidden_state(random_classifier, tokenizer):
    model = random_classifier()
    with capture_hidden_state(model) as latest:
        model(**tiny.padded(tokenizer, tiny.TEXTS[:2]))
        latest().sum().backward()
    assert model.base_model.embeddings.word_embeddings.weight.grad.abs().max() > 0


def test_no_hook_stays_on_the_model(random_classifier, tokenizer):
    model = random_classifier()
    with pytest.raises(ZeroDivisionError), capture_hidden_state(model):
        raise ZeroDivisionError
    assert not last_layer(model)._forward_pre_hooks


def test_a_model_whose_last_layer_reads_every_token_is_refused():
    config = AutoConfig.for_model(
        "gpt2", n_embd=8, n_layer=1, n_head=2, vocab_size=20, n_positions=16, pad_token_id=0, num_labels=3
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with pytest.raises(AmalgamError, match="a gpt2 has no hidden state a text"):
        run(model, {"input_ids": torch.ones((2, 4), dtype=torch.long)})


def test_a_model_that_was_not_run_has_no_hidden_state(random_classifier):
    with capture_hidden_state(random_classifier()) as latest, pytest.raises(AmalgamError, match="no hidden state"):
        latest()


def test_a_model_without_a_linear_layer_for_its_labels_is_refused(random_classifier):
    model = random_classifier()
    model.classifier = torch.nn.Identity()
    with pytest.raises(AmalgamError, match="a bert has no linear layer"):
        last_layer(model)
