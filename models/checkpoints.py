"""How checkpoints are named: ``NAME=PATH`` for a teacher, ``teacher:NAME`` and ``static:ENCODER`` for a student.

Nothing here loads a model, so that a mistyped name is refused at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from amalgam_edge.errors import AmalgamError
from amalgam_edge.recipe.sections import STATIC, STATIC_PREFIX

TEACHER_PREFIX = "teacher:"
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
