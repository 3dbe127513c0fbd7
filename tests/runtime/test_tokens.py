from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from amalgam_edge.errors import AmalgamError
from amalgam_edge.inference.padding import pad_batch
from amalgam_edge.runtime import word_cache
from amalgam_edge.runtime.tokens import BatchTokenizer, TokenIds, special_tokens
from amalgam_edge.runtime.word_cache import splits_at_spaces
from amalgam_edge.storage.own_files import FileContent
from tests.support.token_ids import library_tokens, open_batch_tokenizer, our_tokens

MAX_LENGTH = 9
WORDS = tuple("a b ab abc un ##un ##a ##b ##c ##1 1 12 . , - ' [ ] ! é e ß σ ss 中 文 가 sep ##sep cls".split())  # noqa: SIM905
# Many kinds of spaces, combining marks, letters that lower case or NFKC turns into several, control characters, added
# tokens alone and inside words, and a lone surrogate.
PIECES = [
    "a", "b", "abc", "UN", "1", "zz", " ", "  ", "\t", "\n", "\x1c", "\x85", "\xa0", "\u2003", "\u3000", "\u200b",
    "\0", "\x7f", ".", ",", "-", "'", "[", "]", "é", "E\u0301", "\u0301", "İ", "ß", "Σ", "ﬁ", "中", "文", "가", "📬",
    "[SEP]", "[sep]", "[MASK]", "<new>", "<NEW>", "café", "cafe", "CAFE\u0301", "a" * 30, "\ud800",
]  # fmt: skip
TEXTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), min_size=1, max_size=6)


