"""Isolation of texts that cannot be scored: they are found, recorded and left blank, and the others go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from amalgam_edge.errors import PROCESS_ENDING, AmalgamError, first_line
from amalgam_edge.scoring.scores import TeacherScores

# From positions of teachers, and texts, to the scores of each of these teachers.
ScoreTexts = Callable[[Sequence[int], Sequence[str]], list[TeacherScores]]


@dataclass(frozen=True)
class IsolatedScores:
    """One teacher's scores of some texts, and the texts that it could not score.

    Attributes:
        scores: One row a text; the rows of texts that could not be scored are blank.
        failures: Why each of these could not be scored, by its row.
    """

    scores: TeacherScores
    failures: dict[int, str] = field(default_factory=dict)


def isolate_failures(score: ScoreTexts, texts: Sequence[str], blanks: Sequence[TeacherScores]) -> list[IsolatedScores]:
    """Score texts together; if that raises, find the texts at fault, and score the others together without them.

    Scores that are not finite count as failures too. A text that some teachers cannot score is scored by each of the
    others alone.

    Args:
        score: Scores texts with the teachers at some positions.
        texts: The texts to score.
        blanks: One blank row of each teacher.

    Returns:
        The scores and failures of each teacher.

    Raises:
        AmalgamError: ``score`` raised it. Or the texts are not at fault: a teacher cannot score any of several texts,
            or each text can be scored alone, but not all together.
    """
    teachers = range(len(blanks))
    try:
        return [_blank_where_not_finite(IsolatedScores(scores)) for scores in score(teachers, texts)]
    except (AmalgamError, *PROCESS_ENDING):
        raise
    except BaseException as error:  # a model, a tokenizer or a runtime may raise anything over a text
        failures = [_find_failures(partial(_score_alone, score, position), texts) for position in teachers]
        _require_texts_at_fault(failures, texts, blanks, error)
        return _score_around(score, texts, blanks, failures)


def _score_alone(score: ScoreTexts, position: int, texts: Sequence[str]) -> TeacherScores:
    return score([position], texts)[0]


def _find_failures(score: Callable[[Sequence[str]], TeacherScores], texts: Sequence[str]) -> dict[int, str]:
    """The texts that one teacher cannot score, by their rows, and why; found by halving."""
    try:
        return _blank_where_not_finite(IsolatedScores(score(texts))).failures
    except (AmalgamError, *PROCESS_ENDING):
        raise
    except BaseException as error:  # as above
        if len(texts) == 1:
            return {0: f"{type(error).__name__}: {first_line(error)}"}
    half = len(texts) // 2
    second_half = {half + row: reason for row, reason in _find_failures(score, texts[half:]).items()}
    return _find_failures(score, texts[:half]) | second_half


def _require_texts_at_fault(
    failures: Sequence[dict[int, str]], texts: Sequence[str], blanks: Sequence[TeacherScores], error: BaseException
) -> None:
    """Refuse to blame texts for what they are not at fault for.

    Raises:
        AmalgamError: A teacher cannot score any of several texts, or no text fails alone.
    """
    for blank, failed in zip(blanks, failures, strict=True):
        if len(failed) == len(texts) > 1:
            raise AmalgamError(
                f"teacher '{blank.teacher}': scores none of {len(texts)} texts ({failed[0]}); "
                "fix that, and go on with --resume"
            ) from error
    if not any(failures):
        raise AmalgamError(
            f"{len(texts)} texts cannot be scored together ({first_line(error)}), though each can be alone; "
            "give fewer --batch-tokens, and go on with --resume"
        ) from error


def _score_around(
    score: ScoreTexts, texts: Sequence[str], blanks: Sequence[TeacherScores], failures: Sequence[dict[int, str]]
) -> list[IsolatedScores]:
    """Score with all teachers what all can score, and each remaining text with each teacher that can score it."""
    bad_rows = {row for failed in failures for row in failed}
    good_rows = [row for row in range(len(texts)) if row not in bad_rows]
    together = score(range(len(blanks)), [texts[row] for row in good_rows]) if good_rows else blanks
    isolated = []
    for position, failed in enumerate(failures):
        rows_alone = sorted(bad_rows - set(failed))
        parts = [together[position].take(np.arange(len(good_rows)))]
        if rows_alone:
            parts.append(_score_alone(score, position, [texts[row] for row in rows_alone]))
        rows = np.array([*good_rows, *rows_alone], dtype=np.int64)
        scores = TeacherScores.concatenate(parts).scatter(len(texts), rows)
        isolated.append(_blank_where_not_finite(IsolatedScores(scores, failed)))
    return isolated


def _blank_where_not_finite(isolated: IsolatedScores) -> IsolatedScores:
    """Record the rows whose scores are not finite as failures, and leave them blank."""
    scores = isolated.scores
    finite = np.isfinite(scores.logits).all(axis=1) & np.isfinite(scores.mean_probabilities).all(axis=1)
    bad_rows = np.flatnonzero(scores.scored & ~finite).tolist()
    if not bad_rows:
        return isolated
    rows = np.flatnonzero(scores.scored & finite)
    failures = isolated.failures | dict.fromkeys(bad_rows, "scores are not finite")
    return IsolatedScores(scores.take(rows).scatter(len(scores), rows), failures)
