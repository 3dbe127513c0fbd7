import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from amalgam_edge.errors import AmalgamError
from amalgam_edge.models.teacher import load_teacher
from amalgam_edge.scoring import hidden_states as module
from amalgam_edge.scoring.hidden_states import HiddenStates, HiddenStore, hidden_key, hidden_states, store_hidden
from tests.support import tiny


@pytest.fixture
def store(tmp_path, teacher, corpus):
    """Of three shards."""
    return HiddenStore(tmp_path / "hidden", hidden_key(teacher, corpus), shard_size=6)


def fill(store, teacher, corpus, advance=lambda count: None):
    store_hidden(teacher, store, corpus, advance, device="cpu", batch_tokens=60)
    return store.read()


def refusal(call, *arguments):
    with pytest.raises(AmalgamError) as refused:
        call(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def rows(states):
    return np.stack([states[k] for k in range(len(states))])


def by_hand(teacher, texts):
    """A text at a time, by what each architecture's code puts into its last layer."""
    found = []
    for text in texts:
        inputs = teacher.tokenizer(
            text, return_tensors="pt", return_token_type_ids=False, truncation=True, max_length=teacher.max_length
        )
        with torch.inference_mode():
            encoded = teacher.model.base_model(**inputs)
            if teacher.model.config.model_type == "bert":
                found.append(encoded.pooler_output[0])
            else:  # RoBERTa's head
                found.append(torch.tanh(teacher.model.classifier.dense(encoded.last_hidden_state[0, 0])))
    return torch.stack(found).numpy()


@pytest.mark.parametrize("which", ["teacher", "other"])
def test_hidden_states_are_those_of_single_texts_without_dropout(request, which, corpus):
    teacher = request.getfixturevalue(which)
    teacher.model.train()  # whoever left it so
    found = hidden_states(teacher, corpus.texts, batch_tokens=60)
    np.testing.assert_allclose(found, by_hand(teacher, corpus.texts), atol=1e-5)
    assert found.std() > 0.1
    np.testing.assert_allclose(hidden_states(teacher, corpus.texts, batch_tokens=4096), found, atol=1e-5)


def test_they_are_kept_in_half_floats_mapped_into_memory(store, teacher, corpus):
    found = fill(store, teacher, corpus)
    assert len(found) == len(corpus)
    assert all(isinstance(shard, np.memmap) and shard.dtype == np.float16 for shard in found.shards)
    np.testing.assert_allclose(rows(found), by_hand(teacher, corpus.texts), atol=1e-3)


def test_what_half_floats_cannot_hold_stays_in_floats(store):
    store.open()
    states = np.linspace(0, 1, 12, dtype=np.float32).reshape(6, 2)
    states[3, 1] = 70_000.0
    for shard in range(3):
        store.write(shard, states[: len(store.rows(shard))] if shard == 1 else 0 * states[: len(store.rows(shard))])
    found = store.read()
    assert found[6 + 3].tolist() == states[3].tolist()
    assert [shard.dtype for shard in found.shards] == [np.float16, np.float32, np.float16]


def test_a_run_that_was_cut_off_goes_on_where_it_stopped(store, teacher, corpus, monkeypatch):
    expected = rows(fill(HiddenStore(store.folder.with_name("whole"), store.key, shard_size=6), teacher, corpus))
    real = module.hidden_states
    asked = []

    def once(teacher, texts, batch_tokens):
        asked.append(list(texts))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(teacher, texts, batch_tokens)

    monkeypatch.setattr(module, "hidden_states", once)
    with pytest.raises(KeyboardInterrupt):
        fill(store, teacher, corpus)
    assert store.missing() == [1, 2]
    assert "2 of 3 shards are missing; build again" in refusal(store.read)
    done = []
    found = fill(store, teacher, corpus, done.append)
    assert asked[2:] == [list(tiny.TEXTS[6:12]), list(tiny.TEXTS[12:])]
    assert done == [6, 6, 4]
    np.testing.assert_array_equal(rows(found), expected)
    fill(store, teacher, corpus)
    assert len(asked) == 4  # nothing was left to do


@pytest.mark.parametrize("content", [b"", b"no array", "half", "another shape", "too few"])
def test_a_damaged_shard_is_refused_by_name(store, teacher, corpus, content):
    fill(store, teacher, corpus)
    shard = store.folder / "shard-000001.npy"
    if content == "half":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif content == "another shape":
        np.save(shard, np.zeros(6))
    elif content == "too few":
        np.save(shard, np.zeros((5, 32)))
    else:
        shard.write_bytes(content)
    for call in (store.open, store.read):
        assert "shard-000001.npy: a damaged shard; delete it and build again" in refusal(call)


def test_a_pickled_shard_is_never_loaded(store, teacher, corpus):
    fill(store, teacher, corpus)
    np.save(store.folder / "shard-000001.npy", np.array([[{}]] * 6, dtype=object), allow_pickle=True)
    assert "a damaged shard" in refusal(store.read)


def test_another_teacher_or_corpus_is_another_store(store, teacher, other, corpus):
    fill(store, teacher, corpus)
    key = hidden_key(other, corpus)
    assert key.fingerprint != store.key.fingerprint
    message = refusal(HiddenStore(store.folder, key, shard_size=6).open)
    assert "holds hidden states of another run" in message
    shorter = dataclasses.replace(teacher, max_length=8)
    assert hidden_key(shorter, corpus).fingerprint != store.key.fingerprint


def test_states_that_are_not_finite_are_refused(classifier_folder, corpus, store):
    broken = load_teacher("t", str(classifier_folder), max_length=32)
    with torch.no_grad():
        broken.model.bert.pooler.dense.weight.fill_(float("nan"))
    assert "teacher 't': hidden states that are not finite" in refusal(fill, store, broken, corpus)
    assert store.missing() == [0, 1, 2]


@given(st.integers(1, 7), st.integers(0, 30))
def test_rows_are_found_in_their_shards(shard_size, n_rows):
    table = np.arange(2 * n_rows).reshape(n_rows, 2)
    states = HiddenStates([table[k : k + shard_size] for k in range(0, n_rows, shard_size)], shard_size)
    assert len(states) == n_rows
    assert all(states[row].tolist() == table[row].tolist() for row in range(n_rows))
