import numpy as np
import pytest
import tiny

from amalgam_edge.scoring.batches import batches_by_length


def read_back(batch, tokenizer):
    """Row → token ids, by mask."""
    return {
        int(row): ids[mask == 1].tolist()
        for row, ids, mask in zip(batch.rows, batch.input_ids, batch.attention_mask, strict=True)
    }


@pytest.mark.parametrize("batch_size", [1, 3, 16, 100])
def test_every_text_comes_once_with_its_tokens(tokenizer, batch_size):
    found = {}
    for batch in batches_by_length(tiny.TEXTS, tokenizer, max_length=64, batch_size=batch_size):
        assert 1 <= len(batch.rows) <= batch_size
        assert not found.keys() & set(batch.rows.tolist())
        found |= read_back(batch, tokenizer)
    assert found == {row: tokenizer(text)["input_ids"] for row, text in enumerate(tiny.TEXTS)}


def test_the_longest_come_first_and_little_is_padded(tokenizer):
    batches = list(batches_by_length(tiny.TEXTS, tokenizer, max_length=64, batch_size=4))
    lengths = [length for batch in batches for length in batch.attention_mask.sum(axis=1)]
    assert lengths == sorted(lengths, reverse=True)
    for batch in batches:
        assert batch.input_ids.shape[1] == batch.attention_mask.sum(axis=1).max()


def test_padding_is_on_the_right_with_the_padding_token(tokenizer):
    for batch in batches_by_length(tiny.TEXTS, tokenizer, max_length=64, batch_size=16):
        assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int64
        assert (np.diff(batch.attention_mask, axis=1) <= 0).all()
        assert (batch.input_ids[batch.attention_mask == 0] == tokenizer.pad_token_id).all()
        assert (batch.attention_mask == 0).any()


def test_texts_are_cut_to_the_longest_length_with_their_end_mark(tokenizer):
    (batch,) = batches_by_length(["penguins " * 50, "x"], tokenizer, max_length=12, batch_size=4)
    assert batch.input_ids.shape == (2, 12)
    assert batch.input_ids[0, 0] == tokenizer.cls_token_id
    assert batch.input_ids[0, -1] == tokenizer.sep_token_id


def test_texts_of_one_length_keep_their_order(tokenizer):
    batches = batches_by_length(["x"] * 7, tokenizer, max_length=64, batch_size=3)
    assert [batch.rows.tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
