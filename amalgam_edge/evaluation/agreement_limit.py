"""Whether a student's heads agree with their teachers as often as was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from amalgam_edge.errors import AmalgamError
from amalgam_edge.runtime.evaluation import Evaluation

Limit = float | Mapping[str, float]  # the smallest share of texts answered alike, of all heads or of those named


def check_limit(limit: Limit, teachers: Sequence[str]) -> None:
    """Refuse a limit that cannot be kept, before anything is measured.

    Args:
        limit: The limit.
        teachers: The teachers that were named.

    Raises:
        AmalgamError: There is no teacher to agree with, or the limit is no share.
    """
    if not teachers:
        raise AmalgamError("--min-agreement: there is no teacher to agree with; name it with --teacher NAME=PATH")
    for share in limit.values() if isinstance(limit, Mapping) else [limit]:
        if not 0 <= share <= 1:
            raise AmalgamError(f"--min-agreement: a share between 0 and 1 is expected, not {share:g}")


def missed_agreements(measured: Evaluation, limit: Limit) -> list[str]:
    """The heads whose default model agrees with a teacher on fewer texts than the limit, a line for each teacher.

    Args:
        measured: What was measured, beside teachers.
        limit: The limit.

    Raises:
        AmalgamError: A limit is of a head that stands beside no teacher.
    """
    beside = [name for name, head in measured.heads.items() if head.teachers]
    limits = limit if isinstance(limit, Mapping) else dict.fromkeys(beside, limit)
    missed = []
    for name, share in limits.items():
        if name not in beside:
            raise AmalgamError(
                f"--min-agreement {name}={share:g}: no teacher of that head was named; the heads that stand beside a "
                f"teacher: {', '.join(beside)}"
            )
        for teacher, row in measured.heads[name].teachers.items():
            agreed = row.student[measured.default_model]
            what = f"--min-agreement: head '{name}' ({measured.default_model}) agrees with teacher '{teacher}'"
            if agreed.agreement is None:
                missed.append(f"{what} on no text: there is none of its labels")
            elif agreed.agreement < share:
                points = 100 * (share - agreed.agreement)
                missed.append(
                    f"{what} on {agreed.agreement:.2%} of {agreed.n_texts} texts, {points:.2f} points below {share:.2%}"
                )
    return missed
