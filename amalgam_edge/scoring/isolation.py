"""Texts that cannot be scored are found, told of and left blank, so that the others go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.scores import TeacherScores

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
    """Score texts together, and where that raises, in ever smaller parts, until those at fault are alone.

    Scores that are not finite are no scores either.

    Args:
        score: scores some of the texts with some of the teachers.
        texts: to be scored.
        blanks: one blank row of each teacher.

    Raises:
        AmalgamError: raised by ``score``; or none of several texts could be scored by a teacher, which is not their
            fault.
    """
    told = [_without_infinite(each) for each in _parts(score, texts, blanks)]
    for each in told:
        if len(each.failures) == len(texts) > 1:
            raise AmalgamError(
                f"teacher '{each.scores.teacher}': scores none of {len(texts)} texts ({each.failures[0]}); "
                "mend that, and go on with --resume"
            )
    return told


def _parts(score: Score, texts: Sequence[str], blanks: Sequence[TeacherScores]) -> list[Told]:
    try:
        return [Told(scores) for scores in score(range(len(blanks)), texts)]
    except AmalgamError:
        raise
    except Exception as error:  # whatever a model, a tokenizer or a runtime raises over a text
        if len(texts) > 1:
            half = len(texts) // 2
            parts = [_parts(score, part, blanks) for part in (texts[:half], texts[half:])]
            return [_joined(first, second) for first, second in zip(*parts, strict=True)]
        if len(blanks) == 1:
            return [Told(blanks[0], {0: f"{type(error).__name__}: {first_line(error)}"})]
    return [
        _parts(lambda _, some, position=position: score([position], some), texts, [blank])[0]  # type: ignore[misc]
        for position, blank in enumerate(blanks)
    ]


def _joined(first: Told, second: Told) -> Told:
    after = {row + len(first.scores): why for row, why in second.failures.items()}
    return Told(TeacherScores.concatenate([first.scores, second.scores]), first.failures | after)


def _without_infinite(told: Told) -> Told:
    scores = told.scores
    finite = np.isfinite(scores.logits).all(axis=1) & np.isfinite(scores.mean_probabilities).all(axis=1)
    bad = np.flatnonzero(scores.scored & ~finite).tolist()
    if not bad:
        return told
    rows = np.flatnonzero(scores.scored & finite)
    return Told(scores.take(rows).among(len(scores), rows), told.failures | dict.fromkeys(bad, "scores are not finite"))
