"""Making a cascade: a static student in front of the encoder, and the confidence above which its answer is taken.

The static student has to answer as the encoder does, so it is distilled from the encoder's answers and not from the
teachers' supervision. On the demo's corpus it then agrees on 81 % of unseen texts rather than 74 %, and can answer 47 %
of them rather than 32 % at 99 % agreement.

A student is more confident on texts that it was trained on, so a threshold set on those would be too low. The threshold
is therefore set out of fold: static students are each trained on some of the texts and answer the rest.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from amalgam_edge.building.data import BuildTexts, Student
from amalgam_edge.building.inputs import tokenize
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.static_export import export_int8_static_student
from amalgam_edge.heads import Heads
from amalgam_edge.inference.predict import predict_texts
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.methods.losses import divergence_of, sum_over_heads, weighted_divergence
from amalgam_edge.methods.supervision import from_targets
from amalgam_edge.models.static_student import StaticStudent, static_student_from
from amalgam_edge.progress import Advance, Say
from amalgam_edge.recipe.sections import STATIC_LEARNING_RATE, CascadeSettings, TrainingSettings
from amalgam_edge.runtime.bundle import STATIC_FILE
from amalgam_edge.runtime.cascade import CascadeModel, confidence, is_sure
from amalgam_edge.runtime.manifest_models import Cascade, CascadeAttempt, StaticModel
from amalgam_edge.runtime.model_runner import ModelRunner
from amalgam_edge.runtime.text_model import STATIC_BATCH, TextModel, run_model
from amalgam_edge.storage.own_files import FileContent
from amalgam_edge.training.fitting import fit
from amalgam_edge.training.supervised_texts import SupervisedTexts
from amalgam_edge.training.trainers import LossFunction

FOLDS = 3
# Shares of the allowed disagreement that out-of-fold texts may use up, tried in order; held-out texts decide.
CAUTION = (1.0, 0.5, 0.25, 0.0)
# Then, of the texts answered under the last of these thresholds, the shares that are left to the encoder.
LEFT_TO_ENCODER = (0.5, 0.75)
_MAX_THRESHOLD_TEXTS = 10_000  # texts from which a threshold is set


@dataclass(frozen=True)
class CascadeStudent:
    """A static student that reads the encoder's tokens.

    Attributes:
        model: The student, trained on all training texts.
        texts: Training texts from which the threshold is set.
        logits: Out-of-fold logits for these texts, by static students not trained on them, ``(n_texts, n_labels)``.
        heads: The heads that it answers.
    """

    model: StaticStudent
    texts: list[str]
    logits: np.ndarray
    heads: Heads


def require_texts(texts: BuildTexts) -> None:
    """Refuse a corpus that is too small to be trained on in folds.

    Raises:
        AmalgamError: It has fewer training texts than there are folds.
    """
    if len(texts.train) < FOLDS:
        raise AmalgamError(
            f"--cascade: {len(texts.train)} training text(s) are too few to set a threshold by; give more"
        )


def n_updates(settings: TrainingSettings, n_texts: int) -> int:
    """Number of updates that :func:`train_cascade_student` makes."""
    return sum(settings.n_updates(len(train)) for train, _ in _folds(n_texts))


def train_cascade_student(
    encoder: Student,
    texts: BuildTexts,
    heads: Heads,
    cascade: CascadeSettings,
    training: TrainingSettings,
    folder: Path,
    advance: Advance,
) -> CascadeStudent:
    """Train a static student on the answers of a trained encoder.

    Its token vectors start from the encoder's, and it has the encoder's vocabulary.

    Args:
        encoder: The trained encoder; the tokenizer is shared.
        texts: The texts of the build.
        heads: The heads that the encoder answers.
        cascade: Settings of the static student.
        training: Settings of the training loop; its learning rate is that of the encoder and not used here.
        folder: Folder of checkpoints; it is deleted afterwards.
        advance: Called with the number of updates just made.
    """
    untrained = static_student_from(
        encoder.model.base_model,
        encoder.tokenizer,
        heads.labels,
        width=cascade.width,
        seed=cascade.seed,
        device=cascade.device,
    )
    settings = replace(training, learning_rate=STATIC_LEARNING_RATE)
    input_ids = tokenize(texts.corpus, encoder.tokenizer).dataset.select(texts.train)["input_ids"]
    train_texts = texts.corpus.take(texts.train)
    encoder_logits = _logits(encoder.model, encoder.tokenizer, train_texts, cascade.device)
    supervision = from_targets(heads.probabilities(encoder_logits))
    n_answered = min(len(train_texts), _MAX_THRESHOLD_TEXTS)
    logits = np.empty((n_answered, len(heads.labels)), dtype=np.float32)
    model = untrained
    for train_rows, other_rows in _folds(len(texts.train)):
        model = copy.deepcopy(untrained)
        shutil.rmtree(folder, ignore_errors=True)
        train = SupervisedTexts([input_ids[int(row)] for row in train_rows], supervision.take(train_rows))
        fit(model, encoder.tokenizer, train, None, _loss_of(heads), settings, folder, advance)
        unseen = other_rows[other_rows < n_answered]
        if len(unseen):
            logits[unseen] = _logits(model, encoder.tokenizer, [train_texts[int(row)] for row in unseen], "cpu")
    shutil.rmtree(folder, ignore_errors=True)
    return CascadeStudent(model, train_texts[:n_answered], logits, heads)


def _loss_of(heads: Heads) -> LossFunction:
    """The divergence from the encoder's answers, summed over heads."""
    return weighted_divergence if heads.is_one_softmax else sum_over_heads(heads, [divergence_of(h) for h in heads])


