"""Features of a corpus: beside one text at a time, kept, resumed and refused."""

import numpy as np
import pytest
import torch

from amalgam_edge.errors import AmalgamError
from amalgam_edge.models.loading import load_config, load_encoder
from amalgam_edge.scoring import features as module
from amalgam_edge.scoring.features import feature_key, store_features, text_features
from amalgam_edge.scoring.hidden_states import HiddenStore
from tests.support import tiny


@pytest.fixture
def encoder(classifier_folder):
    return load_encoder(str(classifier_folder), load_config(str(classifier_folder)), 24)


@pytest.fixture
def store(tmp_path, encoder, corpus):
    """Of three shards."""
    return HiddenStore(tmp_path / "features", feature_key(*encoder, corpus), shard_size=6)


def filled(store, encoder, corpus, advance=lambda count: None):
    store_features(*encoder, store, corpus, advance, device="cpu", batch_tokens=60)
    return store.read().array()


def one_at_a_time(model, tokenizer, texts):
    found = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False, truncation=True, max_length=24)
        with torch.inference_mode():
            found.append(model.eval()(**inputs).last_hidden_state[0].mean(dim=0))
    return torch.stack(found).numpy()


def test_a_feature_is_the_mean_over_a_text_s_tokens(encoder, corpus):
    model, tokenizer = encoder
    model.train()  # whoever left it so
    found = text_features(model, tokenizer, corpus.texts, batch_tokens=60)
    np.testing.assert_allclose(found, one_at_a_time(model, tokenizer, corpus.texts), atol=1e-5)
    assert found.std() > 0.01


def test_they_are_kept(store, encoder, corpus, monkeypatch):
    first = filled(store, encoder, corpus)
    np.testing.assert_allclose(first, one_at_a_time(*encoder, corpus.texts), atol=2e-3)  # half floats
    monkeypatch.setattr(module, "text_features", None)  # not called again
    counted = []
    np.testing.assert_array_equal(filled(store, encoder, corpus, counted.append), first)
    assert sum(counted) == len(corpus)


def test_a_broken_run_goes_on_where_it_was(store, encoder, corpus, monkeypatch):
    whole = text_features(*encoder, corpus.texts)
    calls = []

    def dies(model, tokenizer, texts, batch_tokens):
        calls.append(len(texts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return text_features(model, tokenizer, texts, batch_tokens)

    monkeypatch.setattr(module, "text_features", dies)
    with pytest.raises(KeyboardInterrupt):
        filled(store, encoder, corpus)
    np.testing.assert_allclose(filled(store, encoder, corpus), whole, atol=2e-3)
    assert sum(calls) == len(corpus) + 6


def test_features_depend_on_encoder_texts_and_length(encoder, corpus, other_classifier_folder):
    model, tokenizer = encoder
    key = feature_key(model, tokenizer, corpus)
    tokenizer.model_max_length = 12
    other = load_encoder(str(other_classifier_folder), load_config(str(other_classifier_folder)), 24)
    assert (
        len(
            {
                key.fingerprint,
                feature_key(model, tokenizer, corpus).fingerprint,
                feature_key(*other, corpus).fingerprint,
            }
        )
        == 3
    )


def test_a_damaged_encoder_is_refused(encoder):
    model, tokenizer = encoder
    with torch.no_grad():
        model.get_input_embeddings().weight[:] = float("nan")
    with pytest.raises(AmalgamError, match="not finite"):
        text_features(model, tokenizer, tiny.TEXTS[:3])
