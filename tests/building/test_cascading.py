from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from amalgam_edge.building import cascading
from amalgam_edge.building.cascading import (
    CAUTION,
    FOLDS,
    LEFT_TO_ENCODER,
    CascadeStudent,
    add_cascade,
    lowest_threshold,
    n_updates,
    renew_cascade,
    require_texts,
)
from amalgam_edge.building.data import Student
from amalgam_edge.building.inputs import read_texts
from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import Heads
from amalgam_edge.models.static_student import StaticConfig, StaticStudent
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.runtime.bundle import STATIC_FILE
from amalgam_edge.runtime.tokens import TokenIds
from amalgam_edge.training.fitting import TrainingSettings
from tests.support import tiny

N_TOKENS, N_LABELS = 40, 3
HEADS = Heads.of_labels("abc")


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30),
    st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 1.0]),
)
def test_the_threshold_is_the_lowest_that_all_trials_find(texts, budget):
    confidences = np.array([confidence / 5 for confidence, _ in texts])
    agrees = np.array([agree for _, agree in texts])
    fitting = [
        threshold
        for threshold in confidences
        if ((confidences >= threshold) & ~agrees).sum() <= budget * len(texts) + 1e-9
    ]
    assert lowest_threshold(confidences, agrees, budget) == (min(fitting) if fitting else None)


def test_a_threshold_by_hand():
    confidences = np.array([0.5, 0.9, 0.7, 0.8])
    agrees = np.array([True, True, False, True])
    assert lowest_threshold(confidences, agrees, 0.0) == 0.8
    assert lowest_threshold(confidences, agrees, 0.25) == 0.5


@pytest.mark.parametrize("n_texts", [3, 4, 10, 11])
def test_each_text_is_asked_about_once_by_a_student_that_did_not_see_it(n_texts):
    parts = list(cascading._folds(n_texts))
    assert sorted(row for _, rest in parts for row in rest.tolist()) == list(range(n_texts))
    for part, rest in parts:
        assert len(part)
        assert sorted([*part.tolist(), *rest.tolist()]) == list(range(n_texts))
    assert len(parts[-1][0]) == n_texts


def test_updates_are_those_of_all_parts():
    settings = TrainingSettings(epochs=2, batch_size=4)
    # 9 texts: three parts of 6 and one of 9, in batches of 4: 2 + 2 + 2 + 3 updates an epoch
    assert n_updates(settings, 9) == 2 * (3 * 2 + 3)


def test_too_few_texts_are_refused():
    with pytest.raises(AmalgamError, match="--cascade: 2 training text"):
        require_texts(SimpleNamespace(train=np.arange(FOLDS - 1)))