def add_cascade(
    student: CascadeStudent,
    folder: Path,
    encoder: TextModel,
    held_out: Sequence[str],
    min_agreement: float,
    say: Say = lambda message: None,
) -> Cascade:
    """Put the static student into a bundle, if some threshold keeps the agreement; the manifest's account of it.

    Args:
        student: The static student.
        folder: Folder of the bundle.
        encoder: The encoder's model that ships, opened.
        held_out: Texts that neither was trained on.
        min_agreement: Share of held-out texts on which the cascade must give the encoder's own label.
        say: Shows a line for each threshold that fails.
    """
    file = folder / STATIC_FILE
    heads = student.heads
    export_int8_static_student(student.model, file, heads)
    agrees = np.all(heads.same_answers(encoder.run(student.texts)[0], student.logits), axis=1)
    thresholds = _thresholds(confidence(student.logits, heads), agrees, 1.0 - min_agreement)
    return _set_threshold(file, student.model.config.width, thresholds, encoder, heads, held_out, min_agreement, say)


def renew_cascade(
    cascade: Cascade,
    folder: Path,
    encoder: TextModel,
    heads: Heads,
    held_out: Sequence[str],
    texts: Sequence[str],
    say: Say = lambda message: None,
) -> Cascade:
    """Measure a bundle's cascade in front of another model of its encoder; the manifest's account of it.

    The threshold was set by texts that the static student had not seen, and is not lowered. If it does not keep the
    agreement any more, higher ones are tried; if none of them does, the static student leaves the bundle.

    Args:
        cascade: The manifest's account so far, with a static model.
        folder: Folder of the bundle.
        encoder: The encoder's model that ships now, opened.
        heads: The heads that it answers.
        held_out: Texts that neither was trained on.
        texts: Other texts, which show what share of texts a threshold leaves to the encoder.
        say: Shows a line for each threshold that fails.
    """
    static = cascade.static_model
    assert static is not None  # noqa: S101  (the caller has checked)
    file = folder / static.file
    logits = _static_logits(FileContent.read(file), encoder, texts)
    thresholds = _with_higher([static.threshold], confidence(logits, heads))
    return _set_threshold(file, static.width, thresholds, encoder, heads, held_out, cascade.agreement_asked, say)


