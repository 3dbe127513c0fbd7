"""The cores that this process may compute on: those that it is allowed to use, within its container's CPU quota."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path, PurePosixPath

from amalgam_edge.errors import at_least_one

_PROCESS = Path("/proc/self")
_CPU = "cpu"
_ALL = ""  # controller of version 2, whose groups have all controllers


def compute_threads(threads: int | None = None) -> int:
    """The number of threads to compute with, at most one per usable core: more of them only wait for each other.

    Args:
        threads: The number that was asked for; None for one per usable core.

    Raises:
        AmalgamError: It is no whole number from 1 on.
    """
    cores = usable_cores()
    if threads is None:
        return cores
    return min(at_least_one(threads, "threads is a whole number from 1 on", "; leave it out for one per core"), cores)


def usable_cores(process: Path = _PROCESS) -> int:
    """The number of cores that this process may use; a part of a core that a CPU quota grants counts as one.

    Args:
        process: Folder in which Linux describes the process.
    """
    quota = cpu_quota(process)
    allowed = _allowed_cores()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cpu_quota(process: Path = _PROCESS) -> float | None:
    """How many cores' time the control groups of a process grant it; None where they set no limit, or there are none.

    The limit is the smallest of the process' own group and of those that it lies in.

    Args:
        process: Folder in which Linux describes the process.
    """
    folders = cpu_group_folders(_read(process / "cgroup"), _read(process / "mountinfo"))
    quotas = (_quota_of(folder) for folder in folders)
    return min((quota for quota in quotas if quota is not None), default=None)


def cpu_group_folders(groups: str, mounts: str) -> list[Path]:
    """The folders of a process' CPU control groups, each before the one that it lies in, up to where they are mounted.

    Args:
        groups: The process' ``cgroup`` file: a line ``NUMBER:CONTROLLERS:PATH`` for each hierarchy, see cgroups(7).
        mounts: Its ``mountinfo`` file, see proc(5).
    """
    paths = {
        controller: PurePosixPath(path)
        for _, controllers, path in (line.split(":", 2) for line in groups.splitlines() if line.count(":") >= 2)
        for controller in controllers.split(",")
    }
    folders = []
    for line in mounts.splitlines():
        mount = _cpu_mount(line)
        if mount is None or mount[0] not in paths:
            continue
        controller, root, point = mount
        path = paths[controller]
        # A group outside of what is mounted cannot be seen; the mount's own folder may still limit it.
        inside = path.is_relative_to(root) and ".." not in path.parts
        folder = point / path.relative_to(root) if inside else point
        folders += [folder, *(parent for parent in folder.parents if parent.is_relative_to(point))]
    return folders


def _cpu_mount(line: str) -> tuple[str, PurePosixPath, Path] | None:
    """The controller, the root and the mount point that a line of ``mountinfo`` names; None for all but CPU groups."""
    left, _, right = line.partition(" - ")
    fields, kinds = left.split(" "), right.split(" ")
    if len(fields) < 5 or len(kinds) < 3:
        return None
    root, point = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), name) for name in fields[3:5])
    if kinds[0] == "cgroup2":
        return _ALL, PurePosixPath(root), Path(point)
    if kinds[0] == "cgroup" and _CPU in kinds[2].split(","):
        return _CPU, PurePosixPath(root), Path(point)
    return None


def _quota_of(folder: Path) -> float | None:
    """The cores' time that a control group grants, in its files of version 2 or 1; None for no limit."""
    limit = _read(folder / "cpu.max").split() or [
        *_read(folder / "cpu.cfs_quota_us").split(),
        *_read(folder / "cpu.cfs_period_us").split(),
    ]
    try:
        quota, period = map(int, limit)
    except ValueError:  # "max", or no such files
        return None
    return quota / period if quota > 0 and period > 0 else None


def _allowed_cores() -> int:
    """The cores that the process may be scheduled on, or as many as PYTHON_CPU_COUNT says, as in Python 3.13."""
    count = getattr(os, "process_cpu_count", None)
    if count is not None:
        return count() or 1
    named = os.environ.get("PYTHON_CPU_COUNT", "")
    if named.isdecimal() and int(named):
        return int(named)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read(path: Path) -> str:
    """The text of one of the system's files; empty where it cannot be read."""
    try:
        return path.read_text("utf-8", errors="surrogateescape")
    except OSError:
        return ""