def word_piece(*, special_tokens=True, normalizer=None, pre_tokenizer=None):
    """A small WordPiece with BERT's special tokens and two that were added later, which normalizers change."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate([*names, *dict.fromkeys(WORDS)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=20))
    tokenizer.normalizer = normalizer or normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True), *names[:4]])
    tokenizer.add_tokens([AddedToken("<new>", normalized=True), AddedToken("café", normalized=True)])
    if special_tokens:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return tokenizer


KINDS = {
    "BERT's": {},
    "cased": {"normalizer": normalizers.BertNormalizer(lowercase=False)},
    "without special tokens": {"special_tokens": False},
    "a sequence": {
        "normalizer": normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
        "pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]),
    },
    "without accents": {
        "normalizer": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
        "pre_tokenizer": pre_tokenizers.WhitespaceSplit(),
    },
    "whole texts": {"normalizer": normalizers.Replace(" ", "")},
}


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_the_library(kind):
    tokenizer = word_piece(**KINDS[kind])
    opened = open_batch_tokenizer(tokenizer, MAX_LENGTH)

    @settings(max_examples=150, deadline=None)
    @given(TEXTS)
    def check(texts):
        assert our_tokens(opened, texts) == library_tokens(tokenizer, texts, MAX_LENGTH)
        assert our_tokens(opened, texts) == library_tokens(tokenizer, texts, MAX_LENGTH)  # by now every word is known

    check()


def test_words_that_were_not_met_for_long_are_forgotten(monkeypatch):
    monkeypatch.setattr(word_cache, "_GENERATION_BYTES", 3000)
    tokenizer = word_piece()
    opened = open_batch_tokenizer(tokenizer, MAX_LENGTH)
    for first in range(0, 150, 3):
        texts = [f"a{number} b, {number}" for number in range(first, first + 3)]
        assert our_tokens(opened, texts) == library_tokens(tokenizer, texts, MAX_LENGTH)
        assert opened._words.n_bytes < 6000
        remembered = opened._words._recent.numbers | opened._words._older.numbers
        assert "b," in remembered  # it comes in every text
    assert "a149" in remembered
    assert "a20" not in remembered
    assert "b," in opened._words._recent.numbers


def test_some_twenty_thousand_words_are_remembered():
    opened = open_batch_tokenizer(word_piece(), MAX_LENGTH)
    words = [f"w{number:05}" for number in range(20_000)]
    for first in range(0, len(words), 100):
        opened.encode(words[first : first + 100])
    assert opened._words._recent.numbers.keys() | opened._words._older.numbers.keys() == {*words}
    assert opened._words.n_bytes <= 16_000_000


def test_long_words_are_not_remembered():
    opened = open_batch_tokenizer(word_piece(), MAX_LENGTH)
    opened.encode(["a " + "b" * 48, "c" * 49, "d-" * 40, "文" * 60])
    assert {*opened._words._recent.numbers} == {"a", "b" * 48}


def test_concurrent_calls_get_the_right_tokens():
    tokenizer = word_piece()
    opened = open_batch_tokenizer(tokenizer, MAX_LENGTH)
    calls = [[f"a{number} {word}" for number in range(call, call + 40)] for call, word in enumerate(WORDS)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda texts: our_tokens(opened, texts), calls))
    assert answers == [library_tokens(tokenizer, texts, MAX_LENGTH) for texts in calls]


@pytest.mark.parametrize(
    ("expected", "options"),
    [
        (True, {}),
        (True, {"pre_tokenizer": pre_tokenizers.Whitespace()}),
        (True, {"pre_tokenizer": pre_tokenizers.WhitespaceSplit()}),
        (True, {"normalizer": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])}),
        (True, {"normalizer": normalizers.Sequence([normalizers.NFC(), normalizers.NFKD(), normalizers.Lowercase()])}),
        (False, {"normalizer": normalizers.Prepend("_")}),
        (False, {"normalizer": normalizers.Sequence([normalizers.NFC(), normalizers.Strip()])}),
        (False, {"pre_tokenizer": pre_tokenizers.ByteLevel()}),
        (False, {"pre_tokenizer": pre_tokenizers.Metaspace()}),
        (False, {"pre_tokenizer": pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.Whitespace()])}),
    ],
)
def test_which_tokenizers_split_at_spaces(expected, options):
    assert splits_at_spaces(word_piece(**options)) is expected


def test_a_tokenizer_with_an_added_token_that_holds_a_space_does_not_split_at_spaces():
    tokenizer = word_piece()
    tokenizer.add_tokens(["New York"])
    assert not splits_at_spaces(tokenizer)


def test_so_it_is_if_the_normalizer_puts_the_space_there():
    added = AddedToken("New\xa0York", normalized=True)
    assert "\xa0" in normalizers.NFC().normalize_str(added.content)
    for normalizer, splits in ((normalizers.NFC(), True), (normalizers.NFKC(), False)):
        tokenizer = word_piece(normalizer=normalizer)
        tokenizer.add_tokens([added])
        assert splits_at_spaces(tokenizer) is splits


def test_a_tokenizer_with_random_merges_does_not_split_at_spaces():
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], dropout=0.5))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert not splits_at_spaces(tokenizer)


def test_special_tokens_before_and_after_a_text():
    assert special_tokens(word_piece()) == ([2], [3])
    assert special_tokens(word_piece(special_tokens=False)) == ([], [])


@given(st.lists(st.lists(st.integers(0, 99), max_size=7), min_size=1, max_size=6), st.data())
def test_padded_batches_are_those_of_training(texts, data):
    rows = np.array(data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=8)))
    flat = np.array([number for text in texts for number in text], dtype=np.int64)
    tokenized = TokenIds(flat, np.array([len(text) for text in texts]), np.zeros(len(texts), dtype=bool))
    for found, expected in zip(tokenized.padded(rows, 7), pad_batch([texts[row] for row in rows], 7), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.int64


def test_no_texts_are_refused():
    with pytest.raises(AmalgamError, match="no texts"):
        open_batch_tokenizer(word_piece(), MAX_LENGTH).encode([])


def test_content_that_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps([1]), "utf-8")
    with pytest.raises(AmalgamError, match="cannot be read as a tokenizer"):
        BatchTokenizer(FileContent.read(tmp_path / "tokenizer.json"), 8)


def panicking(tokenizer):
    """The tokenizer with an added token that is normalized to nothing: it panics over texts that are not ASCII."""
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("~", ""), normalizers.NFC()])
    tokenizer.add_tokens([AddedToken("~", normalized=True)])
    return tokenizer


def test_a_panic_of_the_tokenizer_is_one_line():
    opened = open_batch_tokenizer(panicking(word_piece()), MAX_LENGTH)
    assert opened.encode(["a b"]).lengths.tolist() == [4]
    with pytest.raises(AmalgamError, match=r"the tokenizer fails over a text \(PanicException: "):
        opened.encode(["a é"])
    with pytest.raises(AmalgamError, match=r"the tokenizer fails over one of 2 texts"):
        opened.encode(["a b", "a é"])


def test_the_end_of_the_process_is_no_failure_of_a_text(monkeypatch):
    opened = open_batch_tokenizer(word_piece(), MAX_LENGTH)
    monkeypatch.setattr(opened._words, "look_up", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened.encode(["a"])


def interrupted(words):
    raise KeyboardInterrupt


def test_a_tokenizer_that_panics_over_every_text_is_refused():
    tokenizer = word_piece()
    tokenizer.pre_tokenizer = pre_tokenizers.FixedLength(length=0)
    with pytest.raises(AmalgamError, match=r"cannot be read as a tokenizer .*non-zero"):
        open_batch_tokenizer(tokenizer, MAX_LENGTH)