def _set_threshold(
    file: Path,
    width: int,
    thresholds: Sequence[float],
    encoder: TextModel,
    heads: Heads,
    held_out: Sequence[str],
    min_agreement: float,
    say: Say,
) -> Cascade:
    """Take the first threshold that keeps the agreement; if none does, the static model's file is deleted."""
    encoder_logits = encoder.run(held_out)[0]
    content = FileContent.read(file)
    static_logits = _static_logits(content, encoder, held_out)
    attempts = []
    found = None
    for threshold in thresholds:
        cascade_logits = CascadeModel(encoder, content, threshold, heads).run(held_out)[0]
        share = float(is_sure(static_logits, threshold, heads).mean())
        same = heads.same_answers(encoder_logits, cascade_logits).all(axis=1)
        attempt = CascadeAttempt(threshold, float(same.mean()), share)
        attempts.append(attempt)
        if attempt.agreement >= min_agreement and attempt.share > 0:
            found = StaticModel(STATIC_FILE, file.stat().st_size, width, **vars(attempt))
            break
        say(
            f"cascade above {threshold:.3f}: {attempt.agreement:.2%} of labels are the encoder's own, "
            f"{attempt.share:.1%} of texts answered; asked: {min_agreement:.2%}"
        )
    if found is None:
        file.unlink()
    return Cascade(min_agreement, len(held_out), tuple(attempts), found)


def lowest_threshold(confidences: np.ndarray, agrees: np.ndarray, max_disagreement: float) -> float | None:
    """The lowest threshold at which few enough texts are answered with another label than the encoder's.

    Args:
        confidences: Confidence of the static student in its answer, ``(n_texts,)``.
        agrees: Whether that answer is the encoder's, ``(n_texts,)`` of bool.
        max_disagreement: Largest share of all texts that may be answered with another label.

    Returns:
        One of the confidences; None if not even the highest will do.
    """
    order = np.argsort(-confidences, kind="stable")
    ordered = confidences[order]
    n_wrong = np.cumsum(~agrees[order])
    last_of_equals = np.append(ordered[1:] != ordered[:-1], True)
    within = np.flatnonzero(last_of_equals & (n_wrong <= max_disagreement * len(ordered) + 1e-9))
    return float(ordered[within[-1]]) if len(within) else None


def _thresholds(confidences: np.ndarray, agrees: np.ndarray, max_disagreement: float) -> list[float]:
    """Rising thresholds, each once: those that out-of-fold texts allow, then those for fewer texts."""
    found = [lowest_threshold(confidences, agrees, max_disagreement * share) for share in CAUTION]
    return _with_higher([threshold for threshold in found if threshold is not None], confidences)


def _with_higher(thresholds: Sequence[float], confidences: np.ndarray) -> list[float]:
    """The thresholds, each once, followed by higher ones that leave more of the texts to the encoder."""
    sure = confidences[confidences >= thresholds[-1]] if thresholds else confidences[:0]
    higher = [float(np.quantile(sure, share, method="higher")) for share in LEFT_TO_ENCODER if len(sure)]
    return list(dict.fromkeys([*thresholds, *higher]))


def _static_logits(model: FileContent, encoder: TextModel, texts: Sequence[str]) -> np.ndarray:
    """Logits of a static model for texts in the encoder's tokens, ``(n_texts, n_labels)``."""
    return run_model(ModelRunner(model), encoder.tokenize(texts), encoder.pad_token_id, STATIC_BATCH)


def _logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], device: str
) -> np.ndarray:
    logits = predict_texts(
        TorchRunner(model, sites=(), device=device), tokenizer, texts, max_length=tokenizer.model_max_length
    )
    model.to("cpu")
    return logits


def _folds(n_texts: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows to train on and rows to answer: each row is answered once; at last all rows to train on, none to answer."""
    rows = np.arange(n_texts)
    for fold in range(FOLDS):
        yield rows[rows % FOLDS != fold], rows[rows % FOLDS == fold]
    yield rows, rows[:0]
