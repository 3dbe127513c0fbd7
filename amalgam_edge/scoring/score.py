"""Scoring texts with teachers: a fixed number of dropout passes, or as many as telling the teachers apart takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from amalgam_edge.corpus import Corpus
from amalgam_edge.dropout.masks import DROPOUT_OFF
from amalgam_edge.errors import PROCESS_ENDING, AmalgamError, first_line
from amalgam_edge.inference.batches import CPU_BATCH_TOKENS, batches_by_length, encode
from amalgam_edge.inference.runner import DropoutRunner, prove_dropout_alive
from amalgam_edge.metrics.uncertainty import SOFTMAX
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.progress import Advance
from amalgam_edge.recipe.sections import ScoringSettings
from amalgam_edge.scoring.adaptive_passes import FIRST_PASSES, next_passes
from amalgam_edge.scoring.isolation import IsolatedScores, isolate_failures
from amalgam_edge.scoring.scores import Failure, TeacherScores
from amalgam_edge.scoring.scores_manifest import ACTIVATION
from amalgam_edge.scoring.store import ScoreKey, ScoreStore

OpenRunner = Callable[[Teacher], DropoutRunner]

PROBE_TEXTS = 4  # texts on which a teacher's dropout is checked before anything is scored
_PROBE_BATCH_TOKENS = 1 << 20  # all probe texts in one batch


def score_key(teacher: Teacher, teachers: Sequence[Teacher], corpus: Corpus, settings: ScoringSettings) -> ScoreKey:
    """What the scores of a teacher depend on; with ``passes="auto"`` this includes the other teachers."""
    passes: dict[str, object] = {"passes": settings.passes}
    if settings.passes == "auto":
        compared = [other.fingerprint for other in teachers if other.head == teacher.head]
        passes |= {"max_passes": settings.max_passes, "teachers": compared}
    if teacher.activation != SOFTMAX:
        passes |= {ACTIVATION: teacher.activation}
    return ScoreKey(
        teacher=teacher.name,
        teacher_fingerprint=teacher.fingerprint,
        corpus_fingerprint=corpus.fingerprint,
        n_texts=len(corpus),
        settings={
            **passes,
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
    """Score the shards that the stores lack, one by one.

    A text over which a teacher raises is recorded as a failure, and the rest goes on.

    Args:
        teachers: The teachers; with ``passes="auto"`` all of them, since they are compared.
        stores: The store of each teacher's scores.
        corpus: The texts.
        settings: What scores depend on.
        open_runner: Makes a teacher ready to run.
        advance: Is called with numbers of finished texts; each text counts once for each teacher.

    Raises:
        AmalgamError: A teacher's dropout is off, it can score none of a shard's texts, or a store belongs to another
            run or cannot be written to.
    """
    missing = open_stores(stores, advance)
    if not missing:
        return
    runners = open_runners(teachers, open_runner, corpus.texts[:PROBE_TEXTS])
    for shard in missing:
        rows = stores[0].rows(shard)
        texts = corpus.texts[rows.start : rows.stop]
        scored = score_isolating_failures(teachers, runners, texts, settings, advance)
        for store, isolated in zip(stores, scored, strict=True):
            write_scores(store, shard, isolated)


def open_stores(stores: Sequence[ScoreStore], advance: Advance) -> list[int]:
    """Open the stores of several teachers over one corpus, and find out which shards are missing.

    Args:
        stores: The store of each teacher.
        advance: Is called with the number of texts in the shards that all stores hold, counted once for each teacher.

    Returns:
        The numbers of the shards that at least one store lacks, ascending.

    Raises:
        AmalgamError: A store belongs to another run, is damaged, or cannot be written to.
    """
    for store in stores:
        store.open()
    missing = sorted({shard for store in stores for shard in store.missing()})
    advance(len(stores) * (stores[0].key.n_texts - sum(len(stores[0].rows(shard)) for shard in missing)))
    return missing


def write_scores(store: ScoreStore, shard: int, isolated: IsolatedScores) -> None:
    """Add a shard of scores to a teacher's store, and record the texts that could not be scored.

    Raises:
        AmalgamError: The disk is full, or writing is not permitted.
    """
    first = store.rows(shard).start
    failures = [Failure(text=first + row, error=reason) for row, reason in isolated.failures.items()]
    store.write(shard, isolated.scores, failures)


def score_isolating_failures(
    teachers: Sequence[Teacher],
    runners: Sequence[DropoutRunner],
    texts: Sequence[str],
    settings: ScoringSettings,
    advance: Advance,
) -> list[IsolatedScores]:
    """Score some texts with each teacher, and isolate those over which one raises.

    Args:
        teachers: The teachers.
        runners: What runs each of them.
        texts: The texts.
        settings: What scores depend on.
        advance: Is called with numbers of finished texts; each text counts once for each teacher.

    Raises:
        AmalgamError: A teacher can score none of several texts.
    """
    uncounted = len(texts) * len(teachers)

    def count(n_texts: int) -> None:
        nonlocal uncounted
        n_texts = min(n_texts, uncounted)  # texts that run again, in smaller parts, have been counted
        uncounted -= n_texts
        advance(n_texts)

    def score(positions: Sequence[int], part: Sequence[str]) -> list[TeacherScores]:
        return score_texts(
            [teachers[position] for position in positions],
            [runners[position] for position in positions],
            part,
            settings,
            count,
        )

    blanks = [
        TeacherScores.blank(teacher.name, runner.n_classes, activation=teacher.activation)
        for teacher, runner in zip(teachers, runners, strict=True)
    ]
    isolated = isolate_failures(score, texts, blanks)
    count(uncounted)
    return isolated


class ReadyTeachers(NamedTuple):
    """Teachers that are ready to score texts.

    Attributes:
        teachers: The teachers.
        runners: What runs each of them.
        settings: What scores depend on.
        backend: What the runners run on, such as ``torch on cpu``.
    """

    teachers: Sequence[Teacher]
    runners: Sequence[DropoutRunner]
    settings: ScoringSettings
    backend: str

    def score(self, texts: Sequence[str], advance: Advance) -> list[IsolatedScores]:
        """Score some texts with each teacher; see :func:`score_isolating_failures`."""
        return score_isolating_failures(self.teachers, self.runners, texts, self.settings, advance)


def open_runners(teachers: Sequence[Teacher], open_runner: OpenRunner, texts: Sequence[str]) -> list[DropoutRunner]:
    """Make teachers ready to run, and check on some texts that their dropout is on.

    Raises:
        AmalgamError: A teacher's dropout is off, or it cannot be run.
    """
    runners = [open_runner(teacher) for teacher in teachers]
    for teacher, runner in zip(teachers, runners, strict=True):
        _check_dropout(teacher, runner, texts)
    return runners


def score_texts(
    teachers: Sequence[Teacher],
    runners: Sequence[DropoutRunner],
    texts: Sequence[str],
    settings: ScoringSettings,
    advance: Advance,
) -> list[TeacherScores]:
    """Score some texts with each teacher; rows are in the order of ``texts``.

    Args:
        teachers: The teachers.
        runners: What runs each of them.
        texts: The texts.
        settings: What scores depend on.
        advance: Is called with numbers of texts whose first passes were run; each text counts once for each teacher.
    """
    runs = [
        _PassAccumulator(teacher, runner, texts, settings, advance)
        for teacher, runner in zip(teachers, runners, strict=True)
    ]
    first = FIRST_PASSES if settings.passes == "auto" else settings.passes
    due = np.full((len(runs), len(texts)), min(first, settings.most_passes))
    while any((run.passes < counts).any() for run, counts in zip(runs, due, strict=True)):
        for run, counts in zip(runs, due, strict=True):
            run.run_to(counts)
        if settings.passes == "auto":
            for rows in _rows_by_head(teachers):
                logits = [runs[row].pass_logits for row in rows]
                due[rows] = next_passes(logits, due[rows], settings.max_passes, teachers[rows[0]].activation)
    return [run.scores() for run in runs]


def _rows_by_head(teachers: Sequence[Teacher]) -> list[list[int]]:
    """The positions of the teachers of each head: those of different heads are never compared."""
    rows: dict[str, list[int]] = {}
    for position, teacher in enumerate(teachers):
        rows.setdefault(teacher.head, []).append(position)
    return list(rows.values())


class _PassAccumulator:
    """Runs one teacher over some texts, and collects its logits pass by pass.

    Attributes:
        passes: Number of passes that each text was run through, ``(n_texts,)``.
        pass_logits: Logits of each pass, ``(max_passes, n_texts, n_classes)``; zero where a pass was not run.
    """

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
        self._batch_tokens = settings.batch_tokens or CPU_BATCH_TOKENS
        self._advance = advance
        self.passes = np.zeros(len(texts), dtype=np.int64)
        self._logits = np.zeros((len(texts), runner.n_classes), dtype=np.float32)
        self.pass_logits = np.zeros((settings.most_passes, *self._logits.shape), dtype=np.float32)

    def run_to(self, counts: np.ndarray) -> None:
        """Run each text through the passes that it lacks up to a number of passes each, ``(n_texts,)``."""
        work = np.stack([self.passes, counts])
        for first, end in np.unique(work[:, counts > self.passes], axis=1).T:
            self._run(np.flatnonzero((work == [[first], [end]]).all(axis=0)), int(first), int(end))
        self.passes = np.maximum(self.passes, counts)

    def scores(self) -> TeacherScores:
        """The scores from the passes that were run so far."""
        return TeacherScores.from_logits(
            self._teacher.name, self._logits, self.pass_logits, self.passes, self._teacher.activation
        )

    def _run(self, rows: np.ndarray, first: int, end: int) -> None:
        """Run some texts through passes ``first`` to ``end`` - 1; from pass 0 on, also once without dropout."""
        numbers = [*range(first, end), *([DROPOUT_OFF] if first == 0 else [])]
        pad = self._teacher.tokenizer.pad_token_id
        for batch in batches_by_length(self._encoded, pad_token_id=pad, batch_tokens=self._batch_tokens, rows=rows):
            logits = self._runner.run(batch.input_ids, batch.attention_mask, numbers)
            self.pass_logits[first:end, batch.rows] = logits[: end - first]
            if first == 0:
                self._logits[batch.rows] = logits[-1]
                self._advance(len(batch.rows))


def _check_dropout(teacher: Teacher, runner: DropoutRunner, texts: Sequence[str]) -> None:
    """Check that a teacher's dropout is on, on some texts together or, if that raises, on the first that can be run."""
    for probed in (texts, *([text] for text in texts)):
        try:
            encoded = encode(probed, teacher.tokenizer, teacher.max_length)
            pad = teacher.tokenizer.pad_token_id
            batch = next(batches_by_length(encoded, pad_token_id=pad, batch_tokens=_PROBE_BATCH_TOKENS))
            return prove_dropout_alive(teacher.name, runner, batch.input_ids, batch.attention_mask)
        except (AmalgamError, *PROCESS_ENDING):
            raise
        except BaseException as error:  # a model, a tokenizer or a runtime may raise anything over a text
            raised: BaseException = error
    raise AmalgamError(f"teacher '{teacher.name}': cannot be run ({type(raised).__name__}: {first_line(raised)})")
