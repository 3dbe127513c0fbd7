"""Whether heads fit what the scores show: teachers of one head should compete, those of different heads should not."""

from __future__ import annotations

from collections.abc import Sequence

from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import SOFTMAX
from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods.competition import Competition, find_competition
from amalgam_edge.methods.taught_heads import TaughtHeads, scores_of
from amalgam_edge.progress import Say
from amalgam_edge.recipe.sections import TeacherSettings
from amalgam_edge.scoring.scores import TeacherScores


def check_heads(
    heads: TaughtHeads, scores: Sequence[TeacherScores], settings: TeacherSettings, say: Say, scores_kept_in: str
) -> None:
    """Stop a build whose teachers would be merged though they answer different questions, unless that was asked for.

    The opposite, heads of their own for teachers that compete, is a warning.

    Args:
        heads: The heads.
        scores: Scores of each teacher.
        settings: How heads were asked for.
        say: Shows a line.
        scores_kept_in: Folder of the scores, named in the message.

    Raises:
        AmalgamError: Nobody said how teachers are to be merged, and they answer different questions.
    """
    if settings.heads is None:
        _require_competition(heads, scores, say, scores_kept_in)
    elif len(heads) > 1:
        _warn_of_competition(heads, scores, say)


def _require_competition(heads: TaughtHeads, scores: Sequence[TeacherScores], say: Say, scores_kept_in: str) -> None:
    taught = heads.only
    if taught.head.activation != SOFTMAX or len(taught.teachers) == 1:
        return
    own = scores_of(taught, scores)
    found = find_competition(own, taught.labels)
    is_shared = (taught.labels.knowledge.sum(axis=1) > 1).any()
    if is_shared and not (apart := find_competition(own, _labels_apart(own))).competes:
        say(
            f"warning: {found.reason}, so they are merged as teachers of one question; by their scores they answer "
            f"different ones ({apart.reason}): --heads each gives each a head of its own"
        )
    if not found.competes:
        names = ", ".join(f"'{teacher}'" for teacher in taught.teachers)
        raise AmalgamError(
            f"teachers {names} seem to answer different questions ({found.reason}); merged into one head, only one of "
            "them would be answered for each text: give each a head of its own with --heads each (or group them with "
            "--head NAME=TEACHER,…), or merge them all the same with --heads union; their scores are kept in "
            f"{scores_kept_in}"
        )


def _warn_of_competition(heads: TaughtHeads, scores: Sequence[TeacherScores], say: Say) -> None:
    """Say which teachers of different heads seem to be alternatives; a shared label name does not tell here."""
    by_name = {each.teacher: each for each in scores}
    softmax = [taught for taught in heads if taught.head.activation == SOFTMAX]
    for position, one in enumerate(softmax):
        for other in softmax[position + 1 :]:
            found = _between(one.teachers, other.teachers, by_name)
            if found is not None:
                say(
                    f"warning: heads '{one.head.name}' and '{other.head.name}' have teachers that seem to be "
                    f"alternatives of one question ({found.reason}); --head NAME=TEACHER,… merges them"
                )


def _labels_apart(scores: Sequence[TeacherScores]) -> LabelSpace:
    """Labels of which no two teachers share one, whatever their names are."""
    return LabelSpace.union(
        {each.teacher: [f"{each.teacher}/{k}" for k in range(each.logits.shape[1])] for each in scores}
    )


def _between(one: Sequence[str], other: Sequence[str], scores: dict[str, TeacherScores]) -> Competition | None:
    """What shows that a teacher of one head competes with one of another head; None if nothing does."""
    for first in one:
        for second in other:
            pair = [scores[first], scores[second]]
            found = find_competition(pair, _labels_apart(pair))
            if found.verdict == "compete":
                return found
    return None
