"""Trimmed tokenizers against the original ones, by the tokenizers library itself."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from amalgam_edge.errors import AmalgamError
from amalgam_edge.models.vocabulary import kept_tokens, token_ids, trim_tokenizer, trim_vocabulary
from tests.support import tiny

WORDS = [
    *("penguin", "penguins", "race", "racing", "racer", "network", "networks", "net", "netting"),
    *("font", "fonts", "fountain", "graph", "graphic", "graphics"),
]
LINES = [f"{a} {b} {c}" for a, b, c in zip(WORDS, WORDS[3:] + WORDS[:3], WORDS[7:] + WORDS[:7], strict=True)] * 5
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LATE_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(LINES, trainers.WordPieceTrainer(vocab_size=110, special_tokens=SPECIAL))
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    return tokenizer


def byte_bpe():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=LATE_SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(LINES, trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in ("</s>", "<s>")]
    tokenizer.post_processor = processors.Sequence([processors.RobertaProcessing(*ends)])
    return tokenizer


def suffixed_bpe():
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>", continuing_subword_prefix="##"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=SPECIAL, end_of_word_suffix="</w>", continuing_subword_prefix="##"
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=LATE_SPECIAL, unk_token="<unk>")
    tokenizer.train_from_iterator(LINES, trainer)
    marks = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
    tokenizer.add_tokens(["<late>"])
    return tokenizer


@pytest.fixture(scope="module", params=[wordpiece, byte_bpe, suffixed_bpe, unigram])
def original(request):
    return request.param()


def content(tokenizer):
    return json.loads(tokenizer.to_str())


def trimmed(tokenizer, texts, first=0):
    """The tokenizer with what some texts use, and the old ids by new ones."""
    used = {number for text in texts for number in tokenizer.encode(text).ids}
    kept = kept_tokens(content(tokenizer), used, first)
    return Tokenizer.from_str(json.dumps(trim_tokenizer(content(tokenizer), kept))), kept


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([*WORDS, "x", "graphnet", "finger"]), min_size=1).map(" ".join), min_size=1))
def test_texts_whose_tokens_stay_are_tokenized_as_before(original, texts):
    small, kept = trimmed(original, texts)
    for text in texts:
        before, after = original.encode(text), small.encode(text)
        assert kept[after.ids].tolist() == before.ids
        assert after.tokens == before.tokens
        assert after.attention_mask == before.attention_mask


def test_other_texts_are_split_into_smaller_pieces(original):
    small, _ = trimmed(original, ["net"])
    unknown = {small.token_to_id("[UNK]"), small.token_to_id("<unk>")} - {None}
    for text in WORDS:
        assert not unknown & set(original.encode(text).ids)
        encoded = small.encode(text)
        assert not unknown & set(encoded.ids)
        assert max(encoded.ids) < small.get_vocab_size()
    assert len(small.encode("graphics penguins").ids) > len(original.encode("graphics penguins").ids)


def test_a_trimmed_vocabulary_is_smaller_and_numbered_without_gaps(original):
    small, kept = trimmed(original, ["net fonts"])
    assert small.get_vocab_size() == len(kept) < original.get_vocab_size()
    assert sorted(small.get_vocab().values()) == list(range(len(kept)))
    for token, number in small.get_vocab().items():
        assert original.token_to_id(token) == kept[number]


def test_special_tokens_stay_and_padding_keeps_its_id(original):
    small, _ = trimmed(original, [])
    for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "<pad>", "</s>", "<unk>", "<late>"):
        assert (small.token_to_id(token) is None) == (original.token_to_id(token) is None)
    for token in ("[PAD]", "<pad>"):
        assert small.token_to_id(token) == original.token_to_id(token)


def test_padding_behind_other_tokens_keeps_its_id():
    tokenizer = wordpiece()
    tokenizer.add_special_tokens(["<pad>"])
    small, kept = trimmed(tokenizer, [])
    assert small.token_to_id("<pad>") == tokenizer.token_to_id("<pad>") == len(kept) - 1


def test_the_first_ids_stay_as_far_as_asked(original):
    every = original.get_vocab_size()
    assert len(kept_tokens(content(original), [], every)) == every
    kept = kept_tokens(content(original), [], every - 20)
    assert set(range(every - 20)) <= set(kept.tolist())
    assert len(kept) < every


def test_nothing_but_the_ids_changes_where_all_stay(original):
    before = content(original)
    assert trim_tokenizer(before, kept_tokens(before, [], original.get_vocab_size())) == before


def test_the_original_is_left_as_it_was(original):
    before = content(original)
    kept = kept_tokens(before, [])
    trim_tokenizer(before, kept)
    assert before == content(original)
    assert kept.dtype == np.int64


def test_merges_may_be_written_as_texts():
    written = content(byte_bpe())
    texts = json.loads(json.dumps(written))
    texts["model"]["merges"] = [" ".join(pair) for pair in texts["model"]["merges"]]
    used = [token_ids(written)["Ġnetworks"]]
    kept = kept_tokens(written, used)
    np.testing.assert_array_equal(kept, kept_tokens(texts, used))
    assert [pair.split(" ") for pair in trim_tokenizer(texts, kept)["model"]["merges"]] == trim_tokenizer(
        written, kept
    )["model"]["merges"]


def test_a_tokenizer_without_a_vocabulary_is_refused():
    with pytest.raises(AmalgamError, match="of the kind Odd"):
        token_ids({"model": {"type": "Odd"}})


# --- with a model


def logits_of(model, tokenizer, texts):
    with torch.inference_mode():
        return model(**tiny.padded(tokenizer, texts)).logits.numpy()


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_texts_whose_tokens_stay_are_answered_as_before(random_classifier, tokenizer, architecture, tmp_path):
    model, texts = random_classifier(architecture=architecture), tiny.TEXTS[:5]
    full = tokenizer
    kept = kept_tokens(content(full.backend_tokenizer), {i for text in texts for i in full(text)["input_ids"]})
    small_model, small = trim_vocabulary(model, full, kept)
    expected = logits_of(model, full, texts)
    np.testing.assert_array_equal(logits_of(small_model, small, texts), expected)
    assert small_model.get_input_embeddings().weight.shape[0] == small_model.config.vocab_size == len(kept) < len(full)
    assert (small.pad_token_id, small_model.config.pad_token_id) == (full.pad_token_id, model.config.pad_token_id)
    assert small.model_max_length == full.model_max_length
    # The originals are left alone, and the copies are ordinary checkpoints.
    np.testing.assert_array_equal(logits_of(model, full, texts), expected)
    small_model.save_pretrained(tmp_path)
    small.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation="eager").eval()
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert len(again) == len(kept)
    np.testing.assert_array_equal(logits_of(loaded, again, texts), expected)


def test_other_texts_are_answered_too(random_classifier, tokenizer):
    model = random_classifier()
    kept = kept_tokens(content(tokenizer.backend_tokenizer), [])
    logits = logits_of(*trim_vocabulary(model, tokenizer, kept), ["never seen: Ünïcødé 漢字 🐧"])
    assert np.isfinite(logits).all()


def test_byte_tokens_and_marked_characters_stay():
    """Unknown characters fall back to them; other tokens that are not in use go."""
    tokens = ["<unk>", "<0x41>", "<0x4g>", "##a", "##ab", "b", "bc", "c</w>", "cd</w>", "▁"]
    model = {"type": "BPE", "vocab": {token: k for k, token in enumerate(tokens)}, "unk_token": "<unk>"}
    model |= {"continuing_subword_prefix": "##", "end_of_word_suffix": "</w>"}
    kept = kept_tokens({"model": model}, [])
    assert [tokens[k] for k in kept] == ["<unk>", "<0x41>", "##a", "b", "c</w>", "▁"]


@pytest.mark.parametrize("name", ["[PAD]", "<pad>", "<|pad|>", "[pad]"])
def test_ids_up_to_that_of_padding_stay(name):
    vocabulary = {"alpha": 0, "beta": 1, name: 2, "gamma": 3}
    content = {"model": {"vocab": vocabulary}, "added_tokens": [{"id": 2, "content": name}]}
    assert kept_tokens(content, []).tolist() == [0, 1, 2]
    assert kept_tokens(content, [3]).tolist() == [0, 1, 2, 3]


def test_ids_beyond_the_vocabulary_are_ignored():
    content = {"model": {"vocab": {"alpha": 0, "beta": 1}}}
    assert kept_tokens(content, [1, 99], 50).tolist() == [0, 1]


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_ids_of_special_tokens_in_the_config_are_renumbered(random_classifier, tokenizer, architecture):
    model = random_classifier(architecture=architecture)
    model.config.sep_token_id, model.config.bos_token_id = len(tokenizer) - 1, len(tokenizer) - 2
    kept = np.array([*range(260), len(tokenizer) - 1])
    small, _ = trim_vocabulary(model, tokenizer, kept_tokens(content(tokenizer.backend_tokenizer), kept.tolist()))
    new = small.config.sep_token_id
    old_rows, new_rows = model.get_input_embeddings().weight, small.get_input_embeddings().weight
    assert torch.equal(new_rows[new], old_rows[len(tokenizer) - 1])
    assert small.config.bos_token_id is None  # the token is gone
