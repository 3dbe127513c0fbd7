"""Making a cascade: a static student beside the encoder, and the threshold above which its answer stands.

The static student has to answer as the encoder does, so it is distilled from the encoder's answers and not from the
teachers' supervision: on the demo's texts it then agrees on 81 % of unseen ones rather than 74 %, and can answer 47 %
rather than 32 % of them at 99 % agreement.

A student is surer of texts that it was trained on than of others, and a threshold from those would be too low. So
the threshold is set by static students that were each trained on some of the texts and asked about the rest.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from amalgam_edge.building import stages
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.static_export import export_int8_static_student
from amalgam_edge.inference.predict import predict_texts
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.methods import weighted_divergence
from amalgam_edge.methods.supervision import from_targets
from amalgam_edge.metrics.accuracy import agreement
from amalgam_edge.metrics.uncertainty import softmax
from amalgam_edge.models.static_student import StaticStudent, static_student_from
from amalgam_edge.progress import Advance
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.runtime.bundle import STATIC_FILE
from amalgam_edge.runtime.cascade import CascadeModel, confidence, is_sure
from amalgam_edge.runtime.model_runner import ModelRunner
from amalgam_edge.runtime.text_model import STATIC_BATCH, TextModel, run_model
from amalgam_edge.training.fitting import SupervisedTexts, TrainingSettings, fit

FOLDS = 3
CARE = (1.0, 0.5, 0.25, 0.0)  # shares of the budget that training texts may use up; held-out texts decide
FEWER = (0.5, 0.75)  # then shares of the texts answered under the last of these that are left to the encoder
_MOST_TEXTS = 10_000  # that a threshold is set by

Say = Callable[[str], None]


@dataclass(frozen=True)
class Companion:
    """A static student that reads the encoder's tokens.

    Attributes:
        model: trained on all training texts.
        texts: training texts.
        logits: of each of them by a static student that was not trained on it, ``(n_texts, n_labels)``.
    """

    model: StaticStudent
    texts: list[str]
    logits: np.ndarray


def require_texts(texts: stages.Texts) -> None:
    """Refuse a corpus that is too small to be trained on in parts.

    Raises:
        AmalgamError: it has fewer training texts than a threshold takes.
    """
    if len(texts.train) < FOLDS:
        raise AmalgamError(
            f"--cascade: {len(texts.train)} training text(s) are too few to set a threshold by; give more"
        )


def n_updates(settings: TrainingSettings, n_texts: int) -> int:
    """How many updates :func:`train_companion` makes."""
    return sum(settings.n_updates(len(part)) for part, _ in _parts(n_texts))


def train_companion(
    student: stages.Student,
    texts: stages.Texts,
    labels: Sequence[str],
    recipe: Recipe,
    folder: Path,
    advance: Advance,
) -> Companion:
    """Train a static student beside a trained encoder, on what the encoder answers.

    Its table starts from what the encoder makes of each token, and has the encoder's vocabulary.

    Args:
        student: the encoder, trained; its tokenizer is shared.
        texts: the texts of the build.
        labels: the label space's names.
        recipe: of the build.
        folder: for checkpoints; it is thrown away.
        advance: told of updates.
    """
    untrained = static_student_from(
        student.model.base_model,
        student.tokenizer,
        labels,
        width=recipe.static_width,
        seed=recipe.seed,
        device=recipe.device,
    )
    settings = stages.training_settings(recipe, static=True)
    ids = stages.tokenize(texts.corpus, student.tokenizer).dataset.select(texts.train)["input_ids"]
    words = texts.corpus.take(texts.train)
    answered = from_targets(softmax(_logits(student.model, student.tokenizer, words, recipe.device).astype(np.float64)))
    asked = np.arange(min(len(words), _MOST_TEXTS))
    logits = np.empty((len(asked), len(labels)), dtype=np.float32)
    model = untrained
    for part, others in _parts(len(texts.train)):
        model = copy.deepcopy(untrained)
        shutil.rmtree(folder, ignore_errors=True)
        train = SupervisedTexts([ids[int(row)] for row in part], answered.take(part))
        fit(model, student.tokenizer, train, None, weighted_divergence, settings, folder, advance)
        rest = others[others < len(asked)]
        if len(rest):
            unseen = [words[int(row)] for row in rest]
            logits[rest] = _logits(model, student.tokenizer, unseen, "cpu")
    shutil.rmtree(folder, ignore_errors=True)
    return Companion(model, words[: len(asked)], logits)


def add_cascade(
    companion: Companion,
    folder: Path,
    encoder: TextModel,
    held_out: Sequence[str],
    asked: float,
    say: Say = lambda message: None,
) -> dict[str, Any]:
    """Put the static student into a bundle if the cascade keeps the agreement asked for; the manifest's ``cascade``.

    Args:
        companion: the static student.
        folder: the bundle.
        encoder: the one that ships, open.
        held_out: texts that neither was trained on.
        asked: the share of held-out texts that the cascade must answer as the encoder alone.
        say: told of each miss.
    """
    file = folder / STATIC_FILE
    export_int8_static_student(companion.model, file)
    agrees = companion.logits.argmax(axis=1) == encoder.run(companion.texts)[0].argmax(axis=1)
    thresholds = _thresholds(confidence(companion.logits), agrees, 1.0 - asked)
    return _set_threshold(file, companion.model.config.width, thresholds, encoder, held_out, asked, say)


def renew_cascade(
    cascade: Mapping[str, Any],
    folder: Path,
    encoder: TextModel,
    held_out: Sequence[str],
    texts: Sequence[str],
    say: Say = lambda message: None,
) -> dict[str, Any]:
    """Measure a bundle's cascade before another model of its encoder; the manifest's ``cascade``.

    The threshold was set by texts that the static student had not seen, and is not lowered. Where it does not keep the
    agreement any more, higher ones are tried; where these do not either, the static student leaves the bundle.

    Args:
        cascade: the manifest's account so far, of a cascade that is there.
        folder: the bundle.
        encoder: the model that ships now, open.
        held_out: texts that neither was trained on.
        texts: others, which tell what share of texts a threshold leaves to the encoder.
        say: told of each miss.
    """
    file = folder / cascade["file"]
    thresholds = _and_higher([float(cascade["threshold"])], confidence(_static_logits(file, encoder, texts)))
    return _set_threshold(file, cascade["width"], thresholds, encoder, held_out, cascade["agreement_asked"], say)


def _set_threshold(
    file: Path,
    width: int,
    thresholds: Sequence[float],
    encoder: TextModel,
    held_out: Sequence[str],
    asked: float,
    say: Say,
) -> dict[str, Any]:
    """Take the first threshold that keeps the agreement asked for; where none does, the static model's file goes."""
    expected = encoder.run(held_out)[0]
    static = _static_logits(file, encoder, held_out)
    attempts = []
    found = None
    for threshold in thresholds:
        answered = CascadeModel(encoder, file, threshold).run(held_out)[0]
        attempt = {
            "threshold": threshold,
            "agreement": agreement(expected, answered),
            "share": float(is_sure(static, threshold).mean()),
        }
        attempts.append(attempt)
        if attempt["agreement"] >= asked and attempt["share"] > 0:
            found = attempt
            break
        say(
            f"cascade above {threshold:.3f}: {attempt['agreement']:.2%} of labels are the encoder's own, "
            f"{attempt['share']:.1%} of texts answered; asked: {asked:.2%}"
        )
    if found is None:
        file.unlink()
    account = {"agreement_asked": asked, "n_texts": len(held_out), "attempts": attempts}
    return (
        account | {"file": None}
        if found is None
        else account | {"file": STATIC_FILE, "bytes": file.stat().st_size, "width": width, **found}
    )


