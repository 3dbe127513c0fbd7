"""Scoring a corpus with its teachers: a fixed number of passes each, or as many as the choice between them takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from amalgam_edge.corpus import Corpus
from amalgam_edge.dropout.masks import DROPOUT_OFF, Masks
from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.inference.batches import batches_by_length, encode
from amalgam_edge.inference.runner import DropoutRunner, prove_dropout_alive
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.progress import Advance
from amalgam_edge.scoring.adaptive import FIRST_PASSES, ROUND, next_passes
from amalgam_edge.scoring.isolation import score_isolating
from amalgam_edge.scoring.scores import Failure, TeacherScores
from amalgam_edge.scoring.store import ScoreKey, ScoreStore

Passes = int | Literal["auto"]
Precision = Literal["fp32", "fp16"]
OpenRunner = Callable[[Teacher], DropoutRunner]
Answer = tuple[TeacherScores, dict[int, str]]  # one teacher's scores, and the rows that it could not score: why

PROBE_TEXTS = 4


@dataclass(frozen=True)
class ScoringSettings:
    """What a text's score depends on besides the teacher and the text, and how the work is cut.

    Attributes:
        passes: of each text; ``auto`` spends them where the choice between teachers is open, up to ``max_passes``.
        max_passes: the cap of ``auto``.
        seed: of the masks.
        masks: ``systematic`` or ``independent``.
        dropout: the probability put where a teacher has zero; None for none.
        precision: ``fp32``, or ``fp16`` on a GPU.
        batch_tokens: tokens that run together; scores do not depend on it.
    """

    passes: Passes = 10
    max_passes: int = 10
    seed: int = 0
    masks: Masks = "systematic"
    dropout: float | None = None
    precision: Precision = "fp32"
    batch_tokens: int = 1024

    @property
    def most_passes(self) -> int:
        """More than which no text gets."""
        return self.max_passes if self.passes == "auto" else self.passes

    @property
    def balanced_over(self) -> int:
        """The passes of a round, over which systematic masks are balanced."""
        return min(self.most_passes, ROUND)


def score_key(teacher: Teacher, teachers: Sequence[Teacher], corpus: Corpus, settings: ScoringSettings) -> ScoreKey:
    """What the scores of a teacher depend on: with an adaptive budget, on the other teachers too."""
    budget: dict[str, object] = {"passes": settings.passes}
    if settings.passes == "auto":
        budget |= {"max_passes": settings.max_passes, "teachers": [other.fingerprint for other in teachers]}
    return ScoreKey(
        teacher=teacher.name,
        teacher_fingerprint=teacher.fingerprint,
        corpus_fingerprint=corpus.fingerprint,
        n_texts=len(corpus),
        settings={
            **budget,
            "seed": settings.seed,
            "masks": settings.masks,
            "dropout": settings.dropout,
            "precision": settings.precision,
            "max_length": teacher.max_length,
        },
    )


def score_corpus(
    teachers: Sequence[Teacher],
    stores: Sequence[ScoreStore],
    corpus: Corpus,
    settings: ScoringSettings,
    open_runner: OpenRunner,
    advance: Advance,
) -> None:
    """Score what the stores lack, shard by shard; with an adaptive budget the teachers must be given together.

    A text over which a teacher raises is recorded as a failure, and the rest goes on.

    Raises:
        AmalgamError: a teacher's dropout is dead, it scores none of a shard's texts, or a store is another run's or
            cannot be written to.
    """
    missing = open_stores(stores, advance)
    if not missing:
        return
    runners = open_runners(teachers, open_runner, corpus.texts[:PROBE_TEXTS])
    for shard in missing:
        rows = stores[0].rows(shard)
        texts = corpus.texts[rows.start : rows.stop]
        told = score_what_can_be(teachers, runners, texts, settings, advance)
        for store, answer in zip(stores, told, strict=True):
            write_answer(store, shard, answer)


def open_stores(stores: Sequence[ScoreStore], advance: Advance) -> list[int]:
    """Open stores of teachers over one corpus; ``advance`` is told of what they all hold, once for each.

    Returns:
        The shards that one of them lacks, in order.

    Raises:
        AmalgamError: a store is another run's, is damaged, or cannot be written to.
    """
    for store in stores:
        store.open()
    missing = sorted({shard for store in stores for shard in store.missing()})
    advance(len(stores) * (stores[0].key.n_texts - sum(len(stores[0].rows(shard)) for shard in missing)))
    return missing


def write_answer(store: ScoreStore, shard: int, answer: Answer) -> None:
    """Add what a teacher said of a shard's texts to its store, and why it said nothing of some.

    Raises:
        AmalgamError: there is no room, or no right, to write it.
    """
    scores, failures = answer
    first = store.rows(shard).start
    store.write(shard, scores, [Failure(text=first + row, error=why) for row, why in failures.items()])


def score_what_can_be(
    teachers: Sequence[Teacher],
    runners: Sequence[DropoutRunner],
    texts: Sequence[str],
    settings: ScoringSettings,
    advance: Advance,
) -> list[Answer]:
    """Score some texts with each teacher, and leave those blank over which one raises: why, by their rows.

    ``advance`` is told of each text once for each teacher.

    Raises:
        AmalgamError: a teacher scores none of several texts.
    """
    left = len(texts) * len(teachers)

    def count(n_texts: int) -> None:
        nonlocal left
        n_texts = min(n_texts, left)  # texts that run again, in smaller parts, have been told of
        left -= n_texts
        advance(n_texts)

    def score(positions: Sequence[int], some: Sequence[str]) -> list[TeacherScores]:
        return score_texts(
            [teachers[position] for position in positions],
            [runners[position] for position in positions],
            some,
            settings,
            count,
        )

    blanks = [
        TeacherScores.blank(teacher.name, runner.n_classes) for teacher, runner in zip(teachers, runners, strict=True)
    ]
    told = score_isolating(score, texts, blanks)
    count(left)
    return [(each.scores, each.failures) for each in told]


class Opened(NamedTuple):
    """Teachers that are ready to be scored with."""

    teachers: Sequence[Teacher]
    runners: Sequence[DropoutRunner]
    settings: ScoringSettings
    backend: str  # that runs them, in words


def open_runners(teachers: Sequence[Teacher], open_runner: OpenRunner, texts: Sequence[str]) -> list[DropoutRunner]:
    """Make teachers ready, and prove on some texts that their dropout is alive.

    Raises:
        AmalgamError: a teacher's dropout is dead.
    """
    runners = [open_runner(teacher) for teacher in teachers]
    for teacher, runner in zip(teachers, runners, strict=True):
        _probe(teacher, runner, texts)
    return runners


def score_texts(
    teachers: Sequence[Teacher],
    runners: Sequence[DropoutRunner],
    texts: Sequence[str],
    settings: ScoringSettings,
    advance: Advance,
) -> list[TeacherScores]:
    """Score some texts with each teacher; rows come back in the order of ``texts``.

    ``advance`` is told of each text once for each teacher.
    """
    sheets = [
        _Sheet(teacher, runner, texts, settings, advance) for teacher, runner in zip(teachers, runners, strict=True)
    ]
    first = FIRST_PASSES if settings.passes == "auto" else settings.passes
    wanted = np.full((len(sheets), len(texts)), min(first, settings.most_passes))
    while any((sheet.passes < counts).any() for sheet, counts in zip(sheets, wanted, strict=True)):
        for sheet, counts in zip(sheets, wanted, strict=True):
            sheet.run_to(counts)
        if settings.passes == "auto":
            wanted = next_passes([sheet.pass_logits for sheet in sheets], wanted, settings.max_passes)
    return [sheet.scores() for sheet in sheets]


class _Sheet:
    """One teacher's answers to some texts, filled in pass by pass."""

    def __init__(
        self,
        teacher: Teacher,
        runner: DropoutRunner,
        texts: Sequence[str],
        settings: ScoringSettings,
        advance: Advance,
    ) -> None:
        self._teacher = teacher
        self._runner = runner
        self._encoded = encode(texts, teacher.tokenizer, teacher.max_length)
        self._batch_tokens = settings.batch_tokens
        self._advance = advance
        self.passes = np.zeros(len(texts), dtype=np.int64)
        self._logits = np.zeros((len(texts), runner.n_classes), dtype=np.float32)
        self.pass_logits = np.zeros((settings.most_passes, *self._logits.shape), dtype=np.float32)

    def run_to(self, counts: np.ndarray) -> None:
        """Run each text through the passes that it lacks up to ``counts``, ``(n_texts,)``."""
        work = np.stack([self.passes, counts])
        for had, wanted in np.unique(work[:, counts > self.passes], axis=1).T:
            self._run(np.flatnonzero((work == [[had], [wanted]]).all(axis=0)), int(had), int(wanted))
        self.passes = np.maximum(self.passes, counts)

    def scores(self) -> TeacherScores:
        """What the passes so far come to."""
        return TeacherScores.from_logits(self._teacher.name, self._logits, self.pass_logits, self.passes)

    def _run(self, rows: np.ndarray, first: int, end: int) -> None:
        numbers = [*range(first, end), *([DROPOUT_OFF] if first == 0 else [])]
        pad = self._teacher.tokenizer.pad_token_id
        for batch in batches_by_length(self._encoded, pad_token_id=pad, batch_tokens=self._batch_tokens, rows=rows):
            answered = self._runner.run(batch.input_ids, batch.attention_mask, numbers)
            self.pass_logits[first:end, batch.rows] = answered[: end - first]
            if first == 0:
                self._logits[batch.rows] = answered[-1]
                self._advance(len(batch.rows))


def _probe(teacher: Teacher, runner: DropoutRunner, texts: Sequence[str]) -> None:
    """Prove a teacher's dropout alive on some texts; where one of them cannot be run, on another of them alone."""
    for probed in (texts, *([text] for text in texts)):
        try:
            encoded = encode(probed, teacher.tokenizer, teacher.max_length)
            batch = next(batches_by_length(encoded, pad_token_id=teacher.tokenizer.pad_token_id, batch_tokens=1 << 20))
            return prove_dropout_alive(teacher.name, runner, batch.input_ids, batch.attention_mask)
        except AmalgamError:
            raise
        except Exception as error:  # whatever a model, a tokenizer or a runtime raises over a text
            raised = error
    raise AmalgamError(f"teacher '{teacher.name}': cannot be run ({type(raised).__name__}: {first_line(raised)})")
