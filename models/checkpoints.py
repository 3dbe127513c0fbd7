"""How checkpoints are named: ``NAME=PATH`` for a teacher, ``teacher:NAME`` and ``static:ENCODER`` for a student.

Nothing here loads a model, so that a mistyped name is refused at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import ONLY_HEAD, check_head_names
from amalgam_edge.recipe.sections import STATIC, STATIC_PREFIX, TeacherSettings

TEACHER_PREFIX = "teacher:"
EACH = "each"
_NAMED = re.compile(r"([A-Za-z0-9._-]+)=(.+)")


def parse_teacher(spec: str) -> tuple[str, str]:
    """Name and source of a teacher that is given as ``NAME=PATH``, or as a path, whose last part is then its name.

    Raises:
        AmalgamError: The name has neither letters nor digits.
    """
    named = _NAMED.fullmatch(spec)
    if named and not Path(spec).exists():
        name, source = named[1], named[2]
    else:
        last = re.split(r"[/\\]", spec.rstrip("/\\"))[-1] or spec
        name, source = re.sub(r"[^A-Za-z0-9._-]", "-", last), spec
    if not name.strip("."):  # the name becomes that of a folder
        raise AmalgamError(f"teacher '{name}': a name has letters or digits; give NAME=PATH")
    return name, source


def heads_of(settings: TeacherSettings) -> dict[str, tuple[str, ...]]:
    """Head → the names of its teachers: one head for all of them, one for each, or as they were named.

    Raises:
        AmalgamError: A name is taken twice or cannot be one, a head has no teacher or one that is not there, or a
            teacher is in two heads or in none.
    """
    teachers = [parse_teacher(spec)[0] for spec in settings.sources]
    if not isinstance(settings.heads, dict) and settings.heads != EACH:
        return {ONLY_HEAD: tuple(teachers)}
    named: dict[str, tuple[str, ...]] = {teacher: (teacher,) for teacher in teachers}
    if isinstance(settings.heads, dict):
        named = settings.heads
    check_head_names([*named])
    for head, own in named.items():
        if not own:
            raise AmalgamError(f"--head {head}: no teacher; write --head {head}=TEACHER")
        unknown = next((teacher for teacher in own if teacher not in teachers), None)
        if unknown is not None:
            raise AmalgamError(f"--head {head}: no teacher '{unknown}'; there are {', '.join(teachers)}")
    listed = [teacher for own in named.values() for teacher in own]
    for teacher in teachers:
        if listed.count(teacher) > 1:
            raise AmalgamError(f"--head: teacher '{teacher}' is named twice; a teacher teaches one head")
        if teacher not in listed:
            raise AmalgamError(f"--head: teacher '{teacher}' is in no head; name it in one, or leave it out")
    return named


def encoder_of(student: str, first_teacher: str) -> str:
    """The encoder that a static student starts from: ``static:X`` from X, ``static`` from the first teacher."""
    return student.removeprefix(STATIC_PREFIX) if student != STATIC else f"{TEACHER_PREFIX}{first_teacher}"


def resolve_student(student: str, teacher_sources: Mapping[str, str]) -> str:
    """The checkpoint that ``teacher:NAME`` stands for; anything else is a checkpoint already.

    Raises:
        AmalgamError: There is no such teacher.
    """
    if not student.startswith(TEACHER_PREFIX):
        return student
    name = student.removeprefix(TEACHER_PREFIX)
    if name not in teacher_sources:
        raise AmalgamError(f"--student {student}: no teacher '{name}'; there are {', '.join(teacher_sources)}")
    return teacher_sources[name]


def looks_like_a_folder(checkpoint: str) -> bool:
    """Whether a name that does not exist was meant as a path rather than as ``owner/name`` or ``name`` of the Hub."""
    path = Path(checkpoint)
    return (
        path.is_absolute()
        or len(path.parts) > 2
        or checkpoint.startswith(".")
        or (len(path.parts) == 2 and path.parent.is_dir())
    )
