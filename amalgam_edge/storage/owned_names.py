"""Names that only this project gives: of folders and files that will take another's place, and of locks beside them.

``.student.amalgam-edge-5f3a09c1-8d2e61b7.part`` will become ``student``. The first digits stand for the machine that
writes it, the others are random.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

PART: Final = "part"  # being written, or what was there before
FINISHED: Final = "new"  # whole and on the disk; it only has to take its place
RETIRED: Final = "old"  # what was there before, in the two renames of a system that cannot exchange folders

Kind = Literal["part", "new", "old"]

_LONGEST = 150  # bytes of an output's name that are taken over; a file system allows 255 with all that follows
_OWNED = re.compile(r"\..+\.amalgam-edge-[0-9a-f]{8}-[0-9a-f]{8}\.(part|new|old)")


def new_name(output: Path, kind: Kind = PART) -> Path:
    """A path beside an output that nothing else has."""
    return output.with_name(f"{_prefix(output)}-{this_machine()}-{secrets.token_hex(4)}.{kind}")


def as_kind(path: Path, kind: Kind) -> Path:
    """The owned path of another kind that belongs to an owned path."""
    return path.with_suffix(f".{kind}")


def lock_name(output: Path) -> Path:
    """The path of an output's lock."""
    return output.with_name(f"{_prefix(output)}.lock")


def owned_paths(output: Path, *kinds: str) -> Iterator[Path]:
    """What stands beside an output under names of these kinds that were given for it."""
    prefix = f"{_prefix(output)}-"
    try:
        names = sorted(os.listdir(output.parent))  # noqa: PTH208  (names alone)
    except FileNotFoundError:
        return
    for name in names:
        found = _OWNED.fullmatch(name)
        if found and name.startswith(prefix) and found[1] in kinds:
            yield output.with_name(name)


def is_owned(path: Path) -> bool:
    """Whether a path has such a name."""
    return _OWNED.fullmatch(path.name) is not None


def is_of_this_machine(path: Path) -> bool:
    """Whether an owned path was named on this machine."""
    return path.stem.split("-")[-2] == this_machine()


def this_machine() -> str:
    """Eight digits that stand for this machine."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _prefix(output: Path) -> str:
    name = output.name
    if len(os.fsencode(name)) > _LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}.amalgam-edge"
