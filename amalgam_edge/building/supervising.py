"""From scores to what the student is trained on: supervision, and what else the method reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from amalgam_edge.building.inputs import student_checkpoint
from amalgam_edge.corpus import Corpus
from amalgam_edge.heads import SOFTMAX
from amalgam_edge.methods import Method, MethodInputs, TeacherSignals, method_named
from amalgam_edge.methods.hints import Hints
from amalgam_edge.methods.supervision import Supervision, join
from amalgam_edge.methods.taught_heads import TaughtHead, TaughtHeads, scores_of
from amalgam_edge.models.loading import load_config, load_encoder
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.progress import Advance
from amalgam_edge.recipe.sections import MethodSettings, StudentSettings
from amalgam_edge.scoring.features import FEATURES, feature_key, store_features
from amalgam_edge.scoring.hidden_states import HiddenStates, HiddenStore, hidden_key, store_hidden
from amalgam_edge.scoring.scores import TeacherScores


def supervise(
    settings: MethodSettings,
    heads: TaughtHeads,
    scores: Sequence[TeacherScores],
    features: np.ndarray | None = None,
    hints: Mapping[str, Hints] | None = None,
) -> Supervision:
    """What the method makes of the teachers' scores, for each head by its own teachers.

    Args:
        settings: The method and its parameters.
        heads: The heads.
        scores: Scores of each teacher.
        features: Vectors of the student's encoder, ``(n_texts, width)``, where the method reads them.
        hints: Head → what is known of some texts; heads of which nothing is known may be left out.
    """
    method, hints = method_named(settings.name), hints or {}
    return join(
        [
            _supervise_head(
                method,
                settings,
                taught,
                MethodInputs(scores_of(taught, scores), taught.labels, features, hints.get(taught.head.name)),
            )
            for taught in heads
        ]
    )


def _supervise_head(method: Method, settings: MethodSettings, taught: TaughtHead, inputs: MethodInputs) -> Supervision:
    exclusive = taught.head.activation == SOFTMAX
    supervise_one = method.supervise if exclusive else method.supervise_labels
    assert supervise_one is not None  # noqa: S101  (require_heads has checked)
    made = supervise_one(inputs, settings)
    return made if inputs.hints is None else inputs.hints.apply(made, taught.labels.knowledge, exclusive=exclusive)


def student_features(
    settings: StudentSettings,
    teachers: Sequence[Teacher],
    corpus: Corpus,
    work_folder: Path,
    batch_tokens: int,
    advance: Advance,
) -> np.ndarray:
    """Vectors that the student's encoder, with all its layers, gives to texts before any training.

    They are kept in the work folder; only what is missing there is computed.

    Returns:
        ``(n_texts, width)``.
    """
    checkpoint = student_checkpoint(settings, teachers)
    encoder, tokenizer = load_encoder(checkpoint, load_config(checkpoint), settings.max_length)
    key = feature_key(encoder, tokenizer, corpus)
    store = HiddenStore(work_folder / FEATURES / key.fingerprint[:12], key)
    store_features(encoder, tokenizer, store, corpus, advance, device=settings.device, batch_tokens=batch_tokens)
    return store.read().array()


def hidden_states(
    teachers: Sequence[Teacher], corpus: Corpus, work_folder: Path, device: str, batch_tokens: int, advance: Advance
) -> tuple[HiddenStates, ...]:
    """Hidden states of each teacher, kept in the work folder; only what is missing there is computed."""
    stores = []
    for teacher in teachers:
        key = hidden_key(teacher, corpus)
        stores.append(HiddenStore(work_folder / "hidden" / f"{key.teacher}-{key.fingerprint[:12]}", key))
        store_hidden(teacher, stores[-1], corpus, advance, device=device, batch_tokens=batch_tokens)
    return tuple(store.read() for store in stores)


def teacher_signals(
    method: Method, scores: Sequence[TeacherScores], hidden: Sequence[HiddenStates] = ()
) -> TeacherSignals:
    """What the method's objective may read of each teacher; nothing, where the method has a plain loss."""
    if method.objective is None:
        return TeacherSignals()
    return TeacherSignals(tuple(teacher.logits for teacher in scores), tuple(hidden))