def test_it_is_distilled_from_the_encoders_answers_and_asked_about_what_it_did_not_see(
    classifier_folder, tmp_path, monkeypatch
):
    """Fitting is replaced by a note of what there was to fit, and a mark in the student that was fitted."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(tiny.TEXTS), "utf-8")
    recipe = Recipe(corpus=str(corpus), static_width=4, device="cpu")
    texts = read_texts(recipe.corpus, recipe.evaluation, recipe.teachers, recipe.hints)
    model = AutoModelForSequenceClassification.from_pretrained(classifier_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(classifier_folder)
    seen = []

    def note(student, tokenizer, train, held_out, loss, settings, folder, advance):
        seen.append([train[row] for row in range(len(train))])
        with torch.no_grad():
            student.classifier.weight.zero_()
            student.classifier.bias.fill_(float(len(seen)))

    monkeypatch.setattr(cascading, "fit", note)
    student = Student(model, tokenizer)
    found = cascading.train_cascade_student(
        student, texts, HEADS, recipe.cascade, recipe.training, tmp_path / "work", lambda _: None
    )

    words = [texts.corpus.texts[int(row)] for row in texts.train]
    answers = {}
    for text in words:
        ids = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            logits = model(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]).logits[0]
        answers[tuple(ids["input_ids"][0].tolist())] = torch.softmax(logits.double(), dim=-1).numpy()
    for part in seen:
        for example in part:
            np.testing.assert_allclose(example["target"], answers[tuple(example["input_ids"])], atol=1e-5)
            assert example["weight"] == 1
    assert len(seen) == FOLDS + 1
    assert len(seen[-1]) == len(words)
    assert found.texts == words
    assert float(found.model.classifier.bias[0].detach()) == FOLDS + 1
    for text, logits in zip(words, found.logits, strict=True):
        trained_on = [tuple(example["input_ids"]) for example in seen[int(logits[0]) - 1]]
        assert tuple(tokenizer(text)["input_ids"]) not in trained_on


@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=40), st.sampled_from([0.0, 0.05, 0.3])
)
def test_thresholds_rise(texts, budget):
    confidences = np.array([confidence / 9 for confidence, _ in texts])
    found = cascading._thresholds(confidences, np.array([agree for _, agree in texts]), budget)
    assert found == sorted(set(found))
    assert set(found) <= set(confidences.tolist())


class Encoder:
    """Answers by the first token of a text; what a TextModel does, without a tokenizer: a text is its number."""

    pad_token_id = 0

    def __init__(self, answer):
        self._answer = answer

    def tokenize(self, texts):
        ids = np.array([int(text) for text in texts])
        return TokenIds(ids, np.ones(len(ids), dtype=np.int64), np.zeros(len(ids), dtype=bool))

    def answer(self, tokens, *, batch_size=32, rows=None):
        ids = tokens.ids if rows is None else tokens.ids[rows]
        return np.eye(N_LABELS, dtype=np.float32)[[self._answer(number) for number in ids]]

    def run(self, texts):
        tokens = self.tokenize(texts)
        return self.answer(tokens), tokens.truncated


@pytest.fixture(scope="module")
def static():
    """A static student whose label for token t is t mod 3, the surer the greater t is; and its logits, by hand."""
    model = StaticStudent(StaticConfig(vocab_size=N_TOKENS, width=N_LABELS, num_labels=N_LABELS))
    rows = np.eye(N_LABELS)[np.arange(N_TOKENS) % N_LABELS] * np.arange(1, N_TOKENS + 1)[:, None] / 8
    with torch.no_grad():
        model.table.weight.copy_(torch.from_numpy(rows))
        model.log_weight.weight.zero_()
        model.classifier.weight.copy_(torch.eye(N_LABELS))
        model.classifier.bias.zero_()
    return model.eval(), rows


def companion(static, texts):
    model, rows = static
    return CascadeStudent(model, [str(number) for number in texts], rows[list(texts)].astype(np.float32), HEADS)


def test_a_cascade_is_accepted_with_what_held_out_texts_say(static, tmp_path):
    encoder = Encoder(lambda number: number % 3 if number >= 20 else (number + 1) % 3)
    account = add_cascade(companion(static, range(40)), tmp_path, encoder, [str(n) for n in range(0, 40, 2)], 0.95)
    # of 40 training texts 2 may go wrong: those of tokens 19 and 18; among 20 held-out ones that is 1, 18 itself
    assert account.static_model.threshold == pytest.approx(np.exp(19 / 8) / (np.exp(19 / 8) + 2), rel=1e-3)
    assert account.static_model.share == 11 / 20
    assert account.static_model.agreement == 19 / 20
    assert account.n_texts == 20
    assert account.static_model.file == STATIC_FILE
    assert account.static_model.bytes == (tmp_path / STATIC_FILE).stat().st_size


def test_held_out_texts_make_it_more_careful(static, tmp_path):
    said = []
    encoder = Encoder(lambda number: number % 3 if number >= 20 else (number + 1) % 3)
    held_out = ["18", "19", "30", "33"]  # more of those on which the two differ than among training texts
    account = add_cascade(companion(static, range(40)), tmp_path, encoder, held_out, 0.95, said.append)
    assert [attempt.agreement for attempt in account.attempts] == [0.5, 0.75, 1.0]
    assert account.static_model.agreement == 1.0
    assert account.static_model.share == 0.5
    assert len(said) == 2


def test_where_no_threshold_will_do_there_is_no_cascade(static, tmp_path):
    said = []
    encoder = Encoder(lambda number: (number + 1) % 3)
    account = add_cascade(companion(static, range(40)), tmp_path, encoder, ["39", "38"], 0.9, said.append)
    assert account.static_model is None
    assert account.attempts
    assert not (tmp_path / STATIC_FILE).exists()
    assert 1 <= len(said) <= len(CAUTION) + len(LEFT_TO_ENCODER)


def test_a_cascade_that_answers_nothing_is_none(static, tmp_path):
    encoder = Encoder(lambda number: number % 3 if number == 39 else (number + 1) % 3)
    account = add_cascade(companion(static, range(40)), tmp_path, encoder, ["1", "2"], 1.0)
    assert account.static_model is None
    assert {attempt.share for attempt in account.attempts} == {0.0}


@pytest.fixture
def bundled(static, tmp_path):
    """A bundle's folder with a cascade, set before an encoder of which the static student knows tokens from 20 on."""
    encoder = Encoder(lambda number: number % 3 if number >= 20 else (number + 1) % 3)
    account = add_cascade(companion(static, range(40)), tmp_path, encoder, [str(n) for n in range(20, 40)], 1.0)
    assert account.static_model.threshold == pytest.approx(np.exp(21 / 8) / (np.exp(21 / 8) + 2), rel=1e-3)
    return tmp_path, account


