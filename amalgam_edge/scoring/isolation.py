"""Texts that cannot be scored are found, told of and left blank, so that the others go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.scoring.scores import TeacherScores

# (positions of teachers, texts) → the scores of each of these teachers.
Score = Callable[[Sequence[int], Sequence[str]], list[TeacherScores]]


@dataclass(frozen=True)
class Told:
    """What one teacher says of some texts.

    Attributes:
        scores: a row a text; blank for those that it could not score.
        failures: why, by their rows.
    """

    scores: TeacherScores
    failures: dict[int, str] = field(default_factory=dict)


def score_isolating(score: Score, texts: Sequence[str], blanks: Sequence[TeacherScores]) -> list[Told]:
    """Score texts together; where that raises, find those at fault and score the others together without them.

    Scores that are not finite are no scores either. A text that some teachers cannot score is scored by the others,
    each alone.

    Args:
        score: scores some of the texts with some of the teachers.
        texts: to be scored.
        blanks: one blank row of each teacher.

    Raises:
        AmalgamError: raised by ``score``; or it is not the texts' fault, since a teacher can score none of several, or
            each of them alone.
    """
    everyone = range(len(blanks))
    try:
        return [_without_infinite(Told(scores)) for scores in score(everyone, texts)]
    except AmalgamError:
        raise
    except Exception as error:  # whatever a model, a tokenizer or a runtime raises over a text
        failures = [_at_fault(partial(_alone, score, position), texts) for position in everyone]
        for blank, failed in zip(blanks, failures, strict=True):
            if len(failed) == len(texts) > 1:
                raise AmalgamError(
                    f"teacher '{blank.teacher}': scores none of {len(texts)} texts ({failed[0]}); "
                    "mend that, and go on with --resume"
                ) from error
        if not any(failures):
            raise AmalgamError(
                f"{len(texts)} texts cannot be scored together ({first_line(error)}), though each can be alone; "
                "give fewer --batch-tokens, and go on with --resume"
            ) from error
        return _score_others(score, texts, blanks, failures)


def _alone(score: Score, position: int, texts: Sequence[str]) -> TeacherScores:
    return score([position], texts)[0]


def _at_fault(score: Callable[[Sequence[str]], TeacherScores], texts: Sequence[str]) -> dict[int, str]:
    """The texts, by their positions, that one teacher cannot score, and why: found in ever smaller parts."""
    try:
        return _without_infinite(Told(score(texts))).failures
    except AmalgamError:
        raise
    except Exception as error:  # as above
        if len(texts) == 1:
            return {0: f"{type(error).__name__}: {first_line(error)}"}
    half = len(texts) // 2
    after = {half + row: why for row, why in _at_fault(score, texts[half:]).items()}
    return _at_fault(score, texts[:half]) | after


def _score_others(
    score: Score, texts: Sequence[str], blanks: Sequence[TeacherScores], failures: Sequence[dict[int, str]]
) -> list[Told]:
    """Score what every teacher can score together, and the rest by each teacher that can."""
    bad = {row for failed in failures for row in failed}
    good = [row for row in range(len(texts)) if row not in bad]
    together = score(range(len(blanks)), [texts[row] for row in good]) if good else blanks
    told = []
    for position, failed in enumerate(failures):
        own = sorted(bad - set(failed))
        parts = [together[position].take(np.arange(len(good)))]
        if own:
            parts.append(_alone(score, position, [texts[row] for row in own]))
        scores = TeacherScores.concatenate(parts).among(len(texts), np.array([*good, *own], dtype=np.int64))
        told.append(_without_infinite(Told(scores, failed)))
    return told


def _without_infinite(told: Told) -> Told:
    scores = told.scores
    finite = np.isfinite(scores.logits).all(axis=1) & np.isfinite(scores.mean_probabilities).all(axis=1)
    bad = np.flatnonzero(scores.scored & ~finite).tolist()
    if not bad:
        return told
    rows = np.flatnonzero(scores.scored & finite)
    return Told(scores.take(rows).among(len(scores), rows), told.failures | dict.fromkeys(bad, "scores are not finite"))
