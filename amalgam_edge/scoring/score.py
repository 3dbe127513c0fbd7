"""Scoring a corpus with one teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from amalgam_edge.corpus import Corpus
from amalgam_edge.dropout import Masks
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.progress import Advance
from amalgam_edge.scores import TeacherScores
from amalgam_edge.scoring.batches import batches_by_length
from amalgam_edge.scoring.runner import DROPOUT_OFF, TeacherRunner, prove_dropout_alive
from amalgam_edge.scoring.store import ScoreKey, ScoreStore
from amalgam_edge.scoring.torch_runner import TorchRunner

_PROBE_TEXTS = 4


@dataclass(frozen=True)
class ScoringSettings:
    """What a text's score depends on besides the teacher and the text, and how the work is cut.

    Attributes:
        passes: K.
        seed: of the masks.
        masks: ``systematic`` or ``independent``.
        dropout: the probability put where a teacher has zero; None for none.
        batch_size: texts that run together; scores do not depend on it.
        device: to run on; scores do not depend on it.
    """

    passes: int = 16
    seed: int = 0
    masks: Masks = "systematic"
    dropout: float | None = None
    batch_size: int = 64
    device: str = "auto"


def score_store(root: Path, teacher: Teacher, corpus: Corpus, settings: ScoringSettings) -> ScoreStore:
    """Where the scores of a teacher over a corpus are, or will be."""
    key = ScoreKey(
        teacher=teacher.name,
        teacher_fingerprint=teacher.fingerprint,
        corpus_fingerprint=corpus.fingerprint,
        n_texts=len(corpus),
        settings={
            "passes": settings.passes,
            "seed": settings.seed,
            "masks": settings.masks,
            "dropout": settings.dropout,
            "max_length": teacher.max_length,
        },
    )
    return ScoreStore(root, key)


def score_corpus(
    teacher: Teacher, corpus: Corpus, settings: ScoringSettings, store: ScoreStore, advance: Advance
) -> TeacherScores:
    """Score what the store lacks, shard by shard, and return all of it.

    Raises:
        AmalgamError: the teacher's dropout is dead, or the store is another run's.
    """
    store.open()
    missing = store.missing()
    advance(len(corpus) - sum(len(store.rows(shard)) for shard in missing))
    if missing:
        runner = TorchRunner(
            teacher.model, seed=settings.seed, passes=settings.passes, masks=settings.masks, device=settings.device
        )
        _probe(teacher, runner, corpus.texts[:_PROBE_TEXTS])
        for shard in missing:
            rows = store.rows(shard)
            texts = corpus.texts[rows.start : rows.stop]
            store.write(shard, score_texts(teacher, runner, texts, settings, advance))
    return store.read()


def score_texts(
    teacher: Teacher, runner: TeacherRunner, texts: Sequence[str], settings: ScoringSettings, advance: Advance
) -> TeacherScores:
    """Score some texts, in batches by length; rows come back in the order of ``texts``."""
    logits = np.empty((len(texts), runner.n_classes), dtype=np.float32)
    pass_logits = np.empty((settings.passes, len(texts), runner.n_classes), dtype=np.float32)
    passes = [DROPOUT_OFF, *range(settings.passes)]
    for batch in batches_by_length(
        texts, teacher.tokenizer, max_length=teacher.max_length, batch_size=settings.batch_size
    ):
        answered = runner.run(batch.input_ids, batch.attention_mask, passes)
        logits[batch.rows] = answered[0]
        pass_logits[:, batch.rows] = answered[1:]
        advance(len(batch.rows))
    return TeacherScores.from_logits(teacher.name, logits, pass_logits)


def predict_texts(
    runner: TeacherRunner, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int, batch_size: int
) -> np.ndarray:
    """Logits with dropout off, ``(n_texts, n_classes)``, in the order of ``texts``."""
    logits = np.empty((len(texts), runner.n_classes), dtype=np.float32)
    for batch in batches_by_length(texts, tokenizer, max_length=max_length, batch_size=batch_size):
        logits[batch.rows] = runner.run(batch.input_ids, batch.attention_mask, [DROPOUT_OFF])[0]
    return logits


def _probe(teacher: Teacher, runner: TeacherRunner, texts: Sequence[str]) -> None:
    batch = next(batches_by_length(texts, teacher.tokenizer, max_length=teacher.max_length, batch_size=_PROBE_TEXTS))
    prove_dropout_alive(teacher.name, runner, batch.input_ids, batch.attention_mask)