def test_a_threshold_that_still_holds_stays_and_is_measured_before_the_new_model(bundled):
    folder, account = bundled
    better = Encoder(lambda number: number % 3)  # now tokens below 20 would be right too, but the threshold is careful
    renewed = renew_cascade(
        account, folder, better, HEADS, [str(n) for n in range(10, 30)], [str(n) for n in range(40)]
    )
    assert renewed.static_model.threshold == account.static_model.threshold
    assert (renewed.static_model.agreement, renewed.static_model.share, renewed.n_texts) == (1.0, 0.5, 20)
    for name in ("file", "bytes", "width"):
        assert getattr(renewed.static_model, name) == getattr(account.static_model, name)
    assert renewed.agreement_asked == account.agreement_asked


def test_a_threshold_that_does_not_hold_any_more_rises(bundled):
    folder, account = bundled
    said = []
    worse = Encoder(lambda number: number % 3 if number >= 30 else (number + 1) % 3)
    texts = [str(n) for n in range(40)]
    renewed = renew_cascade(account, folder, worse, HEADS, texts, texts, said.append)
    # of the 20 texts above the old threshold half are left to the encoder: those of tokens from 30 on stay
    assert renewed.static_model.threshold == pytest.approx(np.exp(31 / 8) / (np.exp(31 / 8) + 2), rel=1e-3)
    assert (renewed.static_model.agreement, renewed.static_model.share) == (1.0, 10 / 40)
    assert len(said) == 1
    assert "asked: 100.00%" in said[0]


def test_a_cascade_that_cannot_be_kept_leaves_the_bundle(bundled):
    folder, account = bundled
    stranger = Encoder(lambda number: (number + 1) % 3)
    renewed = renew_cascade(account, folder, stranger, HEADS, [str(n) for n in range(30, 40)], ["35", "36", "37"])
    assert renewed.static_model is None
    # the encoder alone is never wrong: of ten texts none is left to it at first, then those below 36, then below 37
    assert [attempt.agreement for attempt in renewed.attempts] == pytest.approx([0.0, 0.6, 0.7])
    assert not (folder / STATIC_FILE).exists()


def test_texts_of_which_the_static_student_is_sure_of_none_add_no_threshold(bundled):
    folder, account = bundled
    encoder = Encoder(lambda number: number % 3)
    renewed = renew_cascade(account, folder, encoder, HEADS, ["1", "2"], ["3", "4"])
    assert [attempt.threshold for attempt in renewed.attempts] == [account.static_model.threshold]
    assert renewed.static_model is None
