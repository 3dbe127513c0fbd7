"""Trimming by held-out texts, against labels of single texts at each size of vocabulary."""

import json

import numpy as np
import pytest

from amalgam_edge.exporters.selection import trimming
from amalgam_edge.exporters.selection.trimming import trim_through_gate
from amalgam_edge.heads import Heads
from amalgam_edge.models.vocabulary import kept_tokens, trim_vocabulary
from tests.support import tiny

HEADS = Heads.of_labels(("a", "b", "c"))
TRAINING, HELD_OUT = tiny.TEXTS[:8], tiny.TEXTS[8:]


@pytest.fixture(scope="module")
def student(random_classifier, tokenizer):
    return random_classifier(labels=HEADS.labels), tokenizer


@pytest.fixture(scope="module")
def used(tokenizer):
    return {number for text in TRAINING for number in tokenizer(text)["input_ids"]}


def labels_of(model, tokenizer, texts):
    return [int(model(**tiny.padded(tokenizer, [text])).logits.argmax()) for text in texts]


def test_as_few_tokens_stay_as_held_out_texts_allow(student, used, monkeypatch):
    """By what every text is answered alone, at each number of spare tokens."""
    model, tokenizer = student
    ladder = (0, 340, 380, 392, 396)
    monkeypatch.setattr(trimming, "FIRST_TOKENS_KEPT", ladder)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    before = labels_of(model, tokenizer, HELD_OUT)
    changed = []
    for first in ladder:
        small = trim_vocabulary(model, tokenizer, kept_tokens(content, used, first))
        after = labels_of(*small, HELD_OUT)
        changed.append(np.mean([one != other for one, other in zip(before, after, strict=True)]))
    assert changed[0] > changed[-1] == 0
    said = []
    trimmed = trim_through_gate(model, tokenizer, used, HELD_OUT, HEADS, budget=0.0, say=said.append)
    allowed = changed.index(0)
    assert trimmed.n_tokens == len(kept_tokens(content, used, ladder[allowed])) == len(trimmed.tokenizer)
    assert trimmed.n_tokens < trimmed.n_before == len(tokenizer)
    assert trimmed.fidelity.agreement == 1.0
    assert trimmed.fidelity.n_texts == len(HELD_OUT)
    assert len(said) == allowed
    for share, line in zip(changed, said, strict=False):
        assert f"{share:.2%} of labels change, over 0.00%" in line


def test_vocabularies_that_change_labels_are_reported_and_refused(student, monkeypatch):
    monkeypatch.setattr(trimming, "FIRST_TOKENS_KEPT", (0, 100))
    model, tokenizer = student
    said = []
    assert trim_through_gate(model, tokenizer, [], HELD_OUT, HEADS, budget=0.0, say=said.append) is None
    assert len(said) == 2


def test_a_vocabulary_in_full_use_is_not_trimmed(student):
    model, tokenizer = student
    said = []
    assert (
        trim_through_gate(model, tokenizer, range(len(tokenizer)), HELD_OUT, HEADS, budget=1.0, say=said.append) is None
    )
    assert said == []


def test_a_budget_of_all_labels_allows_the_smallest_vocabulary(student, used):
    model, tokenizer = student
    trimmed = trim_through_gate(model, tokenizer, used, HELD_OUT, HEADS, budget=1.0)
    assert trimmed.n_tokens < trimmed.n_before
    assert trimmed.tokenizer.model_max_length == tokenizer.model_max_length


def test_the_fewest_unused_tokens_are_kept_first():
    """None of the unused tokens, then the first 2,000, doubled up to 16,000."""
    assert (0, *(2000 * 2**k for k in range(4))) == trimming.FIRST_TOKENS_KEPT