def lowest_threshold(confidences: np.ndarray, agrees: np.ndarray, budget: float) -> float | None:
    """The lowest threshold at which the share of texts that are answered, and wrongly, is within the budget.

    Args:
        confidences: of the static student in its answer, ``(n_texts,)``.
        agrees: whether that is the encoder's answer, ``(n_texts,)`` of bool.
        budget: a share of all texts.

    Returns:
        One of the confidences; None where not even the highest will do.
    """
    order = np.argsort(-confidences, kind="stable")
    ordered = confidences[order]
    wrong = np.cumsum(~agrees[order])
    last_of_equals = np.append(ordered[1:] != ordered[:-1], True)
    within = np.flatnonzero(last_of_equals & (wrong <= budget * len(ordered) + 1e-9))
    return float(ordered[within[-1]]) if len(within) else None


def _thresholds(confidences: np.ndarray, agrees: np.ndarray, budget: float) -> list[float]:
    """Ever higher thresholds, each once: as training texts would have it, then for ever fewer texts."""
    found = [lowest_threshold(confidences, agrees, budget * care) for care in CARE]
    return _and_higher([threshold for threshold in found if threshold is not None], confidences)


def _and_higher(thresholds: Sequence[float], confidences: np.ndarray) -> list[float]:
    """The same, each once, and above the last of them those that leave more of the texts to the encoder."""
    sure = confidences[confidences >= thresholds[-1]] if thresholds else confidences[:0]
    higher = [float(np.quantile(sure, share, method="higher")) for share in FEWER if len(sure)]
    return list(dict.fromkeys([*thresholds, *higher]))


def _static_logits(file: Path, encoder: TextModel, texts: Sequence[str]) -> np.ndarray:
    """What a static model answers to texts as the encoder reads them, ``(n_texts, n_labels)``."""
    return run_model(ModelRunner(file), encoder.tokenize(texts), encoder.pad_token_id, STATIC_BATCH)


def _logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], device: str
) -> np.ndarray:
    logits = predict_texts(
        TorchRunner(model, sites=(), device=device), tokenizer, texts, max_length=tokenizer.model_max_length
    )
    model.to("cpu")
    return logits


def _parts(n_texts: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows to train on and rows to ask about: each row is asked about once; at last all to train on, none to ask."""
    rows = np.arange(n_texts)
    for fold in range(FOLDS):
        yield rows[rows % FOLDS != fold], rows[rows % FOLDS == fold]
    yield rows, rows[:0]
