import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amalgam_edge.inference.batches import batches_by_length, cheapest_cuts, encode
from tests.support import tiny

PAD = 1
ENCODED = st.lists(st.lists(st.integers(2, 99), max_size=20), min_size=1, max_size=30)


def read_back(batch):
    """Row → token ids, by mask."""
    return {
        int(row): ids[mask == 1].tolist()
        for row, ids, mask in zip(batch.rows, batch.input_ids, batch.attention_mask, strict=True)
    }


@pytest.fixture(scope="module")
def encoded(tokenizer):
    return encode(tiny.TEXTS, tokenizer, 64)


@given(ENCODED, st.integers(1, 80))
def test_every_text_comes_once_with_its_tokens(encoded, batch_tokens):
    found = {}
    for batch in batches_by_length(encoded, pad_token_id=PAD, batch_tokens=batch_tokens):
        assert not found.keys() & set(batch.rows.tolist())
        found |= read_back(batch)
    assert found == dict(enumerate(encoded))


@given(ENCODED, st.integers(1, 80))
def test_no_batch_of_several_texts_is_above_the_budget(encoded, batch_tokens):
    for batch in batches_by_length(encoded, pad_token_id=PAD, batch_tokens=batch_tokens):
        assert len(batch.rows) >= 1
        assert batch.input_ids.size <= batch_tokens or len(batch.rows) == 1


@given(st.lists(st.integers(0, 20), min_size=1, max_size=9), st.integers(1, 80))
def test_no_other_cut_costs_less(lengths, batch_tokens):
    """All ways to cut, one by one."""
    lengths = np.array(sorted(lengths, reverse=True))

    def cost(ends):
        batches = [lengths[start:end] for start, end in itertools.pairwise([0, *ends])]
        sizes = [len(batch) * max(1, batch[0]) for batch in batches]
        if any(size > batch_tokens and len(batch) > 1 for size, batch in zip(sizes, batches, strict=True)):
            return np.inf
        return sum(sizes) + len(batches) * batch_tokens / 16

    inner = range(1, len(lengths))
    every = [[*cuts, len(lengths)] for count in range(len(lengths)) for cuts in itertools.combinations(inner, count)]
    assert cost(cheapest_cuts(lengths, batch_tokens)) == pytest.approx(min(map(cost, every)))


@given(ENCODED, st.integers(1, 80))
def test_the_longest_come_first_and_little_is_padded(encoded, batch_tokens):
    batches = list(batches_by_length(encoded, pad_token_id=PAD, batch_tokens=batch_tokens))
    lengths = [length for batch in batches for length in batch.attention_mask.sum(axis=1)]
    assert lengths == sorted(lengths, reverse=True)
    for batch in batches:
        assert batch.input_ids.shape[1] == max(1, batch.attention_mask.sum(axis=1).max())


@given(ENCODED, st.integers(1, 80), st.data())
def test_rows_select_texts(encoded, batch_tokens, data):
    rows = data.draw(st.lists(st.integers(0, len(encoded) - 1), unique=True))
    found = {}
    for batch in batches_by_length(
        encoded, pad_token_id=PAD, batch_tokens=batch_tokens, rows=np.array(rows, dtype=int)
    ):
        found |= read_back(batch)
    assert found == {row: encoded[row] for row in rows}


def test_padding_is_on_the_right_with_the_padding_token(tokenizer, encoded):
    padded = 0
    for batch in batches_by_length(encoded, pad_token_id=tokenizer.pad_token_id, batch_tokens=400):
        assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int64
        assert (np.diff(batch.attention_mask, axis=1) <= 0).all()
        assert (batch.input_ids[batch.attention_mask == 0] == tokenizer.pad_token_id).all()
        padded += (batch.attention_mask == 0).sum()
    assert padded > 0


def test_texts_are_encoded_as_the_tokenizer_does(tokenizer, encoded):
    assert encoded == [tokenizer(text)["input_ids"] for text in tiny.TEXTS]


def test_texts_are_cut_to_the_longest_length_with_their_end_mark(tokenizer):
    long, short = encode(["penguins " * 50, "x"], tokenizer, 12)
    assert len(long) == 12
    assert (long[0], long[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert short == tokenizer("x")["input_ids"]


def test_texts_of_one_length_keep_their_order():
    batches = batches_by_length([[2, 3]] * 7, pad_token_id=PAD, batch_tokens=7)
    assert [batch.rows.tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]


def test_without_texts_there_is_no_batch():
    assert list(batches_by_length([], pad_token_id=PAD, batch_tokens=8)) == []
    assert list(batches_by_length([[2]], pad_token_id=PAD, batch_tokens=8, rows=np.array([], dtype=int))) == []
